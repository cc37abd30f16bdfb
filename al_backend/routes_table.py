"""Writes `docs/routes.md` from the web app itself: `python -m al_backend.routes_table > docs/routes.md`.

Routes come from the app's own map, who may ask from what the app answers, metrics from the sources that make them.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from al_backend.http.app import create_app
from al_backend.settings import load_settings

_HEAD = """# Routes and metrics

Written by `python -m al_backend.routes_table`; edit the modules of `al_backend/http/` instead.

## Routes

"Password" is HTTP basic auth with `BASIC_AUTH_USER` and `BASIC_AUTH_PASS`; where these are not set, everybody may ask.
Label Studio sends no password with its events, so `/webhook` also takes `Authorization: Bearer <WEBHOOK_SECRET>`, which
`al-backend connect` puts on the project's webhook. Errors are JSON, `{"error": "..."}`, with a sentence that says what
to do.

"""

_METRICS_HEAD = """
## Metrics

`GET /metrics`, in the text format of Prometheus. Requests are counted by the whole web server; queues and workers are
read from Redis, versions from the registry when it is asked.

"""

_KINDS = {
    "Counter": "counter",
    "CounterMetricFamily": "counter",
    "Gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "Histogram": "histogram",
    "HistogramMetricFamily": "histogram",
    "Summary": "summary",
}
_NAME, _WEBHOOK_SECRET = "docs", "docs-webhook"
_REFUSED = (302, 303, 401, 403)


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One family of metrics, as the sources make it.

    Attributes:
        name: as `/metrics` shows it after `# TYPE`.
        kind: counter, gauge, histogram or summary.
        labels: of its samples.
        meaning: its help text.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def routes_page() -> str:
    """The whole page, in Markdown."""
    return _HEAD + _routes_table() + _METRICS_HEAD + _metrics_table()


def documented_app() -> Flask:
    """The app with every protection switched on; it asks nobody for anything before a request does."""
    # The values protect nothing: this app is never served.
    return create_app(load_settings(basic_auth_user=_NAME, basic_auth_pass=_NAME, webhook_secret=_WEBHOOK_SECRET))


def metric_families() -> list[MetricFamily]:
    """Everything that the sources make for `/metrics`, by name."""
    folder = Path(__file__).parent
    found = {family.name: family for path in sorted(folder.rglob("*.py")) for family in _families_in(path)}
    return [found[name] for name in sorted(found)]


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
    for family in metric_families():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.meaning} |")
    return "\n".join(rows) + "\n"


def _families_in(path: Path) -> Iterator[MetricFamily]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        texts = [item.value for item in node.args[:2] if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        if called not in _KINDS or len(texts) != 2:
            continue
        lists = [item for item in (*node.args[2:], *_named(node, "labels")) if isinstance(item, (ast.List, ast.Tuple))]
        labels = tuple(str(ast.literal_eval(item)) for entry in lists[:1] for item in entry.elts)
        suffix = "_total" if _KINDS[called] == "counter" and not texts[0].endswith("_total") else ""
        yield MetricFamily(texts[0] + suffix, _KINDS[called], labels, texts[1])


def _named(node: ast.Call, *names: str) -> list[ast.expr]:
    return [keyword.value for keyword in node.keywords if keyword.arg in (*names, "labelnames")]


if __name__ == "__main__":
    print(routes_page(), end="")
