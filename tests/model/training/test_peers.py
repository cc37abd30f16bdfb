from __future__ import annotations

from contextlib import suppress
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from model.errors import TrainingCancelled
from model.training.config import Progress, TrainingConfig, TrainingReport
from model.training.loop import train
from model.training.peers import Peers
from model.training.sampling import BatchSampler
from tests.model.training.conftest import draw_squares
from tests.model.training.killed_training import NoisyCounter, squares

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
    seen["from all"] = peers.from_all({"rank": rank})
    seen["resumed"] = resumed_as_unbroken(folder)
    answers.put((rank, seen))
    dist.destroy_process_group()


def resumed_as_unbroken(folder: Path) -> tuple[int, bool]:
    """The step after which a stopped training goes on, and whether it ends with the weights of an unbroken one.

    What it trains has a dropout, so that each process draws random numbers of its own.
    """

    def run(checkpoint: Path | None, stop: int) -> tuple[Tensor, TrainingReport]:
        def cancel(progress: Progress) -> None:
            if progress.iteration == stop:
                raise TrainingCancelled("asked to stop")

        config = TrainingConfig(
            iterations=6, batch_size=8, workers=0, mixed_precision=False, checkpoint=checkpoint, checkpoint_every=2
        )
        sampler = BatchSampler(squares(folder), 64, seed=0)
        module, report = train(NoisyCounter(), sampler, config, learning_rate=0.02, device=CPU, on_progress=cancel)
        return torch.cat([value.flatten().double() for value in module.state_dict().values()]), report

    unbroken, _ = run(None, 0)
    with suppress(TrainingCancelled):
        run(folder / "state", 3)
    again, report = run(folder / "state", 0)
    return report.resumed_after, torch.equal(unbroken, again)


@pytest.fixture(name="two", scope="module")
def two_fixture(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    answers: SimpleQueue[tuple[int, dict[str, Any]]] = torch.multiprocessing.get_context("spawn").SimpleQueue()
    folder = tmp_path_factory.mktemp("peers")
    draw_squares(folder, 12)
    start_processes(as_one_of_two, (folder, answers), 2, start_method="spawn")
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


def test_what_each_has_is_known_to_all(two: list[dict[str, Any]]) -> None:
    assert [seen["from all"] for seen in two] == [[{"rank": 0}, {"rank": 1}]] * 2


def test_a_resumed_training_goes_on_with_the_random_numbers_of_each(two: list[dict[str, Any]]) -> None:
    assert [seen["resumed"] for seen in two] == [(2, True)] * 2


def test_alone_nothing_is_sent() -> None:
    peers = Peers.here()
    assert (peers.alone, peers.first, peers.from_first(3), peers.from_all(3)) == (True, True, 3, [3])
    weight = parameter(2.0)

    def compute() -> Tensor:
        (weight * weight).sum().backward()
        return torch.tensor(4.0)

    assert float(peers.step(compute, [weight], CPU)) == 4.0
    assert weight.grad is not None
    assert weight.grad.tolist() == [4.0]
