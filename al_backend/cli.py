"""The `al-backend` command: reads arguments, opens the doors that a command needs, prints what they answer.

Modules are imported inside the commands, so that `al-backend --help` does not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from al_backend.cli_output import Output, command_output

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
def connect(
    context: typer.Context,
    project: ProjectArgument,
    url: Annotated[str | None, typer.Option(help="URL under which Label Studio reaches this backend.")] = None,
    title: Annotated[str, typer.Option(help="Name of the model connection in Label Studio.")] = "Active learning",
    as_json: JsonOption = False,
) -> None:
    """Connect a Label Studio project: model connection, webhook, order of the queue. Safe to repeat."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli_tables import connect_text
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
def train(
    context: typer.Context,
    project: ProjectArgument,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Start from the base checkpoint.")] = False,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train on all labels now, however few are new."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli_follow import follow_training
        from al_backend.cli_tables import training_text
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
        from al_backend.cli_follow import check_rankable, follow_ranking
        from al_backend.cli_tables import ranking_text
        from al_backend.jobs.client import request_ranking

        doors = out.doors
        doors.require_connected(project)
        check_rankable(doors, project, strategy)
        job = request_ranking(doors.registry, doors.queues, project, strategy=strategy, budget=budget)
        out.show(_requested(job) if no_wait else follow_ranking(doors, project, job, out.errors), ranking_text)


@app.command()
def status(context: typer.Context, project: ProjectArgument, as_json: JsonOption = False) -> None:
    """Show labels, versions, ranking, workers and what is wrong."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli_tables import status_text
        from al_backend.status import project_status

        doors = out.doors
        document = project_status(doors.settings, doors.registry, doors.label_studio, doors.queues, project)
        out.show(document, status_text)


@app.command()
def versions(context: typer.Context, project: ProjectArgument, as_json: JsonOption = False) -> None:
    """List the trained versions."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli_tables import versions_document, versions_text

        registry = out.doors.registry
        out.show(versions_document(registry.versions(project), registry.active(project)), versions_text)


@app.command()
def report(
    context: typer.Context,
    project: ProjectArgument,
    out: Annotated[Path, typer.Option(help="File to write, such as report.html.")],
    as_json: JsonOption = False,
) -> None:
    """Write one HTML file to send around: learning curve, class balance, classes, versions."""
    with command_output(context.obj, as_json=as_json) as output:
        from al_backend.http.dashboard.report import write_report

        facts = write_report(output.doors.settings, output.doors.registry, project, out)
        document = {"project": facts.id, "title": facts.title, "versions": len(facts.versions), "file": str(out)}
        output.show(document, lambda shown: f"{shown['file']}: {shown['title']}, {shown['versions']} versions")


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


@app.command()
def doctor(
    context: typer.Context,
    project: Annotated[int | None, typer.Argument(metavar="[PROJECT]", min=1, help="Look at this one, too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check everything that has to work together, and say what to do about what does not."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli_tables import findings_text
        from al_backend.doctor import Level, examine

        findings = examine(out.doors.settings, project)
        out.show(findings, findings_text)
        if any(finding.level is Level.ERROR for finding in findings):
            raise typer.Exit(1)


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


@app.command()
def simulate(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the experiment; the same one goes on where it ended.")],
    dataset: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="reef, reef:COUNT, or a VOC, COCO or YOLO folder.")
    ] = None,
    project: Annotated[int | None, typer.Option(min=1, help="A labelled project of Label Studio instead.")] = None,
    detector: Annotated[str | None, typer.Option(help="Instead of AL_DETECTOR.")] = None,
    strategies: Annotated[
        str | None, typer.Option(help="Comma-separated; NAME+diversity adds that step. [random and AL_STRATEGY]")
    ] = None,
    losses: Annotated[str | None, typer.Option(help="Comma-separated: library, huale. [AL_LOSSES]")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many repetitions with other initial images.")] = 3,
    initial: Annotated[int | None, typer.Option(min=1, help="Labels at the start. [AL_MIN_LABELS]")] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Labels per cycle. [AL_BUDGET]")] = None,
    cycles: Annotated[int, typer.Option(min=1, help="How often a strategy chooses.")] = 5,
    iterations: Annotated[int | None, typer.Option(min=1, help="Steps of each training. [AL_ITERATIONS]")] = None,
    image_size: Annotated[int | None, typer.Option(min=64, help="Instead of AL_IMAGE_SIZE.")] = None,
    full: Annotated[bool, typer.Option(help="Also train on everything, as the reference.")] = True,
    split: Annotated[str | None, typer.Option(help="Split that becomes the pool. [train]")] = None,
    test_split: Annotated[
        str | None, typer.Option(help="Split that is held out. [val, test, or a random quarter]")
    ] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Curves side by side. [what there is room for]")] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find out on labelled data, with the labels withheld, what a strategy would have saved."""
    if (dataset is None) == (project is None):
        raise typer.BadParameter("name a data set, or a project with --project, and not both", param_hint="DATASET")
    with command_output(context.obj, as_json=as_json, device=device) as out_to:
        from al_backend.cli_simulate import Asked, run_simulation, simulation_text

        asked = Asked(
            dataset=dataset,
            out=out,
            project=project,
            detector=detector,
            image_size=image_size,
            strategies=strategies,
            losses=losses,
            seeds=seeds,
            cycles=cycles,
            full=full,
            initial=initial,
            budget=budget,
            iterations=iterations,
            split=split,
            test_split=test_split,
            parallel=parallel,
        )
        document = run_simulation(out_to.doors, asked, out_to.errors)
        out_to.show(document, simulation_text)
        if not document["complete"]:
            raise typer.Exit(1)


def _requested(job: str) -> dict[str, Any]:
    return {"job": job, "status": "queued"}


def _show_pointer(out: Output, project: int) -> None:
    """The moved pointer, and whether somebody lives who carries it to Label Studio."""
    from al_backend.cli_tables import pointer_text
    from al_backend.jobs.client import enqueue_reconcile

    pointer = out.doors.registry.active(project)
    queues = out.doors.queues_if_running()
    if queues is None:
        note = "Label Studio gets it when the backend runs again: no Redis answers, `al-backend up` starts one."
    else:
        enqueue_reconcile(queues, project, "the active version was changed by hand")
        note = None
    out.show({**(pointer.model_dump(mode="json") if pointer else {}), "note": note}, pointer_text)


def main() -> None:
    """The entry point of the `al-backend` command."""
    app(prog_name="al-backend")


if __name__ == "__main__":
    main()
