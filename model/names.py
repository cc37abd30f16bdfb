"""What is known of detectors and strategies by name alone, before anything heavy is imported."""

from __future__ import annotations

YOLO = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")
SSD = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
FASTER_RCNN = ("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn")
TORCHVISION = SSD + FASTER_RCNN
ULTRALYTICS_SUFFIXES = (".pt", ".yaml", ".yml")

STRATEGIES = ("al_vae", "cald", "core_set", "huale", "ppal", "random", "typical", "uncertainty")


def architectures() -> tuple[str, ...]:
    """Names that `create` knows; it also takes the path of an Ultralytics `.yaml` or `.pt` file."""
    return YOLO + TORCHVISION


def is_detector(name: str) -> bool:
    """Whether `create` takes the name, as an architecture or as the path of a file, which need not exist here."""
    return name in architectures() or name.endswith(ULTRALYTICS_SUFFIXES)


def measure_threshold(detector: str) -> float:
    """Least confidence of a box that strategies see unless settings say otherwise, in (0, 1).

    SSD has a softmax for every anchor, so that a tenth says next to nothing: see `docs/benchmarks.md`, "Labels saved".

    Args:
        detector: as `is_detector` takes it.
    """
    return 0.2 if detector in SSD else 0.1
