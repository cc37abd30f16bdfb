"""The supervisor with real processes: restarts, output, an orderly end, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from al_backend.child_process import leave_with_parent
from al_backend.errors import ConfigError
from al_backend.jobs.embedded_redis import EmbeddedRedis, running_url
from al_backend.supervisor import Backoff, ChildSpec, Supervisor, describe_exit

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def python(name: str, code: str, **environment: str) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", code), environment)


class Running:
    """A supervisor in a thread of its own, its lines collected."""

    def __init__(self, *children: ChildSpec, redis: EmbeddedRedis | None = None, grace: float = 5.0) -> None:
        self.lines: list[str] = []
        quick: Callable[[], Backoff] = lambda: Backoff(first=0.05, longest=0.2)  # noqa: E731
        self.supervisor = Supervisor(children, redis=redis, grace=grace, backoff=quick, write=self.lines.append)
        self._thread = threading.Thread(target=self.supervisor.run, daemon=True)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self.supervisor.stop()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()

    def said(self, line: str, times: int = 1) -> bool:
        return self.lines.count(line) >= times


def wait_for(condition: Callable[[], object], timeout: float = 15.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_the_wait_doubles_and_starts_anew_after_a_healthy_life() -> None:
    backoff = Backoff(first=0.5, longest=30, healthy_after=60)
    assert [backoff.next_wait(1) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.next_wait(61) == 0.5
    assert backoff.next_wait(1) == 1
    assert [Backoff().next_wait(0) for _ in range(2)] == [0.5, 0.5]
    for _ in range(2000):
        last = backoff.next_wait(0)
    assert last == 30


def test_output_carries_the_name_and_both_streams() -> None:
    code = "import sys, time; print('to stdout'); print('to stderr', file=sys.stderr); time.sleep(60)"
    with Running(python("web", code), python("trainer", SLEEPER)) as running:
        wait_for(lambda: running.said("web     | to stdout") and running.said("web     | to stderr"))
        wait_for(lambda: running.said("trainer | up"))


def test_a_dead_child_is_started_again_and_the_others_go_on() -> None:
    with Running(python("a", SLEEPER), python("b", SLEEPER)) as running:
        wait_for(lambda: running.said("a | up") and running.said("b | up"))
        first = dict(running.supervisor.pids)
        os.kill(first["a"], signal.SIGKILL)
        wait_for(lambda: running.said("a | up", times=2))
        assert running.supervisor.pids["b"] == first["b"]
        assert running.supervisor.pids["a"] != first["a"]


def test_children_get_our_environment_and_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_US", "1")
    code = "import os, time; print(os.environ['FROM_US'], os.environ['OWN'], flush=True); time.sleep(60)"
    with Running(python("a", code, OWN="2")) as running:
        wait_for(lambda: running.said("a | 1 2"))


def test_a_child_gets_time_to_finish() -> None:
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.5); print('finished', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True)\n"
        "time.sleep(60)"
    )
    with Running(python("a", code)) as running:
        wait_for(lambda: running.said("a | up"))
    assert running.said("a | finished")


def test_a_stubborn_child_and_its_own_children_are_killed_after_the_grace() -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); " + STUBBORN
    with Running(python("a", code), grace=0.5) as running:
        wait_for(lambda: running.said("a | up", times=2))
        family = psutil.Process(running.supervisor.pids["a"])
        members = [family, *family.children(recursive=True)]
        assert len(members) == 2
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    wait_for(lambda: not any(member.is_running() and member.status() != "zombie" for member in members))


def test_a_second_signal_does_not_wait() -> None:
    with Running(python("a", STUBBORN), grace=60) as running:
        wait_for(lambda: running.said("a | up"))
        running.supervisor.stop()
        begun = time.monotonic()
    assert time.monotonic() - begun < 5


@pytest.mark.redis
def test_redis_starts_first_comes_back_and_stops_last(tmp_path: Path) -> None:
    redis = EmbeddedRedis(tmp_path)
    code = (
        "import os, redis, signal, sys, time\n"
        "client = redis.Redis.from_url(os.environ['REDIS_URL'])\n"
        "def end(*_):\n    print('last', client.ping(), flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('ping', client.ping(), flush=True)\n"
        "time.sleep(60)"
    )
    with Running(python("a", code, REDIS_URL=redis.url), redis=redis) as running:
        wait_for(lambda: running.said("a | ping True"))
        first = redis.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: redis.pid not in (None, first))
        wait_for(lambda: running_url(tmp_path))
    assert running.said("a | last True")
    assert redis.pid is None


@pytest.mark.redis
def test_when_redis_is_taken_no_child_starts(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path):
        marker = tmp_path / "started"
        child = python("a", f"open({str(marker)!r}, 'w')")
        with pytest.raises(ConfigError):
            Supervisor([child], redis=EmbeddedRedis(tmp_path)).run()
    assert not marker.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_in_order(number: signal.Signals) -> None:
    with _supervising(SLEEPER) as process:
        child = _child_of(process)
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
def test_children_end_with_a_killed_supervisor() -> None:
    with _supervising(SLEEPER) as process:
        child = psutil.Process(_child_of(process))
        process.kill()
    wait_for(lambda: not child.is_running() or child.status() == "zombie")


def test_names_have_to_differ() -> None:
    with pytest.raises(ValueError, match="unique"):
        Supervisor([python("a", SLEEPER), python("a", SLEEPER)])


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (2, "exit code 2"), (-15, "SIGTERM"), (-9, "memory"), (137, "memory"), (-255, "signal 255")],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert words in describe_exit(code)


def _supervising(child: str) -> subprocess.Popen[str]:
    code = (
        "import sys; from al_backend.supervisor import ChildSpec, Supervisor;"
        "Supervisor([ChildSpec('a', (sys.executable, '-c', sys.argv[1]))]).run()"
    )
    return subprocess.Popen([sys.executable, "-c", code, child], stderr=subprocess.PIPE, text=True)


def _child_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    assert process.stderr.readline().strip() == "a | up"
    return psutil.Process(process.pid).children()[0].pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
def test_a_child_that_is_still_busy_when_its_parent_is_gone_ends_after_its_grace(tmp_path: Path) -> None:
    busy = (
        "import os, signal, sys, time\n"
        "from al_backend.child_process import leave_with_parent\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "leave_with_parent(grace=1.0)\n"
        f"open({str(tmp_path / 'pid')!r} + '.new', 'w').write(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'pid')!r} + '.new', {str(tmp_path / 'pid')!r})\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import sys, time\n"
        "from al_backend.child_process import start_child\n"
        f"start_child((sys.executable, '-c', {busy!r}))\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_for((tmp_path / "pid").exists, timeout=60)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    process.kill()
    process.wait()
    time.sleep(0.3)
    assert child.is_running(), "it has a moment to finish"
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, timeout=30)


def test_a_process_that_nobody_supervises_outlives_who_started_it() -> None:
    before = {thread.name for thread in threading.enumerate()}
    leave_with_parent(grace=0.0)
    assert {thread.name for thread in threading.enumerate()} == before
