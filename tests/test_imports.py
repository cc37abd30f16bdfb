"""Arrows point one way: cli, http, jobs -> cycle, registry, labelstudio -> model. Read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("al_backend", "flask", "gunicorn", "redis", "rq", "label_studio_sdk", "label_studio_ml")
FRONT = ("cli", "http", "jobs", "plugin", "processes", "supervisor", "demo")

FORBIDDEN = {
    "model": SERVICES,
    "al_backend/labelstudio": (
        *(f"al_backend.{name}" for name in FRONT),
        "al_backend.cycle",
        "al_backend.registry",
        "flask",
        "redis",
        "rq",
    ),
    "al_backend/registry": (
        *(f"al_backend.{name}" for name in FRONT),
        "al_backend.cycle",
        "al_backend.labelstudio",
        "flask",
        "redis",
        "rq",
        "label_studio_sdk",
        "label_studio_ml",
    ),
    "al_backend/cycle.py": (*(f"al_backend.{name}" for name in FRONT), "flask", "redis", "rq", "label_studio_sdk"),
    "al_backend/facts.py": (*(f"al_backend.{name}" for name in FRONT), "al_backend.cycle", "redis", "rq"),
    "al_backend/actions.py": (*(f"al_backend.{name}" for name in FRONT), "al_backend.cycle", "redis", "rq"),
    "al_backend/settings.py": ("al_backend.registry", "al_backend.labelstudio", "al_backend.jobs", "al_backend.http"),
    "al_backend/jobs": ("al_backend.cli", "al_backend.http", "al_backend.plugin", "al_backend.demo", "flask"),
    "al_backend/http": ("al_backend.cli", "al_backend.demo", "torch", "ultralytics", "label_studio_ml"),
}
"""Part -> modules that it must not import, at the top or inside a function."""


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a source file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


def sources(part: str) -> list[Path]:
    path = ROOT / part
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("part", FORBIDDEN)
def test_arrows_point_one_way(part: str) -> None:
    files = sources(part)
    assert files, f"{part} has no sources: is it still called that?"
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in sorted(imported(path))
        for forbidden in FORBIDDEN[part]
        # `al_backend.cli` stands for cli_output and the others, too; a package of another name is not meant
        if name == forbidden or name.startswith((f"{forbidden}.", f"{forbidden}_"))
    ]
    assert not wrong


def test_the_environment_is_read_in_one_place() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for part in ("al_backend", "model")
        for path in sources(part)
        if "os.getenv" in path.read_text(encoding="utf-8") and path.name != "settings.py"
    ]
    assert not wrong


def test_ultralytics_has_one_door() -> None:
    """Only what needs YOLO imports the AGPL library, so that other detectors run without it."""
    users = [
        str(path.relative_to(ROOT))
        for part in ("al_backend", "model")
        for path in sources(part)
        if any(name.split(".")[0] == "ultralytics" for name in imported(path))
    ]
    assert users == ["model/detectors/ultralytics_library.py"]


def test_the_learning_side_can_be_used_alone() -> None:
    code = (
        "import sys, model.detections, model.acquisition.strategy, model.detectors.factory, model.training.evaluation;"
        f"print([name for name in {(*SERVICES, 'ultralytics')!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
