from __future__ import annotations

import pytest

from model.simulation.summary import StrategySummary, summarise
from tests.model.simulation.sample_results import BETTER, CURVES, RANDOM, curve, results


def of(found: list[StrategySummary], strategy: str) -> StrategySummary:
    return next(item for item in found if item.strategy == strategy)


class TestNumbers:
    def test_areas_and_gains_by_hand(self) -> None:
        curves = [curve("random", seed, RANDOM) for seed in (0, 1)]
        curves += [curve("huale", 0, BETTER), curve("huale", 1, [0.1, 0.3, 0.4, 0.41])]
        found = of(summarise(results(curves)), "huale")
        # Random: (0.15 + 0.25 + 0.35) / 3 = 0.25. Huale: (0.2 + 0.35 + 0.425) / 3 = 0.325, and 0.955 / 3.
        assert found.area_labels is not None
        assert found.area_labels.mean == pytest.approx((0.325 + 0.955 / 3) / 2)
        assert found.gain_labels is not None
        assert found.gain_labels.mean == pytest.approx((0.075 + 0.955 / 3 - 0.25) / 2)
        assert (found.gain_labels.count, found.seeds) == (2, 2)
        # Half the difference of the two gains, times t for one degree of freedom.
        assert found.gain_labels.high == pytest.approx(
            found.gain_labels.mean + 12.7062 * (0.075 - (0.955 / 3 - 0.25)) / 2, abs=1e-5
        )
        assert found.last == pytest.approx((400, 800, 0.43))

    def test_per_box_the_common_range_counts(self) -> None:
        # Four times random's boxes per image: 200 to 1400 against 200 to 800.
        curves = [curve("random", 0, RANDOM), curve("huale", 0, BETTER, boxes=4)]
        found = of(summarise(results(curves)), "huale")
        # Up to 800 boxes huale goes 0.1 at 200, 0.3 at 600, 0.35 at 800: (80 + 65) / 600.
        assert found.gain_boxes is not None
        assert found.gain_boxes.mean == pytest.approx(145 / 600 - 0.25)
        assert found.gain_labels is not None
        assert found.gain_labels.mean == pytest.approx(0.075)

    def test_a_curve_that_ended_early_is_compared_as_far_as_it_goes(self) -> None:
        curves = [curve("random", 0, RANDOM), curve("huale", 0, BETTER[:2], complete=False)]
        found = of(summarise(results(curves)), "huale")
        assert found.gain_labels is not None
        assert found.gain_labels.mean == pytest.approx(0.2 - 0.15)

    def test_a_single_point_has_no_area(self) -> None:
        curves = [curve("random", 0, RANDOM), curve("huale", 0, BETTER[:1], complete=False)]
        found = of(summarise(results(curves)), "huale")
        assert (found.area_labels, found.gain_labels, found.gain_boxes) == (None, None, None)
        assert found.verdict.startswith("huale and random order share no range of labels so far")

    def test_a_curve_that_a_stop_cut_short_takes_nothing_from_the_others(self) -> None:
        cut = [curve("random", 2, [0.5, 0.6, 0.7, 0.8]), curve("huale", 2, [0.5], complete=False)]
        stopped, finished = results([*CURVES, *cut]), results(CURVES)
        assert of(summarise(stopped), "huale") == of(summarise(finished), "huale")
        assert [(c.strategy, c.seed) for c in stopped.left_out] == [("huale", 2)]
        # Where none of a strategy's curves is complete, the longest say what there is to say.
        none = results(
            [*CURVES[::2], curve("huale", 0, BETTER[:3], complete=False), curve("huale", 1, [0.1], complete=False)]
        )
        assert of(summarise(none), "huale").last == (300, 600, 0.4)

    def test_costs_of_full_supervision(self) -> None:
        curves = [curve("random", 0, RANDOM), curve("huale", 0, BETTER)]
        summaries = summarise(results(curves, full={0: 0.42, 1: 0.46}))
        # Full is 0.44 in the mean: 90 % is 0.396 and 95 % is 0.418.
        costs = of(summaries, "huale").costs
        assert [cost.level for cost in costs] == pytest.approx([0.396, 0.418])
        assert [cost.labels for cost in costs] == pytest.approx([296, 336])
        assert [cost.boxes for cost in costs] == pytest.approx([592, 672])
        assert [cost.labels for cost in of(summaries, "random").costs] == [pytest.approx(396), None]
        assert of(summarise(results(curves)), "huale").costs == ()

    def test_losses_are_compared_with_random_order_of_the_same_losses(self) -> None:
        curves = [curve("random", 0, RANDOM), curve("random", 0, BETTER, losses="huale")]
        curves += [curve("core_set", 0, BETTER), curve("core_set", 0, BETTER, losses="huale")]
        gains = [item.gain_labels for item in summarise(results(curves)) if item.strategy == "core_set"]
        assert [round(gain.mean, 6) for gain in gains if gain] == [0.075, 0.0]


class TestVerdict:
    @staticmethod
    def verdict(*, seeds: int = 3, boxes: int = 2, shift: float = 0.0, full: float | None = None) -> str:
        """Of a strategy that is `BETTER` plus `shift`, with a little noise."""
        noise = [0.0, 0.002, -0.002][:seeds]
        curves = [curve("random", seed, RANDOM) for seed in range(seeds)]
        curves += [
            curve("huale", seed, [value + shift + extra for value in BETTER], boxes=boxes)
            for seed, extra in enumerate(noise)
        ]
        references = None if full is None else dict.fromkeys(range(seeds), full)
        return of(summarise(results(curves, full=references)), "huale").verdict

    def test_the_plain_sentence(self) -> None:
        assert self.verdict().startswith(
            "With huale you would have needed 300 labels instead of 400 for what random order reached in the end "
            "(mAP50 0.400). Area against random order: +7.50 points of mAP50 (95 % interval +7.00 to +8.00, 3 seeds)."
        )

    def test_a_share_of_full_supervision_where_random_order_reached_it(self) -> None:
        # 95 % of 0.4 is 0.38: random order has that at 380 labels, huale at 280.
        assert "280 labels instead of 380 for 95% of full supervision (mAP50 0.380)" in self.verdict(full=0.4)
        # 95 % of 0.44 was not reached by random order, 90 % was, at 396 labels.
        assert "296 labels instead of 396 for 90% of full supervision (mAP50 0.396)" in self.verdict(full=0.44)

    def test_one_seed_proves_nothing(self) -> None:
        text = self.verdict(seeds=1)
        assert "One seed cannot show" in text
        assert "instead of" not in text

    def test_not_better(self) -> None:
        noisy = [curve("random", seed, RANDOM) for seed in range(2)]
        noisy += [curve("huale", 0, BETTER), curve("huale", 1, [0.1, 0.15, 0.2, 0.3])]
        text = of(summarise(results(noisy)), "huale").verdict
        assert "not shown that huale is better" in text
        assert "instead of" not in text

    def test_worse(self) -> None:
        assert "worse than with random order: -7.50 points" in self.verdict(shift=-0.15)

    @pytest.mark.parametrize("last", [0.39, 0.40])
    def test_better_by_area_but_not_at_the_end_claims_no_labels(self, last: float) -> None:
        curves = [curve("random", seed, RANDOM) for seed in range(2)]
        curves += [curve("huale", seed, [0.1, 0.35, 0.36, last]) for seed in range(2)]
        text = of(summarise(results(curves)), "huale").verdict
        assert text.startswith("huale was better than random order.")
        assert "instead of" not in text

    def test_more_boxes_per_image_are_told(self) -> None:
        text = self.verdict(boxes=8)
        assert "300 labels instead of 400" in text
        assert "Its images held more boxes, though (2,600 against 800): counted by boxes it is not shown" in text

    def test_no_more_boxes_are_claimed_where_there_were_none(self) -> None:
        # Fewer boxes, but their gain is not sure: 0.3 of a curve of random order's cannot be told from 0.
        curves = [curve("random", seed, RANDOM) for seed in range(2)]
        curves += [curve("huale", 0, BETTER, boxes=1), curve("huale", 1, BETTER)]
        found = of(summarise(results(curves)), "huale")
        assert found.gain_boxes is not None
        assert not found.gain_boxes.above_zero
        assert "more boxes" not in found.verdict
        assert " Counted by boxes it is not shown to be better (" in found.verdict

    def test_a_seed_that_only_one_of_them_has_does_not_shift_the_saving(self) -> None:
        paired = [
            curve(name, seed, values) for seed in range(3) for name, values in (("random", RANDOM), ("huale", BETTER))
        ]
        alone = curve("random", 3, [0.0, 0.0, 0.1, 0.2])
        with_it, without = (of(summarise(results(c)), "huale").verdict for c in ([*paired, alone], paired))
        assert with_it == without
        assert "300 labels instead of 400" in without

    def test_without_random_order(self) -> None:
        (alone,) = summarise(results([curve("huale", 0, BETTER)]))
        assert "no curve of random order" in alone.verdict
        assert alone.gain_labels is None
        assert alone.area_labels is not None
        assert alone.area_labels.mean == pytest.approx(0.325)
