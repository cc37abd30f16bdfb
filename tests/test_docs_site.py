"""The built documentation: no warnings, no broken link, and nothing on any page comes from another host."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.documentation import ROOT

pytestmark = pytest.mark.slow

LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "object": "data", "use": "href"}
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as `make docs` builds them."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=250)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


class _Loads(HTMLParser):
    """Collects what a browser fetches for a page without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.addresses.append(given.get("href") or "")
        elif tag in LOADED:
            self.addresses.append(given.get(LOADED[tag]) or "")


def test_every_page_is_built_and_none_loads_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= {page.name for page in pages}
    for page in pages:
        loads = _Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.addresses
        assert not [address for address in loads.addresses if urlsplit(address).netloc], page.name
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the pages are served."""
    handler = partial(_Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.browser
def test_a_browser_asks_no_other_host_and_finds_a_setting_by_searching(address: str, site: Path) -> None:
    if not CHROMIUM.exists():
        pytest.skip("no /usr/bin/chromium: install Debian's package chromium")
    from playwright.sync_api import TimeoutError as PlaywrightTimeout
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in ("index.html", "getting-started.html", "routes.html", "model.html"):
            page.goto(f"{address}/{name}")
            page.wait_for_load_state("networkidle")
        page.goto(f"{address}/index.html")
        query, hits = page.locator("input[name=query]"), page.locator(".md-search-result__link")
        for _ in range(12):  # the page listens for keys, and may have begun to only after these
            query.fill("", timeout=60_000)
            query.press_sequentially("AL_TRAIN_EVERY")
            with contextlib.suppress(PlaywrightTimeout):
                hits.first.wait_for(timeout=10_000)
                break
        found = hits.evaluate_all("links => links.map(link => link.href)")
        browser.close()
    assert any("settings.html" in link for link in found), found
    assert not [url for url in asked if urlsplit(url).scheme != "data" and not url.startswith(address)]
    assert not errors
