"""A person who labels what Label Studio serves, changes their mind at times, and does not care what breaks."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from al_backend.errors import LabelStudioError
from al_backend.labelstudio.client import LabelStudio
from model.data.dataset import LabelledImage
from tests.al_backend.faults.field import regions

_FEWEST_OPEN = 25
_MORE = 10


class Annotator(threading.Thread):
    """Labels until told to stop; imports more images when few are left.

    Args:
        url: of Label Studio itself, not of the proxy: the person's browser is not what is tested.
        token: of the person.
        project: to label in.
        images: scenes to import, used again from the start when they are all in; the first are in the project.
        truth: scene by task id; grows with every import.
        seed: of what they do.
        note: takes what is worth a line in the log.
    """

    def __init__(
        self,
        url: str,
        token: str,
        project: int,
        images: Sequence[LabelledImage],
        truth: dict[int, LabelledImage],
        *,
        seed: int,
        note: Callable[[str], None],
    ) -> None:
        super().__init__(name="annotator", daemon=True)
        self._client = LabelStudio(url, token, timeout=20)
        self._project = project
        self._images = images
        self._truth = truth
        self._random = random.Random(seed)
        self._note = note
        self._ended = threading.Event()
        self._mine: list[tuple[int, int]] = []
        self.in_hand: int | None = None
        self.submitted = 0
        self.failed = 0

    def stop(self) -> None:
        """Finish what is in hand and end."""
        self._ended.set()
        self.join(timeout=130)
        self._client.close()

    def run(self) -> None:
        """Until `stop`."""
        while not self._ended.wait(self._random.uniform(0.2, 1.0)):
            try:
                self._do_something()
            except LabelStudioError as error:
                self.failed += 1
                self._note(f"the annotator met: {str(error)[:100]}")
                time.sleep(0.5)

    def _do_something(self) -> None:
        chance = self._random.random()
        if chance < 0.08 and self._mine:
            task, annotation = self._random.choice(self._mine)
            self._client.update_annotation(annotation, result=regions(self._truth[task])[1:])
        elif chance < 0.12 and self._mine:
            _, annotation = self._mine.pop(self._random.randrange(len(self._mine)))
            self._client.delete_annotation(annotation)
        elif chance < 0.2 and len(self._client.open_tasks(self._project)) < _FEWEST_OPEN:
            self._import_more()
        else:
            self._label(skip=chance < 0.24)

    def _label(self, *, skip: bool) -> None:
        task = self._client.next_task(self._project)
        if task is None:
            self._import_more()
            return
        number = self.in_hand = int(task["id"])
        # Opening a task makes Label Studio ask the backend for a prediction when it has none.
        self._client.request("GET", f"/api/tasks/{number}/", params={"project": self._project})
        if number not in self._truth:  # of an import whose answer was lost
            self._client.submit_annotation(number, [])
            self.in_hand = None
            return
        result: list[dict[str, Any]] = [] if skip else regions(self._truth[number])
        made = self._client.submit_annotation(number, result, was_cancelled=skip)
        self.in_hand = None
        self.submitted += 1
        if not skip:
            self._mine.append((number, int(made["id"])))

    def _import_more(self) -> None:
        first = len(self._truth)
        new = [self._images[index % len(self._images)] for index in range(first, first + _MORE)]
        ids = self._client.upload_images(self._project, [image.path for image in new])
        self._truth.update(zip(ids, new, strict=True))
        self._note(f"{len(ids)} new tasks from {ids[0]} on")
