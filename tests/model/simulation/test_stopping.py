from __future__ import annotations

import pytest

from model.simulation.stopping import stopping_hint


def test_the_slope_by_hand() -> None:
    # Least squares over (20, .50), (40, .52), (60, .52), (80, .54): 1.2 / 2000 = 0.0006 per label.
    hint = stopping_hint([(0, 0.1), (20, 0.50), (40, 0.52), (60, 0.52), (80, 0.54)])
    assert hint is not None
    assert hint.gain == pytest.approx(0.06)
    assert (hint.labels, hint.cycles, hint.stop) == ((20, 80), 3, False)
    assert "+6.00 points of mAP50 per 100 labels" in hint.sentence


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
    strict = stopping_hint(curve, cycles=2, threshold=0.06)
    assert strict is not None
    assert strict.stop


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
