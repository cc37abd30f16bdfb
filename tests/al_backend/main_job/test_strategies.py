"""Every strategy on a real project: what a user gets who sets `AL_STRATEGY`, or changes it in Label Studio."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from al_backend.connect import TITLE
from al_backend.jobs.client import last_error, request_ranking
from al_backend.registry import Phase, Ranking
from model.data.reef import SPECIES
from tests.al_backend.main_job.conftest import MIN_LABELS
from tests.al_backend.main_job.reef_project import ReefProject, Site, assert_order_is_exact, create_reef_project

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(900)]

COLUMNS = {
    "al_vae": "detection_loss",
    "huale": "overlap_ratio",
    "cald": "consistency",
    "core_set": "embedding",
    "ppal": "object_vectors",
    "typical": "embedding",
    "random": "task_id",
}
"""A measurement that the default strategy's ranking has not; random order needs none but the names of the tasks."""


@pytest.fixture(scope="module")
def reef(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReefProject]:
    """Settled, and trained on request only."""
    project = create_reef_project(
        site,
        tmp_path_factory.mktemp("strategies"),
        "Reef of all strategies",
        SPECIES[:3],
        images=18,
        labelled=MIN_LABELS,
        seed=11,
        overrides={"train_every": 1000, "budget": 2},
    )
    project.wait_until_settled()
    yield project
    project.close()


def ranked_again(project: ReefProject, strategy: str | None = None) -> Ranking:
    site = project.site
    request = request_ranking(site.registry, site.backend.queues, project.id, strategy=strategy)
    project.wait_for("the requested ranking", lambda: project.request_status(request) == "finished")
    published = project.wait_until_settled()
    assert last_error(site.backend.queues, project.id) is None
    return site.registry.ranking(project.id, published["ranking"])


@pytest.mark.parametrize("strategy", sorted(COLUMNS))
def test_its_order_is_served(reef: ReefProject, strategy: str) -> None:
    ranking = ranked_again(reef, strategy)
    assert ranking.strategy["name"] == strategy
    registry = reef.site.registry
    measured = {
        *registry.read_shards(reef.id, ranking.id).columns,
        *registry.read_shards(reef.id, ranking.id, Phase.CLOSER).columns,
    }
    assert COLUMNS[strategy] in measured
    # After three steps of training PPAL may see no object that is large enough: then its order is that of the ids.
    order = reef.order()
    assert reef.tab() == order
    assert set(order) == set(reef.open_tasks())
    assert reef.label_next(1) == order[:1]


def test_an_autoencoder_comes_with_the_next_training(reef: ReefProject) -> None:
    """Until then `al_vae` does without; the test of all strategies has seen that."""
    client, registry = reef.site.client, reef.site.registry
    (connection,) = [one for one in client.ml_backends(reef.id) if one["title"] == TITLE]
    wanted = {"train_every": 1000, "budget": 2, "strategy": "al_vae", "vae_iterations": 5}
    client.update_ml_backend(connection["id"], reef.id, reef.site.settings.own_url, extra_params=wanted)
    version = reef.train()
    published = reef.wait_until_settled()
    ranking = registry.ranking(reef.id, published["ranking"])
    assert (ranking.version, ranking.strategy["name"], ranking.strategy["vae_alpha"]) == (version.name, "al_vae", 0.5)
    assert version.autoencoder is not None
    novelty = registry.read_shards(reef.id, ranking.id)["novelty"]
    assert (novelty > 0).any()
    assert_order_is_exact(reef)


def test_a_change_in_the_connections_extra_params_counts_from_the_next_ranking(reef: ReefProject) -> None:
    client = reef.site.client
    (connection,) = [one for one in client.ml_backends(reef.id) if one["title"] == TITLE]
    wanted = {"train_every": 1000, "budget": 2, "strategy": "huale", "diversity": True}
    client.update_ml_backend(connection["id"], reef.id, reef.site.settings.own_url, extra_params=wanted)
    ranking = ranked_again(reef)
    assert (ranking.strategy["name"], ranking.strategy["diversity"]) == ("huale", True)
    assert_order_is_exact(reef)
