"""The OpenAPI document is true: it names the routes, and they answer as it says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from al_backend.http.app import create_app
from al_backend.http.openapi import document
from al_backend.jobs.queues import Queues
from al_backend.registry import Registry
from al_backend.settings import Settings
from tests.al_backend.http.label_studio_bodies import LABEL_CONFIG

pytestmark = pytest.mark.redis

KNOWN = 5
PAGES = "/dashboard"
"""For people; the document is about what programs call."""


@pytest.fixture
def app(settings: Settings, registry: Registry, queues: Queues) -> Flask:
    """A backend without workers: `/predict` answers 503 at once."""
    registry.register_project(KNOWN, label_config=LABEL_CONFIG, overrides={})
    return create_app(settings, registry=registry, queues=queues)


def routes(app: Flask) -> set[tuple[str, str]]:
    return {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith(PAGES)
    }


def test_the_document_names_every_route_and_no_other(app: Flask) -> None:
    named = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    assert named == routes(app), "write it into al_backend/http/openapi.py"


def test_it_is_served_and_says_which_routes_are_open(app: Flask) -> None:
    served = app.test_client().get("/openapi.json")
    assert served.json == document()
    still_open = {
        path for path, item in document()["paths"].items() for it in item.values() if it.get("security") == []
    }
    assert still_open == {"/", "/health"}


def test_every_operation_lists_the_statuses_that_all_routes_have(app: Flask) -> None:
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            assert "200" in operation["responses"], path
            assert ("413" in operation["responses"]) is (method == "post"), path
            assert ("401" in operation["responses"]) is (path not in ("/", "/health")), path


def test_what_follows_the_document_is_answered_as_the_document_says(app: Flask, registry: Registry) -> None:
    """Schemathesis makes requests from the document, right and wrong ones, and compares the answers with it."""
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    operations: Iterable[Any] = schema.get_all_operations()
    for result in operations:
        operation = result.ok()

        @given(case=operation.as_strategy(), wrong=operation.as_strategy(generation_mode=_NEGATIVE) | st.none())
        @hypothesis_settings(max_examples=15, deadline=None, phases=_PHASES, suppress_health_check=list(HealthCheck))
        def ask(case: Any, wrong: Any) -> None:
            registry.register_project(KNOWN, label_config=LABEL_CONFIG, overrides={})
            for asked in filter(None, (case, wrong)):
                asked.validate_response(asked.call(), checks=_CHECKS)

        ask()


_NEGATIVE = schemathesis.GenerationMode.NEGATIVE
_PHASES = (Phase.explicit, Phase.generate)  # a failure is explained by its request, shrunk or not
# A 503 that the document names is right, and one that it does not name is no conforming status.
_CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
