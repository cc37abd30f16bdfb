"""Label Studio 1.23.2 as a person uses it: where its buttons are, and what stands on its pages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from playwright.sync_api import Page, Response, expect

PATIENCE = 120_000.0
"""Milliseconds for anything to appear; seconds on an idle machine."""


class LabelStudioPages:
    """One person's browser window at one Label Studio."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)

    def log_in(self, email: str, password: str) -> None:
        self.page.goto(f"{self.url}/user/login/")
        self.page.locator("input[name=email]").fill(email)
        self.page.locator("input[name=password]").fill(password)
        self.page.locator("button[type=submit]").click()
        self.page.wait_for_url(re.compile(r"/(projects/?)?(\?.*)?$"))

    def create_project(self, title: str, images: Iterable[Path], label_config: str) -> int:
        """Through the dialog; returns the project's number, which is in its address."""
        page = self.page
        page.goto(f"{self.url}/projects/")
        with page.expect_response(_makes_a_draft):  # into which the images go
            page.get_by_role("button", name="Create").first.click()
        page.locator("input[name=name]").fill(title)
        page.get_by_text("Data Import").click()
        files = [str(path) for path in images]
        page.locator("input[type=file]").set_input_files(files)
        page.get_by_text(f"{len(files)} files uploaded").wait_for()
        page.get_by_text("Labeling Setup").click()
        page.get_by_text("Custom template").click()
        page.locator(".CodeMirror").wait_for()
        page.evaluate("xml => document.querySelector('.CodeMirror').CodeMirror.setValue(xml)", label_config)
        page.get_by_role("button", name="Save").click()
        page.wait_for_url(re.compile(r"/projects/\d+/data"))
        found = re.search(r"/projects/(\d+)/", page.url)
        assert found is not None
        return int(found[1])

    def connect_model(self, project: int, title: str, url: str, user: str, password: str) -> None:
        """*Settings, Model, Connect Model*, with basic authentication; waits until Label Studio shows it connected."""
        page = self.page
        page.goto(f"{self.url}/projects/{project}/settings/ml")
        page.get_by_text("Connect Model", exact=True).click()
        form = page.locator("form[action=addMLBackend]")
        form.locator("input[name=title]").fill(title)
        form.locator("input[name=url]").fill(url)
        form.locator("[data-name=auth_method]").click()
        page.get_by_text("Basic Authentication").last.click()
        form.locator("input[name=basic_auth_user]").fill(user)
        form.locator("input[name=basic_auth_pass]").fill(password)
        page.get_by_text("Validate and Save").click()
        page.get_by_text("Connected", exact=True).wait_for()

    def open_tab(self, project: int, title: str) -> None:
        """A tab of the Data Manager, its rows and their pictures loaded."""
        self.page.goto(f"{self.url}/projects/{project}/data")
        # A tab's title is cut to its width, and it is clicked where it is not already open.
        self.page.get_by_text(title).first.click()
        self.page.get_by_text("Prediction score").first.wait_for()
        self.page.wait_for_function(_PICTURES_ARE_THERE)

    def rows(self) -> list[int]:
        """Task ids of the list from top to bottom, as far as they fit the window."""
        names = self.page.locator("input[aria-label^='Select Task ']").evaluate_all(
            "boxes => boxes.map(box => [box.getBoundingClientRect().top, box.getAttribute('aria-label')])"
        )
        return [int(name.rpartition(" ")[2]) for _, name in sorted(names)]

    def label_all_tasks(self) -> int:
        """Press the button; returns the task that opens."""
        with self.page.expect_response(_gives_a_task) as answer:
            self.page.get_by_text("Label All Tasks").click()
        return self._opened(answer.value)

    def submit(self) -> int | None:
        """Submit what is drawn; returns the task that opens next."""
        with self.page.expect_response(_gives_a_task) as answer:
            self.page.locator("button[aria-label='Submit current annotation']").click()
        return self._opened(answer.value)

    def confidences(self) -> list[str]:
        """Of the boxes of the open task, as the list beside the image shows them."""
        return self.page.locator(".lsf-outliner-item__control_type_score").all_inner_texts()

    def _opened(self, answer: Response) -> int:
        task = int(answer.json()["id"])
        expect(self.page.locator("button[aria-label='Submit current annotation']")).to_be_enabled()
        self.page.wait_for_function(_SHOWS_TASK, arg=str(task))
        return task


_PICTURES_ARE_THERE = """() => {
  const pictures = [...document.querySelectorAll('[data-testid=table-row] img')];
  return pictures.length > 0 && pictures.every(picture => picture.complete && picture.naturalWidth > 0);
}"""


_SHOWS_TASK = """task => {
  const shown = document.querySelector('.lsf-current-task__task-id');
  return shown !== null && shown.firstChild.textContent.trim() === task;
}"""


def _makes_a_draft(response: Response) -> bool:
    return response.request.method == "POST" and response.url.partition("?")[0].rstrip("/").endswith("/api/projects")


def _gives_a_task(response: Response) -> bool:
    return "/api/dm/actions" in response.url and "next_task" in response.url
