"""What the labels bought so far, read from the versions of a project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from model.simulation.stopping import StoppingHint, stopping_hint


class Trained(Protocol):
    """What is looked at of a version; `registry.Version` has it all."""

    @property
    def number(self) -> int: ...  # noqa: D102

    @property
    def detector(self) -> str: ...  # noqa: D102

    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def images_labelled(self) -> int: ...  # noqa: D102

    @property
    def metrics(self) -> Mapping[str, Any] | None: ...  # noqa: D102


def learning_curve(versions: Sequence[Trained]) -> list[tuple[int, float]]:
    """(labelled images, mAP50) of the versions that can be compared with the newest, oldest first.

    They reach back as far as detector and classes are the same and no labels were taken away. Refused versions count:
    they, too, say what the labels bought. Those that could not be measured are left out.
    """
    newest_first = sorted(versions, key=lambda version: version.number, reverse=True)
    curve: list[tuple[int, float]] = []
    for version in newest_first:
        newest = newest_first[0]
        fewer = not curve or version.images_labelled <= curve[-1][0]
        if (version.detector, version.classes) != (newest.detector, newest.classes) or not fewer:
            break
        quality = (version.metrics or {}).get("map50")
        if quality is not None:
            curve.append((version.images_labelled, float(quality)))
    return curve[::-1]


def worth_of_labels(versions: Sequence[Trained], threshold: float) -> StoppingHint | None:
    """Whether more labels still help; None while there are too few versions to say.

    Args:
        versions: of one project.
        threshold: mAP50 per 100 labels; less is hardly worth somebody's time.
    """
    return stopping_hint(learning_curve(versions), threshold=threshold)
