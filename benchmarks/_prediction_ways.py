"""The ways to get detections that `throughput` compares: ours, the library's own, and the bare network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from benchmarks._detectors import MIN_SCORE
from model.detectors.base import Detector, View
from model.detectors.canvas import draw
from model.detectors.files import predict_files
from model.detectors.letterbox import Letterbox, stack
from model.detectors.torchvision_detector import TorchvisionDetector
from model.detectors.yolo import YoloDetector

Ways = dict[str, Callable[[], int]]
"""By name; each handles all images once and gives the number of boxes."""

BATCH = 16
OVERLAP = 0.7


def ways_for(detector: Detector, paths: Sequence[Path], images: Sequence[NDArray[np.uint8]]) -> tuple[Ways, Ways]:
    """Ways that start from `images` in memory, and ways that start from the files `paths`.

    `ours` is the whole scoring pass; `bare` only runs the network on batches of ready pixels, without suppression.
    """

    def ours() -> int:
        found = detector.predict(images, min_score=MIN_SCORE)
        return sum(len(views[View.ORIGINAL]) for views in found)

    def ours_on_files() -> int:
        outcomes = predict_files(detector, paths, min_score=MIN_SCORE)
        return sum(len(found[View.ORIGINAL]) for found in outcomes if not isinstance(found, Exception))

    if isinstance(detector, YoloDetector):
        decoded, files = _ultralytics(detector, paths, images)
    else:
        assert isinstance(detector, TorchvisionDetector)
        decoded, files = _torchvision(detector, paths, images)
    return {"ours": ours, **decoded}, {"ours": ours_on_files, **files}


def _ultralytics(
    detector: YoloDetector, paths: Sequence[Path], images: Sequence[NDArray[np.uint8]]
) -> tuple[Ways, Ways]:
    from ultralytics import YOLO  # after our own door to it, which undoes what importing it changes

    network = copy.deepcopy(detector._network)
    network.names = dict(enumerate(detector.classes))
    yolo = YOLO(f"{detector.architecture}.yaml", task="detect")
    yolo.model = network
    as_opencv = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    names = [str(path) for path in paths]

    def predict(source: Any, batch: int) -> int:
        threads = torch.get_num_threads()
        found: Any = yolo.predict(
            source,
            imgsz=detector.image_size,
            conf=MIN_SCORE,
            iou=OVERLAP,
            batch=batch,
            device=detector.device,
            verbose=False,
        )
        torch.set_num_threads(threads)  # on a CPU it takes all but one, for every later call of anybody
        return sum(len(result.boxes) for result in found)

    batches = _in_batches(as_opencv, BATCH)
    boxes = [Letterbox.fit(image.shape[0], image.shape[1], detector.image_size) for image in images]
    pixels = torch.from_numpy(stack(list(images), boxes)).to(detector.device).permute(0, 3, 1, 2).float().div_(255)
    ready = list(pixels.contiguous(memory_format=torch.channels_last).split(BATCH))
    return (
        {
            "library": lambda: sum(predict(image, 1) for image in as_opencv),
            "library_batched": lambda: sum(predict(batch, len(batch)) for batch in batches),
            "bare": lambda: _bare(detector, lambda part: detector._inference_network()(part), ready),
        },
        {
            "library": lambda: predict(names, 1),
            "library_batched": lambda: predict(names, BATCH),
            "one_call_per_file": lambda: sum(predict(name, 1) for name in names),
        },
    )


def _torchvision(
    detector: TorchvisionDetector, paths: Sequence[Path], images: Sequence[NDArray[np.uint8]]
) -> tuple[Ways, Ways]:
    options: dict[str, Any] = {}
    if detector.architecture.startswith("fasterrcnn"):
        options = {"min_size": detector.image_size, "max_size": detector.image_size, "box_score_thresh": MIN_SCORE}
    else:
        options = {"score_thresh": MIN_SCORE}
    library = getattr(detection, detector.architecture)(
        weights=None, weights_backbone=None, num_classes=len(detector.classes) + 1, **options
    )
    library.load_state_dict(detector.tensors())
    library = library.eval().to(detector.device)
    batch = detector._family.batch[detector.device.type]

    def predict(chunk: Sequence[Tensor]) -> int:
        with torch.inference_mode():
            found = library([image.to(detector.device).float() / 255 for image in chunk])
            return sum(len(one["boxes"].cpu()) for one in found)

    def read(path: Path) -> Tensor:
        return decode_image(str(path), mode=ImageReadMode.RGB, apply_exif_orientation=True)

    def all_of(sources: Sequence[Any], size: int, open_: Callable[[Any], Tensor]) -> int:
        return sum(predict([open_(source) for source in chunk]) for chunk in _in_batches(sources, size))

    def open_array(image: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)

    canvases = [detector._family.canvas(image.shape[0], image.shape[1], detector.image_size) for image in images]
    transform = detector.network.transform
    pixels = draw(
        images,
        canvases,
        [View.ORIGINAL],
        mean=transform.image_mean,
        std=transform.image_std,
        device=detector.device,
    )
    network = detector.network

    def bare(part: Tensor) -> Any:
        features = network.backbone(part)
        if not hasattr(network, "rpn"):
            return network.head(list(features.values()))
        sizes = [canvases[0].inner] * len(part)
        proposals, _ = network.rpn(ImageList(part, sizes), features)
        heads = network.roi_heads
        return heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, sizes)))

    ready = list(pixels.split(batch))
    return (
        {
            "library": lambda: all_of(images, 1, open_array),
            "library_batched": lambda: all_of(images, batch, open_array),
            "bare": lambda: _bare(detector, bare, ready),
        },
        {
            "library": lambda: all_of(paths, 1, read),
            "library_batched": lambda: all_of(paths, batch, read),
        },
    )


def _bare(detector: Any, forward: Callable[[Tensor], Any], ready: Sequence[Tensor]) -> int:
    half = detector.device.type == "cuda"
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=half):
        for part in ready:
            forward(part)
    return 0


def _in_batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
