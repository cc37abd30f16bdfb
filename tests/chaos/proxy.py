"""An HTTP proxy that stands before Label Studio and, when told to, does what bad networks and full servers do."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

_LABEL_STUDIO_SECONDS = 310.0
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_IMPORT = "/import/predictions"


class Trouble(str, Enum):
    """What can become of a request."""

    REFUSE = "answers 500 and does nothing"
    LOSE = "answers 500 after it has done it"
    CUT = "drops the connection in the middle of the answer"
    HANG_UP = "drops the connection without an answer"
    DELAY = "takes seconds"
    DROP = "drops items of an import"


@dataclass(frozen=True)
class _Spell:
    trouble: Trouble
    share: float
    until: float


class FaultyProxy:
    """Passes requests on to `target`, and troubles a share of them for as long as a spell lasts.

    Args:
        target: address of the Label Studio behind it, `http://host:port`.
        seed: of the draws; which request meets which draw depends on the order of arrival.
    """

    def __init__(self, target: str, *, seed: int = 0) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._random = random.Random(seed)
        self._guard = threading.Lock()
        self._spells: list[_Spell] = []
        self.troubled: Counter[Trouble] = Counter()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def trouble(self, trouble: Trouble, *, share: float = 1.0, seconds: float = 3600.0) -> None:
        """Begin a spell; it may overlap others."""
        with self._guard:
            self._spells.append(_Spell(trouble, share, time.monotonic() + seconds))

    def calm(self) -> None:
        """End every spell."""
        with self._guard:
            self._spells.clear()

    def draw(self, path: str) -> set[Trouble]:
        """What becomes of a request now."""
        now = time.monotonic()
        with self._guard:
            self._spells = [spell for spell in self._spells if spell.until > now]
            drawn = {
                spell.trouble
                for spell in self._spells
                if (spell.trouble is not Trouble.DROP or path.endswith(_IMPORT)) and self._random.random() < spell.share
            }
            self.troubled.update(drawn)
        return drawn

    def seconds(self) -> float:
        """A delay."""
        with self._guard:
            return self._random.uniform(0.2, 2.5)

    def without_some(self, body: bytes) -> bytes:
        """An import's body with about a third of its items missing, at least one."""
        items = json.loads(body)
        with self._guard:
            kept = [item for item in items if self._random.random() > 0.3]
        return json.dumps(kept if len(kept) < len(items) else items[1:]).encode()

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Label Studio's own answer.

        Raises:
            OSError: it does not answer.
        """
        connection = http.client.HTTPConnection(*self._target, timeout=_LABEL_STUDIO_SECONDS)
        try:
            connection.request(method, path, body=body or None, headers=headers | {"Connection": "close"})
            response = connection.getresponse()
            content = response.read()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP}
            return response.status, kept, content
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    owner: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Be silent: a test that fails prints the log of its faults instead."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        drawn = self.owner.draw(self.path.partition("?")[0])
        if Trouble.DELAY in drawn:
            time.sleep(self.owner.seconds())
        if Trouble.HANG_UP in drawn:
            self.close_connection = True
            return
        if Trouble.REFUSE in drawn:
            self._answer(500, {"Content-Type": "text/html"}, b"<html>Server Error (500)</html>")
            return
        if Trouble.DROP in drawn:
            body = self.owner.without_some(body)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        try:
            status, answered, content = self.owner.forward(self.command, self.path, headers, body)
        except OSError:
            self._answer(502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>")
            return
        if Trouble.LOSE in drawn:
            self._answer(500, {"Content-Type": "text/html"}, b"<html>Server Error (500)</html>")
            return
        self._answer(status, answered, content, cut=Trouble.CUT in drawn)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve

    def _answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if cut:
            self.close_connection = True
            content = content[: len(content) // 2]
        try:
            self.wfile.write(content)
        except OSError:  # who asked was killed meanwhile
            self.close_connection = True
