"""Judges the layer list of a network before Ultralytics builds it.

A layer list comes from a YAML file or out of a weights file's header. Ultralytics evaluates its `activation` as Python
and calls whatever function of its module a layer names, so a weights file without a single pickle could run code.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import torchvision
from torch import nn

from model.detectors.ultralytics_library import tasks
from model.errors import WeightsRefused

MOST_LAYERS = 1000
_MOST_REPEATS = 1000
_TORCH, _TORCHVISION = "nn.", "torchvision.ops."


def check_layers(layers: Mapping[str, Any]) -> None:
    """Pass when the list names layers and an activation of known libraries and nothing else.

    Raises:
        WeightsRefused: it does not; the message says what was found.
    """
    activation = layers.get("activation")
    if activation is not None and not (isinstance(activation, str) and _is_activation(activation)):
        raise WeightsRefused(
            f"the network's activation is {str(activation)[:100]!r}, expected a layer of torch such as 'nn.SiLU()'"
        )
    for part in ("backbone", "head"):
        rows = layers.get(part)
        if not isinstance(rows, list) or len(rows) > MOST_LAYERS:
            raise WeightsRefused(f"the network's {part} is no list of at most {MOST_LAYERS} layers")
        for row in rows:
            _check_row(row, part)


def _check_row(row: Any, part: str) -> None:
    if not isinstance(row, list | tuple) or len(row) != 4 or not isinstance(row[2], str):
        raise WeightsRefused(
            f"a layer of the {part} is {str(row)[:100]!r}, expected [from, repeats, module, arguments]"
        )
    if not isinstance(row[1], int) or not 0 < row[1] <= _MOST_REPEATS:
        raise WeightsRefused(
            f"a layer of the {part} is repeated {str(row[1])[:20]} times, expected 1 to {_MOST_REPEATS}"
        )
    found = _named(row[2])
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise WeightsRefused(f"a layer of the {part} is {row[2][:100]!r}, which is no layer of Ultralytics or torch")


def _named(name: str) -> Any:
    """What Ultralytics would take for the name of a layer, looked up in the same three places."""
    if name.startswith(_TORCH):
        return getattr(nn, name[len(_TORCH) :], None)
    if name.startswith(_TORCHVISION):
        return getattr(torchvision.ops, name[len(_TORCHVISION) :], None)
    return vars(tasks).get(name)


def _is_activation(text: str) -> bool:
    """Whether it reads `nn.Name(...)` or `torch.nn.Name(...)`, with plain values for arguments."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    if ast.unparse(call.func.value) not in ("nn", "torch.nn"):
        return False
    found = getattr(nn, call.func.attr, None)
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    plain = all(isinstance(value, ast.Constant) for value in values)
    return plain and isinstance(found, type) and issubclass(found, nn.Module)
