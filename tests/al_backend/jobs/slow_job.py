"""A job for tests that says when it begins and ends, and lasts until it is told to end."""

from __future__ import annotations

import time
from pathlib import Path

from al_backend.jobs.context import job_running


def work(folder: str, name: str) -> None:
    """Begin `name`, wait for a file called `end`, end."""
    with job_running():
        (Path(folder) / f"{name}.began").touch()
        while not (Path(folder) / "end").exists():
            time.sleep(0.05)
        (Path(folder) / f"{name}.ended").touch()
