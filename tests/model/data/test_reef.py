from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.data.dataset import DetectionDataset
from model.data.reef import (
    OTHER_SPECIES,
    SPECIES,
    ReefConfig,
    Scene,
    burst_of,
    draw_dataset_in_memory,
    draw_scene,
    write_reef,
)
from model.data.reef.cast import Swimmer
from model.data.reef.catalogue import find_species
from model.data.reef.paint import paint
from model.data.reef.water import Water
from model.images import load_image

SMALL = (64, 96)
DIGEST = """
import hashlib
from model.data.reef import draw_scene
for index in {order}:
    scene = draw_scene(index, seed=5, size=(64, 96))
    content = scene.image.tobytes() + scene.xyxy.tobytes() + scene.label.tobytes()
    print(index, hashlib.sha256(content).hexdigest())
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from model.data.reef import write_reef

def die(done, count):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

write_reef(Path(sys.argv[1]), 8, seed=2, size=(64, 96), progress=die)
"""
KILLED_WHILE_REPLACING = """
import os, signal, sys
from pathlib import Path
from model.data.reef import write_reef

replace = os.replace

def die(source, target):
    if str(target).endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = die
write_reef(Path(sys.argv[1]), 8, seed=3, size=(64, 96))
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.xyxy.tobytes() + scene.label.tobytes()).hexdigest()


def same(one: Scene, other: Scene) -> bool:
    pairs = ((one.image, other.image), (one.xyxy, other.xyxy), (one.label, other.label))
    return all(np.array_equal(a, b) for a, b in pairs) and one.group == other.group


def difference(one: Scene, other: Scene) -> float:
    """Mean over blocks of 8 x 8 pixels, so that sensor noise, new in every picture, does not count."""
    gap = one.image.astype(np.float64) - other.image
    height, width = gap.shape[:2]
    return float(np.abs(gap.reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))).mean())


@pytest.fixture(scope="module", name="series")
def series_fixture() -> list[Scene]:
    return list(draw_dataset_in_memory(100, seed=1, size=SMALL))


class TestScenes:
    def test_the_same_in_another_process_and_in_any_order(self) -> None:
        output = run(DIGEST.format(order=[9, 0, 4, 3]), PYTHONHASHSEED="1", OMP_NUM_THREADS="2")
        assert output.returncode == 0, output.stderr
        here = [f"{index} {digest(draw_scene(index, seed=5, size=SMALL))}" for index in (3, 4, 0, 9)]
        assert sorted(output.stdout.splitlines()) == sorted(here)
        assert len({line.split()[1] for line in here}) == 4

    def test_a_series_is_what_its_scenes_are_alone(self, series: list[Scene]) -> None:
        for index in (91, 7, 8):
            assert same(series[index], draw_scene(index, seed=1, size=SMALL))
        later = next(draw_dataset_in_memory(1, seed=1, size=SMALL, start=91))
        assert same(series[91], later)

    def test_seed_and_species_decide(self, series: list[Scene]) -> None:
        busy = next(index for index, scene in enumerate(series) if len(scene.label))
        assert not same(series[busy], draw_scene(busy, seed=2, size=SMALL))
        assert not same(series[busy], draw_scene(busy, seed=1, size=SMALL, species=OTHER_SPECIES))

    @pytest.mark.parametrize(
        ("species", "xyxy", "label"),
        [
            (SPECIES, [[70, 241, 201, 320], [83, 129, 147, 179], [238, 132, 299, 184]], [1, 0, 0]),
            (OTHER_SPECIES, [[76, 220, 195, 297], [80, 114, 152, 184], [245, 124, 314, 189]], [1, 0, 0]),
        ],
    )
    def test_the_drawing_has_not_changed(
        self, species: tuple[str, ...], xyxy: list[list[int]], label: list[int]
    ) -> None:
        """Base checkpoints and old folders were made with it: whoever changes it raises `files.DRAWING`.

        A pixel of tolerance, because the last bit of a cosine differs between processors.
        """
        scene = draw_scene(3, seed=7, species=species)
        np.testing.assert_array_equal(scene.label, label)
        np.testing.assert_allclose(scene.xyxy, xyxy, atol=1)

    @pytest.mark.parametrize("size", [(32, 32), (33, 200), (200, 33), (97, 61), (240, 426)])
    def test_any_size_with_boxes_inside(self, size: tuple[int, int]) -> None:
        height, width = size
        boxes = 0
        for scene in draw_dataset_in_memory(6, seed=3, size=size, empty_share=0.0):
            assert scene.image.shape == (height, width, 3)
            assert [part.dtype.name for part in (scene.image, scene.xyxy, scene.label)] == ["uint8", "float32", "int64"]
            assert scene.xyxy.shape == (len(scene.label), 4)
            assert (scene.xyxy >= 0).all()
            assert (scene.xyxy <= (width, height, width, height)).all()
            assert (scene.xyxy[:, 2:] - scene.xyxy[:, :2] >= 3).all()
            assert scene.image.std() > 2
            boxes += len(scene.label)
        assert boxes > 0

    @pytest.mark.parametrize("name", SPECIES + OTHER_SPECIES)
    @pytest.mark.parametrize("angle", [0.0, 33.0])
    def test_a_box_is_as_tight_as_the_fish(self, name: str, angle: float) -> None:
        """The same clear scene with and without the fish: only its pixels differ, and a soft rim about them."""
        water = Water(np.array([0.2, 0.5, 0.7], np.float32), np.array([0.1, 0.3, 0.5], np.float32), 0.2, 0.0)
        fish = Swimmer(0, find_species(name), 0.5, 0.5, 0.0, 0.5, angle, 1, 0.9, 0.95, 0.0, 0.3, seed=11)
        canvas, boxes, labels = paint((160, 200), water, [fish], np.random.default_rng(5), 0)
        without, _, _ = paint((160, 200), water, [], np.random.default_rng(5), 0)
        rows, columns = np.nonzero((canvas != without).any(2))
        extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert labels.tolist() == [0]
        outside = (boxes[0] - extent) * (1, 1, -1, -1)
        assert (outside >= 0).all()
        assert (outside <= 3).all()

    def test_a_hidden_fish_has_no_box(self) -> None:
        water = Water(np.array([0.2, 0.5, 0.7], np.float32), np.array([0.1, 0.3, 0.5], np.float32), 0.2, 0.0)

        def fish(length: float, depth: float, x: float = 0.5) -> Swimmer:
            return Swimmer(0, find_species("cod"), x, 0.5, depth, length, 0.0, 1, 0.9, 1.0, 0.0, 0.3, seed=11)

        def boxes(*swimmers: Swimmer) -> int:
            return len(paint((160, 200), water, swimmers, np.random.default_rng(5), 0)[1])

        assert boxes(fish(0.3, 0.9)) == 1
        assert boxes(fish(0.3, 0.9), fish(0.9, 0.1)) == 1
        assert boxes(fish(0.3, 0.9, x=1.1)) == 0

    def test_long_tail_and_empty_scenes(self, series: list[Scene]) -> None:
        counts = np.bincount(np.concatenate([scene.label for scene in series]), minlength=len(SPECIES))
        assert counts.min() > 0
        assert counts[0] == counts.max()
        assert counts[0] > 4 * counts[-3:].max()
        empty = sum(not len(scene.label) for scene in series)
        assert 0.02 <= empty / len(series) <= 0.25

    def test_shares_at_their_ends(self) -> None:
        assert not any(len(scene.label) for scene in draw_dataset_in_memory(5, seed=1, size=SMALL, empty_share=1.0))
        assert all(burst_of(index, ReefConfig(1, burst_share=0.0)) == (index, 0) for index in range(50))
        assert all(burst_of(index, ReefConfig(1, burst_share=1.0))[0] % 2 == 0 for index in range(50))

    def test_bursts_are_near_duplicates(self, series: list[Scene]) -> None:
        groups: dict[int, list[int]] = {}
        for index, scene in enumerate(series):
            groups.setdefault(scene.group, []).append(index)
        bursts = [members for members in groups.values() if len(members) > 1]
        assert 0.2 <= sum(map(len, bursts)) / len(series) <= 0.6
        for members in bursts:
            assert members == list(range(members[0], members[0] + len(members)))
            assert len(members) in (2, 4)
            first, second = series[members[0]], series[members[1]]
            others = [difference(first, series[index]) for index in range(0, 100, 5) if index not in members]
            assert 0 < difference(first, second) < 0.6 * float(np.median(others))
            assert abs(len(first.label) - len(second.label)) <= 2

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"seed": -1}, "seed is -1"),
            ({"size": (31, 320)}, "at least 32 pixels"),
            ({"species": ()}, "at least one name"),
            ({"species": ("cod", "cod")}, "no name twice"),
            ({"species": ("cod", "shark")}, "unknown species 'shark', expected one of herring"),
            ({"empty_share": 1.5}, "empty_share is 1.5"),
            ({"burst_share": -0.1}, "burst_share is -0.1"),
            ({"burst_share": float("nan")}, "burst_share is nan"),
            ({"index": -1}, "index is -1"),
        ],
    )
    def test_refused_values(self, values: dict[str, object], message: str) -> None:
        arguments: dict[str, object] = {"index": 0, "seed": 0, "size": SMALL, **values}
        with pytest.raises(ValueError, match=message):
            draw_scene(**arguments)  # type: ignore[arg-type]


class TestWriteReef:
    def write(self, folder: Path, count: int = 8, seed: int = 2, **options: object) -> DetectionDataset:
        return write_reef(folder, count, seed=seed, size=SMALL, **options)  # type: ignore[arg-type]

    def content(self, folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}

    def test_files_and_boxes(self, tmp_path: Path) -> None:
        ticks: list[tuple[int, int]] = []
        dataset = self.write(tmp_path / "a" / "b", 4, start=3, progress=lambda *tick: ticks.append(tick))
        assert [image.key for image in dataset.images] == [f"reef-{index:06d}" for index in range(3, 7)]
        assert dataset.classes == SPECIES
        assert dataset.problems == ()
        assert ticks == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert sorted(self.content(tmp_path / "a" / "b")) == [*(f"reef-00000{i}.jpg" for i in range(3, 7)), "reef.json"]
        for index, image in enumerate(dataset.images, 3):
            scene = draw_scene(index, seed=2, size=SMALL)
            np.testing.assert_array_equal(image.xyxy, scene.xyxy)
            np.testing.assert_array_equal(image.label, scene.label)
            # JPEG loses detail (much of it noise here), not colour, place or orientation.
            pixels = load_image(image.path)
            assert np.abs(pixels.astype(int) - scene.image).mean() < 12
            assert np.abs(pixels.mean((0, 1)) - scene.image.mean((0, 1))).max() < 2

    def test_files_that_are_there_stay(self, tmp_path: Path) -> None:
        first = self.write(tmp_path, 5)
        first.images[1].path.write_bytes(b"kept")
        first.images[2].path.unlink()
        content = self.content(tmp_path)
        again = self.write(tmp_path, 7)
        after = self.content(tmp_path)
        assert after["reef-000001.jpg"] == b"kept"
        assert after["reef-000000.jpg"] == content["reef-000000.jpg"]
        assert len(after) == 8
        for one, other in zip(first.images, again.images, strict=False):
            np.testing.assert_array_equal(one.xyxy, other.xyxy)
            np.testing.assert_array_equal(one.label, other.label)

    @pytest.mark.parametrize("other", [{"seed": 9}, {"species": OTHER_SPECIES}, {"empty_share": 0.5}])
    def test_other_parameters_draw_again(self, tmp_path: Path, other: dict[str, object]) -> None:
        self.write(tmp_path / "used", 3)
        (tmp_path / "used" / "reef-000000.jpg").write_bytes(b"of other parameters")
        self.write(tmp_path / "used", 3, **other)  # type: ignore[arg-type]
        self.write(tmp_path / "fresh", 3, **other)  # type: ignore[arg-type]
        assert self.content(tmp_path / "used") == self.content(tmp_path / "fresh")

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"parameters": {}, "boxes": {}}', b"\xff\xfe"])
    def test_a_damaged_list_is_not_trusted(self, tmp_path: Path, damage: bytes) -> None:
        self.write(tmp_path, 2)
        content = self.content(tmp_path)
        (tmp_path / "reef.json").write_bytes(damage)
        (tmp_path / "reef-000000.jpg").write_bytes(b"whose?")
        self.write(tmp_path, 2)
        assert self.content(tmp_path) == content

    def test_nothing_to_draw(self, tmp_path: Path) -> None:
        assert len(self.write(tmp_path, 0)) == 0
        with pytest.raises(ValueError, match="count is -1 and start is 0"):
            self.write(tmp_path, -1)
        with pytest.raises(ValueError, match="start is -2"):
            self.write(tmp_path, 1, start=-2)

    def test_killed_between_pictures(self, tmp_path: Path) -> None:
        killed = run(KILLED, str(tmp_path / "killed"))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert 0 < len(list((tmp_path / "killed").glob("*.jpg"))) < 8
        self.write(tmp_path / "killed")
        self.write(tmp_path / "whole")
        assert self.content(tmp_path / "killed") == self.content(tmp_path / "whole")

    @pytest.mark.parametrize("at", ["reef.json", "reef-000004.jpg"])
    def test_killed_while_replacing_another_series(self, tmp_path: Path, at: str) -> None:
        """Pictures of two seeds now lie side by side; the list must vouch for none that it does not know."""
        self.write(tmp_path / "killed", seed=2)
        killed = run(KILLED_WHILE_REPLACING, str(tmp_path / "killed"), at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        self.write(tmp_path / "whole", seed=2)
        self.write(tmp_path / "killed", seed=2)
        assert self.content(tmp_path / "killed") == self.content(tmp_path / "whole")
