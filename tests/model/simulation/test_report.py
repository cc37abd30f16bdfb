from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

from PIL import Image

from model.simulation.output import write_report
from model.simulation.report import curves_picture, notes, report_page
from model.simulation.results import Curve, Results
from tests.model.simulation.sample_results import curve, results

RANDOM = [0.1, 0.2, 0.3, 0.4]
BETTER = [0.1, 0.3, 0.4, 0.45]
CURVES = [curve(name, seed, values) for seed in (0, 1) for name, values in (("random", RANDOM), ("huale", BETTER))]


def svgs(page: str) -> list[str]:
    return re.findall(r"<svg .*?</svg>", page, re.DOTALL)


def test_a_page_that_needs_nothing_else() -> None:
    page = report_page(results(CURVES, full={0: 0.5, 1: 0.5}))
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "http" not in page
    assert not re.search(r"<svg[^>]*>.*style=", page, re.DOTALL), "a strict policy refuses style attributes"
    names = re.findall(r' id="([^"]+)"', page)
    assert len(names) == len(set(names)), "two drawings share the names of their parts"
    assert "300 labels instead of 400" in page
    assert "20 images held out; detector" in page
    told = replace(results(CURVES), held_out="split val")
    assert "20 images held out (split val); detector" in report_page(told)
    assert "fish &amp; &lt;chips&gt;" in page
    assert "<eel>" not in page
    assert "abacus" in page
    curves, balance = svgs(page)
    for text in ("random", "huale", "labelled images", "labelled boxes", "everything labelled"):
        assert f">{text}</text>" in curves
    assert ">cycle</text>" in balance
    assert ">&lt;eel&gt;</text>" in balance


def test_labels_to_a_level_are_whole_ones() -> None:
    """Level 0.4356: huale has 0.4 with 300 labels and 0.45 with 400, so 371.2 are needed, and 371 are too few."""
    assert "<td>372</td>" in report_page(results(CURVES, full={0: 0.484, 1: 0.484}))


def test_the_same_results_give_the_same_page() -> None:
    assert report_page(results(CURVES)) == report_page(results(CURVES))


def test_losses_have_lines_of_their_own() -> None:
    both = [*CURVES, *(replace(item, losses="huale") for item in CURVES)]
    assert ">huale, losses huale</text>" in svgs(report_page(results(both)))[0]


def test_nothing_but_the_beginning_still_makes_a_page() -> None:
    nothing = results([replace(item, points=(), complete=False) for item in CURVES], ended_early=True)
    page = report_page(nothing)
    assert "stopped early: 4 of 4 curves are incomplete" in page
    assert svgs(page) == []
    one_point = results([curve("random", 0, RANDOM[:1], complete=False), curve("huale", 0, [], complete=False)])
    assert len(svgs(report_page(one_point))) == 2


class TestNotes:
    def test_nothing_to_say(self) -> None:
        assert notes(results(CURVES, full={0: 0.5})) == []

    def test_trainings_of_two_machines(self) -> None:
        def trained_on(drawn: Curve, device: str) -> Curve:
            place = {"device": device, "torch": "2.11"}
            return replace(drawn, points=tuple(replace(point, made_on=place) for point in drawn.points))

        one = results([trained_on(curve, "cpu, abacus") for curve in CURVES], full={0: 0.5})
        assert notes(one) == []
        assert "device cpu, abacus, torch 2.11" in report_page(one)
        two = replace(one, curves=(trained_on(CURVES[0], "cuda, quipu"), *one.curves[1:]))
        [note] = notes(two)
        assert note.startswith("The trainings ran on 2 combinations of device and releases (cpu, abacus; cuda, quipu)")
        assert Results.from_dict(json.loads(json.dumps(two.as_dict()))).made_on == two.made_on

    def test_one_seed_and_no_baseline(self) -> None:
        found = notes(results([curve("huale", 0, BETTER)]))
        assert ["One seed" in found[0], "`random` is not among these" in found[1]] == [True, True]

    def test_labels_that_hardly_matter(self) -> None:
        assert notes(results(CURVES, full={0: 0.105}))[0].startswith(
            "Training on everything (mAP50 0.105) was hardly better than on the initial set (0.100)."
        )
        assert (
            "hardly better" in notes(results([curve("random", seed, [0.0] * 4) for seed in (0, 1)], full={0: 0.0}))[0]
        )

    def test_what_passes_full_supervision_is_told(self) -> None:
        (found,) = notes(results(CURVES, full={0: 0.42}))
        assert found.startswith("huale passed the training on everything (mAP50 0.450 with 400 labels, 0.420 with all)")

    def test_curves_left_out_of_the_means(self) -> None:
        cut = [curve("random", 2, RANDOM), curve("huale", 2, RANDOM[:2], complete=False)]
        found = notes(results([*CURVES, *cut]))
        assert found[1] == (
            "Not in any mean, because others of their kind go further: huale (library) seed 2, 2 trainings."
        )

    def test_images_that_could_not_be_read(self) -> None:
        first, *others = CURVES
        start, *later = first.points
        metrics = replace(start.metrics, skipped=("test/9: broken",))
        start = replace(
            start, metrics=metrics, training={"skipped": ["pool/1: broken"]}, unreadable=("pool/1: broken",)
        )
        after = replace(later[0], unreadable=("pool/2: broken", "pool/3: broken"))
        found = results([replace(first, points=(start, after, *later[1:])), *others])
        assert notes(found) == [
            "4 images could not be read, and count nowhere: test/9: broken; pool/1: broken; pool/2: broken; ..."
        ]

    def test_what_the_readers_left_out(self) -> None:
        three = replace(results(CURVES), problems=("a.jpg: damaged.", "b.txt: line 2.", "c.jpg: gone."))
        assert notes(three) == ["Not everything in the data could be used: a.jpg: damaged. b.txt: line 2. c.jpg: gone."]
        more = replace(three, problems=(*three.problems, "d.jpg: damaged.", "e.jpg: damaged."))
        assert notes(more)[0].endswith("c.jpg: gone. And 2 more; results.json lists all.")
        assert Results.from_dict(json.loads(json.dumps(more.as_dict()))).problems == more.problems

    def test_a_pool_that_is_labelled_to_the_end(self) -> None:
        found = results(CURVES, full={0: 0.3, 1: 0.3})
        assert "passed the training on everything" in notes(found)[0]
        # Each of four points has two new keys; that one of them could not be read changes nothing.
        small = replace(found, data={**found.data, "pool_images": 8})
        (note,) = notes(small)
        assert note.startswith("4 of 4 curves end with all 8 images of the pool labelled")

    def test_an_older_release_counted_the_missing_references_later(self) -> None:
        document = results(CURVES, full={0: 0.5}).as_dict()
        document["settings"]["full"] = True
        del document["missing_full"], document["problems"], document["held_out"]
        again = Results.from_dict(json.loads(json.dumps(document)))
        assert (again.missing_full, again.problems, again.complete) == (1, (), False)

    def test_a_reference_that_is_not_there_yet(self) -> None:
        found = results(CURVES, full={0: 0.5})
        found = replace(found, missing_full=1)
        assert not found.complete
        assert notes(found) == ["1 trainings on everything are missing, so the reference is not complete."]

    def test_absent_classes_and_failures(self) -> None:
        found = results(CURVES)
        data = {**found.data, "pool_class_counts": [3, 0], "test_class_counts": [0, 4]}
        assert notes(replace(found, data=data, failures=("huale: it broke",))) == [
            "Failed: huale: it broke",
            "The pool has no box of <eel>.",
            "The held-out images have no box of cod; they do not count in any mAP.",
        ]


def test_files_and_the_way_back(tmp_path: Path) -> None:
    made = results(CURVES, full={0: 0.5})
    files = write_report(made, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "curves.png", "report.html"}
    document = json.loads(files["results"].read_text())
    assert document["complete"] is True
    again = Results.from_dict(document)
    assert again.as_dict() == made.as_dict()
    assert report_page(again) == files["report"].read_text() == report_page(made)
    with Image.open(io.BytesIO(curves_picture(again).file("png"))) as picture:
        assert picture.format == "PNG"
    # Without a curve there is no picture.
    assert "picture" not in write_report(results([replace(c, points=()) for c in CURVES]), tmp_path / "empty")
