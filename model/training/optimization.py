"""Optimizer, learning rate and arithmetic of the training loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

FINAL_RATE = 0.01
"""Of the peak learning rate, at the last step."""


class _Learning(Protocol):
    module: nn.Module
    fast_parameters: Sequence[nn.Parameter]
    fast_factor: float


def build_optimizer(network: _Learning, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is not frozen: no decay on biases and norms, a higher rate for `fast_parameters`."""
    fast = {id(p) for p in network.fast_parameters}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.module.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in fast, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak_lr": learning_rate * (network.fast_factor if is_fast else 1.0),
                "weight_decay": weight_decay if decayed else 0.0,
            }
            for (is_fast, decayed), parameters in groups.items()
        ],
        lr=learning_rate,
    )


def rate_factor(step: int, total: int) -> float:
    """Fraction of the peak rate at `step` (from 0) of `total`: linear warm-up, then half a cosine down to 1 %."""
    warm_up = min(100, max(1, total // 10))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, total - warm_up - 1)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def mixed_precision_type(device: torch.device) -> torch.dtype | None:
    """The half-width type in which `device` trains faster, None where full precision is better."""
    if device.type == "cuda":
        # By default torch also counts GPUs before Ampere, which emulate it; they have fast float16.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        # Without these instructions bfloat16 is emulated, which is slower than float32.
        native = torch.cpu.get_capabilities()
        return torch.bfloat16 if native.get("avx512_bf16") or native.get("amx_bf16") else None
    return None
