"""The Grafana board and the alert rules ask for metrics that there are, by labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from al_backend.http.app import create_app
from al_backend.jobs import telemetry
from al_backend.jobs.queues import Queues
from al_backend.metrics import DEFINITIONS, PREFIX, Definition, Kind
from al_backend.registry import Registry
from al_backend.settings import load_settings

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
BOARD = json.loads((DEPLOY / "grafana" / "al-backend.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
BY_SAMPLE: dict[str, Definition] = {name: item for item in DEFINITIONS.values() for name in item.samples}


def queries() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of the board and of the alerts."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]


@pytest.fixture
def scraped(tmp_path: Path, queues: Queues) -> str:
    settings = load_settings(model_dir=str(tmp_path / "registry"), data_dir=tmp_path)
    client = create_app(settings, registry=Registry(settings.model_dir), queues=queues).test_client()
    client.get("/health")
    return client.get("/metrics").get_data(as_text=True)


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_a_query_asks_for_what_there_is(where: str, query: str) -> None:
    names = re.findall(rf"\b{PREFIX}\w+", query)
    assert names or "up{" in query, where
    for name in names:
        assert name in BY_SAMPLE, f"{where}: nobody exposes {name}"
        selector = re.search(rf"\b{name}\{{([^}}]*)\}}", query)
        for label in re.findall(r"(\w+)\s*(?:=~|!=|=|!~)", selector[1] if selector else ""):
            assert label in BY_SAMPLE[name].labels, f"{where}: {name} has no label {label}"
    asked = {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", query) for label in labels.split(",")}
    known = {label for name in names for label in BY_SAMPLE[name].labels} | {"le"}
    assert asked <= known, where


@pytest.mark.redis
def test_every_metric_is_exposed_with_its_help(scraped: str) -> None:
    for definition in DEFINITIONS.values():
        shown = f"{definition.name}_total" if definition.kind is Kind.COUNTER else definition.name
        assert f"# HELP {shown} {definition.help}\n" in scraped, definition.name
        assert f"# TYPE {shown} {definition.kind.value}\n" in scraped, definition.name
    families = {family.name for family in text_string_to_metric_families(scraped)}
    extra = {name for name in families if name.removesuffix("_created") not in DEFINITIONS}
    assert not extra, "a metric without a definition"


def test_metrics_are_named_as_prometheus_wants_them() -> None:
    for name, definition in DEFINITIONS.items():
        assert re.fullmatch(rf"{PREFIX}[a-z0-9]+(_[a-z0-9]+)*", name)
        assert not name.endswith(("_total", "_count", "_sum", "_bucket")), "these endings are added"
        assert definition.help.endswith(".")
        assert all(re.fullmatch(r"[a-z_]+", label) for label in definition.labels)
        if "seconds" in name or "duration" in name:
            assert "_seconds" in name, "times are in seconds"


@pytest.mark.redis
def test_what_workers_count_is_exposed(tmp_path: Path, queues: Queues) -> None:
    settings = load_settings(model_dir=str(tmp_path / "registry"), data_dir=tmp_path)
    registry = Registry(settings.model_dir)
    registry.register_project(7, label_config="<View/>", overrides={})
    for definition in DEFINITIONS.values():
        labels = dict.fromkeys(definition.labels, "7")
        if definition.kind is Kind.SUMMARY:
            telemetry.observe(queues.connection, definition, 2.5, **labels)
            telemetry.observe(queues.connection, definition, 1.5, **labels)
        elif definition.kind is Kind.COUNTER and "route" not in labels:
            telemetry.add(queues.connection, definition, 3, **labels)
            telemetry.add(queues.connection, definition, 4, **labels)
    telemetry.put(queues.connection, {DEFINITIONS["al_backend_pool_tasks"]: 96}, project=7)
    telemetry.put(queues.connection, {DEFINITIONS["al_backend_pool_tasks"]: 5}, project=8)

    client = create_app(settings, registry=registry, queues=queues).test_client()
    text = client.get("/metrics").get_data(as_text=True)

    values = {
        (found.name, tuple(found.labels.values())): found.value
        for family in text_string_to_metric_families(text)
        for found in family.samples
    }
    assert values["al_backend_job_seconds_count", ("7",)] == 2
    assert values["al_backend_job_seconds_sum", ("7",)] == 4.0
    assert values["al_backend_images_scored_total", ("7",)] == 7
    assert values["al_backend_job_failures_total", ("7", "7")] == 7
    assert values["al_backend_pool_tasks", ("7",)] == 96
    assert ("al_backend_pool_tasks", ("8",)) not in values, "nobody serves project 8"


@pytest.mark.redis
def test_a_metric_with_wrong_labels_is_refused(queues: Queues) -> None:
    with pytest.raises(ValueError, match="project"):
        telemetry.add(queues.connection, DEFINITIONS["al_backend_rankings"], kind="rank")


def test_the_board_can_be_loaded() -> None:
    for field in ("uid", "title", "schemaVersion", "version", "panels", "templating", "time", "refresh", "tags"):
        assert field in BOARD, field
    assert "id" not in BOARD, "a board with an id replaces another one when it is provisioned"
    assert {variable["name"] for variable in BOARD["templating"]["list"]} == {"datasource", "project"}
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["type"] in ("stat", "timeseries")
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)


def test_no_panel_covers_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for column in range(place["x"], place["x"] + place["w"]):
            for line in range(place["y"], place["y"] + place["h"]):
                assert (column, line) not in taken, f"{panel['title']} covers {taken[column, line]}"
                taken[column, line] = panel["title"]


def test_the_board_shows_every_metric() -> None:
    shown = " ".join(query for _, query in queries())
    unseen = {
        name
        for name, definition in DEFINITIONS.items()
        if not any(re.search(rf"\b{sample}\b", shown) for sample in definition.samples)
    }
    # Jobs that ended are in the summary of their time; the time of scoring is there for people's own queries.
    assert unseen <= {"al_backend_jobs", "al_backend_scoring_seconds"}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
    labels = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    kept = {label.strip() for found in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in found.split(",")}
    assert labels <= kept | {"instance"}, "an annotation names a label that the query does not keep"


def test_the_files_that_bind_them_together_are_yaml() -> None:
    provisioning = yaml.safe_load((DEPLOY / "grafana" / "provisioning.yml").read_text(encoding="utf-8"))
    assert provisioning["providers"][0]["type"] == "file"
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yml").read_text(encoding="utf-8"))
    assert scrape["scrape_configs"][0]["job_name"] in str([rule["expr"] for rule in ALERTS])
