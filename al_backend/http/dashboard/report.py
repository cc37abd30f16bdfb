"""A project as one file to send around: the pictures and tables of its page, with nothing outside of it."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from al_backend import __version__
from al_backend.errors import BackendError
from al_backend.http.dashboard import charts, formats
from al_backend.http.dashboard.blueprint import static_file
from al_backend.http.dashboard.facts import Facts, ProjectFacts
from al_backend.http.dashboard.queue import head_and_summary, published_ranking
from al_backend.http.dashboard.state import Remembered
from al_backend.jobs.documents import now
from al_backend.registry import Registry
from al_backend.settings import Settings


def project_report(registry: Registry, facts: ProjectFacts, remembered: Remembered) -> str:
    """The report of a project as an HTML page.

    Args:
        registry: that holds the project.
        facts: of the project.
        remembered: pictures that are drawn already.
    """
    ranking = published_ranking(registry, facts)
    summary = None if ranking is None else head_and_summary(registry, ranking, remembered)[1]
    balance, rows = charts.balance_picture(facts, {} if summary is None else summary["predicted"], remembered)
    return (
        _environment()
        .get_template("report.html")
        .render(
            facts=facts,
            ranking=ranking,
            summary=summary,
            curve=charts.curve_picture(facts, remembered),
            balance=balance,
            balance_rows=rows,
            classes=charts.class_rows(facts),
            worth=facts.worth,
            made_at=now(),
            release=__version__,
            style=Markup(static_file("dashboard.css").decode()),
        )
    )


def write_report(settings: Settings, registry: Registry, project_id: int, out: Path) -> ProjectFacts:
    """Write the report of a project to a file.

    Raises:
        BackendError: the project is not connected, or the file cannot be written.
    """
    facts = Facts(settings).project(registry, project_id)
    if facts is None:
        raise BackendError(f"Project {project_id} is not connected; run `al-backend connect {project_id}`.")
    page = project_report(registry, facts, Remembered())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BackendError(f"Cannot write {out} ({error.strerror or error}); name another file with --out.") from error
    return facts


def _environment() -> Environment:
    # Not Flask's: the command line has no app.
    environment = Environment(
        loader=PackageLoader("al_backend.http.dashboard"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(formats.FILTERS)
    return environment
