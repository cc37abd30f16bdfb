"""The registry through its door, on a local disk, in memory and on S3."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import fsspec
import pytest

from al_backend.errors import RegistryError, VersionNotFound
from al_backend.registry import FORMAT, GateVerdict, Registry, Version
from tests.al_backend.registry.conftest import Locate

NOON = datetime(2025, 6, 1, 12, tzinfo=timezone.utc)


def a_version(name: str = "yolov5n-v1-abcdef", number: int = 1, project: int = 7, **changes: object) -> Version:
    values: dict[str, object] = {
        "name": name,
        "number": number,
        "project": project,
        "detector": "yolov5n",
        "classes": ("cod", "eel"),
        "created_at": NOON,
        "snapshot_at": NOON - timedelta(minutes=5),
        "labels": {"1": "aa", "2": "bb"},
        "label_counts": {"cod": 3, "eel": 0},
        "train_images": 2,
        "validation_images": 1,
        "boxes": 3,
        "metrics": {"map50": 0.5},
        "training": {"iterations": 10},
        "settings": {"detector": "yolov5n"},
        "gate": GateVerdict(promoted=True, reason="the first version"),
    }
    return Version.model_validate(values | changes)


def reopened(registry: Registry, tmp_path: Path) -> Registry:
    return Registry(registry.location, cache_folder=tmp_path / "cache")


def with_versions(registry: Registry, weights: Path, *names: str) -> None:
    for number, name in enumerate(names, start=1):
        registry.add_version(a_version(name, number), weights)


def test_a_version_comes_back_equal_with_its_files(registry: Registry, weights: Path, tmp_path: Path) -> None:
    version = a_version(parent="older", problems=("task 5: no box",))
    registry.add_version(version, weights)

    again = reopened(registry, tmp_path)
    assert again.version(7, version.name) == version
    folder = again.fetch_version(7, version.name)
    assert (folder / "weights.safetensors").read_bytes() == b"w" * 5000
    assert (folder / "extra" / "notes.txt").read_text() == "hello"
    assert again.fetch_version(7, version.name) == folder


def test_adding_twice_keeps_the_first(registry: Registry, weights: Path) -> None:
    registry.add_version(a_version(), weights)
    (weights / "weights.safetensors").write_bytes(b"other")
    registry.add_version(a_version(boxes=99), weights)

    assert registry.version(7, "yolov5n-v1-abcdef").boxes == 3
    folder = registry.fetch_version(7, "yolov5n-v1-abcdef")
    assert (folder / "weights.safetensors").read_bytes() == b"w" * 5000


def test_versions_are_sorted_by_number_and_separate_by_project(registry: Registry, weights: Path) -> None:
    for number in (10, 2, 1):
        registry.add_version(a_version(f"d-v{number}-aaaaaa", number), weights)
    registry.add_version(a_version("d-v5-aaaaaa", 5, project=8), weights)

    assert [version.number for version in registry.versions(7)] == [1, 2, 10]
    assert [version.number for version in registry.versions(8)] == [5]
    assert registry.versions(9) == []


def test_next_name_is_stable_until_the_version_is_added(registry: Registry, weights: Path) -> None:
    assert registry.next_version_name(7, "yolov5n", "abcdef123") == ("yolov5n-v1-abcdef", 1)
    assert registry.next_version_name(7, "yolov5n", "abcdef123") == ("yolov5n-v1-abcdef", 1)
    registry.add_version(a_version(), weights)
    assert registry.next_version_name(7, "ssd300_vgg16", "123456") == ("ssd300_vgg16-v2-123456", 2)
    registry.add_version(a_version("ssd300_vgg16-v9-123456", 9), weights)
    assert registry.next_version_name(7, "models/my net.yaml", "fedcba") == ("my-net.yaml-v10-fedcba", 10)


def test_a_missing_version_names_those_that_exist(registry: Registry, weights: Path) -> None:
    with pytest.raises(VersionNotFound, match="none yet"):
        registry.version(7, "nope")
    with_versions(registry, weights, "d-v1-a", "d-v2-b")
    for ask in (registry.version, registry.fetch_version):
        with pytest.raises(VersionNotFound, match=r"'nope'.*d-v1-a, d-v2-b"):
            ask(7, "nope")
    with pytest.raises(VersionNotFound, match="d-v1-a"):
        registry.promote(7, "nope", reason="test")


def test_half_a_version_is_none(registry: Registry, weights: Path, tmp_path: Path) -> None:
    with_versions(registry, weights, "d-v1-a")
    fs, root = fsspec.url_to_fs(registry.location)
    fs.makedirs(f"{root}/projects/7/versions/d-v2-b", exist_ok=True)
    fs.pipe_file(f"{root}/projects/7/versions/d-v2-b/stale.bin", b"left behind")

    assert [version.name for version in registry.versions(7)] == ["d-v1-a"]
    assert registry.next_version_name(7, "d", "b") == ("d-v2-b", 2)
    with pytest.raises(VersionNotFound):
        registry.promote(7, "d-v2-b", reason="test")

    registry.add_version(a_version("d-v2-b", 2), weights)
    assert not (registry.fetch_version(7, "d-v2-b") / "stale.bin").exists()


def test_wrong_input_to_add_version(registry: Registry, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no files"):
        registry.add_version(a_version(), tmp_path / "missing")
    with pytest.raises(RegistryError, match="cannot be stored"):
        registry.add_version(a_version("../escape"), weights)
    (weights / "manifest.json").write_text("{}")
    with pytest.raises(RegistryError, match=r"manifest\.json"):
        registry.add_version(a_version(), weights)
    assert registry.versions(7) == []


def test_a_changed_file_is_noticed(registry: Registry, weights: Path) -> None:
    registry.add_version(a_version(), weights)
    fs, root = fsspec.url_to_fs(registry.location)
    (stored,) = [path for path in fs.find(f"{root}/projects/7/versions") if path.endswith("weights.safetensors")]
    fs.pipe_file(stored, b"cut")
    with pytest.raises(RegistryError, match=r"weights\.safetensors.*damaged.*3 bytes, expected 5000"):
        registry.fetch_version(7, "yolov5n-v1-abcdef")


def test_promote_and_roll_back(registry: Registry, weights: Path) -> None:
    with_versions(registry, weights, "d-v1-a", "d-v2-b", "d-v3-c")
    assert registry.active(7) is None
    with pytest.raises(VersionNotFound, match="nothing to roll back"):
        registry.rollback(7)

    registry.promote(7, "d-v1-a", reason="first")
    with pytest.raises(VersionNotFound, match="d-v1-a is the first"):
        registry.rollback(7)
    registry.promote(7, "d-v2-b", reason="better")
    pointer = registry.promote(7, "d-v3-c", reason="better still")
    assert (pointer.version, pointer.previous, pointer.history) == ("d-v3-c", "d-v2-b", ("d-v1-a", "d-v2-b"))
    assert registry.active(7) == pointer
    assert registry.promote(7, "d-v3-c", reason="the job ran again") == pointer

    pointer = registry.rollback(7)
    assert (pointer.version, pointer.previous) == ("d-v2-b", "d-v1-a")
    assert "d-v3-c" in pointer.reason
    assert registry.rollback(7).version == "d-v1-a"
    assert registry.active(7) == registry.promote(7, "d-v1-a", reason="no move")


@pytest.mark.parametrize("registry", ["local", "memory"], indirect=True)
def test_history_is_bounded_and_a_rollback_skips_what_is_gone(registry: Registry, weights: Path) -> None:
    with_versions(registry, weights, "d-v1-a", "d-v2-b", "d-v3-c")
    for step in range(60):
        registry.promote(7, ("d-v1-a", "d-v2-b")[step % 2], reason=f"step {step}")
    pointer = registry.active(7)
    assert pointer is not None
    assert len(pointer.history) == 50
    assert pointer.history[-1] == pointer.previous == "d-v1-a"
    fs, root = fsspec.url_to_fs(registry.location)
    fs.rm(f"{root}/projects/7/versions/d-v1-a", recursive=True)
    assert registry.rollback(7).version == "d-v2-b"


def test_projects(registry: Registry, weights: Path) -> None:
    assert registry.projects() == []
    assert registry.project(7) is None
    first = registry.register_project(7, label_config="<View/>", overrides={"strategy": "random"})
    assert registry.register_project(7, label_config="<View/>", overrides={"strategy": "random"}) == first
    changed = registry.register_project(7, label_config="<View></View>", overrides={})
    assert changed.registered_at == first.registered_at
    assert registry.project(7) == changed
    registry.register_project(12, label_config="", overrides={})
    registry.register_project(3, label_config="", overrides={})
    assert registry.projects() == [3, 7, 12]

    registry.add_version(a_version(), weights)
    registry.write_document(7, "state", {"a": 1})
    registry.forget_project(7)
    registry.forget_project(7)
    assert registry.projects() == [3, 12]
    assert [version.name for version in registry.versions(7)] == ["yolov5n-v1-abcdef"]
    assert registry.read_document(7, "state") == {"a": 1}


def test_documents(registry: Registry) -> None:
    assert registry.read_document(7, "state") is None
    registry.write_document(7, "state", {"loss": float("nan"), "when": NOON, "name": "Größe"})
    assert registry.read_document(7, "state") == {"loss": None, "when": "2025-06-01T12:00:00Z", "name": "Größe"}
    registry.write_document(7, "state", {})
    assert registry.read_document(7, "state") == {}
    registry.delete_document(7, "state")
    registry.delete_document(7, "state")
    assert registry.read_document(7, "state") is None
    for name in ("active", "project", "../x", "", ".hidden"):
        with pytest.raises(RegistryError):
            registry.write_document(7, name, {})
    with pytest.raises(RegistryError, match="cannot be written as JSON"):
        registry.write_document(7, "state", {"thing": object()})


def test_a_damaged_document_is_named(registry: Registry) -> None:
    registry.write_document(7, "state", {"a": 1})
    fs, root = fsspec.url_to_fs(registry.location)
    fs.pipe_file(f"{root}/projects/7/state.json", b'{"a": ')
    with pytest.raises(RegistryError, match=r"projects/7/state\.json.*damaged"):
        registry.read_document(7, "state")
    fs.pipe_file(f"{root}/projects/7/active.json", b'{"version": 3}')
    with pytest.raises(RegistryError, match=r"active\.json.*version"):
        registry.active(7)


def test_the_local_base_folder(tmp_path: Path) -> None:
    folder = Registry(str(tmp_path / "registry")).base_folder
    assert folder == tmp_path / "registry" / "base"
    assert folder.is_dir()


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_remote_base_folder_is_copied(kind: str, locate: Locate, tmp_path: Path) -> None:
    location = locate(kind)
    assert Registry(location, cache_folder=tmp_path).base_folder is None
    registry = Registry(location, cache_folder=tmp_path)
    fs, root = fsspec.url_to_fs(location)
    fs.pipe_file(f"{root}/base/yolov5n.safetensors", b"one")
    folder = registry.base_folder
    assert folder is not None
    assert (folder / "yolov5n.safetensors").read_bytes() == b"one"
    fs.pipe_file(f"{root}/base/yolov5n.safetensors", b"longer")
    assert registry.base_folder == folder
    assert (folder / "yolov5n.safetensors").read_bytes() == b"longer"
    assert [item.name for item in folder.iterdir()] == ["yolov5n.safetensors"]


def test_a_newer_format_is_refused(registry: Registry, tmp_path: Path) -> None:
    fs, root = fsspec.url_to_fs(registry.location)
    assert json.loads(fs.cat_file(f"{root}/FORMAT")) == {"format": FORMAT}
    fs.pipe_file(f"{root}/FORMAT", json.dumps({"format": FORMAT + 1}).encode())
    with pytest.raises(RegistryError, match=f"format {FORMAT + 1}.*up to {FORMAT}.*newer release"):
        reopened(registry, tmp_path)
    fs.pipe_file(f"{root}/FORMAT", b"[]")
    with pytest.raises(RegistryError, match=r"FORMAT.*damaged"):
        reopened(registry, tmp_path)


@pytest.mark.parametrize("location", ["{tmp}/file/below", "/proc/registry", "nosuchscheme://bucket/x"])
def test_an_unusable_location_is_one_sentence(location: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RegistryError, match="MODEL_DIR"):
        Registry(location.format(tmp=tmp_path))


@pytest.mark.unprivileged
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(RegistryError, match="Permission denied"):
        Registry(str(folder))


def test_cleanup_removes_only_old_leftovers(tmp_path: Path, weights: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    with_versions(registry, weights, "d-v1-a")
    registry.write_document(7, "state", {"a": 1})
    root = tmp_path / "registry"
    leftovers = {
        "projects/7/versions/d-v2-b": "weights.safetensors",
        "projects/7/rankings/r1": "tasks.parquet",
    }
    for folder, file in leftovers.items():
        (root / folder).mkdir(parents=True)
        (root / folder / file).write_bytes(b"half")
    (root / "projects/7/.tmp-abc").write_bytes(b"half")
    assert registry.cleanup(7) == []

    past = time.time() - 3700
    for item in [*root.rglob("*")]:
        os.utime(item, (past, past))
    (root / "projects/7/rankings/r1/tasks.parquet").touch()
    assert registry.cleanup(7) == ["projects/7/.tmp-abc", "projects/7/versions/d-v2-b"]
    assert (root / "projects/7/rankings/r1").exists()
    assert registry.cleanup(7, older_than=timedelta(0)) == ["projects/7/rankings/r1"]
    assert [version.name for version in registry.versions(7)] == ["d-v1-a"]
    assert registry.read_document(7, "state") == {"a": 1}


@pytest.mark.parametrize("name", ["../../../evil", "/tmp/evil", "a/../../evil", "..", "", "a\\..\\evil", "a\0b"])
def test_a_manifest_cannot_name_files_outside_its_folder(
    registry: Registry, weights: Path, tmp_path: Path, name: str
) -> None:
    """Who may write a bucket is not allowed to write on the machines that read it."""
    registry.add_version(a_version(), weights)
    path = "projects/7/versions/yolov5n-v1-abcdef/manifest.json"
    manifest = json.loads(registry._storage.read(path) or b"")
    manifest["files"][name] = {"size": 4, "sha256": "0" * 64}
    registry._storage.write(path, json.dumps(manifest).encode())
    with pytest.raises(RegistryError, match="is no path inside"):
        reopened(registry, tmp_path).fetch_version(7, "yolov5n-v1-abcdef")
    assert [item for item in tmp_path.rglob("*evil*") if item.is_file()] == []


@pytest.mark.parametrize("name", ["../x", "..", "/etc/passwd", "a/b", "a\\b", "", ".hidden", "a\0", "x" * 300])
def test_names_cannot_leave_their_folder(registry: Registry, weights: Path, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: registry.version(7, name),
        lambda: registry.fetch_version(7, name),
        lambda: registry.promote(7, name, reason="x"),
        lambda: registry.add_version(a_version(name), weights),
        lambda: registry.ranking(7, name),
        lambda: registry.read_document(7, name),
        lambda: registry.write_document(7, name, {}),
        lambda: registry.delete_document(7, name),
    ]
    for call in calls:
        with pytest.raises(RegistryError, match="cannot be stored"):
            call()


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_remote_cleanup(kind: str, locate: Locate, weights: Path) -> None:
    registry = Registry(locate(kind))
    with_versions(registry, weights, "d-v1-a")
    fs, root = fsspec.url_to_fs(registry.location)
    fs.pipe_file(f"{root}/projects/7/versions/d-v2-b/weights.safetensors", b"half")
    fs.pipe_file(f"{root}/projects/7/versions/d-v1-a/files-lost/weights.safetensors", b"of the slower of two")
    assert registry.cleanup(7) == []
    removed = ["projects/7/versions/d-v2-b", "projects/7/versions/d-v1-a/files-lost"]
    # S3 tells whole seconds.
    assert registry.cleanup(7, older_than=timedelta(seconds=-1)) == removed
    assert (registry.fetch_version(7, "d-v1-a") / "weights.safetensors").stat().st_size == 5000
    assert [version.name for version in registry.versions(7)] == ["d-v1-a"]
