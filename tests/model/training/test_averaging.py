from __future__ import annotations

import pytest
import torch
from torch import nn

from model.training.averaging import WeightAverage


def one_weight(value: float) -> nn.BatchNorm1d:
    module = nn.BatchNorm1d(1)
    with torch.no_grad():
        module.weight.fill_(value)
    return module


def value(average: WeightAverage, name: str) -> float:
    return float(average.module.state_dict()[name])


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        # The ramp has 2/11, 3/12, 4/13; the average starts at 0 and the weights stay at 1.
        (0.999, [1 - 2 / 11, 1 - 2 / 11 * 3 / 12, 1 - 2 / 11 * 3 / 12 * 4 / 13]),
        (0.2, [1 - 2 / 11, 1 - 2 / 11 * 0.2, 1 - 2 / 11 * 0.2**2]),
        (0.0, [1.0, 1.0, 1.0]),
    ],
)
def test_the_average_by_hand(decay: float, expected: list[float]) -> None:
    average, present = WeightAverage(one_weight(0.0), decay), one_weight(1.0)
    found = []
    for _ in expected:
        average.update(present)
        found.append(value(average, "weight"))
    assert found == pytest.approx(expected)
    assert average.steps == 3


def test_buffers_follow_and_counters_are_copied() -> None:
    module = nn.BatchNorm1d(1)
    average = WeightAverage(module, 0.999)
    module.running_mean.fill_(11.0)  # type: ignore[union-attr]
    module.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    average.update(module)
    assert value(average, "running_mean") == pytest.approx(9.0)
    assert value(average, "num_batches_tracked") == 7


def test_it_is_a_copy_without_gradients_in_eval_mode() -> None:
    module = one_weight(1.0)
    average = WeightAverage(module, 0.999)
    with torch.no_grad():
        module.weight.fill_(5.0)
    assert value(average, "weight") == 1.0
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
