"""Commands that run processes: `up`, `serve`, `worker`, `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from al_backend.cli.options import DeviceOption, HostOption, JsonOption, PortOption, app
from al_backend.cli.output import command_output


@app.command()
def up(
    context: typer.Context,
    project: Annotated[list[int] | None, typer.Option(min=1, help="Connect this project; may be repeated.")] = None,
    host: HostOption = None,
    port: PortOption = None,
    device: DeviceOption = None,
) -> None:
    """Run everything on this machine: Redis unless REDIS_URL names one, the workers and the web server."""
    with command_output(context.obj, host=host, port=port, device=device) as out:
        from al_backend.processes import run_everything

        run_everything(out.doors.settings, projects=project or ())


@app.command()
def serve(
    context: typer.Context, host: HostOption = None, port: PortOption = None, device: DeviceOption = None
) -> None:
    """Run the web server alone."""
    with command_output(context.obj, host=host, port=port, device=device) as out:
        from al_backend.http.serve import serve as serve_http

        serve_http(out.doors.settings)


@app.command()
def worker(
    context: typer.Context,
    queues: Annotated[
        str, typer.Option(help="Comma-separated: predict, score, train, reconcile, publish.")
    ] = "predict,score,reconcile,publish,train",
    device: DeviceOption = None,
) -> None:
    """Run the workers of some queues, one process for each kind of work."""
    with command_output(context.obj, device=device) as out:
        from al_backend.processes import queue_names, run_workers

        try:
            names = queue_names(queues)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--queues") from None
        run_workers(out.doors.settings, names)


@app.command()
def demo(
    context: typer.Context,
    headless: Annotated[bool, typer.Option("--headless", help="Label by itself, ask nothing, end by itself.")] = False,
    cycles: Annotated[int, typer.Option(min=1, help="Cycles of label, train, rank.")] = 3,
    label_studio: Annotated[Path | None, typer.Option(help="The label-studio program; default: search.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole loop on a sample project in a Label Studio of its own."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.demo.run import run_demo

        code = run_demo(
            out.doors.settings, headless=headless, cycles=cycles, as_json=as_json, label_studio=label_studio
        )
        if code:
            raise typer.Exit(code)
