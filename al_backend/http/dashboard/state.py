"""What the dashboard of one web process keeps between two requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar, cast

from flask import Flask, current_app

from al_backend.http.dashboard.csrf import Csrf
from al_backend.http.dashboard.examinations import Examinations
from al_backend.http.dashboard.facts import Facts
from al_backend.http.dashboard.thumbnails import Thumbnails
from al_backend.settings import Settings

_EXTENSION = "al_backend_dashboard"

Made = TypeVar("Made")


class Remembered:
    """What is slow to make and the same for the same content; the least recently used goes first."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._kept: OrderedDict[object, object] = OrderedDict()
        self._guard = threading.Lock()

    def get(self, key: object, make: Callable[[], Made]) -> Made:
        """What `make` gave for this key the first time."""
        with self._guard:
            if key in self._kept:
                self._kept.move_to_end(key)
                return cast(Made, self._kept[key])
        made = make()
        with self._guard:
            self._kept[key] = made
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made


class Dashboard:
    """Everything of the dashboard that outlives a request."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.facts = Facts(settings)
        self.csrf = Csrf(settings)
        self.thumbnails = Thumbnails(settings)
        self.examinations = Examinations(settings)
        self.remembered = Remembered()


def install(app: Flask, settings: Settings) -> None:
    """Give an app its dashboard."""
    app.extensions[_EXTENSION] = Dashboard(settings)


def dashboard() -> Dashboard:
    """The dashboard of the app that handles the current request."""
    return cast(Dashboard, current_app.extensions[_EXTENSION])
