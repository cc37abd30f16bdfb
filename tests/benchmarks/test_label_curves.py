"""The committed curves of `benchmarks.label_efficiency` are of the settings that their labels name today."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks._label_scales import FULL, VARIANTS, Scale
from benchmarks.label_efficiency import KEPT
from model.names import measure_threshold
from model.simulation.plan import parse_strategy, plain


def manifests(file: Path) -> dict[str, dict[str, Any]]:
    """By folder."""
    rows = map(json.loads, file.read_text().splitlines())
    return {row["path"].split("/")[0]: row["document"] for row in rows if row["path"].endswith("manifest.json")}


@pytest.mark.parametrize("scale", FULL, ids=lambda scale: scale.name)
def test_a_label_always_means_the_same_settings(scale: Scale) -> None:
    file = KEPT / f"{scale.name}.jsonl"
    today = dict(map(parse_strategy, scale.strategies)) | {name: VARIANTS[name] for name in scale.variants}
    found = manifests(file)
    assert "cells" in found
    for manifest in found.values():
        assert manifest["min_score"] == measure_threshold(scale.detector)
        for label, settings in manifest["strategies"].items():
            if label in today:
                assert settings == plain(asdict(today[label])), label
