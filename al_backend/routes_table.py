"""Writes `docs/routes.md` from the web app itself: `python -m al_backend.routes_table > docs/routes.md`.

Routes come from the app's own map, and who may ask from what it answers; metrics from their definitions.
"""

from __future__ import annotations

import inspect
import logging

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from al_backend.http.app import create_app
from al_backend.metrics import DEFINITIONS
from al_backend.settings import load_settings

_HEAD = """# Routes and metrics

Written by `python -m al_backend.routes_table`; edit the modules of `al_backend/http/` instead.

## Routes

"Password" is HTTP basic auth with `BASIC_AUTH_USER` and `BASIC_AUTH_PASS`; where these are not set, everybody may ask.
Label Studio sends no password with its events, so `/webhook` also takes `Authorization: Bearer <WEBHOOK_SECRET>`, which
`al-backend connect` puts on the project's webhook. Errors are JSON, `{"error": "..."}`, with a sentence that says what
to do, except for people: the pages under `/dashboard` are HTML.

"""

_METRICS_HEAD = """
## Metrics

`GET /metrics`, in the text format of Prometheus. Requests are counted by the whole web server; what workers do is added
up in Redis, so that one scrape shows all machines, and begins again from zero when Redis is emptied.

"""

_NAME, _WEBHOOK_SECRET = "nobody-at-all", "of-no-webhook"
_REFUSED = (302, 303, 401, 403)


def routes_page() -> str:
    """The whole page, in Markdown."""
    return _HEAD + _routes_table() + _METRICS_HEAD + _metrics_table()


def documented_app() -> Flask:
    """The app with every protection switched on; it asks nobody for anything before a request does."""
    # The values protect nothing: this app is never served.
    return create_app(load_settings(basic_auth_user=_NAME, basic_auth_pass=_NAME, webhook_secret=_WEBHOOK_SECRET))


def _routes_table() -> str:
    app = documented_app()
    rows = ["| Route | Methods | Who may ask | |", "|---|---|---|---|"]
    with app.test_client() as client:
        for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
            methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
            doc = (inspect.getdoc(app.view_functions[rule.endpoint]) or "").split("\n\n")[0].replace("\n", " ")
            rows.append(f"| `{rule.rule}` | {', '.join(methods)} | {_who(client, rule, methods[0])} | {doc} |")
    return "\n".join(rows) + "\n"


def _who(client: FlaskClient, rule: Rule, method: str) -> str:
    """What the app itself answers to somebody without a password, and to somebody with the webhook's secret."""
    path = rule.rule
    for name in rule.arguments:
        kind = type(rule._converters[name]).__name__
        for converter in ("int:", "path:", "string:", ""):
            path = path.replace(f"<{converter}{name}>", "1" if kind == "IntegerConverter" else "x")
    if client.open(path, method=method).status_code not in _REFUSED:
        return "everybody"
    bearer = {"Authorization": f"Bearer {_WEBHOOK_SECRET}"}
    takes_secret = client.open(path, method=method, headers=bearer).status_code not in _REFUSED
    return "password or webhook secret" if takes_secret else "password"


def _metrics_table() -> str:
    rows = ["| Name | Type | Labels | |", "|---|---|---|---|"]
    for metric in DEFINITIONS.values():
        names = ", ".join(f"`{name}`" for name in metric.samples)
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| {names} | {metric.kind.value} | {labels} | {metric.help} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    logging.disable()  # the app reports guesses at its password, which these are
    print(routes_page(), end="")
