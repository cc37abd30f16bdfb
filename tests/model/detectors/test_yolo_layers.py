"""Layer lists that would run code: out of YAML files, and out of weights files without a pickle."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model.detectors.factory import create, load
from model.detectors.weights import WEIGHTS_NAME
from model.detectors.yolo_layers import check_layers
from model.detectors.yolo_network import build, network_description
from model.errors import WeightsRefused


@pytest.fixture(scope="module")
def layers() -> dict[str, Any]:
    return network_description("yolov5n")


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "yolov10n", "yolo11n", "yolo12n", "yolov3-tiny", "yolov9t"])
def test_the_networks_of_ultralytics_pass(name: str) -> None:
    check_layers(network_description(name))


@pytest.mark.parametrize("activation", ["nn.SiLU()", "torch.nn.LeakyReLU(0.1)", " nn.ReLU(inplace=True)", None])
def test_activations_that_pass(layers: dict[str, Any], activation: str | None) -> None:
    check_layers(layers | {"activation": activation})


@pytest.mark.parametrize(
    "activation",
    [
        "__import__('os').system('touch {mark}')",
        "open('{mark}', 'w')",
        "nn.SiLU() if open('{mark}', 'w') else nn.SiLU()",
        "nn.LeakyReLU(open('{mark}', 'w') and 0.1)",
        "nn.SiLU(inplace=open('{mark}', 'w'))",
        "nn.SiLU(*[open('{mark}', 'w')])",
        "nn.Module.__subclasses__()",
        "nn.modules.module.torch.os.system('touch {mark}')",
        "nn.NoSuchLayer()",
        "nn.init()",
        "SiLU()",
        "nn.SiLU",
        "(" * 500,
        "",
        5,
    ],
)
def test_activations_that_are_refused(layers: dict[str, Any], tmp_path: Path, activation: Any) -> None:
    mark = tmp_path / "mark"
    text = activation.format(mark=mark) if isinstance(activation, str) else activation
    with pytest.raises(WeightsRefused, match="activation is"):
        build(layers | {"activation": text}, 2)
    assert not mark.exists()


@pytest.mark.parametrize(
    "row",
    [
        [-1, 1, "torch_safe_load", ["/etc/passwd"]],
        [-1, 1, "attempt_load_one_weight", ["x"]],
        [-1, 1, "Path", ["x"]],
        [-1, 1, "nn.Module.apply", []],
        [-1, 1, "nn.init", []],
        [-1, 1, "torchvision.ops.nms", []],
        [-1, 1, "__builtins__", []],
        [-1, 1, "NoSuchLayer", []],
        [-1, 1, 5, []],
        [-1, 10**9, "Conv", [64, 3, 2]],
        [-1, 0, "Conv", [64, 3, 2]],
        [-1, 1, "Conv"],
        "Conv",
        None,
    ],
)
def test_rows_that_are_refused(layers: dict[str, Any], row: Any) -> None:
    wrong = copy.deepcopy(layers)
    wrong["backbone"].insert(0, row)
    with pytest.raises(WeightsRefused, match="a layer of the backbone is"):
        build(wrong, 2)


@pytest.mark.parametrize("rows", [None, "Conv", [[-1, 1, "Conv", [8, 3, 2]]] * 2000])
def test_a_list_that_is_none_or_endless(layers: dict[str, Any], rows: Any) -> None:
    with pytest.raises(WeightsRefused, match="head is no list of at most"):
        build(layers | {"head": rows}, 2)


def test_a_weights_file_cannot_run_code(tmp_path: Path) -> None:
    """A version from a bucket that somebody else may write to: safetensors, and a description that attacks."""
    folder, mark = tmp_path / "version", tmp_path / "mark"
    create("yolov5n", ("crab", "fish"), image_size=64, device="cpu").save(folder)
    path = folder / WEIGHTS_NAME
    with safe_open(path, framework="pt") as file:
        tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        description = json.loads(file.metadata()["detector"])
    description["layers"]["activation"] = f"open({str(mark)!r}, 'w') and torch.nn.SiLU()"
    save_file(tensors, path, metadata={"format": "pt", "detector": json.dumps(description)})

    with pytest.raises(WeightsRefused, match="activation is"):
        load(folder, device="cpu")
    assert not mark.exists()
