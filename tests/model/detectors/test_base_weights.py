from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import socket

import pytest
import torch

from model.detectors import factory
from model.detectors.base_weights import fetch_base, stored
from model.detectors.weights import WEIGHTS_NAME
from model.detectors.yolo import YoloDetector
from tests.model.detectors.file_site import published


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "site"
    folder.mkdir()
    with published(folder) as address:
        yield address, folder


def test_fetched_once_and_kept_without_pickle(
    site: tuple[str, Path], lively: Callable[..., YoloDetector], tmp_path: Path
) -> None:
    release, folder = site
    detector = lively(("person", "fish"))
    detector._network.names = {0: "person", 1: "fish"}
    torch.save({"model": detector._network}, folder / "yolov5nu.pt")
    found = fetch_base("yolov5n", tmp_path / "base", release=release)
    assert found == tmp_path / "base" / "yolov5n.safetensors"
    assert [p.name for p in found.parent.iterdir()] == ["yolov5n.safetensors"]
    created = factory.create("yolov5n", ("fish",), device="cpu", base=found)
    assert isinstance(created, YoloDetector)
    assert created.pretrained
    torch.testing.assert_close(
        created._network.model[-1].cv3[0][-1].weight[0], detector._network.model[-1].cv3[0][-1].weight[1]
    )
    original = (folder / "yolov5nu.pt").rename(found.with_name("yolov5nu.pt"))
    assert fetch_base("yolov5n", tmp_path / "base", release=release) == found
    found.unlink()
    assert fetch_base("yolov5n", tmp_path / "base", release=release) == found, "somebody put the original there"
    assert found.is_file()
    assert original.is_file()


@pytest.mark.parametrize("content", [None, b"no weights at all"])
def test_what_cannot_be_had_is_a_warning(
    site: tuple[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    release, folder = site
    if content is not None:
        (folder / "yolov5su.pt").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert fetch_base("yolov5s", tmp_path / "base", release=release) is None
    assert "need many more labels" in caplog.text
    assert not list(tmp_path.glob("base/*"))


class Made:
    """A detector of which only the weights file matters; something else happens while it is written."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / WEIGHTS_NAME).write_bytes(b"ours")
        self._meanwhile()


def test_processes_that_make_the_same_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "yolov5n.safetensors"
    (tmp_path / "original.pt").touch()
    steps: list[int] = []

    def others_move(source: Path, to: Path) -> None:
        """The move of a large file takes a while, in which another process moves its own."""
        to.write_bytes(source.read_bytes())
        if not steps:
            steps.append(1)
            monkeypatch.setattr("os.getpid", lambda: 1)
            assert stored(target, "http://127.0.0.1:9/original.pt", lambda _: made, 1.0) == target  # type: ignore[arg-type,return-value]
            target.unlink()

    made = Made(lambda: None)
    monkeypatch.setattr("shutil.move", others_move)
    assert stored(target, "http://127.0.0.1:9/original.pt", lambda _: made, 1.0) == target  # type: ignore[arg-type,return-value]
    assert target.read_bytes() == b"ours"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original.pt", target.name]


def test_what_another_process_made_meanwhile_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "yolov5n.safetensors"
    (tmp_path / "original.pt").touch()

    def fail() -> None:
        target.write_bytes(b"theirs")
        raise OSError("no space left")

    with caplog.at_level(logging.WARNING):
        assert stored(target, "http://127.0.0.1:9/original.pt", lambda _: Made(fail), 1.0) == target  # type: ignore[arg-type,return-value]
    assert target.read_bytes() == b"theirs"
    assert not caplog.text


def test_a_silent_server_does_not_hang(tmp_path: Path) -> None:
    with socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        started = time.monotonic()
        release = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert fetch_base("yolov5s", tmp_path, release=release, timeout=0.3) is None
        assert time.monotonic() - started < 5
