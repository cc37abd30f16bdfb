"""The demo: the main job from connection to the next cycle, on a real Label Studio and a sample project."""

from __future__ import annotations

import logging
import shutil
import tempfile
import webbrowser
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from al_backend.connect import connect
from al_backend.demo.annotator import label_next
from al_backend.demo.backend import RunningBackend, local_settings
from al_backend.demo.sample import SampleProject, create_sample_project
from al_backend.demo.server import LabelStudioServer
from al_backend.demo.watch import wait_for_publication
from al_backend.errors import BackendError, ConfigError
from al_backend.jobs.queues import Queues
from al_backend.labelstudio.client import LabelStudio
from al_backend.registry import Registry, open_registry
from al_backend.settings import Settings
from model.detectors.factory import load
from model.training.evaluation import Evaluation, evaluate

logger = logging.getLogger(__name__)

BUDGET = 20
LABELLED = 40

LEARNING: dict[str, Any] = {
    "min_labels": LABELLED,
    "train_every": BUDGET,
    "budget": BUDGET,
    "image_size": 320,
    "batch_size": 8,
    "iterations": 200,
}
"""Settings with which a laptop without a GPU gets through the demo in minutes; the environment overrides each."""


def run_demo(settings: Settings, *, headless: bool, cycles: int, as_json: bool, label_studio: Path | None) -> int:
    """Run the demo.

    Args:
        settings: of the user; Label Studio's address, the port and the folders are replaced by the demo's own.
        headless: label by itself for `cycles` cycles and end; otherwise open Label Studio and keep running.
        cycles: of the headless variant, 20 labels each.
        as_json: print one document on stdout.
        label_studio: the `label-studio` program; None searches the project's own environment and PATH.

    Returns:
        Exit code: 0, or 1 when Label Studio served another order than ours.

    Raises:
        BackendError: a part did not come up; the message says which and where its log is.
    """
    console = Console(stderr=True)
    executable = label_studio or find_label_studio()
    folder = _folder(settings, headless)
    console.print(f"Label Studio, images and logs of this demo are in {folder}")
    template = settings.data_dir / "label-studio-template"
    with LabelStudioServer(executable, folder / "label-studio", template_dir=template) as server:
        console.print(f"Label Studio runs at {server.url}")
        client = LabelStudio(server.url, server.token)
        sample = create_sample_project(client, folder / "scenes", labelled=LABELLED)
        console.print(f"Project {sample.project_id}: {len(sample.truth)} images, {LABELLED} of them labelled")
        own = _own_settings(settings, folder, server)
        with RunningBackend(own, folder / "backend.log") as backend:
            queues = backend.queues
            registry = open_registry(own)
            console.print(str(connect(own, client, registry, sample.project_id, queues=queues)))
            if not headless:
                return _keep_running(console, client, registry, queues, server, sample)
            documents = _cycles(console, client, registry, queues, sample, cycles)
    exact = all(document["order_exact"] for document in documents)
    from al_backend.cli.output import print_json, result_console

    if as_json:
        print_json({"cycles": documents})
    else:
        result_console().print(_table(documents))
    shutil.rmtree(folder)
    if not exact:
        console.print("[red]Label Studio served another order than the ranking's.[/]")
    return 0 if exact else 1


def find_label_studio() -> Path:
    """The `label-studio` program: `make` puts it into `.ls-venv`, else the one on PATH.

    Raises:
        ConfigError: there is none.
    """
    beside = Path(".ls-venv/bin/label-studio")
    found = beside if beside.exists() else shutil.which("label-studio")
    if found is None:
        raise ConfigError(
            "No label-studio program was found in .ls-venv or on PATH. Run `make demo`, which installs it, "
            "or name one with --label-studio."
        )
    return Path(found).absolute()


def _folder(settings: Settings, headless: bool) -> Path:
    base = (settings.data_dir / "demo").absolute()
    base.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="headless-" if headless else "", dir=base))


def _own_settings(settings: Settings, folder: Path, server: LabelStudioServer) -> Settings:
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return local_settings(server, folder, **{"reconcile_every": 5.0, **LEARNING, **given})


def _cycles(
    console: Console, client: LabelStudio, registry: Registry, queues: Queues, sample: SampleProject, cycles: int
) -> list[dict[str, Any]]:
    """Cycle 0 is the first version, trained on the labels that were there; each further one adds 20 labels."""
    project_id = sample.project_id
    tab = client.ensure_queue_tab(project_id)
    documents: list[dict[str, Any]] = []
    published = wait_for_publication(registry, queues, project_id, None, console)
    served_exact = True
    for cycle in range(cycles + 1):
        order = _open_order(client, registry, project_id, published["ranking"])
        shown = [task for task, _ in client.queue(project_id, tab, len(order) or 1)]
        documents.append(
            _document(registry, sample, cycle, published, order_exact=served_exact and shown == order, seen=shown)
        )
        console.print(_line(documents[-1]))
        if cycle == cycles:
            break
        labelled = label_next(client, sample, BUDGET)
        served_exact = list(labelled.served) == order[: len(labelled.served)] and len(labelled.served) > 0
        console.print(f"Labelled {len(labelled.served)} images, {labelled.boxes} boxes")
        published = wait_for_publication(registry, queues, project_id, published, console)
    return documents


def _document(
    registry: Registry,
    sample: SampleProject,
    cycle: int,
    published: dict[str, Any],
    *,
    order_exact: bool,
    seen: list[int],
) -> dict[str, Any]:
    version = registry.version(sample.project_id, published["version"])
    result = _evaluate(registry, sample, version.name)
    metrics = version.metrics or {}
    return {
        "cycle": cycle,
        "labels": len(version.labels),
        "boxes": sum(len(sample.truth[int(task)].label) for task in version.labels),
        "version": version.name,
        "map50": result.map50,
        "map50_95": result.map50_95,
        "validation_map50": metrics.get("map50"),
        "train_seconds": round(version.training["seconds"], 1),
        "rank_seconds": published["rank_seconds"],
        "publish_seconds": published["publish_seconds"],
        "order_exact": order_exact,
        "queue": len(seen),
    }


def _evaluate(registry: Registry, sample: SampleProject, version: str) -> Evaluation:
    """Figures on scenes that the project never sees, so that the choice of labels cannot flatter them."""
    return evaluate(load(registry.fetch_version(sample.project_id, version), device="auto"), sample.held_out)


def _open_order(client: LabelStudio, registry: Registry, project_id: int, ranking_id: str) -> list[int]:
    order = registry.read_order(project_id, ranking_id)
    if order is None:
        raise BackendError(f"The registry has no order for the published ranking {ranking_id}.")
    open_tasks = {task.id for task in client.open_tasks(project_id)}
    return [task for task in order["task_id"].to_list() if task in open_tasks]


def _keep_running(
    console: Console,
    client: LabelStudio,
    registry: Registry,
    queues: Queues,
    server: LabelStudioServer,
    sample: SampleProject,
) -> int:
    wait_for_publication(registry, queues, sample.project_id, None, console)
    tab = client.ensure_queue_tab(sample.project_id)
    address = f"{server.url}/projects/{sample.project_id}/data?tab={tab}"
    console.print(f"\nThe queue: [bold]{address}[/]\nLog in as {server.email} with password {server.password}")
    console.print("Label 20 images there and the next version trains by itself. Ctrl-C stops everything.")
    webbrowser.open(address)
    try:
        published = registry.read_document(sample.project_id, "published")
        while True:
            published = wait_for_publication(registry, queues, sample.project_id, published, console, patience=None)
            console.print(f"{published['version']} is published; reload the tab to see its order.")
    except KeyboardInterrupt:
        console.print("Stopping")
    return 0


def _line(document: dict[str, Any]) -> str:
    order = "exact" if document["order_exact"] else "WRONG"
    return (
        f"Cycle {document['cycle']}: {document['labels']} labels, {document['version']}, "
        f"mAP50 {document['map50']:.3f} on held-out scenes, order {order}"
    )


def _table(documents: list[dict[str, Any]]) -> Table:
    table = Table(title="Demo: every cycle adds 20 labels, in the order of the ranking", box=SIMPLE_HEAD)
    for name in documents[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for document in documents:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in document.values()))
    return table
