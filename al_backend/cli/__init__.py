"""The `al-backend` command: reads arguments, opens the doors that a command needs, prints what they answer.

Modules are imported inside the commands, so that `al-backend --help` does not wait for torch.
"""

from __future__ import annotations

# Importing a module adds its commands to `app`, in the order in which `--help` lists them.
from al_backend.cli import processes, projects, questions, versions, weights  # noqa: F401
from al_backend.cli.options import app

__all__ = ["app", "main"]


def main() -> None:
    """The entry point of the `al-backend` command."""
    app(prog_name="al-backend")
