"""Commands that find something out: `doctor`, `report`, `simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from al_backend.cli.options import DeviceOption, JsonOption, ProjectArgument, app
from al_backend.cli.output import command_output


@app.command()
def doctor(
    context: typer.Context,
    project: Annotated[int | None, typer.Argument(metavar="[PROJECT]", min=1, help="Look at this one, too.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what is safe; needs PROJECT.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check everything that has to work together, and say what to do about what does not."""
    if fix and project is None:
        raise typer.BadParameter("name the project that is to be repaired", param_hint="PROJECT")
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.cli.tables import findings_text, treatment_text
        from al_backend.doctor import Level, examine, treat

        if fix and project is not None:
            treatment = treat(out.doors.settings, project)
            findings = list(treatment.findings)
            out.show(treatment, treatment_text)
        else:
            findings = examine(out.doors.settings, project)
            out.show(findings, findings_text)
        if any(finding.level is Level.ERROR for finding in findings):
            raise typer.Exit(1)


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
        from al_backend.cli.simulate import Asked, run_simulation
        from al_backend.cli.simulation_output import simulation_text

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
