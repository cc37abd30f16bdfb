"""The autoencoder: its loss by hand and by chance, what a training does, and what counts as novel."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from safetensors.torch import save_file
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_divergence

from model.acquisition import vae_training
from model.acquisition.config import Regions, StrategyConfig
from model.acquisition.novelty import NoveltyDetector, with_novelty
from model.acquisition.vae import PictureErrors, Vae, VaeConfig, has_vae, load_vae, pictures
from model.acquisition.vae_network import (
    Posterior,
    VaeNetwork,
    create_network,
    kl_divergence,
    reconstruction_error,
    vae_loss,
)
from model.acquisition.vae_training import VaeReport, fit_vae, measure, train_on
from model.data.dataset import DetectionDataset, LabelledImage
from model.data.reef import OTHER_SPECIES, SPECIES, Scene, draw_dataset_in_memory, write_reef
from model.detections import Detections
from model.detectors.base import Detector, View
from model.errors import NotEnoughLabels, TrainingCancelled, WeightsRefused
from model.training.config import Progress

SMALL = VaeConfig(size=32, latent=16, iterations=60, batch_size=16, seed=4)
NO_BOX = np.zeros((0, 4), np.float32)


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return write_reef(tmp_path_factory.mktemp("reef"), 60, seed=1, size=(96, 96), empty_share=0.0, burst_share=0.0)


@pytest.fixture(scope="module")
def halves(reef: DetectionDataset) -> tuple[DetectionDataset, DetectionDataset]:
    return DetectionDataset(reef.classes, reef.images[:40]), DetectionDataset(reef.classes, reef.images[40:])


@pytest.fixture(scope="module")
def trained(halves: tuple[DetectionDataset, DetectionDataset]) -> tuple[Vae, VaeReport]:
    return fit_vae(*halves, SMALL)


# The loss


def test_divergence_by_hand() -> None:
    mean = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.0, 0.0]])
    log_variance = torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(4.0), math.log(0.25)]])
    # (1 + 4) / 2; (4 - 1 - ln 4) / 2 + (1/4 - 1 + ln 4) / 2 = 9/8.
    assert kl_divergence(Posterior(mean, log_variance)).tolist() == pytest.approx([0.0, 2.5, 1.125])


def test_divergence_against_the_library_and_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    found = kl_divergence(Posterior(mean, log_variance))
    posterior, prior = Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)
    assert found.tolist() == pytest.approx(reference_divergence(posterior, prior).sum(dim=1).tolist(), rel=1e-5)
    drawn = mean + (log_variance / 2).exp() * torch.randn(20_000, 5, 7, generator=generator)
    by_chance = (posterior.log_prob(drawn) - prior.log_prob(drawn)).sum(dim=2).mean(dim=0)
    assert found.tolist() == pytest.approx(by_chance.tolist(), rel=0.03)


def test_loss_by_hand() -> None:
    black, grey = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    grey[0, 0] = 0.2
    assert reconstruction_error(black, grey).tolist() == pytest.approx([(0.04 + 0.25 + 0.25) / 3])
    network = create_network(32, 16, 0)
    shown = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    loss = vae_loss(network, shown, torch.zeros(2, 16), pixel_std=0.1)
    posterior = network.encode(shown)
    error = (network.decode(posterior.mean) - shown).square().mean()
    assert loss.reconstruction.item() == pytest.approx(error.item())
    assert loss.total.item() == pytest.approx(
        error.item() / 0.02 + kl_divergence(posterior).mean().item() / 3072, rel=1e-5
    )


def test_gradients_reach_encoder_and_decoder() -> None:
    network = create_network(32, 16, 0)
    shown = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    vae_loss(network, shown, torch.ones(3, 16), 0.05).total.backward()
    still = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == []
    network.zero_grad()
    vae_loss(network, shown, torch.ones(3, 16), 0.05).kl.backward()
    touched = {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert touched == {"encoder"}


def test_the_noise_has_the_posteriors_deviation() -> None:
    class Linear(VaeNetwork):
        """Behind every picture the mean 2 and the variance 9; draws what it is given."""

        def encode(self, pictures: torch.Tensor) -> Posterior:
            return Posterior(torch.full((len(pictures), 3), 2.0), torch.full((len(pictures), 3), math.log(9.0)))

        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            return latent[:, :, None, None].expand(-1, 3, 16, 16)

    noise = torch.tensor([[1.0, 0.0, -1.0]])
    loss = vae_loss(Linear(16, 3), torch.zeros(1, 3, 16, 16), noise, 1.0)
    assert loss.reconstruction.item() == pytest.approx((25 + 4 + 1) / 3)


# The training


def test_a_training_redraws_held_out_pictures_better(
    halves: tuple[DetectionDataset, DetectionDataset], trained: tuple[Vae, VaeReport]
) -> None:
    vae, report = trained
    assert report.held_out is not None
    held_out = np.concatenate([pictures(image_of(item), item.xyxy, SMALL) for item in halves[1].images])
    before = measure(Vae(create_network(32, 16, SMALL.seed), SMALL), held_out)
    assert report.held_out == measure(vae, held_out)
    assert report.held_out.reconstruction < 0.5 * before.reconstruction
    assert report.held_out.kl > 1.0  # the latent numbers are used: no collapse onto the prior
    assert report.train.pictures == halves[0].num_boxes
    assert (report.images, report.iterations, report.skipped) == (40, 60, ())
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["held_out"]["pictures"] == halves[1].num_boxes
    assert report.train.edge_correlation is not None
    assert -1 <= report.train.edge_correlation <= 1


def test_equal_seeds_give_equal_weights(halves: tuple[DetectionDataset, DetectionDataset]) -> None:
    def weights(seed: int) -> NDArray[np.float32]:
        torch.manual_seed(seed + 17)  # whatever was drawn before
        vae, _ = fit_vae(halves[0], None, VaeConfig(size=16, latent=4, iterations=3, seed=seed))
        return np.concatenate([value.flatten().numpy() for value in vae.network.state_dict().values()])

    assert np.array_equal(weights(0), weights(0))
    assert not np.array_equal(weights(0), weights(1))


def test_more_objects_than_fit_into_memory_are_drawn(
    halves: tuple[DetectionDataset, DetectionDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = VaeConfig(size=16, latent=4, iterations=1, batch_size=2)
    monkeypatch.setattr(vae_training, "MOST_PICTURES", 25)
    (one, report), (again, _) = (fit_vae(halves[0], None, config) for _ in range(2))
    assert halves[0].num_boxes > 25
    assert (report.train.pictures, report.images) == (25, 40)
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
    _, whole = fit_vae(halves[0], None, replace(config, regions="image"))
    assert whole.train.pictures == 40, "one for each image"


class Unerring:
    """Makes no error, without the memory that a network takes."""

    def errors(self, shown: NDArray[np.uint8]) -> PictureErrors:
        return PictureErrors(*np.zeros((3, len(shown)), np.float32))


def test_measuring_takes_no_memory_beside_the_pictures() -> None:
    shown = np.zeros((500, 64, 64, 3), np.uint8)
    tracemalloc.start()
    try:
        assert measure(Unerring(), shown).pictures == 500  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < shown.nbytes
    finally:
        tracemalloc.stop()


def image_of(item: LabelledImage) -> NDArray[np.uint8]:
    return np.array(PillowImage.open(item.path).convert("RGB"))


@pytest.mark.parametrize("regions", [region.value for region in Regions])
def test_one_grey_oblong_image_is_enough(tmp_path: Path, regions: str) -> None:
    PillowImage.fromarray(np.full((20, 90), 128, np.uint8)).save(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    boxes = np.array([[3, 2, 60, 18]], np.float32)
    item = LabelledImage("1", tmp_path / "grey.png", boxes, np.array([0]))
    broken = LabelledImage("2", tmp_path / "broken.png", boxes, np.array([0]))
    config = VaeConfig(regions=regions, size=16, latent=4, iterations=2, batch_size=2)
    seen: list[Progress] = []
    vae, report = fit_vae(DetectionDataset(("cod",), [broken, item]), None, config, seen.append)
    assert [(p.phase, p.iteration, p.iterations) for p in seen] == [("autoencoder", 1, 2), ("autoencoder", 2, 2)]
    assert len(report.skipped) == 1
    assert report.skipped[0].startswith("2: ")
    assert report.held_out is None
    assert report.train.edge_correlation is None
    assert np.isfinite(vae.novelty([image_of(item)], [boxes])).all()
    with pytest.raises(NotEnoughLabels, match=r"in 1 images \(1 could not be read\)"):
        fit_vae(DetectionDataset(("cod",), [broken]), None, config)


def test_what_progress_raises_ends_the_training(halves: tuple[DetectionDataset, DetectionDataset]) -> None:
    def cancel(progress: Progress) -> None:
        raise TrainingCancelled("enough")

    with pytest.raises(TrainingCancelled):
        fit_vae(halves[0], None, SMALL, cancel)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 40}, "size is 40, expected a multiple of 16"),
        ({"regions": "boxes"}, "expected one of: objects, image"),
        ({"latent": 0}, "latent is 0"),
        ({"pixel_std": 0.0}, "pixel_std is 0.0"),
        ({"batch_size": 1}, "batch_size is 1, expected 2 or more"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VaeConfig(**wrong)  # type: ignore[arg-type]


def test_settings_of_a_strategy() -> None:
    config = VaeConfig.of(StrategyConfig("al_vae", vae_regions="image", vae_iterations=70), seed=3)
    assert (config.regions, config.size, config.iterations, config.seed) == ("image", 64, 70, 3)
    assert VaeConfig.of(StrategyConfig("al_vae", vae_regions="objects"), seed=3).size == 32


# Novelty


def test_pictures_are_cut_at_the_border_and_never_empty() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[10:20, 30:50] = (255, 0, 100)
    outside = [[30, 10, 50, 20], [-30, -30, -5, -5], [90, 50, 99, 60], [5, 5, 5, 5]]
    cut = pictures(image, np.array(outside, np.float32), VaeConfig(size=16))
    assert cut.shape == (4, 16, 16, 3)
    assert (cut[0] == (255, 0, 100)).all()
    assert not cut[1:].any()
    whole = pictures(image, np.array(outside, np.float32), VaeConfig("image", size=16))
    assert whole.shape == (1, 16, 16, 3)
    assert whole.mean() == pytest.approx(image.mean(), rel=0.05)
    assert pictures(image, NO_BOX, VaeConfig(size=16)).shape == (0, 16, 16, 3)


class Told(Vae):
    """Finds the errors that it is told, in the order of the pictures."""

    def __init__(self, errors: list[float]) -> None:
        config = VaeConfig(size=16, latent=4)
        super().__init__(create_network(16, 4, 0), config)
        self._told = np.array(errors, np.float32)

    def errors(self, pictures: NDArray[np.uint8]) -> PictureErrors:
        assert len(pictures) == len(self._told)
        return PictureErrors(self._told, self._told, self._told)


def test_the_novelty_of_one_object_by_hand() -> None:
    class Grey(VaeNetwork):
        """Redraws every picture in one grey."""

        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            return torch.full((len(latent), 3, 16, 16), 0.5)

    vae = Vae(Grey(16, 4), replace(SMALL, size=16, latent=4))
    shown = np.full((2, 16, 16, 3), 255, np.uint8)
    shown[:, 4:12, 4:8], shown[:, 4:12, 8:12] = 51, 153  # 0.2 and 0.6, around their mean by 0.2
    shown[1, 4:12, 4:12, 0] = 0  # without red: its variance is 0, its error 0.25
    # The middle half: (0.3^2 + 0.1^2) / 2, over the variance (and 0.0001) to the power of 3/4; the edge is not seen.
    both = 0.05 / (0.04 + 1e-4) ** 0.75
    one = (0.25 + 0.05 + 0.05) / 3 / (0.08 / 3 + 1e-4) ** 0.75
    assert vae.errors(shown).novelty.tolist() == pytest.approx([both, one], rel=1e-5)
    assert vae.errors(shown).whole.tolist() == pytest.approx([0.2, (0.2 + 0.2 + 0.25) / 3], rel=1e-5)


def told(errors: list[list[float]], weights: list[list[float]] | None) -> list[float]:
    """The novelty of images whose objects have these errors and weights."""
    images = [np.zeros((20, 20, 3), np.uint8) for _ in errors]
    boxes = [np.tile(np.array([[2, 2, 9, 9]], np.float32), (len(part), 1)) for part in errors]
    vae = Told([error for part in errors for error in part])
    found = vae.novelty(images, boxes, None if weights is None else [np.array(part, np.float32) for part in weights])
    assert found.dtype == np.float32
    return found.tolist()


@pytest.mark.parametrize(
    ("errors", "weights", "expected"),
    [
        ([3.0, 4.0], [1.0, 1.0], 12.5**0.5),  # (9 + 16) / 2
        ([2.0, 4.0], [0.5, 0.25], 8**0.5),  # (0.5 * 4 + 0.25 * 16) / 0.75
        ([2.0, 4.0], [0.1, 0.05], 8**0.5),  # how sure the detector is of all together says nothing
        ([1.0, 9.0], [0.8, 0.0], 1.0),
        ([7.0], [0.1], 7.0),
        ([3.0, 4.0], [0.0, 0.0], 12.5**0.5),  # all alike, as in every other case of equal weights
        ([3.0, 4.0], [1e-45, 1e-45], 12.5**0.5),  # the least number above 0
        ([], [], 0.0),
    ],
)
def test_objects_together_by_hand(errors: list[float], weights: list[float], expected: float) -> None:
    assert told([errors], [weights]) == pytest.approx([expected])
    assert told([errors[::-1]], [weights[::-1]]) == pytest.approx([expected])
    # Neighbours, with or without objects, change nothing.
    others = [[5.0], errors, [], [6.0, 6.0]]
    assert told(others, [[0.3], weights, [], [0.0, 0.9]]) == pytest.approx([5.0, expected, 0.0, 6.0])


def test_without_weights_all_objects_count_alike() -> None:
    errors = [[3.0, 4.0], [], [1.0, 2.0, 2.0]]
    assert told(errors, None) == pytest.approx([12.5**0.5, 0.0, 3**0.5])
    assert told(errors, None) == told(errors, [[1.0, 1.0], [], [1.0, 1.0, 1.0]])


def test_objects_need_boxes_and_a_weight_for_each(trained: tuple[Vae, VaeReport], reef: DetectionDataset) -> None:
    vae, _ = trained
    images = [image_of(item) for item in reef.images[:3]]
    boxes = np.array([[0, 0, 40, 40], [50, 50, 90, 90]], np.float32)
    both, one, other, nothing = (vae.novelty([images[0]], [part])[0] for part in (boxes, boxes[:1], boxes[1:], NO_BOX))
    assert both == pytest.approx(((one**2 + other**2) / 2) ** 0.5, rel=1e-5)
    assert one != pytest.approx(other, rel=1e-3)
    assert nothing == 0.0
    assert vae.novelty([], []).shape == (0,)
    together = vae.novelty(images, [boxes, NO_BOX, boxes[:1]])
    assert together.dtype == np.float32
    assert together.tolist() == pytest.approx([both, 0.0, vae.novelty([images[2]], [boxes[:1]])[0]], rel=1e-4)
    for missing in (None, [boxes]):
        with pytest.raises(ValueError, match="judges objects"):
            vae.novelty(images, missing)
    for wrong in ([], [np.ones(1, np.float32)]):
        with pytest.raises(ValueError, match=r"weights of \[.*\] objects, expected those of \[2\]"):
            vae.novelty(images[:1], [boxes], wrong)


def test_whole_images_need_no_boxes(reef: DetectionDataset) -> None:
    config = VaeConfig("image", size=16, latent=4)
    vae = Vae(create_network(16, 4, 0), config)
    images = [image_of(item) for item in reef.images[:2]]
    shown = np.concatenate([pictures(image, None, config) for image in images])
    assert vae.novelty(images).tolist() == pytest.approx(vae.errors(shown).whole.tolist())
    assert vae.novelty(images, [NO_BOX, NO_BOX]).tolist() == vae.novelty(images).tolist()
    boxes, weights = np.array([[0, 0, 9, 9], [5, 5, 20, 20]], np.float32), np.array([0.5, 0.1], np.float32)
    found = vae.novelty(images, [boxes, NO_BOX], [weights, weights[:0]])
    assert found.tolist() == vae.novelty(images).tolist()


def test_saved_and_loaded(trained: tuple[Vae, VaeReport], reef: DetectionDataset, tmp_path: Path) -> None:
    vae, report = trained
    assert not has_vae(tmp_path)
    vae.save(tmp_path, report.as_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vae.json", "vae.safetensors"]
    assert json.loads((tmp_path / "vae.json").read_text())["report"]["images"] == 40
    assert has_vae(tmp_path)
    again = load_vae(tmp_path)
    assert again.config == vae.config
    image, boxes = image_of(reef.images[0]), [reef.images[0].xyxy]
    assert again.novelty([image], boxes).tolist() == vae.novelty([image], boxes).tolist()


def test_files_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="cannot be read"):
        load_vae(tmp_path)
    path = tmp_path / "vae.safetensors"
    path.write_bytes(b"\x80\x04 pickled")
    with pytest.raises(WeightsRefused, match="cannot be read"):
        load_vae(tmp_path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsRefused, match="does not describe itself"):
        load_vae(tmp_path)
    document = {"format": 2, "config": {"size": 16, "latent": 4}}
    save_file({"a": torch.zeros(1)}, path, metadata={"vae": json.dumps(document)})
    with pytest.raises(WeightsRefused, match="does not fit this network"):
        load_vae(tmp_path)
    for other, advice in ((1, "train again"), (3, "install a newer version")):
        save_file({"a": torch.zeros(1)}, path, metadata={"vae": json.dumps(document | {"format": other})})
        with pytest.raises(WeightsRefused, match=advice):
            load_vae(tmp_path)


class Finds:
    """A detector that finds what it is told to."""

    architecture, classes, image_size = "made up", ("cod",), 96

    def __init__(self, boxes: list[NDArray[np.float32]], score: float = 0.5) -> None:
        self._boxes = boxes
        self._score = score

    def predict(
        self,
        images: list[NDArray[np.uint8]],
        views: tuple[View, ...] = (View.ORIGINAL,),
        *,
        min_score: float = 0.05,
    ) -> list[dict[View, Detections]]:
        def found(boxes: NDArray[np.float32]) -> Detections:
            count = len(boxes)
            # Each box is half as sure as the one before it.
            score = (self._score * 0.5 ** np.arange(count)).astype(np.float32)
            probs = np.stack([score, 1 - score], axis=1)
            return Detections(boxes, score, np.zeros(count, np.int64), probs, 96, 96)

        return [dict.fromkeys(views, found(boxes)) for boxes in self._boxes]


def test_detections_carry_the_novelty_of_the_original(trained: tuple[Vae, VaeReport], reef: DetectionDataset) -> None:
    images = [image_of(item) for item in reef.images[:2]]
    boxes = [np.array([[0, 0, 40, 40], [50, 50, 90, 90]], np.float32), NO_BOX]
    inner: Detector = Finds(boxes)  # type: ignore[assignment]
    detector: Detector = NoveltyDetector(inner, trained[0])
    assert (detector.architecture, detector.classes, detector.image_size) == ("made up", ("cod",), 96)
    seen = detector.predict(images, (View.ORIGINAL, View.HFLIP))
    scores = [found[View.ORIGINAL].score for found in seen]
    expected = trained[0].novelty(images, boxes, scores)
    assert [found[View.ORIGINAL].novelty for found in seen] == pytest.approx(expected.tolist())
    assert expected[0] != pytest.approx(trained[0].novelty(images, boxes)[0], rel=1e-3), "by their confidence"
    assert [found[View.HFLIP].novelty for found in seen] == [None, None]
    assert seen[0][View.ORIGINAL].select(np.array([0])).novelty == seen[0][View.ORIGINAL].novelty
    assert detector.predict(images, (View.HFLIP,))[0][View.HFLIP].novelty is None
    for damaged in (Finds([np.full((1, 4), np.nan, np.float32)]), Finds(boxes[:1], score=np.nan)):
        inner = damaged  # type: ignore[assignment]
        assert NoveltyDetector(inner, trained[0]).predict(images[:1])[0][View.ORIGINAL].novelty == 0.0


def test_only_who_needs_novelty_gets_an_autoencoder(reef: DetectionDataset) -> None:
    inner: Detector = Finds([reef.images[0].xyxy])  # type: ignore[assignment]
    config = StrategyConfig("al_vae", vae_iterations=1)
    made = with_novelty(inner, reef, config, seed=2, device="cpu")
    assert made.predict([image_of(reef.images[0])])[0][View.ORIGINAL].novelty > 0  # type: ignore[operator]
    assert with_novelty(inner, reef, StrategyConfig("al_vae", vae_alpha=0), seed=2) is inner
    assert with_novelty(inner, reef, StrategyConfig("huale"), seed=2) is inner


# An unseen species


def area_under_curve(unseen: NDArray[np.float32], seen: NDArray[np.float32]) -> float:
    """Chance that an image of the first kind is more novel than one of the second."""
    return float((unseen[:, None] > seen[None]).mean() + (unseen[:, None] == seen[None]).mean() / 2)


@pytest.mark.slow
def test_unseen_species_are_more_novel() -> None:
    """By true boxes, in the same water, with fewer steps and scenes than `docs/algorithms.md` has figures of."""

    def drawn(seed: int, count: int, species: tuple[str, ...]) -> list[Scene]:
        shape: dict[str, Any] = {"size": (160, 160), "empty_share": 0.0, "burst_share": 0.0}
        return list(draw_dataset_in_memory(count, seed=seed, species=species, **shape))

    config = VaeConfig(iterations=600, batch_size=16, seed=31)
    known = np.concatenate([pictures(scene.image, scene.xyxy, config) for scene in drawn(31, 160, SPECIES)])
    vae = train_on(known, config)

    # It redraws what it never saw, and not only the colours of water: the mean picture of the training and each
    # picture's own mean colour are further from it.
    held_out = np.concatenate([pictures(scene.image, scene.xyxy, config) for scene in drawn(32, 30, SPECIES)])
    guesses = (known.mean(axis=0), held_out.mean(axis=(1, 2), keepdims=True))
    errors = [float((((held_out - guess) / 255) ** 2).mean()) for guess in guesses]
    assert measure(vae, held_out).reconstruction < min(errors), errors

    def novelty(species: tuple[str, ...]) -> NDArray[np.float32]:
        scenes = drawn(32, 30, species)
        return vae.novelty([scene.image for scene in scenes], [scene.xyxy for scene in scenes])

    seen = novelty(SPECIES)
    found = {name: area_under_curve(novelty((name,)), seen) for name in OTHER_SPECIES}
    assert sum(found.values()) / len(found) >= 0.8, found
    # Not the barracuda: it is grey and long like herrings and mackerels.
    assert min(found[name] for name in ("tang", "boxfish", "butterflyfish", "angelfish")) >= 0.8, found
