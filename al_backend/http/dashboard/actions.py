"""What a person can make happen: a page that says what will happen, and the form on it that does it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis
from flask import Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

from al_backend.errors import BackendError
from al_backend.http.dashboard.blueprint import blueprint, error_page
from al_backend.http.dashboard.facts import ProjectFacts
from al_backend.http.dashboard.formats import duration
from al_backend.http.dashboard.state import dashboard
from al_backend.http.errors import BadRequest, NotKnown
from al_backend.http.services import Services, services
from al_backend.jobs.cancel import cancel
from al_backend.jobs.client import enqueue_reconcile, request_ranking, request_training

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is asked before something happens.

    Attributes:
        title: the question.
        sentences: what will happen.
        button: that says yes.
        page: to go back to.
        version: that the action is about; "" for none.
        from_scratch: whether to offer a start from the base checkpoint.
    """

    title: str
    sentences: Sequence[str]
    button: str
    page: str
    version: str = ""
    from_scratch: bool = False


@blueprint.get("/projects/<int:project_id>/confirm/<action>")
def confirm(project_id: int, action: str) -> str:
    """What an action will do."""
    facts = _known(project_id)
    question = _action(action).question(facts, request.args.get("version", ""))
    return render_template(
        "confirm.html", facts=facts, action=action, question=question, token=dashboard().csrf.token()
    )


@blueprint.post("/projects/<int:project_id>/do/<action>")
def do(project_id: int, action: str) -> Response | WerkzeugResponse:
    """Do it."""
    dashboard().csrf.check(request)
    facts = _known(project_id)
    found = _action(action)
    version = request.form.get("version", "")
    question = found.question(facts, version)
    done = found.perform(services(), facts, version)
    logger.info("Project %d: %s%s from the dashboard", project_id, action, f" {version}" if version else "")
    return redirect(url_for(f"dashboard.{question.page}", project_id=project_id, done=done), 303)


@blueprint.get("/projects/<int:project_id>/do/<action>")
def not_so(project_id: int, action: str) -> Response:
    """Addresses of actions are not for looking."""
    return error_page(405, "An action needs its form. Nothing was done; use the buttons of the project's pages.")


@dataclass(frozen=True, slots=True)
class _Action:
    question: Callable[[ProjectFacts, str], Question]
    perform: Callable[[Services, ProjectFacts, str], str]


def _known(project_id: int) -> ProjectFacts:
    facts = dashboard().facts.project(services().registry, project_id)
    if facts is None:
        raise NotKnown(f"Project {project_id} is not connected to this backend.")
    return facts


def _action(name: str) -> _Action:
    if name not in _ACTIONS:
        raise NotKnown(f"There is no action {name!r}; there are {', '.join(_ACTIONS)}.")
    return _ACTIONS[name]


def _ask_train(facts: ProjectFacts, _: str) -> Question:
    last = facts.versions[-1] if facts.versions else None
    took = f" The last one took {duration(last.seconds)}." if last is not None and last.seconds else ""
    start = f"starts from {facts.active.name}" if facts.active else "starts from the base checkpoint"
    return Question(
        "Train now?",
        (
            f"A training on all {facts.labels:,} labelled images begins as soon as the training worker is free, "
            f"however few of them are new. It {start}.{took}",
            "The new version replaces the active one only if it is not worse on the held-out images.",
            "Annotators can go on labelling meanwhile.",
        ),
        "Train now",
        "project",
        from_scratch=facts.active is not None,
    )


def _train(here: Services, facts: ProjectFacts, _: str) -> str:
    request_training(here.registry, here.queues, facts.id, from_scratch="from_scratch" in request.form)
    return "train"


def _ask_rank(facts: ProjectFacts, _: str) -> Question:
    if facts.pointer is None or (facts.active is None and not facts.cold_start):
        raise BadRequest("There is no version yet that could rank the pool; workers that run make one by themselves.")
    strategy = "what the images look like" if facts.cold_start else f"the strategy `{facts.learning.strategy}`"
    pool = facts.observed.pool if facts.observed is not None else facts.published_tasks
    images = "the open tasks" if pool is None else f"{pool:,} open tasks"
    seconds = None if pool is None or not facts.images_per_second else pool / facts.images_per_second
    about = "" if seconds is None else f", which takes about {duration(seconds)} of one inference worker"
    return Question(
        "Rank now?",
        (
            f"{facts.pointer.version} measures {images} anew, by {strategy}{about}.",
            "Label Studio keeps the present order until the new one is published.",
        ),
        "Rank now",
        "queue",
    )


def _rank(here: Services, facts: ProjectFacts, _: str) -> str:
    request_ranking(here.registry, here.queues, facts.id)
    return "rank"


def _ask_promote(facts: ProjectFacts, version: str) -> Question:
    found = next((item for item in facts.versions if item.name == version), None)
    if found is None:
        raise NotKnown(f"Project {facts.id} has no version {version!r}.")
    if facts.active is not None and found.name == facts.active.name:
        raise BadRequest(f"{version} is the active version already.")
    if found.removed_at is not None:
        raise BadRequest(f"The weights of {version} were removed to save room; only its record is left.")
    warning = () if found.promoted else (f"The gate refused this version: {found.verdict}",)
    replaced = f"{facts.active.name} stays and can be promoted again." if facts.active else ""
    return Question(
        f"Promote {version}?",
        (
            *warning,
            f"{version} becomes the active version: it measures the pool anew, and Label Studio then shows its "
            "pre-annotations and its order. Until that is published the present ones stay.",
            *((replaced,) if replaced else ()),
        ),
        "Promote",
        "versions",
        version=version,
    )


def _promote(here: Services, facts: ProjectFacts, version: str) -> str:
    here.registry.promote(facts.id, version, reason="promoted by hand in the dashboard")
    return _tell(here, facts.id, "promote")


def _ask_rollback(facts: ProjectFacts, _: str) -> Question:
    if facts.pointer is None or facts.pointer.previous is None:
        raise BadRequest("No version was active before the present one, so there is nothing to go back to.")
    return Question(
        f"Go back to {facts.pointer.previous}?",
        (
            f"{facts.pointer.previous} becomes the active version again in place of {facts.pointer.version}: it "
            "measures the pool anew, and Label Studio then shows its pre-annotations and its order.",
            f"{facts.pointer.version} stays and can be promoted again.",
        ),
        "Roll back",
        "versions",
    )


def _rollback(here: Services, facts: ProjectFacts, _: str) -> str:
    here.registry.rollback(facts.id)
    return _tell(here, facts.id, "rollback")


def _ask_cancel(facts: ProjectFacts, _: str) -> Question:
    stays = f"{facts.active.name} stays active" if facts.active else "nothing that is active changes"
    return Question(
        "Cancel the training and the ranking?",
        (
            "A training that runs stops after the step that it is at, and what it learnt so far is thrown away. A "
            "ranking in work is dropped. What only waits does not start.",
            f"{stays[0].upper()}{stays[1:]}, and Label Studio keeps the order that it has.",
            f"The next training starts with Train now, or after {facts.learning.train_every:,} labels that are newer "
            "than this moment; the next ranking with Rank now, or when another version becomes active.",
        ),
        "Cancel them",
        "project",
    )


def _cancel(here: Services, facts: ProjectFacts, _: str) -> str:
    report = cancel(here.queues, here.registry, facts.id)
    return "nothing" if report.training is None and report.ranking is None else "cancel"


def _ask_examine(facts: ProjectFacts, _: str) -> Question:
    return Question(
        "Examine the project?",
        (
            "The doctor looks at this machine, at Label Studio and at the project. It changes nothing and takes some "
            "seconds.",
        ),
        "Examine",
        "health",
    )


def _examine(here: Services, facts: ProjectFacts, _: str) -> str:
    dashboard().examinations.start(here.registry, facts.id)
    return "examine"


def _tell(here: Services, project_id: int, done: str) -> str:
    """Let the workers carry a moved pointer to Label Studio; without Redis their next look finds it."""
    try:
        enqueue_reconcile(here.queues, project_id, "the active version was changed in the dashboard")
    except (BackendError, redis.RedisError) as error:
        logger.warning("Project %d: the workers could not be told: %s", project_id, error)
        return "moved"
    return done


_ACTIONS = {
    "train": _Action(_ask_train, _train),
    "rank": _Action(_ask_rank, _rank),
    "promote": _Action(_ask_promote, _promote),
    "rollback": _Action(_ask_rollback, _rollback),
    "cancel": _Action(_ask_cancel, _cancel),
    "examine": _Action(_ask_examine, _examine),
}
