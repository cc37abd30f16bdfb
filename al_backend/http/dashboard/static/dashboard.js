// Progress without reloading, questions in a dialog, light and dark. Every page works without it.
"use strict";

(() => {
  const root = document.documentElement;
  const THEME = "al-backend-theme";
  const EVERY = 2000;
  const TRIES = 3;

  const stored = () => {
    try {
      return localStorage.getItem(THEME);
    } catch {
      return null; // a browser that keeps nothing still shows the page
    }
  };
  if (stored()) root.dataset.theme = stored();

  const main = () => document.getElementById("main");

  function localTimes(part) {
    for (const element of part.querySelectorAll("time[datetime]")) {
      const moment = new Date(element.dateTime);
      element.title = element.textContent;
      element.textContent = moment.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    }
  }

  function theme() {
    const button = document.getElementById("theme");
    if (!button) return;
    button.hidden = false;
    button.addEventListener("click", () => {
      const dark = root.dataset.theme
        ? root.dataset.theme === "dark"
        : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      try {
        localStorage.setItem(THEME, root.dataset.theme);
      } catch {
        // the choice then lasts as long as the page
      }
    });
  }

  // Questions

  async function ask(link) {
    const answer = await fetch(link.href, { headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const form = page.getElementById("question");
    if (!answer.ok || !form) {
      location.assign(link.href); // that page says why
      return;
    }
    const dialog = document.createElement("dialog");
    dialog.setAttribute("aria-labelledby", "question-title");
    dialog.append(document.importNode(form, true));
    dialog.addEventListener("close", () => {
      dialog.remove();
      link.focus();
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) {
        event.preventDefault();
        dialog.close();
      }
    });
    document.body.append(dialog);
    dialog.showModal();
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog]");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    ask(link).catch(() => location.assign(link.href));
  });

  // An image that the server had no hand free for is asked for again, later and later

  document.addEventListener(
    "error",
    (event) => {
      const image = event.target;
      if (!(image instanceof HTMLImageElement)) return;
      const tries = Number(image.dataset.tries || 0);
      if (tries >= TRIES) return;
      image.dataset.tries = String(tries + 1);
      setTimeout(() => {
        const address = new URL(image.src);
        address.searchParams.set("try", String(tries + 1));
        image.src = address.href;
      }, 1500 * (tries + 1));
    },
    true,
  );

  // What happens now

  function opened(part) {
    return [...part.querySelectorAll("details")].map((element) => element.open);
  }

  function reopen(part, states) {
    part.querySelectorAll("details").forEach((element, index) => {
      if (states[index]) element.open = true;
    });
  }

  function replaceLive(live, html) {
    if (live.dataset.shown === html) return;
    live.dataset.shown = html;
    if (live.contains(document.activeElement)) return; // somebody reads the log with the keyboard
    const states = opened(live);
    live.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
    reopen(live, states);
    localTimes(live);
  }

  async function replacePage() {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main");
    const old = main();
    if (!fresh || document.querySelector("dialog[open]")) return;
    const focused = document.activeElement;
    const again = old.contains(focused) && focused !== old ? focused.getAttribute("href") : null;
    const states = opened(old);
    old.replaceChildren(...document.importNode(fresh, true).childNodes);
    old.dataset.stamp = fresh.dataset.stamp;
    reopen(old, states);
    localTimes(old);
    if (again) [...old.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === again)?.focus();
  }

  async function look() {
    const live = document.getElementById("live");
    if (!live || document.hidden) return;
    const answer = await fetch(live.dataset.live, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    replaceLive(live, (await answer.text()).trim());
    const stamp = answer.headers.get("X-Stamp");
    const known = main().dataset.stamp;
    if (stamp && known && stamp !== known) await replacePage();
  }

  async function watch() {
    for (;;) {
      await new Promise((done) => setTimeout(done, EVERY));
      try {
        await look();
      } catch {
        // the server is away for a moment; what is shown stays
      }
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    theme();
    localTimes(document);
    watch();
  });
})();
