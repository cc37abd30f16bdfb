from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

from PIL import Image

from model.simulation.output import write_report
from model.simulation.report import curves_picture, report_page
from model.simulation.results import Results
from tests.model.simulation.sample_results import CURVES, RANDOM, curve, results


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
