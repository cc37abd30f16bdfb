"""What a reader has to know before the numbers of an experiment, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from model.simulation.results import BASELINE, Curve, Results
from model.simulation.summary import full_level, summarise

_REGIME = 0.1
"""Share of full supervision that labels have to be worth, beyond the initial set, for curves to mean something."""
_SHOWN = 3


def notes(results: Results) -> list[str]:
    """What a reader has to know before the numbers, one sentence each."""
    found = []
    missing = [curve for curve in results.curves if not curve.complete]
    if missing:
        why = "stopped early" if results.ended_early else "not finished"
        found.append(
            f"This experiment was {why}: {len(missing)} of {len(results.curves)} curves are incomplete. "
            "The same command goes on where it ended."
        )
    if results.missing_full:
        found.append(f"{results.missing_full} trainings on everything are missing, so the reference is not complete.")
    found += [f"Failed: {sentence}" for sentence in results.failures]
    found += problem_note(results.problems)
    found += _left_out(results)
    found += _unreadable(results)
    if len(results.made_on) > 1:
        places = "; ".join(sorted({place["device"] for place in results.made_on}))
        found.append(
            f"The trainings ran on {len(results.made_on)} combinations of device and releases ({places}): differences "
            "between curves may come from there, too."
        )
    found += _regime(results)
    found += _beyond_full(results)
    found += _exhausted(results)
    found += _no_choice(results)
    if len(results.settings["seeds"]) == 1:
        found.append("One seed only: no interval can be given, and differences may be chance.")
    if BASELINE not in results.settings["strategies"]:
        found.append(f"The strategy `{BASELINE}` is not among these, so nothing can be said about savings.")
    for what, counts in (("pool", "pool_class_counts"), ("held-out images", "test_class_counts")):
        absent = [name for name, n in zip(results.data["classes"], results.data[counts], strict=True) if not n]
        if absent:
            why = "" if what == "pool" else "; they do not count in any mAP"
            found.append(
                f"The {what} have no box of {', '.join(absent)}{why}.".replace("The pool have", "The pool has")
            )
    return found


def _regime(results: Results) -> list[str]:
    """A warning where labels hardly matter, because then the curves measure how long was trained."""
    found = []
    for losses in results.settings["losses"]:
        full = full_level(results, losses)
        starts = [c.points[0].quality for c in results.curves if c.losses == losses and c.points]
        if full is None or not starts:
            continue
        start = sum(starts) / len(starts)
        if full - start < _REGIME * full or not full:
            found.append(
                f"Training on everything (mAP50 {full:.3f}) was hardly better than on the initial set ({start:.3f}). "
                "These curves say little about labels: train longer (--iterations), or begin with fewer labels."
            )
    return found


def _left_out(results: Results) -> list[str]:
    short = [f"{c.strategy} ({c.losses}) seed {c.seed}, {len(c.points)} trainings" for c in results.left_out]
    return [f"Not in any mean, because others of their kind go further: {'; '.join(short)}."] if short else []


def _unreadable(results: Results) -> list[str]:
    """What every step left out, each image once."""
    points = [point for curve in results.curves for point in curve.points] + [full.point for full in results.full]
    sentences = dict.fromkeys(
        sentence
        for point in points
        for sentence in (*point.metrics.skipped, *point.training.get("skipped", ()), *point.unreadable)
    )
    if not sentences:
        return []
    shown = "; ".join(list(sentences)[:_SHOWN]) + ("; ..." if len(sentences) > _SHOWN else "")
    return [f"{len(sentences)} images could not be read, and count nowhere: {shown}"]


def problem_note(problems: Sequence[str]) -> list[str]:
    """What the readers of the data left out, in one sentence; none where that is nothing."""
    if not problems:
        return []
    shown = " ".join(problems[:_SHOWN])
    more = f" And {len(problems) - _SHOWN} more; results.json lists all." if len(problems) > _SHOWN else ""
    return [f"Not everything in the data could be used: {shown}{more}"]


def _exhausted(results: Results) -> list[str]:
    """A warning where strategies had no choice left, because then they cannot differ."""
    ended = [curve for curve in results.curves if _took_all(curve, results)]
    if not ended:
        return []
    return [
        f"{len(ended)} of {len(results.curves)} curves end with all {results.data['pool_images']:,} images of the pool "
        "labelled, where no strategy differs from another: take a smaller --initial, --budget or --cycles, or more "
        "images."
    ]


def _no_choice(results: Results) -> list[str]:
    """A warning where strategies see no more of the pool than they have to take."""
    seen, budget = results.settings["pool_size"], results.settings["budget"]
    if not 0 < seen <= budget:
        return []
    return [
        f"Strategies saw {seen:,} images per cycle (pool_size) and took up to {budget:,}: all of them, so that none "
        "had a choice, and these curves differ by nothing. Show them more, or all by 0, or take a smaller --budget."
    ]


def _took_all(curve: Curve, results: Results) -> bool:
    return sum(len(point.labelled) for point in curve.points) >= results.data["pool_images"]


def _beyond_full(results: Results) -> list[str]:
    """A warning where full supervision is no upper end, because then a share of it is easily reached."""
    found, summaries = [], summarise(results)
    for losses in results.settings["losses"]:
        full = full_level(results, losses)
        # With all labelled it is the same training by another seed.
        chose = {c.strategy for c in results.curves if c.losses == losses and not _took_all(c, results)}
        ends = {s.strategy: s.last for s in summaries if s.losses == losses and s.strategy in chose}
        above = {name: last for name, last in ends.items() if full is not None and last[2] > full}
        if not above:
            continue
        best = max(above, key=lambda name: above[name][2])
        labels, _, quality = above[best]
        found.append(
            f"{best} passed the training on everything (mAP50 {quality:.3f} with {labels:,.0f} labels, {full:.3f} with "
            "all): in that many steps a detector does not learn the whole pool, so shares of full supervision are "
            "easily reached. Train longer (--iterations) for a reference that all labels deserve."
        )
    return found
