"""The `al-backend` command itself: its name, the options before a command, and those that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="al-backend",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Active learning for Label Studio: pre-annotates, trains on new labels, orders the queue.",
)

ProjectArgument = Annotated[int, typer.Argument(metavar="PROJECT", min=1, help="Label Studio's project id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, logs on stderr.")]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Return when it is asked for, not when it is done.")]
HostOption = Annotated[str | None, typer.Option(help="Address to bind; 0.0.0.0 lets other machines in.")]
PortOption = Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the web server.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


@app.callback()
def _options(
    context: typer.Context,
    label_studio_url: Annotated[str | None, typer.Option(help="Instead of LABEL_STUDIO_URL.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Instead of REDIS_URL.")] = None,
    model_dir: Annotated[str | None, typer.Option(help="Instead of MODEL_DIR.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Instead of AL_DATA_DIR.")] = None,
    log_level: Annotated[str | None, typer.Option(help="Instead of LOG_LEVEL.")] = None,
) -> None:
    given = {
        "label_studio_url": label_studio_url,
        "redis_url": redis_url,
        "model_dir": model_dir,
        "data_dir": data_dir,
        "log_level": log_level,
    }
    context.obj = {name: value for name, value in given.items() if value is not None}
