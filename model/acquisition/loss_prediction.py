"""A small network that learns from labelled images how large the detection loss of an image will be.

The third way beside the two of `detection_loss`, and the only one that needs one view alone. It reads what the
detector has computed anyway (`Detections.image_embedding` and the embeddings of the boxes), so the detector is not
touched: no gradient reaches it, and nothing about it has to be trained together with it. Fitting takes about a second,
so a fitted predictor is not stored; fit it anew for each trained detector, whose embeddings mean something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.acquisition.detection_loss import pseudo_label_loss
from model.acquisition.uncertainty import entropy
from model.detections import Detections

MARGIN = 1.0
"""By which predictions of two images should differ; of Yoo and Kweon."""
HIDDEN = 64
STEPS = 300
BATCH = 64
LEARNING_RATE = 1e-3
LEAST_SPREAD = 1e-4
"""Standard deviation of a feature over the labelled images, below which it carries nothing."""
WEIGHT_DECAY = 0.1
"""Strong: there are hundreds of features and often no more labelled images than that."""


def ranking_loss(predicted: Tensor, true: Tensor, *, margin: float = MARGIN) -> Tensor:
    """How badly `predicted` orders images by their `true` losses: a hinge over all pairs with different true losses.

    A pair costs nothing if the image with the larger loss is predicted larger by at least `margin`. Only the order
    counts, because losses shrink as a detector learns.

    Args:
        predicted: shape (n,).
        true: shape (n,).
        margin: positive.

    Returns:
        The mean over pairs, a scalar of at least 0; 0 without a pair.

    Source: Yoo and Kweon, CVPR 2019, equation 2, which takes n / 2 random pairs of a batch; here it is all of them.
    """
    first, second = torch.triu_indices(len(true), len(true), offset=1, device=true.device)
    sign = torch.sign(true[first] - true[second])
    hinge = (margin - sign * (predicted[first] - predicted[second])).clamp_min(0)
    different = sign != 0
    return (hinge * different).sum() / different.sum().clamp_min(1)


def true_detection_loss(
    found: Detections, xyxy: NDArray[np.float32], label: NDArray[np.int64], *, reported_from: float = 0.05
) -> float:
    """The MultiBox loss of what was found in a labelled image, as `pseudo_label_loss` counts it.

    Args:
        found: of the image.
        xyxy: true boxes, shape (n, 4), pixels of the original image.
        label: true classes, shape (n,), indices into the detector's class list.
        reported_from: see `pseudo_label_loss`.
    """
    probs = np.eye(found.num_classes + 1, dtype=np.float32)[label]
    score = np.ones(len(label), np.float32)
    truth = Detections(xyxy, score, label, probs.reshape(-1, found.num_classes + 1), found.height, found.width)
    return pseudo_label_loss(truth, found, reported_from=reported_from)


class LossPredictor:
    """Predicts by how much an image's loss stands out; made by `fit_loss_predictor`."""

    def __init__(self, network: nn.Module, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> None:
        self._network, self._mean, self._scale = network.eval(), mean, scale

    def predict(self, found: Sequence[Detections]) -> NDArray[np.float64]:
        """Shape (n,): higher is more informative; comparable between images of one detector, without a unit.

        Raises:
            ValueError: no embeddings, or those of another detector.
        """
        rows = _features(found)
        if not len(found):
            return np.zeros(0, np.float64)
        if rows.shape[1] != len(self._mean):
            raise ValueError(
                f"embeddings with {rows.shape[1]} numbers were found, expected {len(self._mean)}: "
                "predict with the detector that the predictor was fitted for"
            )
        with torch.inference_mode():
            result = self._network(torch.from_numpy((rows - self._mean) / self._scale))
        return result.squeeze(1).double().numpy()


def fit_loss_predictor(
    found: Sequence[Detections], losses: NDArray[np.floating[Any]], *, seed: int, steps: int = STEPS
) -> LossPredictor:
    """A predictor that orders labelled images by their loss.

    Args:
        found: what a detector says about labelled images, all with embeddings; 2 or more. Those that it was
            trained on will do: only the order of the losses counts, and many images count for more.
        losses: shape (n,), their true losses, e.g. of `true_detection_loss`.
        seed: of weights and batches.
        steps: of the optimizer.

    Raises:
        ValueError: lengths differ, too few images, losses that are not finite, or no embeddings.
    """
    if len(found) != len(losses) or len(found) < 2:
        raise ValueError(
            f"{len(found)} images and {len(losses)} losses were found, expected as many of both, 2 or more"
        )
    if not np.isfinite(losses).all():
        raise ValueError("a loss is not finite; the detector's weights are damaged")
    rows = _features(found)
    # What all labelled images share says nothing about the order, but by how another image differs there, divided by
    # next to nothing, would decide over its prediction.
    spread = rows.std(axis=0)
    spread[spread < LEAST_SPREAD] = np.inf
    mean, scale = rows.mean(axis=0), spread / _weights(found)
    features, true = torch.from_numpy((rows - mean) / scale), torch.from_numpy(losses).float()
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(rows.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(steps):
        batch = torch.from_numpy(rng.permutation(len(found))[:BATCH])
        loss = ranking_loss(network(features[batch]).squeeze(1), true[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return LossPredictor(network, mean, scale)


def _features(found: Sequence[Detections]) -> NDArray[np.float32]:
    """One row per image, shape (n, D).

    The image's embedding, the mean of its boxes' embeddings by foreground probability, and what the boxes say together:
    how many there are, how many objects that makes, how sure they are and how undecided between classes.
    """
    rows = []
    for detections in found:
        if detections.image_embedding is None or detections.embedding is None:
            raise ValueError("these detections have no embeddings, which the loss is predicted from")
        weight = 1 - detections.probs[:, -1]
        total = float(weight.sum())
        boxes = (weight[:, None] * detections.embedding).sum(axis=0) / max(total, 1e-6)
        count = max(1, len(detections))
        together = [np.log1p(len(detections)), np.log1p(total), total / count, entropy(detections.probs).sum() / count]
        rows.append(np.concatenate([detections.image_embedding, boxes, together]))
    return np.stack(rows).astype(np.float32) if rows else np.zeros((0, 0), np.float32)


def _weights(found: Sequence[Detections]) -> NDArray[np.float32]:
    """Factors of the standardised features, shape (D,): the three kinds count alike, however many numbers they are."""
    first = found[0]
    assert first.image_embedding is not None
    assert first.embedding is not None
    sizes = (len(first.image_embedding), first.embedding.shape[1], 4)
    return np.concatenate([np.full(size, size**-0.5) for size in sizes]).astype(np.float32)
