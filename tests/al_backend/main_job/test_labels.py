"""What counts as a label, what happens before there are enough of them, and when the label config changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from al_backend.jobs.client import last_error
from model.data.reef import SPECIES
from tests.al_backend.main_job.conftest import MIN_LABELS
from tests.al_backend.main_job.reef_project import (
    ReefProject,
    Site,
    assert_order_is_exact,
    create_reef_project,
    label_config,
)

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_accepted_submitted_and_empty_annotations_count_and_skipped_and_deleted_ones_do_not(north: ReefProject) -> None:
    client = north.site.client
    published = north.wait_until_settled()
    before = {int(task) for task in north.versions()[-1].labels}
    counted = north.status()["labels"]
    accepted, also_accepted, corrected, taken_over, skipped, empty, deleted = north.order()[:7]

    def expect(images: int, new: int) -> None:
        found = north.status()["labels"]
        expected = (counted["images"] + images, counted["new"] + new)
        assert (found["images"], found["new"]) == expected, found

    result = client.action(
        north.id,
        "predictions_to_annotations",
        [accepted, also_accepted],
        model_version=published["model_version"],
    )
    assert "Created 2" in result["detail"]
    expect(2, 2)
    north.label(corrected)
    (body,) = [row for row in north.prediction_bodies() if row["task"] == taken_over]
    client.submit_annotation(taken_over, body["result"], parent_prediction=body["id"])
    expect(4, 4)
    cancelled = client.submit_annotation(skipped, [], was_cancelled=True)
    expect(4, 4)
    assert skipped in north.open_tasks(), "a skipped task stays in the pool"
    client.submit_annotation(empty, [])
    expect(5, 5)
    annotation = north.label(deleted)
    expect(6, 6)
    client.delete_annotation(annotation)
    expect(5, 5)
    assert deleted in north.open_tasks(), "without its annotation the task is open again"
    gone = min(before)
    (labelled,) = client.labelled_tasks(north.id, [gone])
    for item in labelled.annotations:
        client.delete_annotation(item["id"])
    expect(4, 6)  # one image less, and one more difference to what the last version has seen

    known = {task.id for task in client.labelled_tasks(north.id)}
    version = north.train()
    assert {int(task) for task in version.labels} == known
    assert {accepted, also_accepted, corrected, taken_over, empty} <= known
    assert not {skipped, deleted, gone} & known
    assert version.train_images + version.validation_images == len(known), "the empty image is one to learn from"
    assert {skipped, deleted, gone} <= set(assert_order_is_exact(north)), "they are ranked again"
    assert north.status()["labels"]["new"] == 0
    # Whoever skipped a task is not served it again, and the other tests of this project compare what is served.
    client.delete_annotation(cancelled["id"])


def test_too_few_labels_train_nothing_and_one_more_does(site: Site, tmp_path: Path) -> None:
    project = create_reef_project(site, tmp_path, "Young reef", SPECIES[:2], images=10, labelled=MIN_LABELS - 2, seed=4)
    cold = project.wait_until_settled()["version"]
    _expect_missing(project, 2, cold)
    *_, imported, skipped, empty = sorted(project.truth)
    # A prediction of somebody else, accepted in the Data Manager, is a label as good as any.
    theirs = {"task": imported, "result": project.true_regions(imported), "score": 0.5, "model_version": "theirs"}
    site.client.import_predictions(project.id, [theirs])
    site.client.action(project.id, "predictions_to_annotations", [imported])
    site.client.submit_annotation(skipped, [], was_cancelled=True)
    project.look()
    _expect_missing(project, 1, cold)
    site.client.submit_annotation(empty, [])
    version = project.wait_for_versions(1)
    assert {int(task) for task in version.labels} == {*sorted(project.truth)[: MIN_LABELS - 2], imported, empty}
    project.wait_until_settled(version=version.name)
    assert site.client.model_versions(project.id)["theirs"] == 1, "what others predicted stays"


def _expect_missing(project: ReefProject, count: int, cold: str) -> None:
    status = project.status()
    assert status["labels"]["missing_until_training"] == count, status["labels"]
    sentence = f"{count} more labelled images start the first training ({MIN_LABELS - count} of {MIN_LABELS})."
    assert sentence in status["notes"], status["notes"]
    assert (status["versions"], status["active"]["version"], status["active"]["trained"]) == (0, cold, False)
    assert status["training"] == {"status": "idle", "progress": None, "attempts": 0, "error": None}


def test_labels_added_to_and_removed_from_the_config_reach_the_next_version(south: ReefProject) -> None:
    client = south.site.client
    south.wait_until_settled()
    old = south.versions()[-1]
    wanted = (*south.classes, "Newcomer")
    assert old.classes != wanted
    new_config = label_config(wanted, from_name="kind", to_name="picture", key="photo")
    client.request("PATCH", f"/api/projects/{south.id}/", body={"label_config": new_config})
    # Between the change and the next training the old version serves: only with labels that the config still has.
    scene = south.truth[min(south.truth)]
    (late,) = client.upload_images(south.id, [scene.path])
    south.truth[late] = scene
    south.look()
    south.wait_until_settled(version=old.name)
    (body,) = [row for row in south.prediction_bodies() if row["task"] == late]
    assert labels_of([body]) <= set(wanted), body
    assert any("other labels than the newest version" in note for note in south.status()["notes"])

    version = south.train()
    assert version.classes == wanted
    assert version.label_counts["Newcomer"] == 0
    current = [row for row in south.prediction_bodies() if row["model_version"] == south.model_version()]
    assert labels_of(current) <= set(wanted)
    assert_order_is_exact(south)
    assert last_error(south.site.backend.queues, south.id) is None
    assert south.status()["training"]["error"] is None


def labels_of(bodies: list[dict[str, Any]]) -> set[str]:
    regions = [region for body in bodies for region in body["result"]]
    return {label for region in regions for label in region["value"]["rectanglelabels"]}
