"""`al-backend simulate --project` on a labelled project of a real Label Studio."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from al_backend.cli import app
from al_backend.demo.server import LabelStudioServer
from al_backend.labelstudio.client import LabelStudio
from al_backend.labelstudio.codec import to_regions
from al_backend.labelstudio.labeling_config import parse_labeling_config
from model.data.reef import SPECIES, write_reef
from model.detections import Detections
from model.simulation.results import Results

pytestmark = [pytest.mark.labelstudio, pytest.mark.slow]

LABELS = "".join(f'<Label value="{name}"/>' for name in SPECIES)
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    f'<RectangleLabels name="label" toName="image">{LABELS}</RectangleLabels></View>'
)
IMAGES = 16


@pytest.fixture
def project(label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[int]:
    """Scenes with their true boxes submitted."""
    client = LabelStudio(label_studio.url, label_studio.token)
    made = client.create_project("Labelled reef", CONFIG)
    scenes = write_reef(tmp_path / "scenes", IMAGES, seed=3, size=(64, 64), empty_share=0.0)
    content = [base64.b64encode(image.path.read_bytes()).decode() for image in scenes.images]
    client.import_tasks(made.id, [{"image": f"data:image/jpeg;base64,{text}"} for text in content])
    config = parse_labeling_config(CONFIG)
    for task in client.open_tasks(made.id):
        image = scenes.images[content.index(task.data["image"].partition(",")[2])]
        found = Detections(
            image.xyxy,
            np.ones(len(image.label), np.float32),
            image.label,
            np.eye(len(SPECIES) + 1, dtype=np.float32)[image.label],
            64,
            64,
        )
        client.submit_annotation(task.id, to_regions(found, SPECIES, config, threshold=0.0))
    yield made.id
    client.delete_project(made.id)
    client.close()


def test_a_labelled_project_gets_a_report(
    project: int, label_studio: LabelStudioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "MODEL_DIR": str(tmp_path / "models"),
        "AL_DATA_DIR": str(tmp_path / "data"),
        "AL_BATCH_SIZE": "2",
        "AL_VALIDATION_SHARE": "0.4",
    }.items():
        monkeypatch.setenv(name, value)
    arguments = ["simulate", "--project", project, "--out", tmp_path / "out", "--strategies", "random,uncertainty"]
    arguments += ["--seeds", 1, "--initial", 2, "--budget", 2, "--cycles", 1, "--iterations", 1, "--no-full"]
    arguments += ["--image-size", 64, "--device", "cpu", "--parallel", 1, "--json"]
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        result = CliRunner().invoke(app, list(map(str, arguments)))
    finally:
        root.handlers[:], root.level = handlers, level
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    results = Results.from_dict(json.loads(Path(document["results"]).read_text()))
    assert results.data["classes"] == list(SPECIES)
    assert results.data["pool_images"] + results.data["test_images"] == IMAGES
    assert results.complete
    page = Path(document["report"]).read_text()
    assert f"{IMAGES - results.data['test_images']} images with" in page
    assert page.count("<svg") == 2
    with Image.open(document["picture"]) as picture:
        assert picture.format == "PNG"
    assert [[point.labels for point in curve.points] for curve in results.curves] == [[2, 4]] * 2
