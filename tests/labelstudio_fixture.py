"""A pytest plugin: one real Label Studio for the whole test session.

Load it from a conftest with `pytest_plugins = ["tests.labelstudio_fixture"]`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from al_backend.demo.server import LabelStudioServer

ROOT = Path(__file__).resolve().parent.parent


def label_studio_executable() -> Path | None:
    """The executable named by `AL_TEST_LABEL_STUDIO`, else the one that `make` builds, None when there is neither."""
    named = os.environ.get("AL_TEST_LABEL_STUDIO")
    if named:
        return Path(named)
    built = ROOT / ".ls-venv" / "bin" / "label-studio"
    return built if built.exists() else None


@pytest.fixture(scope="session")
def label_studio_program() -> Path:
    """Path of the `label-studio` executable; skips where there is none, fails with `AL_TEST_NO_SKIP=1`."""
    executable = label_studio_executable()
    if executable is None:
        reason = "no Label Studio: set AL_TEST_LABEL_STUDIO to its executable, or let `make` build .ls-venv"
        if os.environ.get("AL_TEST_NO_SKIP") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return executable


@pytest.fixture(scope="session")
def label_studio_template() -> Path:
    """Folder of the migrated empty database, kept between runs because the migrations take 50 seconds."""
    return ROOT / ".build" / "label-studio"


@pytest.fixture(scope="session")
def label_studio_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder whose content `label_studio` may serve through local-files storages."""
    return tmp_path_factory.mktemp("label-studio-files")


@pytest.fixture(scope="session")
def label_studio(
    tmp_path_factory: pytest.TempPathFactory,
    label_studio_program: Path,
    label_studio_template: Path,
    label_studio_files: Path,
) -> Iterator[LabelStudioServer]:
    """A running Label Studio with an empty database; give every test a project of its own."""
    environment = {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(label_studio_files),
    }
    server = LabelStudioServer(
        label_studio_program,
        tmp_path_factory.mktemp("label-studio"),
        template_dir=label_studio_template,
        environment=environment,
    )
    with server:
        yield server


@pytest.fixture(scope="session")
def label_studio_pat(label_studio: LabelStudioServer) -> str:
    """The user's personal access token; Label Studio gives out one per user, so it is made once."""
    headers = {"Authorization": f"Token {label_studio.token}"}
    body = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    httpx.post(f"{label_studio.url}/api/jwt/settings", json=body, headers=headers).raise_for_status()
    answer = httpx.post(f"{label_studio.url}/api/token/", headers=headers)
    answer.raise_for_status()
    return str(answer.json()["token"])
