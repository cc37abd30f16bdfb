"""Tasks whose image cannot be read stay in the queue, at its end, and say why."""

from __future__ import annotations

import polars as pl
import pytest

from tests.al_backend.main_job.conftest import BadTasks
from tests.al_backend.main_job.reef_project import ReefProject

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_unreadable_images_come_last_with_a_reason_and_leave_the_others_alone(
    south: ReefProject, bad_tasks: BadTasks
) -> None:
    published = south.wait_until_settled()
    order = south.order()
    bad = sorted(set(order) - south.truth.keys())  # another test may have added one
    assert set(bad) >= bad_tasks.all()
    readable = order[: -len(bad)]
    assert order == readable + bad

    rows = {body["task"]: body for body in south.prediction_bodies()}
    tab = south.tab_rows()
    for task in bad:
        body = rows[task]
        assert (body["result"], body["model_version"]) == ([], published["model_version"]), body
        assert body["score"] == dict(tab)[task]
        assert 0 < body["score"] < 1
    scores = [score for _, score in tab if score is not None]
    assert len(scores) == len(tab) == len(set(scores))

    ranking = south.site.registry.read_order(south.id, published["ranking"])
    assert ranking is not None
    unreadable = ranking.filter(pl.col("informativeness").is_null())["task_id"].to_list()
    assert unreadable == bad
    assert any(rows[task]["result"] for task in readable), "nobody gets a box, so that this test sees nothing"

    reasons = {row["task"]: row["reason"] for row in south.status()["unreadable"]}
    assert reasons[bad_tasks.missing].endswith("answered 500."), "that is what Label Studio says of an unknown upload"
    assert "an image" in reasons[bad_tasks.no_image]
    assert "AL_IMAGE_HOSTS" in reasons[bad_tasks.foreign]
    assert "names no image" in reasons[bad_tasks.nameless]
    assert not reasons.keys() & set(readable)


def test_an_unreadable_image_that_comes_after_the_ranking_goes_to_its_end(south: ReefProject) -> None:
    published = south.wait_until_settled()
    before = south.tab()
    address = f"{south.site.client.url}/data/upload/{south.id}/11111111-missing.jpg"
    south.site.client.import_tasks(south.id, [{"data": {"photo": address}}])
    (late,) = set(south.open_tasks()) - set(before)
    south.wait_until_settled()
    assert south.published() == published, "one task more is no reason to rank again"
    assert south.tab() == [*before, late]
    reasons = {row["task"]: row["reason"] for row in south.status()["unreadable"]}
    assert reasons[late].endswith("answered 500.")
