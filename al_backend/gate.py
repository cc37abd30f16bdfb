"""The promotion gate: a candidate replaces the active version only if it is not worse on held-out images."""

from __future__ import annotations

import math

from al_backend.registry import GateVerdict
from model.training.evaluation import Evaluation

CLASS_FACTOR = 5
"""A single class may lose so many times what the mean may: five points of AP50 where the mean may lose one."""

CLASS_INSTANCES = 20
"""Validation boxes from which on a class is judged alone."""


def judge(
    candidate: Evaluation, baseline: Evaluation | None, baseline_name: str | None, *, drop: float, gone: int = 0
) -> GateVerdict:
    """Compare two detectors that were evaluated on the same images.

    Small validation sets are noisy: the tolerated overall drop grows by 0.5 / sqrt(boxes), about one standard error of
    an average precision of one half, so that chance alone seldom refuses a good version and a broken one never passes.

    Args:
        candidate: of the new version.
        baseline: of the active version; None when there is none.
        baseline_name: of the active version, for the sentence.
        drop: mAP50 that may be lost beyond what chance explains, in [0, 1]; 1 promotes everything.
        gone: held-out images whose file vanished during the training; with any, nothing replaces a baseline.

    Returns:
        The verdict with its reason. Classes that only one of the two knows are left out of the comparison.
    """
    if baseline is None or baseline_name is None:
        return GateVerdict(promoted=True, reason="The first version of the project.", baseline=None)
    measured = {"version": baseline_name, **baseline.as_dict()}
    if gone:
        return GateVerdict(
            promoted=False,
            reason=f"The files of {gone} held-out images vanished during the training, so there is no fair comparison "
            f"with {baseline_name}. Is the disk full, or did somebody clear AL_DATA_DIR? Train again.",
            baseline=measured,
        )
    shared = sorted(set(candidate.per_class) & set(baseline.per_class))
    old = {name: value for name in shared if (value := baseline.per_class[name].ap50) is not None}
    new = {name: value for name in shared if (value := candidate.per_class[name].ap50) is not None}
    judged = sorted(set(old) & set(new))
    if not judged:
        return GateVerdict(
            promoted=True,
            reason="No held-out box of a class that both versions know: nothing to compare.",
            baseline=measured,
        )
    before = sum(old[name] for name in judged) / len(judged)
    after = sum(new[name] for name in judged) / len(judged)
    boxes = sum(candidate.per_class[name].boxes for name in judged)
    tolerance = drop + 0.5 / math.sqrt(max(1, boxes))
    comparison = f"mAP50 {after:.3f} against {before:.3f} of {baseline_name} on {candidate.images} held-out images"
    if after < before - tolerance:
        return GateVerdict(
            promoted=False, reason=f"{comparison}: a drop of more than {tolerance:.3f}.", baseline=measured
        )
    for name in judged:
        count = candidate.per_class[name].boxes
        allowed = CLASS_FACTOR * drop + 0.5 / math.sqrt(max(1, count))
        if count >= CLASS_INSTANCES and new[name] < old[name] - allowed:
            return GateVerdict(
                promoted=False,
                reason=f"{comparison}, but AP50 of {name!r} fell from {old[name]:.3f} to {new[name]:.3f}.",
                baseline=measured,
            )
    return GateVerdict(promoted=True, reason=f"{comparison}.", baseline=measured)
