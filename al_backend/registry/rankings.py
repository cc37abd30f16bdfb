"""Rankings: the pool as it was listed, the measurements in shards, and the order that came out."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any

import polars as pl

from al_backend.errors import RegistryError
from al_backend.registry.records import Ranking
from al_backend.registry.shelf import MANIFEST, PLAIN_NAME, Shelf, plain_name, project_folder

_READERS = 8
_FITTED = "fitted.json"
_ROW_GROUP = 10_000
_SUMMARY = "summary.json"


class Phase(str, Enum):
    """What was measured, by the folder that its shards lie in."""

    POOL = "shards"
    CLOSER = "closer"


class RankingShelf(Shelf):
    """`projects/<id>/rankings/<ranking>/`: tasks, manifest, shards, those of the closer look, and order."""

    def create_ranking(self, ranking: Ranking, tasks: pl.DataFrame) -> None:
        """Store what is to be ranked; nothing happens when the ranking exists already.

        Args:
            ranking: its `tasks` has to be the number of rows.
            tasks: one row per task of the pool, with a column `task_id`.

        Raises:
            RegistryError: the two contradict each other, or the registry cannot be written.
        """
        if "task_id" not in tasks.columns or tasks.height != ranking.tasks:
            raise RegistryError(
                f"Ranking {ranking.id} is about {ranking.tasks} tasks, but the table has {tasks.height} rows and "
                f"columns {tasks.columns}; expected one row per task and a column task_id."
            )
        folder = self._ranking_folder(ranking.project, ranking.id)
        if self._storage.size(f"{folder}/{MANIFEST}") is not None:
            return
        # Measurements of an earlier ranking under this id, half removed, would be taken for this one's.
        self._storage.remove(folder)
        self._write_frame(f"{folder}/tasks.parquet", tasks)
        self._write_json(f"{folder}/{MANIFEST}", ranking)

    def ranking(self, project: int, ranking_id: str) -> Ranking:
        """One ranking.

        Raises:
            RegistryError: there is none of that id; the message lists those that exist.
        """
        found = self._read_record(f"{self._ranking_folder(project, ranking_id)}/{MANIFEST}", Ranking)
        if found is None:
            names = ", ".join(ranking.id for ranking in self.rankings(project)) or "none"
            raise RegistryError(f"Project {project} has no ranking {ranking_id!r}. It has: {names}.")
        return found

    def rankings(self, project: int) -> list[Ranking]:
        """The rankings of a project, oldest first."""
        folders = [self._ranking_folder(project, name) for name in self._ranking_names(project)]
        found = [self._read_record(f"{folder}/{MANIFEST}", Ranking) for folder in folders]
        whole = [ranking for ranking in found if ranking is not None]
        return sorted(whole, key=lambda ranking: (ranking.created_at, ranking.id))

    def ranking_tasks(self, project: int, ranking_id: str) -> pl.DataFrame:
        """The pool of a ranking as it was given to `create_ranking`."""
        path = f"{self._ranking_folder(project, ranking_id)}/tasks.parquet"
        frame = self._read_frame(path)
        if frame is None:
            self.ranking(project, ranking_id)
            raise self._damaged(path, "it is missing")
        return frame

    def write_closer_tasks(self, project: int, ranking_id: str, tasks: pl.DataFrame) -> None:
        """Store what the second phase looks at: one row per image, with a column `shard` from 0."""
        self.ranking(project, ranking_id)
        self._write_frame(f"{self._ranking_folder(project, ranking_id)}/closer_tasks.parquet", tasks)

    def closer_tasks(self, project: int, ranking_id: str) -> pl.DataFrame | None:
        """What the second phase looks at; None while that is not decided."""
        return self._read_frame(f"{self._ranking_folder(project, ranking_id)}/closer_tasks.parquet")

    def write_shard(
        self, project: int, ranking_id: str, index: int, frame: pl.DataFrame, phase: Phase = Phase.POOL
    ) -> None:
        """Store the measurements of one shard; writing twice is the same as once.

        Of the pool's, indices from `Ranking.shards` on are free for tasks that arrived after the ranking was made.

        Raises:
            RegistryError: the ranking is gone, or the index is negative.
        """
        self.ranking(project, ranking_id)
        if index < 0:
            raise RegistryError(f"Shards are numbered from 0, found {index} for ranking {ranking_id}.")
        self._write_frame(self._shard(project, ranking_id, index, phase), frame)

    def delete_shards(self, project: int, ranking_id: str, indices: Sequence[int]) -> None:
        """Forget the pool's measurements of some shards, so that they are made again; missing ones are passed over."""
        for index in indices:
            self._storage.remove(self._shard(project, ranking_id, index, Phase.POOL))

    def has_shard(self, project: int, ranking_id: str, index: int, phase: Phase = Phase.POOL) -> bool:
        """Whether a shard is stored."""
        return self._storage.size(self._shard(project, ranking_id, index, phase)) is not None

    def finished_shards(self, project: int, ranking_id: str, phase: Phase = Phase.POOL) -> set[int]:
        """Indices of the shards that are stored."""
        names = self._storage.children(f"{self._ranking_folder(project, ranking_id)}/{phase.value}")
        return {int(match.group(1)) for name in names if (match := re.fullmatch(r"(\d+)\.parquet", name))}

    def read_shards(self, project: int, ranking_id: str, phase: Phase = Phase.POOL) -> pl.DataFrame:
        """All stored measurements, in the order of the shards; only `task_id` and no row when there are none."""
        indices = sorted(self.finished_shards(project, ranking_id, phase))
        paths = [self._shard(project, ranking_id, index, phase) for index in indices]
        with ThreadPoolExecutor(_READERS) as pool:
            frames = [frame for frame in pool.map(self._read_frame, paths) if frame is not None]
        if not frames:
            return pl.DataFrame(schema={"task_id": pl.Int64})
        try:
            return pl.concat(frames, how="vertical_relaxed")
        except pl.exceptions.PolarsError as error:
            raise RegistryError(
                f"The shards of ranking {ranking_id} do not fit together ({error}); remove the ranking and rank again."
            ) from error

    def write_order(
        self, project: int, ranking_id: str, frame: pl.DataFrame, fitted: Mapping[str, Any] | None = None
    ) -> None:
        """Store the finished order, and what its strategy needs to judge tasks that come later."""
        self.ranking(project, ranking_id)
        folder = self._ranking_folder(project, ranking_id)
        # The order last: where it lies, the rest lies too.
        self._write_json(f"{folder}/{_FITTED}", dict(fitted or {}))
        self._write_frame(f"{folder}/order.parquet", frame)

    def read_order(self, project: int, ranking_id: str, columns: Sequence[str] | None = None) -> pl.DataFrame | None:
        """The finished order, or some columns of it; None while there is none."""
        return self._read_frame(f"{self._ranking_folder(project, ranking_id)}/order.parquet", columns)

    def order_blocks(self, project: int, ranking_id: str, rows: int) -> Iterator[pl.DataFrame]:
        """The finished order in blocks of so many rows, of which one is in memory at a time; none while there is none.

        Args:
            project: Label Studio's project id.
            ranking_id: the ranking.
            rows: of a block; the last one may be smaller.
        """
        path = f"{self._ranking_folder(project, ranking_id)}/order.parquet"
        content = self._storage.read(path)
        if content is None:
            return
        try:
            start = 0
            while True:
                block = pl.scan_parquet(io.BytesIO(content)).slice(start, rows).collect()
                if not block.height:
                    return
                yield block
                start += rows
        except pl.exceptions.PolarsError as error:
            raise self._damaged(path, str(error)) from error

    def read_fitted(self, project: int, ranking_id: str) -> dict[str, Any]:
        """What was stored with the finished order; empty where that is older than this file."""
        value = self._read_json(f"{self._ranking_folder(project, ranking_id)}/{_FITTED}")
        return value if isinstance(value, dict) else {}

    def write_head(self, project: int, ranking_id: str, frame: pl.DataFrame, summary: Mapping[str, Any]) -> None:
        """Store what people look at: the first images of the order with their reasons, and sums over all of it."""
        self.ranking(project, ranking_id)
        folder = self._ranking_folder(project, ranking_id)
        self._write_json(f"{folder}/{_SUMMARY}", dict(summary))
        self._write_frame(f"{folder}/head.parquet", frame)

    def read_head(self, project: int, ranking_id: str) -> pl.DataFrame | None:
        """The first images of the order with their reasons; None where it is older than this file."""
        return self._read_frame(f"{self._ranking_folder(project, ranking_id)}/head.parquet")

    def read_summary(self, project: int, ranking_id: str) -> dict[str, Any] | None:
        """Sums over the order; None where it is older than this file."""
        value = self._read_json(f"{self._ranking_folder(project, ranking_id)}/{_SUMMARY}")
        return value if isinstance(value, dict) else None

    def delete_ranking(self, project: int, ranking_id: str) -> None:
        """Remove a ranking; nothing happens when there is none."""
        folder = self._ranking_folder(project, ranking_id)
        # The manifest first: without it a half-removed ranking is none.
        self._storage.remove(f"{folder}/{MANIFEST}")
        self._storage.remove(folder)

    def _ranking_names(self, project: int) -> list[str]:
        names = self._storage.children(f"{project_folder(project)}/rankings")
        return [name for name in names if PLAIN_NAME.fullmatch(name)]

    @staticmethod
    def _ranking_folder(project: int, ranking_id: str) -> str:
        return f"{project_folder(project)}/rankings/{plain_name(ranking_id, 'ranking')}"

    def _shard(self, project: int, ranking_id: str, index: int, phase: Phase) -> str:
        return f"{self._ranking_folder(project, ranking_id)}/{phase.value}/{index:06d}.parquet"

    def _write_frame(self, path: str, frame: pl.DataFrame) -> None:
        buffer = io.BytesIO()
        frame.write_parquet(buffer, row_group_size=_ROW_GROUP)
        self._storage.write(path, buffer.getvalue())

    def _read_frame(self, path: str, columns: Sequence[str] | None = None) -> pl.DataFrame | None:
        content = self._storage.read(path)
        if content is None:
            return None
        try:
            return pl.read_parquet(io.BytesIO(content), columns=None if columns is None else list(columns))
        except pl.exceptions.PolarsError as error:
            raise self._damaged(path, str(error)) from error
