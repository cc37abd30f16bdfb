"""The dashboard: does it work, what is it doing now, what did the labels buy, what comes next and why.

Server-rendered pages, behind the same password as everything else:

| address | shows |
|---|---|
| `/dashboard` | all projects |
| `/dashboard/projects/<id>` | the learning curve, class balance, average precision per class |
| `/dashboard/projects/<id>/queue?from=0` | the next images, their boxes, and why they stand where they stand |
| `/dashboard/projects/<id>/versions` | the versions, and what can be done with them |
| `/dashboard/projects/<id>/health` | the doctor's findings |
| `/dashboard/projects/<id>/report` | one file to send around |
| `/dashboard/jobs` | jobs with their last log lines, workers, queues |
| `/dashboard/projects/<id>/confirm/<action>` | what an action will do; the form on it posts to the next |
| `POST /dashboard/projects/<id>/do/<action>` | does it, and goes back to a page |
| `/dashboard/projects/<id>/live`, `/dashboard/live` | what runs now, a part of a page, for the script |
| `/dashboard/projects/<id>/images/<task>` | a small copy of a task's image |
| `/dashboard/static/<name>` | style and script |

What a page shows comes from the registry, from Redis and from what the last look at Label Studio has stored: nobody
waits for Label Studio, except the doctor in a thread of its own and an image that no worker has fetched yet. A page is
there with an empty registry, without Redis and without Label Studio, and says what is missing.
"""

from __future__ import annotations

from flask import Flask

from al_backend.http.dashboard.blueprint import blueprint
from al_backend.http.dashboard.state import install
from al_backend.settings import Settings


def install_dashboard(app: Flask, settings: Settings) -> None:
    """Add the dashboard's pages to an app."""
    from al_backend.http.dashboard import actions, pages  # noqa: F401  # their import adds the routes

    install(app, settings)
    app.register_blueprint(blueprint)
