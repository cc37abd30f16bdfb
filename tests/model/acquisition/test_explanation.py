"""Why an image stands where it stands."""

from __future__ import annotations

import polars as pl
import pytest

from model.acquisition.explanation import OWN_RANK, SHARE, components, explained
from model.acquisition.strategy import StrategyConfig, create_strategy, strategy_names


def ranked(**columns: list[float | None]) -> pl.DataFrame:
    """Five images in their order; the third place went to one that the strategy alone would have put last."""
    return pl.DataFrame({"task_id": [4, 2, 9, 1, 7], "informativeness": [5.0, 4.0, 1.0, 3.0, 3.0], **columns})


def test_a_share_says_how_many_others_are_less_informative() -> None:
    head = explained(ranked(uncertainty=[5.0, 4.0, 1.0, 3.0, 3.0], boxes=[1.0, 0.0, 0.0, 0.0, 0.0]), "uncertainty", 3)
    assert head["task_id"].to_list() == [4, 2, 9]
    assert head["uncertainty" + SHARE].to_list() == [1.0, 0.75, 0.0]
    assert head["boxes" + SHARE].to_list() == [1.0, 0.0, 0.0], "what equals the least is above nobody"


def test_a_small_value_may_be_the_informative_one() -> None:
    head = explained(ranked(consistency=[0.0, 0.1, 0.9, 0.5, 0.5]), "cald", 5)
    assert head["consistency" + SHARE].to_list() == [1.0, 0.75, 0.0, 0.25, 0.25]


def test_what_was_not_measured_has_no_share() -> None:
    head = explained(ranked(entropy=[5.0] * 5, overlap_ratio=[0.2, None, 0.4, None, None]), "huale", 5)
    assert head["overlap_ratio" + SHARE].to_list() == [0.0, None, 1.0, None, None]


def test_weights_decide_what_is_shown_and_which_way_it_counts() -> None:
    table = ranked(semantic_affinity=[1.0] * 5, overlap_ratio=[0.0, 0.1, 0.9, 0.5, 0.5])
    head = explained(table, "huale", 5, {"huale_weights": [0.0, 1.0, -1.0, 1.0]})
    assert head["overlap_ratio" + SHARE].to_list() == [1.0, 0.75, 0.0, 0.25, 0.25]
    assert "semantic_affinity" + SHARE not in head.columns
    assert "semantic_affinity" + SHARE in explained(table, "huale", 5, {"name": "huale"}).columns
    table = ranked(novelty=[0.0] * 5, detection_loss=[1.0, 0.0, 0.0, 0.0, 0.0])
    head = explained(table, "al_vae", 5, {"vae_alpha": 0.0, "vae_beta": 1.0})
    assert [name for name in head.columns if name.endswith(SHARE)] == ["detection_loss" + SHARE]


def test_the_place_by_informativeness_alone() -> None:
    assert explained(ranked(), "random", 5)[OWN_RANK].to_list() == [0, 1, 4, 2, 3]
    unread = ranked().with_columns(pl.when(pl.col("task_id") != 4).then("informativeness").alias("informativeness"))
    assert explained(unread, "random", 5)[OWN_RANK].to_list() == [4, 0, 3, 1, 2]


@pytest.mark.parametrize("rows", [0, 1])
def test_few_images_are_explained_too(rows: int) -> None:
    head = explained(ranked(uncertainty=[1.0] * 5, boxes=[1.0] * 5).head(rows), "uncertainty", 10)
    assert head["uncertainty" + SHARE].to_list() == [0.0] * rows


@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_is_explained_by_what_it_measures(name: str) -> None:
    from model.acquisition.base import INFORMATIVENESS, RankingContext

    strategy = create_strategy(StrategyConfig(name=name))
    context = RankingContext(("a", "b"), (1, 1), 0)
    measured = {INFORMATIVENESS, *strategy.columns(context), *strategy.candidate_columns(context)}
    assert {item.column for item in components(name)} <= measured


def test_an_unknown_strategy_is_explained_by_its_informativeness() -> None:
    assert [item.column for item in components("of another release")] == ["informativeness"]
