"""Taking a project of a real Label Studio out again."""

from __future__ import annotations

from pathlib import Path

import pytest

from al_backend.connect import connect
from al_backend.demo.server import LabelStudioServer
from al_backend.disconnect import disconnect
from al_backend.jobs.client import request_training
from al_backend.jobs.documents import TRAIN_CANCEL
from al_backend.jobs.queues import QueueName, Queues
from al_backend.labelstudio.client import LabelStudio
from tests.al_backend.served_app import LABEL_CONFIG, served

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis]


def test_label_studio_sends_nothing_any_more_and_others_are_left_alone(
    label_studio: LabelStudioServer, tmp_path: Path, queues: Queues
) -> None:
    client = LabelStudio(label_studio.url, label_studio.token)
    project = client.create_project("Reef", LABEL_CONFIG).id
    with served(label_studio, tmp_path, queues) as (settings, registry):
        connect(settings, client, registry, project, queues=queues)
        foreign = client.set_webhook(project, "http://127.0.0.1:9/other", {})
        request_training(registry, queues, project)

        report = disconnect(settings, registry, project, label_studio=client, queues=queues)
        assert report.changes == (
            "removed the webhook",
            'removed the model connection "Active learning"',
            "took the project out of the registry",
            "cancelled the training",
        )
        assert report.warnings == ()
        assert client.ml_backends(project) == []
        assert [hook["id"] for hook in client.webhooks(project)] == [foreign["id"]]
        assert registry.projects() == []
        assert queues.queue(QueueName.RECONCILE).count == 0
        assert disconnect(settings, registry, project, label_studio=client, queues=queues).changes == ()

        again = connect(settings, client, registry, project, queues=queues)
        assert again.changes[0] == 'added the model connection "Active learning"'
        assert registry.projects() == [project]
        assert registry.read_document(project, TRAIN_CANCEL) is None, "what was asked for is wanted again"

        client.delete_project(project)
        report = disconnect(settings, registry, project, label_studio=client, queues=queues)
        assert report.changes[0] == "took the project out of the registry"
        assert report.warnings == ()
    client.close()
