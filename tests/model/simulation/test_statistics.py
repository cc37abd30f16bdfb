from __future__ import annotations

import math

import pytest

from model.simulation.statistics import Interval, area, interval, mean_line, paired_areas, reach, t_quantile


class TestIntervals:
    @pytest.mark.parametrize(
        ("freedom", "quantile"),
        [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (1000, 1.9623)],
    )
    def test_quantiles_of_the_printed_tables(self, freedom: int, quantile: float) -> None:
        assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-5)

    def test_another_confidence(self) -> None:
        assert t_quantile(4, 0.99) == pytest.approx(4.6041, abs=5e-5)
        with pytest.raises(ValueError, match="degree of freedom"):
            t_quantile(0)

    def test_by_hand(self) -> None:
        # Mean 2, standard deviation 1, so half a width of 4.3027 / sqrt(3).
        found = interval([1.0, 2.0, 3.0])
        assert found is not None
        assert (found.mean, found.count) == (2.0, 3)
        assert found.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-4)
        assert found.high == pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-4)
        assert not found.above_zero
        assert not found.below_zero

    def test_one_value_has_no_interval_and_none_has_no_mean(self) -> None:
        one = interval([0.5])
        assert one == Interval(0.5, None, None, 1)
        assert one is not None
        assert not one.above_zero
        assert not one.below_zero
        assert interval([]) is None

    def test_equal_values_exclude_zero_with_certainty(self) -> None:
        found = interval([-0.1, -0.1])
        assert found is not None
        assert found.below_zero
        assert not found.above_zero


class TestAreas:
    LINE = ([10, 20, 40], [0.0, 1.0, 0.0])

    def test_the_whole_curve(self) -> None:
        # Triangles of 10 * 1 / 2 and 20 * 1 / 2 over a width of 30.
        assert area(self.LINE, 10, 40) == pytest.approx(0.5)

    def test_a_part_cuts_through_the_straight_pieces(self) -> None:
        # From 15 to 20 it rises from 0.5 to 1, from 20 to 30 it falls to 0.5: (3.75 + 7.5) / 15.
        assert area(self.LINE, 15, 30) == pytest.approx(0.75)

    @pytest.mark.parametrize(("low", "high"), [(5, 30), (10, 41), (20, 20), (30, 20)])
    def test_none_where_the_curve_is_not(self, low: float, high: float) -> None:
        assert area(self.LINE, low, high) is None
        assert area(([], []), low, high) is None

    def test_pairs_are_compared_where_both_are(self) -> None:
        shorter = ([20, 30], [0.2, 0.4])
        found = paired_areas(self.LINE, shorter)
        assert found is not None
        assert found == pytest.approx((0.75, 0.3))
        assert paired_areas(self.LINE, ([40, 50], [0, 1])) is None
        assert paired_areas(self.LINE, ([], [])) is None

    def test_cycles_without_a_new_box_count_with_their_last_value(self) -> None:
        assert area(([10, 20, 20], [0.0, 0.3, 0.6]), 10, 20) == pytest.approx(0.3)

    def test_a_curve_that_goes_back_is_refused(self) -> None:
        with pytest.raises(ValueError, match="must not fall"):
            area(([10, 5], [0, 1]), 5, 10)
        with pytest.raises(ValueError, match="as many"):
            area(([10], [0, 1]), 5, 10)


class TestReach:
    LINE = ([100, 200, 300, 400], [0.2, 0.4, 0.3, 0.5])

    @pytest.mark.parametrize(("level", "x"), [(0.1, 100), (0.2, 100), (0.3, 150), (0.4, 200), (0.45, 375)])
    def test_the_first_crossing(self, level: float, x: float) -> None:
        assert reach(self.LINE, level) == pytest.approx(x)

    def test_never(self) -> None:
        assert reach(self.LINE, 0.51) is None
        assert reach(([], []), 0.0) is None


def test_the_mean_is_as_long_as_the_shortest() -> None:
    x, y = mean_line([([10, 20, 30], [0.0, 0.2, 0.9]), ([12, 24], [0.4, 0.4])])
    assert list(x) == [11.0, 22.0]
    assert list(y) == pytest.approx([0.2, 0.3])
    assert mean_line([]) == ([], [])
