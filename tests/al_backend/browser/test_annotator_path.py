"""The path of a person who labels: a project of their own, our model, our order, our boxes, in a real browser."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, expect

from al_backend.connect import TITLE
from al_backend.demo.backend import RunningBackend
from al_backend.demo.server import LabelStudioServer
from al_backend.labelstudio.client import LabelStudio
from al_backend.labelstudio.publishing import QUEUE_TAB
from al_backend.processes import child_environment
from al_backend.registry import Registry
from model.data.reef import SPECIES, write_reef
from tests.al_backend.browser.conftest import MIN_LABELS, PASSWORD, USER, Shoot
from tests.al_backend.browser.label_studio_pages import LabelStudioPages
from tests.al_backend.main_job.reef_project import ReefProject, Site, label_config
from tests.documentation import ROOT, command_lines

pytestmark = [
    pytest.mark.browser,
    pytest.mark.labelstudio,
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]

IMAGES = 18
CLASSES = SPECIES[:2]
SIZE = (240, 320)
"""Height and width of the scenes: large enough to look at."""


@dataclass(frozen=True)
class Made:
    """What the person has made."""

    pages: LabelStudioPages
    project: ReefProject


@pytest.fixture(scope="module")
def made(
    chromium: Browser,
    label_studio: LabelStudioServer,
    protected_backend: RunningBackend,
    tmp_path_factory: pytest.TempPathFactory,
    shoot: Shoot,
) -> Iterator[Made]:
    """A project that was created and connected in the browser, labelled until it trained, and ranked."""
    drawn = write_reef(tmp_path_factory.mktemp("scenes"), IMAGES, seed=11, size=SIZE, species=CLASSES, empty_share=0.0)
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    pages = LabelStudioPages(context.new_page(), label_studio.url)
    pages.log_in(label_studio.email, label_studio.password)
    config = label_config(CLASSES, from_name="label", to_name="image", key="image")
    number = pages.create_project("Reef by hand", [image.path for image in drawn.images], config)

    settings = protected_backend.settings
    with closing(LabelStudio(label_studio.url, label_studio.token)) as client:
        site = Site(client, protected_backend, Registry(settings.model_dir))
        # Label Studio puts eight digits of its own before a file's name.
        by_name = {image.path.name: image for image in drawn.images}
        truth = {task.id: by_name[task.data["image"][-len("reef-000000.jpg") :]] for task in client.open_tasks(number)}
        project = ReefProject(site, number, truth, CLASSES, SIZE)
        assert len(truth) == IMAGES
        for task in sorted(truth)[:MIN_LABELS]:
            project.label(task)
        pages.connect_model(number, TITLE, settings.own_url, USER, PASSWORD)
        shoot(pages.page, "label-studio-model")
        project.wait_for("a settled publication", lambda: not project.unsettled(None), patience=900)
        yield Made(pages, project)
    context.close()


def test_the_queue_is_ours_from_the_list_to_the_second_task(made: Made, shoot: Shoot) -> None:
    pages, project = made.pages, made.project
    order = project.order()
    assert len(order) == IMAGES - MIN_LABELS
    assert order != sorted(order), "this would show without a ranking, too"

    pages.open_tab(project.id, QUEUE_TAB)
    assert pages.rows() == order
    shoot(pages.page, "label-studio-queue")

    labels = project.status()["labels"]["images"]
    assert labels == MIN_LABELS
    first = pages.label_all_tasks()
    assert first == order[0]
    (body,) = (row for row in project.prediction_bodies() if row["task"] == first)
    expected = sorted(f"{region['score']:.2f}" for region in body["result"])
    assert expected, "the first image of the order has no box, so that nothing is seen of pre-annotations"
    assert sorted(pages.confidences()) == expected
    shoot(pages.page, "label-studio-task")

    assert pages.submit() == order[1]
    project.wait_for("the label that was submitted", lambda: project.status()["labels"]["images"] == labels + 1)
    (annotation,) = project.site.client.labelled_tasks(project.id, [first])[0].annotations
    assert len(annotation["result"]) == len(expected), "what was submitted is what was drawn before"


def test_the_dashboard_counts_what_is_submitted_and_shows_the_training(made: Made, chromium: Browser) -> None:
    pages, project = made.pages, made.project
    context = chromium.new_context(http_credentials={"username": USER, "password": PASSWORD})
    dashboard = context.new_page()
    dashboard.goto(f"{project.site.settings.own_url}/dashboard/projects/{project.id}")
    count = dashboard.locator(".tile", has_text="Labelled images").locator("strong")
    before = project.status()["labels"]["images"]
    expect(count).to_have_text(str(before))

    pages.submit()
    expect(count).to_have_text(str(before + 1))  # nobody reloads the page

    dashboard.get_by_text("Train now", exact=True).click()
    dashboard.get_by_role("dialog").get_by_role("button", name="Train now").click()
    expect(dashboard.locator(".work.running", has_text="Training").locator("progress")).to_be_visible()
    project.wait_for_versions(2)
    expect(dashboard.locator(".tile", has_text="Labelled images")).to_contain_text("all learnt")
    context.close()
    project.wait_for("a settled publication", lambda: not project.unsettled(None), patience=900)


def test_connected_by_hand_and_then_as_getting_started_says_nothing_is_left_to_complain_about(made: Made) -> None:
    """The page's own commands, with this project's number, against these servers."""
    settings = made.project.site.settings
    environment = os.environ | child_environment(settings) | {"PYTHONPATH": str(ROOT)}
    environment.pop("REDIS_URL", None)

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "al_backend.cli",
            *(str(made.project.id) if word == "7" else word for word in words),
        ]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    before = run(["doctor", "7"])
    assert before.returncode == 1, "the webhook that Label Studio made by itself carries no secret"
    assert "webhook" in before.stdout
    connected = run(["connect", "7"])
    assert connected.returncode == 0, connected.stderr

    page = [
        line for line in command_lines() if line.page == "docs/getting-started.md" and line.words[0] == "al-backend"
    ]
    # `up` runs already, and weights come from the internet.
    asked = [list(line.words[1:]) for line in page if line.words[1] not in ("up", "fetch-weights")]
    assert {words[0] for words in asked} >= {"doctor", "status", "versions"}
    for words in asked:
        result = run(words)
        assert result.returncode == 0, f"{shlex.join(words)}: {result.stdout}{result.stderr}"
