from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.acquisition.loss_prediction import LossPredictor, fit_loss_predictor, ranking_loss, true_detection_loss
from model.detections import Detections

CLASSES = 2


def seen(seed: int) -> Detections:
    """An image with 0 to 3 boxes and random embeddings."""
    rng = np.random.default_rng(seed)
    count = seed % 4
    probs = rng.dirichlet(np.ones(CLASSES + 1), count).astype(np.float32).reshape(-1, CLASSES + 1)
    corner = rng.uniform(0, 50, (count, 2))
    return Detections(
        xyxy=np.concatenate([corner, corner + 20], axis=1).astype(np.float32),
        score=probs[:, :-1].max(axis=1, initial=0),
        label=probs[:, :-1].argmax(axis=1),
        probs=probs,
        height=100,
        width=100,
        embedding=rng.normal(size=(count, 6)).astype(np.float32),
        image_embedding=rng.normal(size=8).astype(np.float32),
    )


def hidden_loss(found: Detections) -> float:
    assert found.image_embedding is not None
    return float(np.exp(found.image_embedding[0] - found.image_embedding[3]))


def order_quality(predictor: LossPredictor, found: list[Detections]) -> float:
    """Rank correlation with the hidden losses."""
    true = np.array([hidden_loss(detections) for detections in found])
    first, second = (np.argsort(np.argsort(values)) for values in (predictor.predict(found), true))
    return float(np.corrcoef(first, second)[0, 1])


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ([3.0, 1.0], [0.9, 0.2], 0.0),  # right, by more than the margin
        ([0.5, 0.0], [0.9, 0.2], 0.5),  # right, but not by enough
        ([0.0, 0.0], [0.9, 0.2], 1.0),
        ([0.0, 2.0], [0.9, 0.2], 3.0),
        ([0.0, 2.0], [0.2, 0.2], 0.0),  # nothing to say about equal ones
        ([0.0, 1.0, 0.5], [5.0, 1.0, 1.0], (2.0 + 1.5) / 2),
        ([0.0, 1.0, 0.5], [3.0, 2.0, 1.0], (2.0 + 1.5 + 0.5) / 3),
        ([1.0], [1.0], 0.0),
        ([], [], 0.0),
    ],
)
def test_ranking_loss_by_hand(predicted: list[float], true: list[float], expected: float) -> None:
    assert float(ranking_loss(torch.tensor(predicted), torch.tensor(true))) == pytest.approx(expected)


def test_ranking_loss_pushes_the_wrong_pair_apart_and_nothing_else() -> None:
    predicted = torch.tensor([0.0, 2.0, -9.0], requires_grad=True)
    ranking_loss(predicted, torch.tensor([0.9, 0.2, 0.1])).backward()
    assert predicted.grad is not None
    assert predicted.grad.tolist() == pytest.approx([-1 / 3, 1 / 3, 0])


def test_learns_an_order_that_holds_for_images_it_never_saw() -> None:
    train, others = [seen(seed) for seed in range(150)], [seen(seed) for seed in range(150, 250)]
    losses = np.array([hidden_loss(found) for found in train])
    untrained, trained = (fit_loss_predictor(train, losses, seed=0, steps=steps) for steps in (0, 300))
    before, after = (
        float(ranking_loss(torch.from_numpy(p.predict(train)), torch.from_numpy(losses))) for p in (untrained, trained)
    )
    assert after < 0.5 * before
    assert order_quality(trained, others) > 0.8
    again = fit_loss_predictor(train, losses, seed=0, steps=300)
    np.testing.assert_array_equal(again.predict(others), trained.predict(others))


@pytest.mark.parametrize("spread", [0.0, 1e-6])
def test_what_all_labelled_images_share_decides_nothing(spread: float) -> None:
    def with_feature(found: Detections, value: float) -> Detections:
        assert found.image_embedding is not None
        embedding = found.image_embedding.copy()
        embedding[5] = value
        return replace(found, image_embedding=embedding)

    train = [with_feature(seen(seed), 0.3 + spread * (seed % 2)) for seed in range(40)]
    predictor = fit_loss_predictor(train, np.array([hidden_loss(found) for found in train]), seed=0, steps=20)
    same, other = (predictor.predict([with_feature(seen(99), value)])[0] for value in (0.3, 0.8))
    assert same == other
    assert np.isfinite(same)


def test_true_loss_counts_misses_finds_and_false_alarms() -> None:
    found = Detections(
        xyxy=np.array([[10, 10, 30, 30], [60, 60, 80, 80]], np.float32),
        score=np.array([0.8, 0.6], np.float32),
        label=np.array([1, 0]),
        probs=np.array([[0.1, 0.8, 0.1], [0.6, 0.0, 0.4]], np.float32),
        height=100,
        width=100,
    )
    truth = np.array([[10, 10, 30, 30], [0, 50, 20, 70]], np.float32)
    # found with 0.8, missed, and a box that should have been background, over two objects
    expected = (-math.log(0.8) - math.log(0.05) - math.log(0.4)) / 2
    assert true_detection_loss(found, truth, np.array([1, 0])) == pytest.approx(expected, abs=1e-5)
    nothing = np.zeros((0, 4), np.float32)
    only = true_detection_loss(found, nothing, np.zeros(0, np.int64))
    assert only == pytest.approx(-math.log(0.1) - math.log(0.4), abs=1e-5)


def test_refuses_what_it_cannot_learn_from() -> None:
    found = [seen(seed) for seed in range(4)]
    losses = np.arange(4.0)
    with pytest.raises(ValueError, match="4 images and 3 losses"):
        fit_loss_predictor(found, losses[:3], seed=0)
    with pytest.raises(ValueError, match="2 or more"):
        fit_loss_predictor(found[:1], losses[:1], seed=0)
    with pytest.raises(ValueError, match="not finite"):
        fit_loss_predictor(found, losses * np.nan, seed=0)
    with pytest.raises(ValueError, match="no embeddings"):
        fit_loss_predictor([replace(d, image_embedding=None) for d in found], losses, seed=0)
    predictor = fit_loss_predictor(found, losses, seed=0, steps=1)
    assert predictor.predict([]).shape == (0,)
    other = replace(found[0], image_embedding=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="expected 18"):
        predictor.predict([other])
