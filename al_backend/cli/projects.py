"""Commands about the work on one project: `connect`, `disconnect`, `train`, `rank`, `cancel`, `status`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from al_backend.cli.options import JsonOption, NoWaitOption, ProjectArgument, app
from al_backend.cli.output import command_output


@app.command()
def connect(
    context: typer.Context,
    project: ProjectArgument,
    url: Annotated[str | None, typer.Option(help="URL under which Label Studio reaches this backend.")] = None,
    title: Annotated[str, typer.Option(help="Name of the model connection in Label Studio.")] = "Active learning",
    as_json: JsonOption = False,
) -> None:
    """Connect a Label Studio project: model connection, webhook, order of the queue. Safe to repeat."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli.tables import connect_text
        from al_backend.connect import connect as connect_project

        doors = out.doors
        report = connect_project(
            doors.settings,
            doors.label_studio,
            doors.registry,
            project,
            url=url,
            title=title,
            queues=doors.queues_if_running(),
        )
        out.show(report, connect_text)


@app.command()
def disconnect(
    context: typer.Context,
    project: ProjectArgument,
    url: Annotated[str | None, typer.Option(help="URL under which Label Studio reached this backend.")] = None,
    delete_versions: Annotated[
        bool, typer.Option("--delete-versions", help="Delete its weights, rankings and history, too, for good.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take a project out: model connection, webhook, jobs, registry entry; versions stay. Safe to repeat."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli.tables import disconnect_text
        from al_backend.disconnect import disconnect as disconnect_project

        doors = out.doors
        report = disconnect_project(
            doors.settings,
            doors.registry,
            project,
            label_studio=doors.label_studio_if_known(),
            queues=doors.queues_if_running(),
            url=url,
            delete_versions=delete_versions,
        )
        out.show(report, disconnect_text)


@app.command()
def train(
    context: typer.Context,
    project: ProjectArgument,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Start from the base checkpoint.")] = False,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train on all labels now, however few are new."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli.follow import follow_training
        from al_backend.cli.tables import training_text
        from al_backend.jobs.client import request_training

        doors = out.doors
        doors.require_connected(project)
        job = request_training(doors.registry, doors.queues, project, from_scratch=from_scratch)
        out.show(_requested(job) if no_wait else follow_training(doors, project, job, out.errors), training_text)


@app.command()
def rank(
    context: typer.Context,
    project: ProjectArgument,
    strategy: Annotated[str | None, typer.Option(help="For this ranking only.")] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="For this ranking only.")] = None,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rank the unlabelled images anew and publish the order to Label Studio."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli.follow import check_rankable, follow_ranking
        from al_backend.cli.tables import ranking_text
        from al_backend.jobs.client import request_ranking

        doors = out.doors
        doors.require_connected(project)
        check_rankable(doors, project, strategy)
        job = request_ranking(doors.registry, doors.queues, project, strategy=strategy, budget=budget)
        out.show(_requested(job) if no_wait else follow_ranking(doors, project, job, out.errors), ranking_text)


@app.command()
def cancel(
    context: typer.Context,
    project: ProjectArgument,
    training: Annotated[bool, typer.Option("--training", help="Only the training.")] = False,
    ranking: Annotated[bool, typer.Option("--ranking", help="Only the ranking.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop the training and the ranking in work; what is active and published stays. Safe to repeat."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli.tables import cancel_text
        from al_backend.jobs.cancel import cancel as cancel_work

        doors = out.doors
        doors.require_connected(project)
        both = training == ranking
        report = cancel_work(doors.queues, doors.registry, project, training=training or both, ranking=ranking or both)
        out.show(report, cancel_text)


@app.command()
def status(context: typer.Context, project: ProjectArgument, as_json: JsonOption = False) -> None:
    """Show labels, versions, ranking, workers and what is wrong."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli.tables import status_text
        from al_backend.status import project_status

        doors = out.doors
        document = project_status(doors.settings, doors.registry, doors.label_studio, doors.queues, project)
        out.show(document, status_text)


def _requested(job: str) -> dict[str, Any]:
    return {"job": job, "status": "queued"}
