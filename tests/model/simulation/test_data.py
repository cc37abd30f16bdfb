from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from model.data.coco import write_coco
from model.data.voc import write_voc
from model.data.yolo import write_yolo
from model.errors import DatasetUnreadable, NotEnoughLabels
from model.simulation.data import SimulationData, directory_data, hold_out, reef_data
from tests.model.simulation.fake_experiment import draw


def test_a_quarter_is_held_out_always_the_same(tmp_path: Path) -> None:
    dataset = draw(tmp_path, [0, 1, None, 2] * 5)
    data = hold_out(dataset, "squares")
    assert (len(data.pool), len(data.test)) == (15, 5)
    both = [image.key for image in (*data.pool.images, *data.test.images)]
    assert sorted(both) == sorted(image.key for image in dataset.images)
    assert [i.key for i in hold_out(dataset, "squares").test.images] == [i.key for i in data.test.images]
    with pytest.raises(ValueError, match="share is 1"):
        hold_out(dataset, "squares", share=1.0)


def test_splits_of_a_directory(tmp_path: Path) -> None:
    folder = tmp_path / "yolo"
    write_yolo(draw(tmp_path / "a", [0, 1, 2, 0]), folder, split="train")
    assert len(directory_data(folder).test) == 1
    write_yolo(draw(tmp_path / "b", [0, 1], seed=1), folder, split="test")
    assert (len(directory_data(folder).pool), len(directory_data(folder).test)) == (4, 2)
    # The validation images come first where there are some with boxes.
    write_yolo(draw(tmp_path / "c", [None, None, None], seed=2), folder, split="val")
    assert len(directory_data(folder).test) == 2
    write_yolo(draw(tmp_path / "c", [None, 1, None], seed=2), folder, split="val")
    assert len(directory_data(folder).test) == 3
    assert directory_data(folder).held_out == "split val"
    chosen = directory_data(folder, split="test", test_split="train")
    assert (len(chosen.pool), len(chosen.test), chosen.name, chosen.held_out) == (2, 4, "yolo", "split train")


def test_a_split_that_is_named_and_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "yolo"
    write_yolo(draw(tmp_path / "a", [0, 1, 2, 0]), folder, split="train")
    data_yaml = folder / "data.yaml"
    document = data_yaml.read_text()
    # The test part of many data sets is not given away.
    data_yaml.write_text(f"{document}test: images/gone\n")
    data = directory_data(folder)
    assert data.held_out == "25% of the images, drawn at random"
    assert len(data.problems) == 1
    assert data.problems[0].startswith("split test: 'images/gone' does not exist")
    # The validation part is what was meant to be held out.
    data_yaml.write_text(f"{document}val: images/vall\n")
    with pytest.raises(DatasetUnreadable, match="'images/vall' does not exist"):
        directory_data(folder)
    data_yaml.write_text(document)
    monkeypatch.chdir(folder)
    assert directory_data(Path()).name == "yolo"
    assert directory_data(Path("data.yaml")).name == "yolo/data.yaml"


def test_what_a_reader_left_out_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "yolo"
    for split in ("train", "val"):
        write_yolo(draw(tmp_path / split, [0, 1, 2, 0]), folder, split=split)
        sorted((folder / "labels" / split).glob("*.txt"))[1].write_text("7 0.5 0.5 0.2 0.2\n")
    data = directory_data(folder)
    assert len(data.problems) == 2
    assert all(f"of images/{split}/" in text for text, split in zip(data.problems, ("train", "val"), strict=True))
    for file in (folder / "labels" / "val").glob("*.txt"):
        file.write_text("7 0.5 0.5 0.2 0.2\n")
    without = directory_data(folder)
    assert without.held_out == "25% of the images, drawn at random"
    assert "split val is not held out: it has no box." in without.problems
    assert len(without.problems) == 6, "with what was wrong there"
    for file in (folder / "labels" / "train").glob("*.txt"):
        file.unlink()
    with pytest.raises(NotEnoughLabels, match=r"the pool \(3\) have not one box.* no image has a label file"):
        directory_data(folder)


@pytest.mark.parametrize("write", [write_voc, write_coco, write_yolo])
def test_every_format_gives_the_same_experiment(tmp_path: Path, write: Callable[..., object]) -> None:
    dataset = draw(tmp_path / "drawn", [0, 1, 2, 0, None])
    write(dataset, tmp_path / "set", split="train")
    write(draw(tmp_path / "held", [2, 1], seed=1), tmp_path / "set", split="val")
    data = directory_data(tmp_path / "set")
    assert (len(data.pool), data.pool.num_boxes, len(data.test), data.test.num_boxes) == (5, 4, 2, 2)
    counts = dict(zip(data.pool.classes, data.pool.class_counts().tolist(), strict=True))
    assert counts == dict(zip(dataset.classes, dataset.class_counts().tolist(), strict=True))


def test_data_that_make_no_experiment_are_refused(tmp_path: Path) -> None:
    pool, test = draw(tmp_path / "pool", [0, 1, 2]), draw(tmp_path / "test", [0])
    with pytest.raises(NotEnoughLabels, match=r"the pool \(1\) have not one box"):
        SimulationData("x", draw(tmp_path / "none", [None]), test)
    with pytest.raises(NotEnoughLabels, match="held-out"):
        SimulationData("x", pool, replace(test, images=[]))
    with pytest.raises(ValueError, match="1 images are in the pool and held out"):
        SimulationData("x", pool, replace(test, images=[pool.images[0]]))
    with pytest.raises(ValueError, match="same key"):
        SimulationData("x", replace(pool, images=[pool.images[0]] * 2), test)
    with pytest.raises(ValueError, match="classes"):
        SimulationData("x", pool, replace(test, classes=("a", "b", "c")))


def test_generated_scenes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    data = reef_data(tmp_path, 6, test=4, size=64, progress=lambda done, total: told.append((done, total)))
    assert (data.name, len(data.pool), len(data.test)) == ("reef:6", 6, 4)
    assert told[0] == (1, 10)
    assert told[-1] == (10, 10)
    assert data.describe() == reef_data(tmp_path, 6, test=4, size=64).describe()
    other = reef_data(tmp_path / "other", 6, test=4, size=64, draw=1)
    digests = {data.describe()[name] for name in ("pool_digest", "test_digest")}
    assert len(digests | {other.describe()[name] for name in ("pool_digest", "test_digest")}) == 4
