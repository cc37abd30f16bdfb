"""`al-backend report`: one file, written by the command line without a web server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from al_backend.cli import app
from al_backend.settings import Settings
from tests.al_backend.http.dashboard.seeding import Seeded

pytestmark = pytest.mark.redis


def test_the_file_is_written_and_named(seeded: Seeded, settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "report.html"
    command = [
        "--model-dir",
        settings.model_dir,
        "--data-dir",
        str(settings.data_dir),
        "report",
        "5",
        "--out",
        str(out),
    ]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document == {"project": 5, "title": "Reef survey, north station", "versions": 5, "file": str(out)}
    page = out.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert seeded.versions[-1].name in page
    assert "Reef survey" in CliRunner().invoke(app, command).stdout


@pytest.mark.parametrize(
    ("project", "out", "sentence"),
    [("6", "report.html", "Project 6 is not connected"), ("5", "a file/report.html", "name another file with --out")],
)
def test_what_cannot_be_written_is_said(
    seeded: Seeded, settings: Settings, tmp_path: Path, project: str, out: str, sentence: str
) -> None:
    (tmp_path / "a file").write_text("in the way")
    command = ["--model-dir", settings.model_dir, "report", project, "--out", str(tmp_path / out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert sentence in done.output
