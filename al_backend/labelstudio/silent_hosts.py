"""Hosts that answer nobody: asked by every image in turn, one of them would use up the time of all the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

LIMIT = 4
"""Requests in a row that nobody answered, after which a host is left alone."""

PAUSE = 60.0
"""Seconds for which it is; then one request at a time tries again."""

_QUICK = 0.25  # seconds


@dataclass
class _Host:
    unanswered: int = 0
    left_alone_until: float = 0.0


class SilentHosts:
    """What a process remembers of hosts that let requests run into their time limit; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    @contextmanager
    def asking(self, url: httpx.URL) -> Iterator[None]:
        """Around one request, until its answer begins.

        Raises:
            HostIsSilent: nobody answered there lately.
        """
        name = f"{url.host}:{url.port}" if url.port else url.host
        self._require(name)
        started = time.monotonic()
        try:
            yield
        except httpx.HTTPError:
            # A refusal is quick, and so is the end of the time for an image that was spent on another host.
            if time.monotonic() - started > _QUICK:
                self._unanswered(name)
            raise
        with self._lock:
            self._hosts.pop(name, None)

    def _require(self, name: str) -> None:
        with self._lock:
            host = self._hosts.get(name)
            if host is None or host.unanswered < LIMIT:
                return
            now = time.monotonic()
            if now < host.left_alone_until:
                raise HostIsSilent(
                    f"{name} did not answer {host.unanswered} requests in a row; its images are asked for again in "
                    f"{max(1.0, host.left_alone_until - now):.0f} s."
                )
            host.left_alone_until = now + PAUSE  # this request tries for all

    def _unanswered(self, name: str) -> None:
        with self._lock:
            host = self._hosts.setdefault(name, _Host())
            host.unanswered += 1
            host.left_alone_until = time.monotonic() + PAUSE


class HostIsSilent(Exception):
    """The host of an image is left alone for the moment; the message says why."""
