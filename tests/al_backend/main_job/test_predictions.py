"""Predictions besides a ranking's: of tasks that come late, of `/predict`, of other people."""

from __future__ import annotations

import pytest

from al_backend.connect import TITLE
from al_backend.cycle import UNTRAINED
from tests.al_backend.main_job.reef_project import ReefProject

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_tasks_imported_after_the_ranking_are_scored_and_placed(north: ReefProject) -> None:
    published = north.wait_until_settled()
    before = north.tab_rows()
    known = sorted(north.truth)
    late = north.site.client.upload_images(north.id, [north.truth[task].path for task in known[-3:]])
    north.truth.update(zip(late, (north.truth[task] for task in known[-3:]), strict=True))
    north.wait_until_settled()
    assert north.published() == published, "a few tasks more are no reason to rank again"

    rows = [row for row in north.predictions() if row.task in late]
    assert sorted((row.task, row.model_version) for row in rows) == [
        (task, published["model_version"]) for task in late
    ]
    assert all(row.score is not None and 0 < row.score < 1 for row in rows), rows
    after = north.tab_rows()
    assert [row for row in after if row[0] not in late] == before, "the others keep their places"
    scores = [score for _, score in after if score is not None]
    assert scores == sorted(set(scores))
    assert len(scores) == len(after)
    (served,) = north.label_next(1)
    assert served == after[0][0]


def test_a_model_version_that_label_studio_lost_is_set_back_and_one_that_a_person_chose_is_not(
    north: ReefProject,
) -> None:
    client = north.site.client
    published = north.wait_until_settled()["model_version"]
    theirs, marked = north.order()[:2]
    client.import_predictions(
        north.id,
        [
            {"task": theirs, "result": [], "score": 0.9, "model_version": "theirs"},
            {"task": marked, "result": [], "score": 0.9, "model_version": UNTRAINED},
        ],
    )
    for lost in (TITLE, ""):
        client.request("PATCH", f"/api/projects/{north.id}/", body={"model_version": lost})
        assert north.model_version() == lost
        north.wait_for(f"setting the model version back from {lost!r}", lambda: north.model_version() == published)
    client.request("PATCH", f"/api/projects/{north.id}/", body={"model_version": "theirs"})
    north.look()
    assert north.model_version() == "theirs"
    client.request("PATCH", f"/api/projects/{north.id}/", body={"model_version": published})
    north.wait_until_settled()
    stored = client.model_versions(north.id)
    assert UNTRAINED not in stored, "what we do not need any more is deleted"
    assert stored["theirs"] == 1, "what is not ours is not"
    assert north.tab() == north.order()


def test_opening_a_task_without_a_prediction_leaves_exactly_one_with_its_order_score(north: ReefProject) -> None:
    client = north.site.client
    published = north.wait_until_settled()
    ranking = north.site.registry.read_order(north.id, published["ranking"])
    assert ranking is not None
    scores = dict(zip(ranking["task_id"], ranking["order_score"], strict=True))
    task = [known for known in north.order() if known in scores][3]  # late tasks have a place, but none in the ranking
    expected = scores[task]
    (row,) = client.predictions(north.id, task_id=task)
    client.delete_predictions([row.id])

    opened = client.request("GET", f"/api/tasks/{task}/")
    (shown,) = [body for body in opened["predictions"] if body["model_version"] == published["model_version"]]
    assert shown["score"] == pytest.approx(expected, abs=1e-12)
    north.look()
    north.wait_until_settled()
    (stored,) = [row for row in client.predictions(north.id, task_id=task) if row.model_version != "theirs"]
    assert stored.model_version == published["model_version"]
    assert stored.score == pytest.approx(expected, abs=1e-12)
