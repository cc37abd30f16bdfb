"""Projects, tasks, predictions and annotations of the simulated Label Studio, in SQLite in memory."""

from __future__ import annotations

import json
import math
import random
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
_TABLES = """
create table task(id integer primary key, project int, data text, updated_at text, completed int default 0,
                  annotations int default 0);
create index task_project on task(project, completed, id);
create index task_touched on task(project, updated_at);
create table prediction(id integer primary key, task int, project int, model_version text, score real, result text,
                        created_at text);
create index prediction_task on prediction(task);
create index prediction_version on prediction(project, model_version, score);
create table annotation(id integer primary key, task int, project int, result text, created_at text);
create index annotation_task on annotation(task);
"""
_CONDITIONS = {
    ("completed_at", "empty"): "completed = 0",
    ("total_annotations", "greater"): "annotations > ?",
    ("id", "greater"): "id > ?",
    ("id", "less_or_equal"): "id <= ?",
    ("updated_at", "greater"): "updated_at > ?",
    ("predictions_model_versions", "contains"): (
        "exists (select 1 from prediction p where p.task = task.id and instr(p.model_version, ?))"
    ),
    ("total_predictions", "greater"): "(select count(*) from prediction p where p.task = task.id) > ?",
}
_COLUMNS = {
    "id": "id",
    "data": "data",
    "updated_at": "updated_at",
    "total_annotations": "annotations",
    "predictions_model_versions": (
        "(select group_concat(distinct p.model_version) from prediction p where p.task = task.id)"
    ),
}
_PREDICTION = "id, task, project, model_version, score, result, created_at"


class Refused(Exception):
    """An answer that is not 2xx: its status and its words."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Store:
    """All that it knows; one request at a time touches it, as in a Label Studio on SQLite."""

    def __init__(self, label_config: str) -> None:
        self.guard = threading.RLock()
        self._label_config = label_config
        self._projects: dict[int, dict[str, Any]] = {}
        self._tabs: dict[int, dict[str, Any]] = {}
        self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._db.executescript(_TABLES)

    def add_project(self, tasks: int) -> int:
        """A project with so many open tasks, each with an image of its own address; returns its id."""
        number = len(self._projects) + 1
        self._projects[number] = {
            "id": number,
            "title": f"Project {number}",
            "label_config": self._label_config,
            "model_version": "",
            "sampling": "Uncertainty sampling",
            "show_collab_predictions": True,
            "maximum_annotations": 1,
        }
        self.add_tasks(number, tasks)
        return number

    def add_tasks(self, project: int, count: int) -> list[int]:
        """More open tasks."""
        (last,) = self._db.execute("select coalesce(max(id), 0) from task").fetchone()
        ids = range(last + 1, last + count + 1)
        rows = [(task, project, json.dumps({"image": f"/data/upload/{project}/{task}.jpg"}), _now()) for task in ids]
        self._db.executemany("insert into task(id, project, data, updated_at) values(?, ?, ?, ?)", rows)
        return list(ids)

    def project(self, project: int) -> dict[str, Any]:
        """As Label Studio answers."""
        if project not in self._projects:
            raise Refused(404, "No Project matches the given query.")
        (count,) = self._db.execute("select count(*) from task where project = ?", (project,)).fetchone()
        return {**self._projects[project], "task_number": count}

    def change_project(self, project: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A model version that no prediction has is refused."""
        version = fields.get("model_version")
        if version is not None and version != "" and version not in self.model_versions(project):
            raise Refused(400, "Model version doesn't exist either as live model or as static predictions.")
        self._projects[project].update(fields)
        return self.project(project)

    def tasks(self, project: int, query: Mapping[str, Any], include: list[str], size: int) -> dict[str, Any]:
        """One page of the task list; `predictions` come only when all fields are asked for, as in the real one."""
        conditions, values = ["project = ?"], [project]
        for item in query.get("filters", {}).get("items", ()):
            name = item["filter"].removeprefix("filter:tasks:")
            value = item["value"]
            condition = _CONDITIONS[name, item["operator"]]
            conditions.append(f"not ({condition})" if item["operator"] == "empty" and not value else condition)
            if name == "updated_at":
                datetime.strptime(value, _STAMP)  # another form is an error 500 there
            if item["operator"] != "empty":
                values.append(value[0] if isinstance(value, list) else value)
        where = " and ".join(conditions)
        names = [name for name in include if name in _COLUMNS]
        columns = ", ".join(_COLUMNS[name] for name in names)
        rows = self._db.execute(f"select {columns} from task where {where} order by id limit ?", [*values, size])
        found = [dict(zip(names, row, strict=True)) for row in rows]
        for row in found:
            if "data" in row:
                row["data"] = json.loads(row["data"])
            if "predictions" in include:
                row["predictions"] = self._predictions("task = ?", row["id"])
        if size > 1:
            return {"tasks": found, "total": len(found)}
        (total,) = self._db.execute(f"select count(*) from task where {where}", values).fetchone()
        return {"tasks": found, "total": total}

    def tab(self, project: int, tab: int, size: int) -> dict[str, Any]:
        """The first tasks of a Data Manager tab that is ordered by the prediction score."""
        rows = self._by_score(project, size)
        return {"tasks": [{"id": task, "predictions_score": score} for task, score in rows], "total": len(rows)}

    def next_task(self, project: int) -> int | None:
        """The label stream: lowest score of the project's model version first, null before all; random without any."""
        version = self._projects[project]["model_version"]
        first = self._by_score(project, 1) if version else []
        if first:
            return first[0][0]
        rows = self._db.execute("select id from task where project = ? and completed = 0", (project,)).fetchall()
        return int(random.choice(rows)[0]) if rows else None

    def model_versions(self, project: int) -> dict[str, int]:
        """Predictions per model version."""
        counted = "select model_version, count(*) from prediction where project = ? group by model_version"
        return dict(self._db.execute(counted, (project,)).fetchall())

    def predictions(self, project: int, task: int | None) -> list[dict[str, Any]]:
        """All of a project, or of one task."""
        return self._predictions("project = ?", project) if task is None else self._predictions("task = ?", task)

    def import_predictions(self, project: int, items: Any) -> int:
        """Store the valid ones and drop the others in silence; a task that is not there refuses them all."""
        if not isinstance(items, list):
            raise Refused(400, "A list of predictions is expected.")
        ids = [item.get("task") for item in items]
        marks = ",".join("?" * len(ids))
        known = self._db.execute(f"select count(*) from task where project = ? and id in ({marks})", [project, *ids])
        if known.fetchone()[0] != len(set(ids)):
            raise Refused(400, "Task not found in the project.")
        rows = [
            (item["task"], project, item.get("model_version") or "", item["score"], json.dumps(item["result"]), _now())
            for item in items
            if _valid(item)
        ]
        insert = "insert into prediction(task, project, model_version, score, result, created_at) values(?,?,?,?,?,?)"
        self._db.executemany(insert, rows)
        return len(rows)

    def delete_prediction(self, prediction: int) -> None:
        """Remove one."""
        if not self._db.execute("delete from prediction where id = ?", (prediction,)).rowcount:
            raise Refused(404, "Not found.")

    def annotate(self, task: int, result: Any) -> dict[str, Any]:
        """Submit an annotation, which completes the task and touches it."""
        found = self._db.execute("select project from task where id = ?", (task,)).fetchone()
        if found is None:
            raise Refused(404, "Not found.")
        (project,) = found
        moment = _now()
        insert = "insert into annotation(task, project, result, created_at) values(?, ?, ?, ?)"
        made = self._db.execute(insert, (task, project, json.dumps(result), moment)).lastrowid
        touch = "update task set completed = 1, annotations = annotations + 1, updated_at = ? where id = ?"
        self._db.execute(touch, (moment, task))
        return {"id": made, "task": task, "project": project, "result": result, "was_cancelled": False}

    def export(self, project: int, ids: Iterable[int]) -> list[dict[str, Any]]:
        """Tasks with their annotations."""
        found = []
        for task in ids:
            rows = self._db.execute("select id, result, created_at from annotation where task = ?", (task,)).fetchall()
            data = self._db.execute("select data from task where id = ? and project = ?", (task, project)).fetchone()
            annotations = [
                {"id": made, "result": json.loads(result), "was_cancelled": False, "created_at": at, "updated_at": at}
                for made, result, at in rows
            ]
            if annotations and data:
                found.append({"id": task, "data": json.loads(data[0]), "annotations": annotations})
        return found

    def tabs(self, project: int) -> list[dict[str, Any]]:
        """The tabs of a project."""
        return [tab for tab in self._tabs.values() if tab["project"] == project]

    def add_tab(self, project: int, data: Any) -> dict[str, Any]:
        """One more."""
        tab = {"id": len(self._tabs) + 1, "project": project, "data": data}
        self._tabs[tab["id"]] = tab
        return tab

    def _by_score(self, project: int, size: int) -> list[tuple[int, float]]:
        version = self._projects[project]["model_version"]
        return self._db.execute(
            "select task.id, p.score from prediction p join task on task.id = p.task"
            " where p.project = ? and p.model_version = ? and task.completed = 0 order by p.score limit ?",
            (project, version, size),
        ).fetchall()

    def _predictions(self, where: str, value: int) -> list[dict[str, Any]]:
        rows = self._db.execute(f"select {_PREDICTION} from prediction where {where} order by id", (value,))
        names = _PREDICTION.split(", ")
        return [{**dict(zip(names, row, strict=True)), "result": json.loads(row[5])} for row in rows]


def _valid(item: Mapping[str, Any]) -> bool:
    score, result = item.get("score"), item.get("result")
    if not isinstance(result, list) or isinstance(score, bool) or not isinstance(score, (int, float)):
        return False
    if not math.isfinite(score) or not 0 <= score <= 1:
        return False
    return all(
        {"from_name", "to_name", "type", "value"} <= region.keys() and region["value"].get("x", 0) <= 100
        for region in result
    )


def _now() -> str:
    return datetime.now(timezone.utc).strftime(_STAMP)
