"""Weights that nothing needs go in two steps, on every storage, and whatever stops that leaves whole things."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import fsspec
import pytest

from al_backend.errors import RegistryError, VersionNotFound
from al_backend.registry import Registry, Retained
from tests.al_backend.registry.conftest import Locate
from tests.al_backend.registry.test_registry import a_version, with_versions

NAMES = ("d-v1-a", "d-v2-b", "d-v3-c", "d-v4-d")
NOW, LATER = timedelta(0), timedelta(hours=1)


class Stopped(BaseException):
    """The process ends here."""


def stop_before(registry: Registry, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """End whatever is running before its `number`-th change in the storage; each change is one step by itself."""
    left = [number]

    def counted(change: Callable[..., None]) -> Callable[..., None]:
        def stopping(*arguments: object) -> None:
            if left[0] == 0:
                raise Stopped
            left[0] -= 1
            change(*arguments)

        return stopping

    storage = registry._storage
    for name in ("write", "upload", "remove", "_write_on"):
        if hasattr(storage, name):
            monkeypatch.setattr(storage, name, counted(getattr(storage, name)))


def stored_files(registry: Registry) -> list[str]:
    fs, root = fsspec.url_to_fs(registry.location)
    fs.invalidate_cache()
    return [path for path in fs.find(f"{root}/projects/7/versions") if not path.endswith(("manifest.json", ".lock"))]


def with_weights(registry: Registry) -> list[str]:
    """Names of the versions that are not marked as removed; each has to be whole."""
    names = [version.name for version in registry.versions(7) if version.removed_at is None]
    for name in names:
        assert (registry.fetch_version(7, name) / "weights.safetensors").read_bytes() == b"w" * 5000
    return names


def test_weights_go_in_two_steps_and_the_record_stays(registry: Registry, weights: Path) -> None:
    with_versions(registry, weights, *NAMES)
    assert registry.retain(7, NAMES[2:], grace=LATER) == Retained(leaving=NAMES[:2])
    assert registry.retain(7, NAMES[2:], grace=LATER) == Retained()
    assert with_weights(registry) == list(NAMES)

    assert registry.retain(7, NAMES[2:], grace=NOW) == Retained(removed=NAMES[:2])
    assert with_weights(registry) == list(NAMES[2:])
    assert len(stored_files(registry)) == 2 * 3
    first = registry.version(7, NAMES[0])
    assert (first.images_labelled, first.labels, first.metrics) == (2, {}, {"map50": 0.5})
    assert first.removed_at is not None
    assert [version.number for version in registry.versions(7)] == [1, 2, 3, 4]
    assert registry.next_version_name(7, "d", "eeeeee") == ("d-v5-eeeeee", 5)
    assert registry.retain(7, NAMES[2:], grace=NOW) == Retained()


def test_a_removed_version_cannot_be_used_and_says_why(registry: Registry, weights: Path) -> None:
    with_versions(registry, weights, *NAMES)
    for name in NAMES:
        registry.promote(7, name, reason="test")
    for _ in range(2):
        registry.retain(7, (NAMES[0], NAMES[3]), grace=NOW)
    sentence = r"d-v2-b were removed on \d{4}-\d\d-\d\d .*AL_KEEP_VERSIONS.*only its record"
    with pytest.raises(VersionNotFound, match=sentence + ".*It has: d-v1-a, d-v4-d"):
        registry.promote(7, NAMES[1], reason="test")
    with pytest.raises(VersionNotFound, match=sentence):
        registry.fetch_version(7, NAMES[1])
    assert registry.rollback(7).version == NAMES[0]
    with pytest.raises(VersionNotFound, match="were removed"):
        registry.rollback(7)


def test_a_version_that_is_leaving_stays_when_somebody_chooses_it(registry: Registry, weights: Path) -> None:
    with_versions(registry, weights, *NAMES)
    registry.retain(7, (), grace=NOW)
    registry.promote(7, NAMES[1], reason="by hand")
    assert registry.retain(7, (NAMES[3],), grace=NOW) == Retained(leaving=(NAMES[1],), removed=(NAMES[0], NAMES[2]))
    assert registry.version(7, NAMES[3]).leaving_since is None
    registry.promote(7, NAMES[1], reason="it is active already")
    assert registry.version(7, NAMES[1]).leaving_since is None
    assert with_weights(registry) == [NAMES[1], NAMES[3]]


def test_stopped_anywhere_whole_versions_and_whole_records_are_left(
    registry: Registry, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_versions(registry, weights, *NAMES)
    registry.retain(7, NAMES[3:], grace=NOW)
    stopped = 0
    for number in range(12):
        try:
            with monkeypatch.context() as patch:
                stop_before(registry, patch, number % 3)
                registry.retain(7, NAMES[3:], grace=NOW)
        except Stopped:
            stopped += 1
        kept = with_weights(registry)
        assert NAMES[3] in kept
        assert len(registry.versions(7)) == 4
    assert stopped >= 4
    registry.retain(7, NAMES[3:], grace=NOW)
    assert with_weights(registry) == [NAMES[3]]
    assert len(stored_files(registry)) == 3


def test_an_addition_that_is_stopped_anywhere_leaves_no_version(
    registry: Registry, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_versions(registry, weights, NAMES[0])
    version = a_version(NAMES[1], 2)
    stopped = 0
    while registry.next_version_name(7, "d", "x")[1] == 2:
        try:
            with monkeypatch.context() as patch:
                stop_before(registry, patch, stopped)
                registry.add_version(version, weights)
        except Stopped:
            stopped += 1
            assert with_weights(registry) == [NAMES[0]]
    assert stopped >= 4  # three files and the manifest
    assert with_weights(registry) == [NAMES[0], NAMES[1]]
    registry.cleanup(7, older_than=timedelta(seconds=-1))
    assert len(stored_files(registry)) == 2 * 3


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_of_two_who_add_one_version_at_once_the_first_counts(kind: str, locate: Locate, tmp_path: Path) -> None:
    location = locate(kind)
    folders = []
    for letter in (b"a", b"b"):
        folder = tmp_path / letter.decode()
        folder.mkdir()
        for part in ("one", "two"):
            (folder / part).write_bytes(letter * 1000)
        folders.append(folder)
    slow, fast = (Registry(location, cache_folder=tmp_path / "cache") for _ in folders)
    whole = slow._is_whole
    with pytest.MonkeyPatch.context() as patch:
        # The slow one looks before the fast one is done.
        patch.setattr(slow, "_is_whole", lambda *_: False)
        fast.add_version(a_version(), folders[0])
        slow.add_version(a_version(boxes=99), folders[1])
    assert whole(7, a_version().name)
    assert slow.version(7, a_version().name).boxes == 3
    copy = slow.fetch_version(7, a_version().name)
    assert {part.read_bytes() for part in copy.iterdir()} == {b"a" * 1000}


def test_the_copies_of_a_remote_registry_are_bounded(
    locate: Locate, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_backend.registry.copies._IN_USE_SECONDS", 0.0)
    registry = Registry(locate("memory"), cache_folder=tmp_path / "cache", cache_mb=0.012)
    with_versions(registry, weights, *NAMES)
    folders = [registry.fetch_version(7, name) for name in NAMES[:2]]
    assert registry.fetch_version(7, NAMES[0]) == folders[0]  # used again, so the other one is older
    third = registry.fetch_version(7, NAMES[2])
    assert [folder.is_dir() for folder in (*folders, third)] == [True, False, True]
    assert (registry.fetch_version(7, NAMES[1]) / "weights.safetensors").stat().st_size == 5000


def test_an_s3_bucket_that_does_not_exist_is_not_made(locate: Locate) -> None:
    locate("s3")
    with pytest.raises(RegistryError, match=r"s3://no-such-bucket.*bucket does not exist.*MODEL_DIR"):
        Registry("s3://no-such-bucket/models")
    assert not fsspec.filesystem("s3").exists("no-such-bucket")
