"""Registries on every kind of storage: a local disk, memory, and a bucket on an S3 server of this test run."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from al_backend.registry import Registry

KINDS = ("local", "memory", "s3")
BUCKET = "registries"

Locate = Callable[[str], str]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """A bucket on a local S3 server; yields the environment that leads every driver there."""
    # One request after the other: moto looks at a condition and writes in two steps, which S3 does as one.
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield environment
    server.shutdown()
    thread.join(timeout=5)


@pytest.fixture
def locate(request: pytest.FixtureRequest, tmp_path: Path) -> Locate:
    """Makes a new location of a kind; the same twice for one kind."""
    own = uuid.uuid4().hex

    def location(kind: str) -> str:
        if kind == "s3":
            request.getfixturevalue("s3_server")
            return f"s3://{BUCKET}/{own}"
        return str(tmp_path / "registry") if kind == "local" else f"memory://registry-{own}"

    return location


@pytest.fixture(params=KINDS)
def registry(request: pytest.FixtureRequest, locate: Locate, tmp_path: Path) -> Registry:
    return Registry(locate(request.param), cache_folder=tmp_path / "cache")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder as a training leaves it."""
    folder = tmp_path / "trained"
    (folder / "extra").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"w" * 5000)
    (folder / "detector.json").write_text('{"classes": ["cod", "eel"]}')
    (folder / "extra" / "notes.txt").write_text("hello")
    return folder
