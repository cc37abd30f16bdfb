from __future__ import annotations

import json
from dataclasses import replace

from model.simulation.notes import notes
from model.simulation.report import report_page
from model.simulation.results import Curve, Results
from tests.model.simulation.sample_results import BETTER, CURVES, RANDOM, curve, results


def test_nothing_to_say() -> None:
    assert notes(results(CURVES, full={0: 0.5})) == []


def test_trainings_of_two_machines() -> None:
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


def test_one_seed_and_no_baseline() -> None:
    found = notes(results([curve("huale", 0, BETTER)]))
    assert ["One seed" in found[0], "`random` is not among these" in found[1]] == [True, True]


def test_labels_that_hardly_matter() -> None:
    assert notes(results(CURVES, full={0: 0.105}))[0].startswith(
        "Training on everything (mAP50 0.105) was hardly better than on the initial set (0.100)."
    )
    assert "hardly better" in notes(results([curve("random", seed, [0.0] * 4) for seed in (0, 1)], full={0: 0.0}))[0]


def test_what_passes_full_supervision_is_told() -> None:
    (found,) = notes(results(CURVES, full={0: 0.42}))
    assert found.startswith("huale passed the training on everything (mAP50 0.450 with 400 labels, 0.420 with all)")


def test_curves_left_out_of_the_means() -> None:
    cut = [curve("random", 2, RANDOM), curve("huale", 2, RANDOM[:2], complete=False)]
    found = notes(results([*CURVES, *cut]))
    assert found[1] == (
        "Not in any mean, because others of their kind go further: huale (library) seed 2, 2 trainings."
    )


def test_images_that_could_not_be_read() -> None:
    first, *others = CURVES
    start, *later = first.points
    metrics = replace(start.metrics, skipped=("test/9: broken",))
    start = replace(start, metrics=metrics, training={"skipped": ["pool/1: broken"]}, unreadable=("pool/1: broken",))
    after = replace(later[0], unreadable=("pool/2: broken", "pool/3: broken"))
    found = results([replace(first, points=(start, after, *later[1:])), *others])
    assert notes(found) == [
        "4 images could not be read, and count nowhere: test/9: broken; pool/1: broken; pool/2: broken; ..."
    ]


def test_what_the_readers_left_out() -> None:
    three = replace(results(CURVES), problems=("a.jpg: damaged.", "b.txt: line 2.", "c.jpg: gone."))
    assert notes(three) == ["Not everything in the data could be used: a.jpg: damaged. b.txt: line 2. c.jpg: gone."]
    more = replace(three, problems=(*three.problems, "d.jpg: damaged.", "e.jpg: damaged."))
    assert notes(more)[0].endswith("c.jpg: gone. And 2 more; results.json lists all.")
    assert Results.from_dict(json.loads(json.dumps(more.as_dict()))).problems == more.problems


def test_strategies_that_see_no_more_than_they_take() -> None:
    made = results(CURVES, full={0: 0.5})

    def told(seen: int) -> list[str]:
        return notes(replace(made, settings={**made.settings, "pool_size": seen, "budget": 100}))

    assert told(101) == told(0) == []
    (note,) = told(100)
    assert note.startswith("Strategies saw 100 images per cycle (pool_size) and took up to 100: all of them")


def test_a_pool_that_is_labelled_to_the_end() -> None:
    found = results(CURVES, full={0: 0.3, 1: 0.3})
    assert "passed the training on everything" in notes(found)[0]
    # Each of four points has two new keys; that one of them could not be read changes nothing.
    small = replace(found, data={**found.data, "pool_images": 8})
    (note,) = notes(small)
    assert note.startswith("4 of 4 curves end with all 8 images of the pool labelled")


def test_an_older_release_counted_the_missing_references_later() -> None:
    document = results(CURVES, full={0: 0.5}).as_dict()
    document["settings"]["full"] = True
    del document["missing_full"], document["problems"], document["held_out"]
    again = Results.from_dict(json.loads(json.dumps(document)))
    assert (again.missing_full, again.problems, again.complete) == (1, (), False)


def test_a_reference_that_is_not_there_yet() -> None:
    found = results(CURVES, full={0: 0.5})
    found = replace(found, missing_full=1)
    assert not found.complete
    assert notes(found) == ["1 trainings on everything are missing, so the reference is not complete."]


def test_absent_classes_and_failures() -> None:
    found = results(CURVES)
    data = {**found.data, "pool_class_counts": [3, 0], "test_class_counts": [0, 4]}
    assert notes(replace(found, data=data, failures=("huale: it broke",))) == [
        "Failed: huale: it broke",
        "The pool has no box of <eel>.",
        "The held-out images have no box of cod; they do not count in any mAP.",
    ]
