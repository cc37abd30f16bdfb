"""The proxy does what it says, or the chaos test would prove nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.chaos.plan import Flush, Kill, Spell, Victim, faults
from tests.chaos.proxy import FaultyProxy, Trouble

IMPORT = "/api/projects/1/import/predictions"


@pytest.fixture
def seen() -> list[tuple[str, bytes]]:
    return []


@pytest.fixture
def proxy(seen: list[tuple[str, bytes]]) -> Iterator[FaultyProxy]:
    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append((self.path, body))
            answer = json.dumps({"path": self.path, "length": len(body)}).encode()
            self.send_response(201)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with FaultyProxy(f"http://127.0.0.1:{server.server_port}") as proxy:
        yield proxy
    server.shutdown()
    server.server_close()


def test_in_calm_everything_passes(proxy: FaultyProxy, seen: list[tuple[str, bytes]]) -> None:
    answer = httpx.post(f"{proxy.url}/a?b=c", content=b"[1, 2]")
    assert (answer.status_code, answer.json()) == (201, {"path": "/a?b=c", "length": 6})
    assert seen == [("/a?b=c", b"[1, 2]")]


@pytest.mark.parametrize(
    ("trouble", "status", "arrived"), [(Trouble.REFUSE, 500, 0), (Trouble.LOSE, 500, 1), (Trouble.DELAY, 201, 1)]
)
def test_answers(
    proxy: FaultyProxy, seen: list[tuple[str, bytes]], trouble: Trouble, status: int, arrived: int
) -> None:
    proxy.trouble(trouble)
    assert httpx.post(f"{proxy.url}/a").status_code == status
    assert len(seen) == arrived
    assert proxy.troubled[trouble] == 1
    proxy.calm()
    assert httpx.post(f"{proxy.url}/a").status_code == 201


@pytest.mark.parametrize(("trouble", "arrived"), [(Trouble.CUT, 1), (Trouble.HANG_UP, 0)])
def test_dropped_connections(proxy: FaultyProxy, seen: list[tuple[str, bytes]], trouble: Trouble, arrived: int) -> None:
    proxy.trouble(trouble)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{proxy.url}/a")
    assert len(seen) == arrived


def test_only_imports_lose_items(proxy: FaultyProxy, seen: list[tuple[str, bytes]]) -> None:
    items = [{"task": number} for number in range(12)]
    proxy.trouble(Trouble.DROP)
    for path in (IMPORT, "/api/tasks"):
        assert httpx.post(f"{proxy.url}{path}", json=items).status_code == 201
    assert 0 <= len(json.loads(seen[0][1])) < len(items)
    assert json.loads(seen[1][1]) == items
    httpx.post(f"{proxy.url}{IMPORT}", json=items[:1])
    assert json.loads(seen[2][1]) == []


def test_a_spell_ends_by_itself(proxy: FaultyProxy) -> None:
    proxy.trouble(Trouble.REFUSE, seconds=0.0)
    assert httpx.get(f"{proxy.url}/a").status_code == 201


def test_a_label_studio_that_is_dead_is_a_bad_gateway() -> None:
    with FaultyProxy("http://127.0.0.1:9") as alone:
        assert httpx.get(f"{alone.url}/a").status_code == 502


def test_a_seed_gives_the_same_faults_and_thirty_hold_every_kind() -> None:
    def first(seed: int) -> list[str]:
        drawn = faults(seed)
        return [repr(next(drawn)) for _ in range(60)]

    assert first(1) == first(1) != first(2)
    drawn = faults(3)
    some = [next(drawn) for _ in range(30)]
    assert {fault.victim for fault in some if isinstance(fault, Kill)} == set(Victim)
    assert {fault.trouble for fault in some if isinstance(fault, Spell)} == set(Trouble)
    assert any(isinstance(fault, Flush) for fault in some)
