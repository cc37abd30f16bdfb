"""Class-wise factors: their shape, their running quality, and which rows they touch."""

from __future__ import annotations

import pytest
import torch

from model.training.losses import EmphasisFactors, emphasis_factor


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize(
    ("quality", "curve", "expected"),
    # e^(1/0.3) - 1 = 27.031624; 0.5 * 0.3 * ln(1 + 27.031624 / 2) = 0.15 * 2.675238
    [(1.0, 0.3, 0.0), (0.0, 0.3, 0.5), (0.5, 0.3, 0.401286), (0.9, 0.3, 0.196378), (0.5, 1.0, 0.310057)],
)
def test_factors_by_hand(quality: float, curve: float, expected: float) -> None:
    assert emphasis_factor(torch.tensor(quality), 0.5, curve).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("curve", [0.02, 0.1, 0.3, 1.0, 100.0])
def test_factors_fall_with_quality_and_stay_in_range(curve: float) -> None:
    factors = emphasis_factor(torch.linspace(0, 1, 101), 0.5, curve)
    assert factors.isfinite().all()
    assert (factors.diff() < 0).all()
    assert factors[0].item() == pytest.approx(0.5, rel=1e-5)
    assert factors[-1].item() == 0


def test_quality_is_averaged_evenly_at_first_then_exponentially() -> None:
    emphasis = EmphasisFactors(2, momentum=0.5)
    found = []
    for value in (0.2, 0.4, 0.8, 0.0):
        emphasis.observe(labels(0), torch.tensor([value]))
        found.append(emphasis.quality[0].item())
    # keep = 0, 1/2, then min(2/3, 0.5)
    assert found == pytest.approx([0.2, 0.3, 0.55, 0.275])
    assert emphasis.quality[1].item() == 1
    assert emphasis.updates.tolist() == [4, 0]


def test_a_step_counts_once_however_many_boxes_it_has() -> None:
    emphasis = EmphasisFactors(3)
    emphasis.observe(labels(0, 0, 2, -1, 0), torch.tensor([0.1, 0.2, 0.9, 0.0, 0.6]))
    assert emphasis.quality.tolist() == pytest.approx([0.3, 1.0, 0.9])
    assert emphasis.updates.tolist() == [1, 0, 1]


def test_weights_are_one_for_background_unseen_classes_and_while_inactive() -> None:
    emphasis = EmphasisFactors(3, maximum=0.5)
    emphasis.observe(labels(0, 1), torch.tensor([0.0, 0.5]))
    rows = labels(0, 1, 2, -1)
    assert emphasis.weights(rows).tolist() == pytest.approx([1.5, 1.401286, 1.0, 1.0], abs=1e-5)
    assert emphasis.weights(rows, active=False).tolist() == [1, 1, 1, 1]
    assert emphasis.weights(rows, active=torch.tensor(False)).tolist() == [1, 1, 1, 1]
    assert emphasis.weights(labels()).shape == (0,)


def test_neutral_weights_have_mean_one_over_the_positives() -> None:
    emphasis = EmphasisFactors(2, maximum=0.5, neutral=True)
    emphasis.observe(labels(0), torch.tensor([0.0]))
    # 1.5, 1, 1 with mean 3.5 / 3
    assert emphasis.weights(labels(0, 1, 1, -1, -1)).tolist() == pytest.approx([9 / 7, 6 / 7, 6 / 7, 1, 1])
    assert emphasis.weights(labels(-1)).tolist() == [1]
    assert emphasis.weights(labels()).shape == (0,)


def test_nothing_flows_back_through_a_weight() -> None:
    emphasis = EmphasisFactors(1)
    quality = torch.tensor([0.3], requires_grad=True)
    emphasis.observe(labels(0), quality)
    assert not emphasis.weights(labels(0)).requires_grad
    assert list(emphasis.parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_background_that_is_not_a_number(dtype: torch.dtype) -> None:
    emphasis = EmphasisFactors(2)
    emphasis.observe(labels(1, -1), torch.tensor([0.5, float("nan")], dtype=dtype))
    assert emphasis.quality.tolist() == [1.0, 0.5]


def test_the_state_survives_a_restart() -> None:
    first, second = EmphasisFactors(2), EmphasisFactors(2)
    for value in (0.1, 0.9, 0.4):
        first.observe(labels(0), torch.tensor([value]))
    second.load_state_dict(first.state_dict())
    for emphasis in (first, second):
        emphasis.observe(labels(0, 1), torch.tensor([0.6, 0.2]))
    assert torch.equal(first.factors(), second.factors())
