"""The dashboard in a real browser: looked at, used by keyboard and without script, and examined by axe.

Screenshots go to `.build/screenshots`, to be looked at. Their numbers are made up, so the pictures in `docs/images` are
others, of a run of the demo.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from werkzeug.serving import make_server

from al_backend.http.app import create_app
from al_backend.http.dashboard.report import write_report
from tests.al_backend.http.dashboard.seeding import Seeded, living_workers, look, running_training

pytestmark = [pytest.mark.browser, pytest.mark.redis]

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = Path(__file__).resolve().parents[4] / ".build" / "screenshots"
PATIENCE = 30_000
"""Milliseconds until something that has to happen counts as not happening."""

SIZES = {"wide": (1280, 900), "narrow": (360, 740)}
PAGES = {
    "projects": "",
    "learning": "/projects/5",
    "queue": "/projects/5/queue",
    "versions": "/projects/5/versions",
    "health": "/projects/5/health",
    "jobs": "/jobs",
    "question": "/projects/5/confirm/train",
    "missing": "/projects/77",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass
class Site:
    """The app of a seeded project on a port of its own."""

    url: str
    seeded: Seeded
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, context: BrowserContext, page: str) -> Page:
        """A page in a new tab, which is watched."""
        context.set_default_timeout(PATIENCE)
        tab = context.new_page()
        tab.on("console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("request", self._seen)
        tab.goto(f"{self.url}{page}")
        return tab

    def _seen(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc and not request.url.startswith("data:"):
            self.elsewhere.append(request.url)


@pytest.fixture
def site(seeded: Seeded) -> Iterator[Site]:
    here = seeded.here
    app = create_app(here.settings, registry=here.registry, queues=here.queues)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with living_workers(here.queues):
        yield Site(f"http://127.0.0.1:{server.port}/dashboard", seeded)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_pleases_and_asks_nobody_else(browser: Browser, site: Site, scheme: Any, size: str) -> None:
    """Looked at by axe, measured for what sticks out, and photographed."""
    width, height = SIZES[size]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    site.seeded.here.registry.write_document(5, "doctor", DOCTOR)
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
    faults = []
    with running_training(
        site.seeded.here.queues, 5, phase="train", iteration=240, iterations=600, epoch=3.2, loss=1.2
    ):
        for name, page in PAGES.items():
            tab = site.open(context, page)
            tab.wait_for_load_state("load")
            tab.locator("main h1").first.wait_for()
            if name == "queue":
                tab.locator(".image-card img").first.evaluate("image => image.decode()")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the screen"
            tab.screenshot(path=SCREENSHOTS / f"{name}-{scheme}-{size}.png")
            if (scheme, size) in (("light", "wide"), ("dark", "narrow")):  # each half of what axe looks at, once
                for element in tab.locator("details").all():
                    element.evaluate("details => { details.open = true; }")
                faults += [f"{name}: {fault}" for fault in serious(tab)]
            tab.close()
    context.close()
    assert not faults
    assert not site.elsewhere
    assert [text for text in site.complaints if "404" not in text] == []


def serious(tab: Page) -> list[str]:
    """What axe finds serious or critical."""
    found = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{fault['id']} ({fault['impact']}): {[node['html'][:200] for node in fault['nodes'][:3]]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


DOCTOR: dict[str, Any] = {
    "at": "2026-03-07T10:00:00+00:00",
    "seconds": 2.4,
    "error": None,
    "findings": [
        {"check": "redis", "ok": True, "level": "ok", "message": "Redis answers.", "remedy": ""},
        {
            "check": "annotators",
            "ok": False,
            "level": "warning",
            "message": "Each task needs 2 annotations: begun tasks come first, at random.",
            "remedy": "Set annotations per task to 1, or live with a looser order.",
        },
        {
            "check": "webhook",
            "ok": False,
            "level": "error",
            "message": "The project has no webhook to this backend.",
            "remedy": "Run `al-backend connect 5`.",
        },
    ],
}


def test_a_question_in_a_dialog_by_keyboard(browser: Browser, site: Site) -> None:
    context = browser.new_context()
    tab = site.open(context, "/projects/5")
    button = tab.get_by_role("link", name="Train now")
    button.focus()
    tab.keyboard.press("Enter")
    dialog = tab.get_by_role("dialog", name="Train now?")
    dialog.wait_for()
    assert "100 labelled images" in dialog.inner_text()
    assert dialog.evaluate("dialog => dialog.contains(document.activeElement)")
    assert serious(tab) == []
    tab.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert button.evaluate("link => link === document.activeElement"), "the focus is lost"
    assert site.seeded.here.registry.read_document(5, "train_request") is None

    tab.keyboard.press("Enter")
    dialog.get_by_role("button", name="Train now").press("Enter")
    expect(tab.get_by_role("status")).to_contain_text("A training is asked for")
    assert site.seeded.here.registry.read_document(5, "train_request") is not None
    context.close()


@pytest.mark.parametrize("script", [True, False])
def test_promote_and_roll_back(browser: Browser, site: Site, script: bool) -> None:
    registry, versions = site.seeded.here.registry, site.seeded.versions
    context = browser.new_context(java_script_enabled=script)
    tab = site.open(context, "/projects/5/versions")
    tab.get_by_role("link", name=f"Promote {versions[2].name}").click()
    tab.get_by_text("The gate refused this version").wait_for()
    tab.get_by_role("button", name="Promote").click()
    expect(tab.get_by_role("status")).to_contain_text("The active version has changed")
    active = registry.active(5)
    assert active is not None
    assert active.version == versions[2].name
    tab.get_by_role("link", name="Roll back to").click()
    tab.get_by_role("button", name="Roll back").click()
    expect(tab.get_by_role("status")).to_contain_text("is active again")
    active = registry.active(5)
    assert active is not None
    assert active.version == versions[4].name
    context.close()


def test_the_first_key_leads_past_the_menu(browser: Browser, site: Site) -> None:
    context = browser.new_context()
    tab = site.open(context, "/projects/5")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.closest('main') !== null")
    context.close()


def test_light_and_dark_is_remembered(browser: Browser, site: Site) -> None:
    context = browser.new_context(color_scheme="light")
    tab = site.open(context, "")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(paper)
    tab.get_by_role("button", name="Light or dark").press("Enter")
    dark = tab.evaluate(paper)
    assert dark != light
    tab.goto(f"{site.url}/projects/5")
    assert tab.evaluate(paper) == dark
    tab.get_by_role("button", name="Light or dark").click()
    assert tab.evaluate(paper) == light
    context.close()


def test_progress_and_results_come_without_reloading(browser: Browser, site: Site) -> None:
    seeded = site.seeded
    context = browser.new_context()
    tab = site.open(context, "/projects/5")
    tab.evaluate("window.stayed = true")
    with running_training(seeded.here.queues, 5, phase="train", iteration=60, iterations=600) as say:
        bar = tab.get_by_role("progressbar", name="Training")
        expect(bar).to_have_attribute("value", "0.100")
        say(phase="train", iteration=300, iterations=600, eta_seconds=200)
        expect(bar).to_have_attribute("value", "0.500")
        expect(tab.locator("#live")).to_contain_text("3 min left in this phase")
    expect(bar).to_have_count(0)
    labels = tab.locator(".tile", has_text="Labelled images")
    expect(labels).to_contain_text("100")
    seeded.label_studio.labelled |= {task.id for task in seeded.label_studio.open_tasks(5)[:4]}
    look(seeded, "Reef survey, north station")
    expect(labels).to_contain_text("104")
    assert tab.evaluate("window.stayed"), "the page was loaded anew"
    context.close()


def test_a_hidden_page_asks_nothing(browser: Browser, site: Site) -> None:
    context = browser.new_context()
    context.add_init_script("Object.defineProperty(document, 'hidden', { get: () => window.away === true })")
    tab = site.open(context, "/projects/5")
    with tab.expect_request("**/live"):
        pass
    tab.evaluate("window.away = true")
    tab.wait_for_timeout(2500)  # one that was under way has ended
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.wait_for_timeout(5000)
    assert asked == []
    with tab.expect_request("**/live"):
        tab.evaluate("window.away = false")
    context.close()


def test_pictures_say_what_a_point_is(browser: Browser, site: Site) -> None:
    context = browser.new_context()
    tab = site.open(context, "/projects/5")
    active = site.seeded.versions[-1].name
    chart = tab.get_by_role("img", name="Learning curve")
    expect(chart).to_be_visible()
    assert chart.locator("title", has_text=f"{active}, active: 100 labels").count() == 2
    colours = chart.evaluate("svg => getComputedStyle(svg.querySelector('.tip path, .tip use')).fill")
    assert colours.startswith("rgb"), "the page's colours do not reach the picture"
    context.close()


def test_the_queue_shows_images_with_boxes_on_them(browser: Browser, site: Site) -> None:
    context = browser.new_context()
    tab = site.open(context, "/projects/5/queue")
    first = tab.locator(".image-card").first
    image = first.locator("img")
    expect(image).to_be_visible()
    tab.locator(".image-card img").first.evaluate("image => image.decode()")
    picture, box = image.bounding_box(), first.locator(".boxes").bounding_box()
    assert picture is not None
    assert box == pytest.approx(picture, abs=1), "the boxes are not where the image is"
    tab.get_by_role("link", name="Next", exact=True).click()
    expect(tab.locator(".place").first).to_have_text("25")
    context.close()


def test_the_report_is_one_file(browser: Browser, site: Site, tmp_path: Path) -> None:
    here = site.seeded.here
    write_report(here.settings, here.registry, 5, tmp_path / "report.html")
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    tab = context.new_page()
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto((tmp_path / "report.html").as_uri())
    expect(tab.get_by_role("img", name="Learning curve")).to_be_visible()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / "report.png", full_page=True)
    assert serious(tab) == []
    assert len(requests) == 1
    context.close()
