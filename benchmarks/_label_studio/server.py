"""The simulated Label Studio over HTTP, in a process of its own: `SimulatedLabelStudio` starts and stops it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from al_backend.child_process import start_child, stop_child
from benchmarks._label_studio.store import Refused, Store

TOKEN = "0123456789abcdef0123456789abcdef01234567"

Query = Mapping[str, list[str]]
Answer = Callable[[Store, "re.Match[str]", Query, Any], Any]


def _number(query: Query, name: str, default: int = 0) -> int:
    return int(query.get(name, [str(default)])[0])


def _tasks(store: Store, _: re.Match[str], query: Query, __: Any) -> Any:
    project, size = _number(query, "project"), _number(query, "page_size", 100)
    if "view" in query:
        return store.tab(project, _number(query, "view"), size)
    include = query.get("include", ["id"])[0].split(",")
    if query.get("fields") != ["all"]:
        include = [name for name in include if name != "predictions"]
    return store.tasks(project, json.loads(query.get("query", ["{}"])[0]), include, size)


def _next(store: Store, match: re.Match[str], *_: Any) -> Any:
    task = store.next_task(int(match[1]))
    if task is None:
        raise Refused(404, "There are no tasks remaining to be annotated.")
    return {"id": task}


def _delete_prediction(store: Store, match: re.Match[str], *_: Any) -> None:
    store.delete_prediction(int(match[1]))


ROUTES: list[tuple[str, str, Answer]] = [
    ("GET", r"/health", lambda *_: {"status": "UP"}),
    ("GET", r"/api/version", lambda *_: {"release": "1.23.2"}),
    ("GET", r"/api/current-user/whoami", lambda *_: {"id": 1, "email": "load@example.com"}),
    ("GET", r"/api/tasks", _tasks),
    ("GET", r"/api/projects/(\d+)/", lambda store, match, *_: store.project(int(match[1]))),
    ("PATCH", r"/api/projects/(\d+)/", lambda store, match, _, body: store.change_project(int(match[1]), body)),
    ("GET", r"/api/projects/(\d+)/next/?", _next),
    ("GET", r"/api/projects/(\d+)/model-versions", lambda store, match, *_: store.model_versions(int(match[1]))),
    (
        "GET",
        r"/api/projects/(\d+)/export",
        lambda store, match, query, _: store.export(int(match[1]), map(int, query.get("ids[]", []))),
    ),
    (
        "POST",
        r"/api/projects/(\d+)/import/predictions",
        lambda store, match, _, body: {"created": store.import_predictions(int(match[1]), body)},
    ),
    (
        "GET",
        r"/api/predictions/",
        lambda store, _, query, __: store.predictions(_number(query, "project"), _number(query, "task") or None),
    ),
    ("DELETE", r"/api/predictions/(\d+)/", _delete_prediction),
    (
        "POST",
        r"/api/tasks/(\d+)/annotations/",
        lambda store, match, _, body: store.annotate(int(match[1]), body.get("result", [])),
    ),
    ("GET", r"/api/ml/?", lambda *_: []),
    ("GET", r"/api/webhooks/", lambda *_: []),
    ("GET", r"/api/dm/views/", lambda store, _, query, __: store.tabs(_number(query, "project"))),
    ("POST", r"/api/dm/views/", lambda store, _, __, body: store.add_tab(body["project"], body["data"])),
    ("GET", r"/api/dm/columns", lambda *_: {"columns": []}),
    ("POST", r"/sim/projects", lambda store, _, __, body: {"id": store.add_project(int(body["tasks"]))}),
    (
        "POST",
        r"/sim/projects/(\d+)/tasks",
        lambda store, match, _, body: {"ids": store.add_tasks(int(match[1]), int(body["count"]))},
    ),
]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, store: Store, images: list[bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store
        self.images = images
        self.writes: list[tuple[float, str, int]] = []
        self.counting = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        parts = urlsplit(self.path)
        image = re.fullmatch(r"/data/upload/\d+/(\d+)\.jpg", parts.path)
        if self.headers.get("Authorization") != f"Token {TOKEN}" and not parts.path.startswith(("/sim", "/health")):
            self._answer(401, b'{"detail": "Authentication credentials were not provided."}')
        elif image:
            self._answer(200, self.server.images[int(image[1]) % len(self.server.images)], "image/jpeg")
        elif parts.path == "/sim/writes":
            self._answer(200, json.dumps(self.server.writes).encode())
        else:
            self._answer(*self._found(parts.path, parse_qs(parts.query), body))

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def _found(self, path: str, query: Query, body: Any) -> tuple[int, bytes]:
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match is None or method != self.command:
                continue
            if path.endswith("/import/predictions"):
                self._count("import", len(body))
            elif method == "DELETE":
                self._count("delete", 1)
            try:
                with self.server.store.guard:
                    result = answer(self.server.store, match, query, body)
            except Refused as refusal:
                return refusal.status, json.dumps({"detail": str(refusal)}).encode()
            status = {"GET": 200, "PATCH": 200, "POST": 201, "DELETE": 204}[method]
            return status, b"" if status == 204 else json.dumps(result).encode()
        return 404, json.dumps({"detail": f"The simulation knows no {self.command} {path}."}).encode()

    def _count(self, kind: str, items: int) -> None:
        with self.server.counting:
            self.server.writes.append((time.monotonic(), kind, items))

    def _answer(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each of several hundred thousand requests helps nobody."""


class SimulatedLabelStudio:
    """A simulated Label Studio that lives as long as the `with` block.

    Args:
        label_config: of every project.
        images: folder whose `.jpg` files are served for the tasks, in turns.
    """

    def __init__(self, label_config: str, images: Path) -> None:
        self.token = TOKEN
        self.url = ""
        self._arguments = (label_config, str(images))
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(timeout=600, trust_env=False, headers={"Authorization": f"Token {TOKEN}"})

    def __enter__(self) -> SimulatedLabelStudio:
        command = (sys.executable, "-m", "benchmarks._label_studio.server", *self._arguments)
        self._process = start_child(command, stdout=subprocess.PIPE)
        if self._process.stdout is None:
            raise RuntimeError("the simulated Label Studio has no output")
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        if self._process is not None:
            stop_child(self._process, grace=5)

    def add_project(self, tasks: int) -> int:
        """A project with so many open tasks; returns its id."""
        return int(self._post("/sim/projects", {"tasks": tasks})["id"])

    def add_tasks(self, project: int, count: int) -> list[int]:
        """More open tasks; returns their ids."""
        return list(self._post(f"/sim/projects/{project}/tasks", {"count": count})["ids"])

    def writes(self) -> list[tuple[float, str, int]]:
        """Every write of predictions so far: the moment in seconds, "import" or "delete", how many items."""
        return [
            (float(at), str(kind), int(items)) for at, kind, items in self._http.get(f"{self.url}/sim/writes").json()
        ]

    def _post(self, path: str, body: Any) -> Any:
        answer = self._http.post(self.url + path, json=body)
        answer.raise_for_status()
        return answer.json()


def serve(label_config: str, images: Path) -> None:
    """Print the port, then serve until the process ends."""
    files = [path.read_bytes() for path in sorted(images.glob("*.jpg"))]
    server = _Server(Store(label_config), files)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
