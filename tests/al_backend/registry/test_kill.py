"""Processes that are killed or race, on a local disk and on S3: only whole things are there, and no move is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from al_backend.registry import Registry
from tests.al_backend.registry.conftest import Locate
from tests.al_backend.registry.test_registry import with_versions

ROOT = Path(__file__).parents[3]

PRELUDE = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from al_backend.registry import GateVerdict, Registry, Version

NOON = datetime(2025, 6, 1, 12, tzinfo=timezone.utc)
registry = Registry(sys.argv[1])
folder = Path(sys.argv[2])

def a_version(number):
    return Version(name=f"d-v{number}-a", number=number, project=7, detector="d", classes=("cod",), created_at=NOON,
                   snapshot_at=NOON, labels={}, label_counts={}, train_images=1, validation_images=0, boxes=1,
                   training={}, settings={}, gate=GateVerdict(promoted=True, reason="test"))
"""

ADDING = """
print("ready", flush=True)
number = 0
while True:
    number += 1
    registry.add_version(a_version(number), folder)
    registry.promote(7, f"d-v{number}-a", reason="test")
"""

PROMOTING = """
first = int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for step in range(20):
    registry.promote(7, f"d-v{first + step % 2}-a", reason="race")
"""


def start(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment)


def wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Files large enough to be killed in the middle of."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for index in range(4):
        (folder / f"part{index}.bin").write_bytes(bytes([index]) * 300_000)
    return folder


def test_a_kill_in_the_middle_leaves_whole_versions_only(tmp_path: Path, parts: Path) -> None:
    location = tmp_path / "registry"
    chance = random.Random(4)
    halves = kills = 0
    names: list[str] = []
    while kills < 5 or (kills < 30 and not (halves and names)):
        kills += 1
        process = start(ADDING, location, parts)
        wait_until_ready(process)
        time.sleep(chance.uniform(0.0, 0.1 + 0.05 * kills))  # longer and longer, for slow machines
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)

        registry = Registry(str(location))
        names = [version.name for version in registry.versions(7)]
        assert names == [f"d-v{number}-a" for number in range(1, len(names) + 1)]
        for name in names:
            folder = registry.fetch_version(7, name)
            for part in parts.iterdir():
                assert (folder / part.name).read_bytes() == part.read_bytes()
        folders = location / "projects" / "7" / "versions"
        halves += folders.is_dir() and len(list(folders.iterdir())) > len(names)
        pointer = registry.active(7)
        assert pointer is None or pointer.version in names
    assert names, "the processes never got as far as one version"
    assert halves, "no process was killed in the middle, so this test showed nothing"


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_two_processes_move_one_pointer_and_no_move_is_lost(kind: str, locate: Locate, parts: Path) -> None:
    location = locate(kind)
    with_versions(Registry(location), parts, "d-v1-a", "d-v2-a", "d-v3-a", "d-v4-a")
    racers = [start(PROMOTING, location, parts, first) for first in (1, 3)]
    for racer in racers:
        wait_until_ready(racer)
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=120)
    assert [racer.returncode for racer in racers] == [0, 0]
    pointer = Registry(location).active(7)
    assert pointer is not None
    # Each process alternates between two versions of its own, so each of the 40 promotions is a move.
    assert len([*pointer.history, pointer.version]) == 40
