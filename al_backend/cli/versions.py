"""Commands about trained versions: `versions`, `promote`, `rollback`."""

from __future__ import annotations

from typing import Annotated

import typer

from al_backend.cli.options import JsonOption, ProjectArgument, app
from al_backend.cli.output import Output, command_output


@app.command()
def versions(context: typer.Context, project: ProjectArgument, as_json: JsonOption = False) -> None:
    """List the trained versions."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli.tables import versions_document, versions_text

        registry = out.doors.registry
        out.show(versions_document(registry.versions(project), registry.active(project)), versions_text)


@app.command()
def promote(
    context: typer.Context,
    project: ProjectArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A name that `versions` lists.")],
    as_json: JsonOption = False,
) -> None:
    """Make a version the active one; the pool is ranked by it next."""
    with command_output(context.obj, as_json=as_json) as out:
        out.doors.registry.promote(project, version, reason="promoted by hand")
        _show_pointer(out, project)


@app.command()
def rollback(context: typer.Context, project: ProjectArgument, as_json: JsonOption = False) -> None:
    """Make the version that was active before the active one again."""
    with command_output(context.obj, as_json=as_json) as out:
        out.doors.registry.rollback(project)
        _show_pointer(out, project)


def _show_pointer(out: Output, project: int) -> None:
    """The moved pointer, and whether somebody lives who carries it to Label Studio."""
    from al_backend.cli.tables import pointer_text
    from al_backend.jobs.client import enqueue_reconcile

    pointer = out.doors.registry.active(project)
    queues = out.doors.queues_if_running()
    if queues is None:
        note = "Label Studio gets it when the backend runs again: no Redis answers, `al-backend up` starts one."
    else:
        enqueue_reconcile(queues, project, "the active version was changed by hand")
        note = None
    out.show({**(pointer.model_dump(mode="json") if pointer else {}), "note": note}, pointer_text)
