from __future__ import annotations

from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from model.training.peers import Peers

CPU = torch.device("cpu")


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def as_one_of_two(rank: int, folder: Path, answers: SimpleQueue[tuple[int, dict[str, Any]]]) -> None:
    """What each of two processes does; what it sees is checked by the test."""
    dist.init_process_group("gloo", init_method=(folder / "meet").as_uri(), rank=rank, world_size=2)
    peers = Peers.here()
    everywhere, nowhere, fixed = parameter(0.0, 0.0), parameter(1.0), parameter(1.0)
    fixed.requires_grad_(False)
    only_first = parameter(1.0)
    all_of_them = [everywhere, nowhere, only_first, fixed]
    factor = torch.tensor([1.0, 2.0]) if rank == 0 else torch.tensor([3.0, 4.0])

    def compute() -> Tensor:
        loss = (everywhere * factor).sum() + (only_first.sum() * 2 if rank == 0 else 0.0)
        loss.backward()
        return loss.detach()

    loss = peers.step(compute, all_of_them, CPU)
    seen: dict[str, Any] = {
        "peers": (peers.rank, peers.size, peers.alone, peers.first),
        "loss": float(loss),
        "gradients": [None if p.grad is None else p.grad.tolist() for p in all_of_them],
    }

    def fail_on_the_second() -> Tensor:
        if rank == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute()

    try:
        peers.step(fail_on_the_second, all_of_them, CPU)
    except (MemoryError, RuntimeError) as error:
        seen["failure"] = (type(error).__name__, str(error))
    norm = nn.BatchNorm1d(1)
    norm.running_mean = torch.tensor([float(rank)])
    peers.average_buffers(norm)
    seen["mean"] = norm.running_mean.tolist()
    seen["from first"] = peers.from_first({"rank": rank})
    answers.put((rank, seen))
    dist.destroy_process_group()


@pytest.fixture(name="two", scope="module")
def two_fixture(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    answers: SimpleQueue[tuple[int, dict[str, Any]]] = torch.multiprocessing.get_context("spawn").SimpleQueue()
    start_processes(as_one_of_two, (tmp_path_factory.mktemp("peers"), answers), 2, start_method="spawn")
    told = dict(answers.get() for _ in range(2))
    return [told[0], told[1]]


def test_they_know_who_they_are(two: list[dict[str, Any]]) -> None:
    assert [seen["peers"] for seen in two] == [(0, 2, False, True), (1, 2, False, False)]


def test_gradients_become_the_mean_and_losses_stay_their_own(two: list[dict[str, Any]]) -> None:
    # Where only one process has a gradient, the other's counts as nought; where none has, none appears.
    assert [seen["gradients"] for seen in two] == [[[2.0, 3.0], None, [1.0], None]] * 2
    assert [seen["loss"] for seen in two] == [2.0, 0.0]


def test_memory_that_ran_out_on_one_is_known_to_both(two: list[dict[str, Any]]) -> None:
    assert two[0]["failure"] == ("MemoryError", "out of memory on 1 of the 2 devices that train together")
    assert two[1]["failure"][0] == "OutOfMemoryError"


def test_buffers_become_the_mean_and_the_firsts_word_counts(two: list[dict[str, Any]]) -> None:
    assert [seen["mean"] for seen in two] == [[0.5], [0.5]]
    assert [seen["from first"] for seen in two] == [{"rank": 0}] * 2


def test_alone_nothing_is_sent() -> None:
    peers = Peers.here()
    assert (peers.alone, peers.first, peers.from_first(3)) == (True, True, 3)
    weight = parameter(2.0)

    def compute() -> Tensor:
        (weight * weight).sum().backward()
        return torch.tensor(4.0)

    assert float(peers.step(compute, [weight], CPU)) == 4.0
    assert weight.grad is not None
    assert weight.grad.tolist() == [4.0]
