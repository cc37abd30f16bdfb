"""From settings and versions to strategies and what they are told, and back from what a ranking keeps of both."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from al_backend.labelstudio.labeling_config import LabelingConfig
from al_backend.registry import Ranking, Version
from al_backend.settings import LearningSettings
from model.acquisition.strategy import RankingContext, Strategy, StrategyConfig, create_strategy

_STRATEGY_FIELDS = tuple(field.name for field in fields(StrategyConfig) if field.name != "name")
_PRE_ANNOTATION = ("score_threshold", "box_overlap")

_WITHOUT_AUTOENCODER = "without_autoencoder"
"""Kept by a ranking that should have used the version's autoencoder, had there been one."""

WITHOUT_A_HEAD = ("random", "core_set", "typical")
"""Strategies that ask of a detector what whole images look like, or nothing."""

_COLD = "cold_start"
"""Kept by a ranking before the first training: whether the base checkpoint knew any of the labels."""

_REPLACED = "labels_replaced"
"""Kept by a ranking by a trained version whose classes are no labels of the config any more."""


def strategy_config(settings: LearningSettings) -> StrategyConfig:
    """The settings of the strategy among all settings of learning."""
    return StrategyConfig(name=settings.strategy, **{name: getattr(settings, name) for name in _STRATEGY_FIELDS})


def strategy_fields(settings: LearningSettings, detector: str) -> dict[str, Any]:
    """What a ranking keeps of the settings, so that later tasks are measured and placed alike.

    Args:
        settings: of the project.
        detector: architecture of the version that ranks.
    """
    kept = {name: getattr(settings, name) for name in (*_STRATEGY_FIELDS, *_PRE_ANNOTATION)}
    threshold = settings.measured_from(detector)
    return {"name": settings.strategy, "pool_size": settings.pool_size, "measure_threshold": threshold} | kept


def substitutes(settings: LearningSettings, version: Version, config: LabelingConfig) -> dict[str, Any]:
    """What a ranking keeps instead of the settings, because the version lacks what the strategy needs.

    A detector that knows none of the labels measures noise: typical images come first then, unless a strategy is chosen
    that asks no head, and nothing is pre-annotated. So it is before the first training, and when all labels of the
    config were replaced since the last one.

    A version that was trained for another strategy has no autoencoder. Until the next training `al_vae` then ranks by
    the detection loss alone, which beats no order at all; the ranking says so, and `status` tells.
    """
    replaced = version.is_trained and all(config.label_of(name) is None for name in version.classes)
    if version.knows == () or replaced:
        name = settings.strategy if settings.strategy in WITHOUT_A_HEAD else "typical"
        why = {_REPLACED: True} if replaced else {_COLD: False}
        return {"name": name, "diversity": False, "measure_threshold": 1.0, **why}
    kept: dict[str, Any] = {} if version.is_trained else {_COLD: True}
    if version.autoencoder is not None or not create_strategy(strategy_config(settings)).needs_novelty:
        return kept
    return kept | {"vae_alpha": 0.0, "vae_beta": settings.vae_beta or 1.0, _WITHOUT_AUTOENCODER: True}


def shortfall(ranking: Ranking) -> str | None:
    """A sentence for people about what a ranking had to do without; None where it lacks nothing."""
    cold = ranking.strategy.get(_COLD)
    if cold is not None:
        name = ranking.strategy["name"]
        if cold:
            return f"Nothing is trained yet: the base checkpoint pre-annotates what it knows, ordered by {name}."
        order = "the queue shows the most typical images first" if name == "typical" else f"{name} orders the queue"
        return f"Nothing is trained yet: {order}, without pre-annotations."
    if ranking.strategy.get(_REPLACED):
        return (
            f"{ranking.version} knows none of the labels that the config has now, so it orders the queue by "
            f"{ranking.strategy['name']}, without pre-annotations; the next training learns them."
        )
    if not ranking.strategy.get(_WITHOUT_AUTOENCODER):
        return None
    return (
        f"{ranking.version} was trained for another strategy and has no autoencoder, so {ranking.strategy['name']} "
        f"ranks by the detection loss alone; the next training makes one (`al-backend train {ranking.project}`)."
    )


def context_fields(version: Version, settings: LearningSettings) -> dict[str, Any]:
    """What a ranking keeps of the version and of its budget, under the names of `RankingContext`."""
    per_class = (version.metrics or {}).get("per_class", {})
    measured = [per_class.get(name, {}).get("ap50") for name in version.classes]
    return {
        "classes": list(version.classes),
        "label_counts": [version.label_counts.get(name, 0) for name in version.classes],
        "seed": settings.seed,
        "budget": settings.budget,
        # A class that no held-out box speaks for is as good as unknown.
        "class_quality": [value or 0.0 for value in measured] if any(measured) else [],
    }


def strategy_of(ranking: Ranking) -> tuple[Strategy, RankingContext]:
    """The strategy of a ranking and what it knows of the labelled side.

    What an older release did not keep has the default value.
    """
    kept = {name: ranking.strategy[name] for name in _STRATEGY_FIELDS if name in ranking.strategy}
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in ranking.context.items()
    }
    return create_strategy(StrategyConfig(name=ranking.strategy["name"], **kept)), RankingContext(**given)


def looks_closer(strategy: Strategy) -> bool:
    """Whether a ranking has a second phase: candidates that are seen again, labelled images that are measured, too."""
    return bool(strategy.candidate_views) or strategy.uses_labelled
