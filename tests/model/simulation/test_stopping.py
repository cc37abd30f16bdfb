from __future__ import annotations

import numpy as np
import pytest

from model.simulation.stopping import stopping_hint


def test_the_slope_by_hand() -> None:
    # Least squares over (20, .50), (40, .52), (60, .52), (80, .54): 1.2 / 2000 = 0.0006 per label.
    hint = stopping_hint([(0, 0.1), (20, 0.50), (40, 0.52), (60, 0.52), (80, 0.54)])
    assert hint is not None
    assert hint.gain == pytest.approx(0.06)
    assert (hint.labels, hint.cycles, hint.stop) == ((20, 80), 3, False)
    assert hint.sentence == (
        "From 20 to 80 labels the detector gained +6.00 points of mAP50 per 100 labels: more labels still help."
    )


@pytest.mark.parametrize("last", [0.6012, 0.55])
def test_a_flat_or_falling_end_says_stop(last: float) -> None:
    hint = stopping_hint([(100, 0.2), (200, 0.6), (300, 0.6), (400, 0.6), (500, last)])
    assert hint is not None
    assert hint.stop
    assert "hardly help" in hint.sentence


def test_the_threshold_and_the_number_of_cycles_are_the_callers() -> None:
    curve = [(100, 0.2), (200, 0.3), (300, 0.301)]
    by_two = stopping_hint(curve, cycles=2)
    assert by_two is not None
    assert not by_two.stop
    strict = stopping_hint(curve, cycles=2, threshold=0.1)
    assert strict is not None
    assert strict.stop


def test_the_margin_by_hand() -> None:
    # Slope 0.0505 per 100 labels; the points are 0.0165, 0.033 and 0.0165 away from the line, so its standard error is
    # sqrt(0.00163350 / 1 / 20,000) = 0.000285788 per label; one-sided 80 % for one degree of freedom is t = 1.376382.
    hint = stopping_hint([(100, 0.2), (200, 0.3), (300, 0.301)], cycles=2, threshold=0.02)
    assert hint is not None
    assert not hint.stop
    assert "+5.05 points of mAP50 per 100 labels, give or take 3.93: whether" in hint.sentence


def test_points_on_a_line_are_not_taken_for_exact() -> None:
    # No distance from the line at all, but an mAP50 is not known to better than 0.01:
    # 0.841621 * 0.01 / sqrt(2,000) is 1.88 points per 100 labels.
    hint = stopping_hint([(20, 0.5), (40, 0.5), (60, 0.5), (80, 0.5)])
    assert hint is not None
    assert not hint.stop
    assert "+0.00 points of mAP50 per 100 labels, give or take 1.88: whether" in hint.sentence


def test_many_small_cycles_are_looked_at_together() -> None:
    # The last doubling, 200 to 400 labels, are eleven trainings.
    hint = stopping_hint([(labels, 0.5) for labels in range(20, 420, 20)])
    assert hint is not None
    assert (hint.labels, hint.cycles) == ((200, 400), 10)
    assert hint.stop


def test_chance_hardly_ever_says_stop_while_labels_help() -> None:
    rng = np.random.default_rng(0)
    curves = [[(n, 0.3 + 0.0003 * n + rng.normal(0, 0.02)) for n in range(20, 220, 20)] for _ in range(300)]
    assert sum(hint.stop for curve in curves if (hint := stopping_hint(curve)) is not None) < 0.08 * len(curves)


def test_nothing_is_said_of_a_short_curve() -> None:
    assert stopping_hint([]) is None
    assert stopping_hint([(20, 0.1), (40, 0.1), (60, 0.1)]) is None
    # Four trainings, but only three with labels of their own: the later one of equals counts.
    assert stopping_hint([(20, 0.1), (40, 0.1), (40, 0.3), (60, 0.1)]) is None


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        stopping_hint([(20, 0.1)], cycles=1)
    with pytest.raises(ValueError, match="must not fall"):
        stopping_hint([(40, 0.1), (20, 0.1)])
