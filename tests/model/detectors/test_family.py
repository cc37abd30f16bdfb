from __future__ import annotations

import torch
from torch import nn

from model.detectors.class_rows import rows_of, with_rows
from model.detectors.family import background_last, in_full_precision, keep_best
from model.detectors.features import cell_features


def boxes(*corners: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor(corners, dtype=torch.float32)


def kept(xyxy: torch.Tensor, score: list[float], label: list[int], **options: float) -> list[int]:
    settings = {"min_score": 0.05, "overlap": 0.5, "at_most": 10} | options
    return keep_best(xyxy, torch.tensor(score), torch.tensor(label), **settings).tolist()  # type: ignore[arg-type]


def test_the_weaker_of_two_boxes_of_one_class_goes() -> None:
    # IoU 80 / 120 = 0.67 between the first two; the third lies elsewhere.
    xyxy = boxes((0, 0, 10, 10), (0, 2, 10, 12), (50, 50, 60, 60))
    assert kept(xyxy, [0.4, 0.6, 0.5], [0, 0, 0]) == [1, 2]
    assert kept(xyxy, [0.4, 0.6, 0.5], [0, 1, 0]) == [1, 2, 0]
    assert kept(xyxy, [0.4, 0.6, 0.5], [0, 0, 0], overlap=0.7) == [1, 2, 0]
    assert kept(xyxy, [0.4, 0.6, 0.5], [0, 1, 0], at_most=2) == [1, 2]


def test_low_scores_and_boxes_without_area_go() -> None:
    xyxy = boxes((0, 0, 10, 10), (20, 0, 20, 10), (30, 0, 40, 10))
    assert kept(xyxy, [0.04, 0.9, 0.05], [0, 0, 0], min_score=0.05) == [2]
    assert kept(torch.zeros(0, 4), [], []) == []


def test_the_best_of_every_class_enter_the_suppression() -> None:
    xyxy = boxes(*((20.0 * i, 0, 20.0 * i + 10, 10) for i in range(6)))
    score, label = [0.1, 0.9, 0.5, 0.2, 0.3, 0.8], [0, 0, 0, 1, 1, 2]
    assert kept(xyxy, score, label, per_class=2) == [1, 5, 2, 4, 3]
    assert kept(xyxy, score, label, per_class=1) == [1, 5, 4]


def test_background_moves_to_the_end() -> None:
    torch.testing.assert_close(
        background_last(torch.tensor([[0.5, 0.25, 0.25]]).log()), torch.tensor([[0.25, 0.25, 0.5]])
    )


def test_rows_of_kept_and_fresh_classes() -> None:
    assert rows_of(("cod", "eel"), ("eel", "ray", "cod")) == [0, 2, None, 1]
    assert rows_of((), ("a",)) == [0, None]


def test_anchors_keep_their_own_rows() -> None:
    layer = nn.Conv2d(1, 2 * 3, 1)  # two anchors; background and two classes
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).view(6, 1, 1, 1))
        layer.bias.copy_(torch.arange(6.0) + 10)  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(0)
    changed = with_rows(layer, [0, 2], groups=2, width=1, std=0.01, generator=generator)
    assert changed.weight.flatten().tolist() == [0, 2, 3, 5]
    assert changed.bias is not None
    assert changed.bias.tolist() == [10, 12, 13, 15]
    assert changed(torch.ones(1, 1, 1, 1)).shape == (1, 4, 1, 1)
    grown = with_rows(layer, [0, None, 1], groups=2, width=1, std=0.01, generator=generator)
    assert grown.weight.flatten()[[0, 2, 3, 5]].tolist() == [0, 1, 3, 4]
    assert abs(grown.weight.flatten()[1].item()) < 0.1
    assert layer.weight.shape[0] == 6


def test_boxes_of_a_class_move_with_it() -> None:
    layer = nn.Linear(1, 3 * 4)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(12.0).view(12, 1))
    changed = with_rows(layer, [0, 2], groups=1, width=4, std=0.01, generator=torch.Generator())
    assert changed.weight.flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert changed.out_features == 8


def test_features_of_a_place() -> None:
    fine, coarse = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 2, 2)
    fine[0, :, 3, 0] = torch.tensor([3.0, 4.0])
    coarse[0, 0, 1, 0] = 7
    found = cell_features([fine, coarse], torch.tensor([0]), torch.tensor([0.8]), torch.tensor([0.1]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8, 1.0]]) / 2**0.5)
    edge = cell_features([fine], torch.tensor([0]), torch.tensor([1.0]), torch.tensor([0.0]))
    torch.testing.assert_close(edge, torch.tensor([[0.6, 0.8]]))


def test_autocast_ends_where_boxes_are_computed() -> None:
    layer = nn.Linear(4, 4)
    in_full_precision(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 4)).dtype == torch.float32
