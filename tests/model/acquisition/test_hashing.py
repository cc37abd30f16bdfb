"""Random numbers per task: the published generator, bit for bit."""

from __future__ import annotations

import numpy as np

from model.acquisition.hashing import _mixed, uniform


def test_the_mixer_is_splitmix64() -> None:
    # First three outputs of the reference implementation for seed 0; its state grows by the golden ratio each step.
    golden = 0x9E3779B97F4A7C15
    states = np.array([0, golden, 2 * golden % 2**64], np.uint64)
    assert [hex(value) for value in _mixed(states).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_a_task_has_its_number_whatever_else_is_asked_for() -> None:
    assert uniform([], 3).shape == (0,)
    together = uniform([5, 2**62, 0], 3)
    assert together.tolist() == [uniform([task], 3)[0] for task in (5, 2**62, 0)]
    assert together.tolist() != uniform([5, 2**62, 0], 4).tolist()
