"""The pages that only show something."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from flask import Response, make_response, render_template, request, send_file

from al_backend.errors import ImageUnavailable, RegistryError
from al_backend.http.dashboard import charts, sentences
from al_backend.http.dashboard.blueprint import blueprint
from al_backend.http.dashboard.facts import ProjectFacts
from al_backend.http.dashboard.live import Live, look, training_log
from al_backend.http.dashboard.queue import PAGE, head_and_summary, image_value_of, published_ranking, queue_page
from al_backend.http.dashboard.report import project_report
from al_backend.http.dashboard.state import dashboard
from al_backend.http.errors import NotKnown
from al_backend.http.services import services

_LOG_LINES = 40


@blueprint.get("/")
@blueprint.get("")
def overview() -> str:
    """All projects."""
    here = services()
    projects = dashboard().facts.projects(here.registry)
    live = look(here, tuple(facts.id for facts in projects))
    rows = [
        {
            "facts": facts,
            "training": sentences.training_state(facts, live),
            "doctor": sentences.doctor_state(facts),
            "examined": sentences.examined_at(facts),
        }
        for facts in projects
    ]
    titles = {facts.id: facts.title for facts in projects}
    return render_template("overview.html", rows=rows, live=live, titles=titles, stamp=_stamp(projects))


@blueprint.get("/projects/<int:project_id>")
def project(project_id: int) -> str:
    """What the labels bought."""
    facts, live = _project(project_id)
    here, board = services(), dashboard()
    ranking = published_ranking(here.registry, facts)
    summary = None if ranking is None else head_and_summary(here.registry, ranking, board.remembered)[1]
    predicted = {} if summary is None else summary["predicted"]
    balance, balance_rows = charts.balance_picture(facts, predicted, board.remembered)
    return _project_page(
        "project.html",
        "learning",
        facts,
        live,
        curve=charts.curve_picture(facts, board.remembered),
        balance=balance,
        balance_rows=balance_rows,
        summary=summary,
        classes=charts.class_rows(facts),
        worth=facts.worth,
    )


@blueprint.get("/projects/<int:project_id>/queue")
def queue(project_id: int) -> str:
    """The next images and why."""
    facts, live = _project(project_id)
    start = request.args.get("from", 0, type=int)
    shown = queue_page(services().registry, facts, dashboard().remembered, start)
    return _project_page("queue.html", "queue", facts, live, queue=shown, page=PAGE)


@blueprint.get("/projects/<int:project_id>/versions")
def versions(project_id: int) -> str:
    """The versions, newest first."""
    facts, live = _project(project_id)
    return _project_page("versions.html", "versions", facts, live)


@blueprint.get("/projects/<int:project_id>/health")
def health(project_id: int) -> str:
    """The doctor's findings."""
    facts, live = _project(project_id)
    findings = facts.doctor.get("findings") or []
    groups = [
        (title, [item for item in findings if item["level"] == level], level)
        for title, level in (("Errors", "error"), ("Warnings", "warning"), ("In order", "ok"))
    ]
    examining = dashboard().examinations.running(project_id)
    return _project_page("health.html", "health", facts, live, groups=groups, examining=examining)


@blueprint.get("/projects/<int:project_id>/report")
def report(project_id: int) -> Response:
    """One file to send around."""
    facts, _ = _project(project_id)
    page = project_report(services().registry, facts, dashboard().remembered)
    response = make_response(page)
    response.headers["Content-Disposition"] = f'attachment; filename="active-learning-project-{project_id}.html"'
    return response


@blueprint.get("/jobs")
def jobs() -> str:
    """Everything that runs, and who runs it."""
    here = services()
    live = look(here, log_lines=_LOG_LINES)
    titles = {facts.id: facts.title for facts in dashboard().facts.projects(here.registry)}
    return render_template("jobs.html", live=live, titles=titles, stamp="")


@blueprint.get("/live")
def live_overview() -> Response:
    """What runs in all projects, for the script."""
    here = services()
    projects = dashboard().facts.projects(here.registry)
    live = look(here, log_lines=_LOG_LINES if "jobs" in request.args else 0)
    titles = {facts.id: facts.title for facts in projects}
    template = "_jobs.html" if "jobs" in request.args else "_live.html"
    return _fragment(render_template(template, live=live, works=live.works, titles=titles), _stamp(projects))


@blueprint.get("/projects/<int:project_id>/live")
def live_project(project_id: int) -> Response:
    """What runs in one project, for the script."""
    facts, live = _project(project_id)
    page = render_template("_live_project.html", **_live_values(facts, live))
    return _fragment(page, _stamp([facts]))


@blueprint.get("/projects/<int:project_id>/images/<int:task_id>")
def image(project_id: int, task_id: int) -> Response:
    """A small copy of the image of one task of the project's order."""
    facts = _facts(project_id)
    board = dashboard()
    value = image_value_of(services().registry, facts, board.remembered, task_id)
    if value is None:
        raise NotKnown(f"Task {task_id} is not in the order of project {project_id}, or its data names no image.")
    try:
        file = board.thumbnails.get(task_id, value)
    except ImageUnavailable as error:
        raise NotKnown(str(error)) from error
    response = send_file(file.resolve(), mimetype="image/jpeg", conditional=True, max_age=3600)
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response


def _project(project_id: int) -> tuple[ProjectFacts, Live]:
    return _facts(project_id), look(services(), (project_id,))


def _facts(project_id: int) -> ProjectFacts:
    facts = dashboard().facts.project(services().registry, project_id)
    if facts is None:
        raise NotKnown(f"Project {project_id} is not connected to this backend; run `al-backend connect {project_id}`.")
    return facts


def _project_page(template: str, tab: str, facts: ProjectFacts, live: Live, **values: Any) -> str:
    return render_template(
        template,
        tab=tab,
        stamp=_stamp([facts]),
        notice=sentences.notices(request.args.get("done", "")),
        doctor=sentences.doctor_state(facts),
        **_live_values(facts, live),
        **values,
    )


def _live_values(facts: ProjectFacts, live: Live) -> dict[str, Any]:
    try:
        log = training_log(services(), facts.id) if not live.trouble else []
    except RegistryError:
        log = []
    return {
        "facts": facts,
        "live": live,
        "works": live.of(facts.id),
        "troubles": sentences.troubles(facts, live),
        "next_step": sentences.next_step(facts, live),
        "log": log,
    }


def _stamp(projects: list[ProjectFacts]) -> str:
    """Changes when a page has something new to show beside what runs."""
    content = [
        [
            facts.id,
            [version.name for version in facts.versions],
            facts.pointer.model_dump(mode="json") if facts.pointer else None,
            facts.published.get("published_at"),
            facts.doctor.get("at"),
            {k: v for k, v in asdict(facts.observed).items() if k != "at"} if facts.observed else None,
        ]
        for facts in projects
    ]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16]


def _fragment(page: str, stamp: str) -> Response:
    response = make_response(page)
    response.headers["X-Stamp"] = stamp
    return response
