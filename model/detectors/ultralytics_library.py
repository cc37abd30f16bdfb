"""The one door to Ultralytics. Importing it changes other libraries and the environment; here that is undone.

Left alone it would install packages with pip when Pillow meets a broken image, look up names on the internet at import,
give OpenCV one thread, and leave OMP_NUM_THREADS=1 to every process started later, which then trains on one core.
"""

from __future__ import annotations

import os

import cv2
import torch
from PIL import Image

_environment = dict(os.environ)
_threads = cv2.getNumThreads()
os.environ.update({"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"})
try:
    from ultralytics.cfg import get_cfg
    from ultralytics.nn import tasks
    from ultralytics.nn.modules import Conv, Detect
    from ultralytics.nn.tasks import DetectionModel, torch_safe_load, yaml_model_load
    from ultralytics.utils import patches
    from ultralytics.utils.metrics import bbox_iou
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.tal import make_anchors
finally:
    for _name in set(os.environ) - set(_environment):
        del os.environ[_name]
    os.environ.update(_environment)
    cv2.setNumThreads(_threads)
Image.open = patches._image_open
torch.save = patches._torch_save

__all__ = [
    "Conv",
    "Detect",
    "DetectionModel",
    "bbox_iou",
    "get_cfg",
    "make_anchors",
    "non_max_suppression",
    "tasks",
    "torch_safe_load",
    "yaml_model_load",
]
