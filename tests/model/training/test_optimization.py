from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from model.training.optimization import mixed_precision_type


@pytest.mark.parametrize(("generation", "expected"), [(7, torch.float16), (8, torch.bfloat16), (9, torch.bfloat16)])
def test_a_gpu_that_emulates_bfloat16_trains_in_float16(
    monkeypatch: pytest.MonkeyPatch, generation: int, expected: torch.dtype
) -> None:
    """A T4 and an RTX 2080 are of generation 7."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=generation))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert mixed_precision_type(torch.device("cuda")) is expected


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, None), ({}, None)],
)
def test_a_cpu_needs_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool], expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert mixed_precision_type(torch.device("cpu")) is expected


def test_other_devices_train_in_full_precision() -> None:
    assert mixed_precision_type(torch.device("meta")) is None
