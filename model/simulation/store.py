"""The folder of an experiment: one file per finished cycle, written whole or not at all, and a manifest."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from model.errors import ModelError
from model.simulation.data import SimulationData
from model.simulation.detectors import DetectorSource
from model.simulation.plan import Cell, Plan, differences, plain

FORMAT = 1
_CYCLE = re.compile(r"cycle-(\d{3,})\.json")


class SimulationError(ModelError):
    """An experiment that cannot begin or go on; the message says what to do."""


class Store:
    """Reads and writes the folder of one experiment.

    Beside what this class writes a folder holds `starts/` (the first training of each seed, which all strategies
    share), `training/` below a cell that is being worked on, and the report.

    Args:
        folder: created by `prepare`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, plan: Plan, data: SimulationData, source: DetectorSource) -> None:
        """Write the manifest, or check that the one that is there allows this experiment.

        More strategies, losses and seeds may join what is there; everything else must be the same. Where nothing was
        begun yet, another experiment may take the folder.

        Raises:
            SimulationError: the folder holds another experiment; the message names the differences.
        """
        labels, fixed = plan.labels(), _fixed(plan, source)
        known = self.refuse_other(plan, source, data)
        self.folder.mkdir(parents=True, exist_ok=True)
        both = {kind: known.get(kind, {}) | labels[kind] for kind in labels}
        write_json(self._manifest, {**fixed, "data": plain(data.describe()), **both})

    def refuse_other(
        self, plan: Plan, source: DetectorSource, data: SimulationData | None = None, *, data_name: str | None = None
    ) -> dict[str, Any]:
        """See `prepare`; nothing is written.

        Args:
            plan: of the experiment that is to begin.
            source: likewise.
            data: likewise; None while they are not read.
            data_name: what they will be called, where that tells them from others before they are there.

        Returns:
            Strategies and losses, by label, that the folder knows.
        """
        found = read_json(self._manifest)
        if not self._has_results():
            return {}
        if found is None:
            raise SimulationError(f"{self.folder} has results and no manifest.json that can be read; use another.")
        labels, fixed = plan.labels(), _fixed(plan, source)
        known = {kind: dict(found.pop(kind)) for kind in labels}
        there = found.pop("data")
        different = differences(found, fixed)
        if data is not None:
            here = plain(data.describe())
            same = _same_place(there["name"], here["name"])
            different += differences({**there, "name": here["name"]} if same else there, here, "data.")
        elif data_name is not None:
            different += differences({"name": there["name"]}, {"name": data_name}, "data.")
        for kind, configs in labels.items():
            both = {label: config for label, config in configs.items() if label in known[kind]}
            different += differences({label: known[kind][label] for label in both}, both, f"{kind}.")
        if different:
            raise SimulationError(
                f"{self.folder} holds an experiment with other settings, which must not be mixed with these: "
                f"{'; '.join(different[:5])}. Use another folder, or the settings of this one."
            )
        return known

    def known_cells(self) -> list[Cell]:
        """All curves that have at least one finished cycle, seed by seed; empty without a manifest."""
        settings = self.known_settings()
        names = {entry.name for entry in (self.folder / "cells").glob("*") if any(entry.glob("cycle-*.json"))}
        known = [
            Cell(strategy, losses, int(seed))
            for strategy in settings["strategies"]
            for losses in settings["losses"]
            for name in names
            if (seed := name.removeprefix(f"{strategy}-{losses}-")).isdecimal() and seed != name
        ]
        return sorted(known, key=lambda cell: (cell.seed, cell.name))

    def known_settings(self) -> dict[str, Any]:
        """Strategies and losses that the folder knows, as plain values by label."""
        manifest = read_json(self._manifest) or {}
        return {kind: dict(manifest.get(kind, {})) for kind in ("strategies", "losses")}

    def _has_results(self) -> bool:
        """Whether anything was finished, or begun so that it could go on."""
        kept = (file for part in ("cells", "full", "starts") for file in (self.folder / part).rglob("*"))
        return any(file.is_file() and not file.name.startswith(".") for file in kept)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder, so that no second process writes to it.

        Raises:
            SimulationError: another one does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SimulationError(f"Another simulation is writing to {self.folder}; wait for it or stop it.") from None
        try:
            yield
        finally:
            lock.release()

    def cycles(self, cell: Cell) -> list[dict[str, Any]]:
        """The finished cycles of a cell, from the first on, without a gap."""
        documents: list[dict[str, Any]] = []
        folder = self.cell_folder(cell)
        names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        present = sorted(int(found[1]) for name in names if (found := _CYCLE.fullmatch(name)))
        for number in present:
            document = read_json(folder / f"cycle-{number:03d}.json")
            if number != len(documents) or document is None:
                break
            documents.append(document)
        return documents

    def write_cycle(self, cell: Cell, document: dict[str, Any]) -> None:
        """Keep a finished cycle."""
        write_json(self.cell_folder(cell) / f"cycle-{document['cycle']:03d}.json", document)

    def full(self, losses: str, seed: int) -> dict[str, Any] | None:
        """The training on the whole pool; None while there is none."""
        return read_json(self.full_path(losses, seed))

    def full_path(self, losses: str, seed: int) -> Path:
        """Where the training on the whole pool is kept."""
        return self.folder / "full" / f"{losses}-{seed}.json"

    def cell_folder(self, cell: Cell) -> Path:
        """Where the cycles of a cell are kept."""
        return self.folder / "cells" / cell.name

    def start_folder(self, losses: str, seed: int) -> Path:
        """Where the first training is kept, which all strategies share."""
        return self.folder / "starts" / f"{losses}-{seed}"

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"


def _same_place(name: str, other: str) -> bool:
    """Whether two names may be of one data set: a folder, or the file in it that describes it.

    Any other name may be of other pictures with the same boxes, which the digest does not see.
    """
    short, long = sorted((name, other), key=len)
    return short == long or long.startswith(f"{short}/") or long.endswith(f"/{short}")


def _fixed(plan: Plan, source: DetectorSource) -> dict[str, Any]:
    """What may not change, beside the data."""
    return {"format": FORMAT, **plan.common(), "detector": plain(source.describe())}


def read_json(path: Path) -> dict[str, Any] | None:
    """The document in a file; None where there is none or it is damaged, for then it can be made again."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document in one step: killed at any moment, there is the old file or the new one."""
    write_whole(path, (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step; its folder is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
