"""A project that was deleted in Label Studio: one warning, and a look once an hour instead of every half minute."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from al_backend.errors import LabelStudioError
from al_backend.jobs.client import enqueue_regular_look, gone_key, last_error
from al_backend.jobs.context import Context
from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.reconcile import reconcile
from al_backend.settings import load_settings
from tests.al_backend.served_app import LABEL_CONFIG

pytestmark = pytest.mark.redis

PROJECT = 7


class Without:
    """A Label Studio without the project, or an address at which there is none."""

    there = True

    def project(self, project_id: int) -> Any:
        raise LabelStudioError(f"refused GET /api/projects/{project_id}/ with 404", status=404)

    def whoami(self) -> dict[str, Any]:
        if not self.there:
            raise LabelStudioError("refused GET /api/current-user/whoami with 404", status=404)
        return {}


@pytest.fixture
def here(queues: Queues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    made = Context(load_settings(model_dir=str(tmp_path / "registry"), data_dir=tmp_path / "data"))
    vars(made).update(queues=queues, label_studio=Without())
    monkeypatch.setattr("al_backend.jobs.context.context", lambda: made)
    made.registry.register_project(PROJECT, label_config=LABEL_CONFIG, overrides={})
    return made


def looks(queues: Queues) -> int:
    return queues.queue(QueueName.RECONCILE).count


def test_it_is_said_once_and_looked_for_once_an_hour(here: Context, caplog: pytest.LogCaptureFixture) -> None:
    enqueue_regular_look(here.queues, PROJECT)
    assert looks(here.queues) == 1
    with caplog.at_level(logging.WARNING):
        assert reconcile(PROJECT, "regular look") == []
        assert reconcile(PROJECT, "regular look") == []
    assert len(caplog.records) == 1
    assert f"al-backend disconnect {PROJECT}" in caplog.text
    assert f"no project {PROJECT}" in (last_error(here.queues, PROJECT) or "")
    here.queues.connection.flushdb()  # of the look that waits; the mark is set again
    reconcile(PROJECT, "regular look")
    enqueue_regular_look(here.queues, PROJECT)
    assert looks(here.queues) == 0
    assert 3500 < int(here.queues.connection.ttl(gone_key(PROJECT))) <= 3600


def test_a_wrong_address_is_another_trouble(here: Context) -> None:
    vars(here)["label_studio"].there = False
    with pytest.raises(LabelStudioError, match="whoami"):
        reconcile(PROJECT, "regular look")
    enqueue_regular_look(here.queues, PROJECT)
    assert looks(here.queues) == 1


def test_a_project_that_was_taken_out_meanwhile_is_no_failure(here: Context) -> None:
    here.registry.forget_project(PROJECT)
    assert reconcile(PROJECT, "webhook") == []
    assert here.registry.projects() == []
