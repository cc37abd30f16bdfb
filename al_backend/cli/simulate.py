"""The command `simulate`: from its arguments to an experiment and its report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from al_backend.base_checkpoint import may_be_pickled
from al_backend.cli.simulation_output import display
from al_backend.errors import BackendError, WrongUse
from al_backend.settings import LearningSettings
from model.acquisition.strategy import StrategyConfig
from model.detectors.factory import find_base
from model.errors import ModelError
from model.names import architectures, is_detector
from model.simulation.cell import Experiment
from model.simulation.data import REEF_COUNT, SimulationData, directory_data, reef_data, reef_name
from model.simulation.detectors import FactoryDetectors
from model.simulation.notes import notes, problem_note
from model.simulation.output import write_report
from model.simulation.plan import DIVERSITY_SUFFIX, Plan, parse_strategy
from model.simulation.results import BASELINE, collect
from model.simulation.runner import SimulationProgress, run_experiment
from model.simulation.store import Store
from model.simulation.summary import summarise
from model.training.config import TrainingConfig
from model.training.loss_config import LossConfig

if TYPE_CHECKING:
    from al_backend.cli.output import Doors

LOSSES = {"library": LossConfig(), "huale": LossConfig.huale()}
_REEF = re.compile(r"reef(?::(\d+))?")
_REEF_SIZE = 640

Value = TypeVar("Value")


@dataclass(frozen=True)
class Asked:
    """What the command line said; None takes the environment's setting.

    Attributes:
        dataset: `reef`, `reef:COUNT`, or the path of a VOC, COCO or YOLO data set; None with a project.
        out: folder of the experiment.
        project: a labelled project of Label Studio instead.
        detector: architecture.
        image_size: pixels of the longer side.
        strategies: comma-separated; None compares the environment's with random order.
        losses: comma-separated.
        seeds: how many.
        cycles: how often each strategy chooses.
        full: whether everything is trained on, too, as a reference.
        initial: labels at the start.
        budget: labels per cycle.
        iterations: steps of each training.
        split: of the data set that becomes the pool.
        test_split: of the data set that is held out.
        parallel: cells side by side.
    """

    dataset: str | None
    out: Path
    project: int | None = None
    detector: str | None = None
    image_size: int | None = None
    strategies: str | None = None
    losses: str | None = None
    seeds: int = 3
    cycles: int = 5
    full: bool = True
    initial: int | None = None
    budget: int | None = None
    iterations: int | None = None
    split: str | None = None
    test_split: str | None = None
    parallel: int | None = None


def run_simulation(doors: Doors, asked: Asked, console: Console) -> dict[str, Any]:
    """Run or continue an experiment and write its report.

    Args:
        doors: settings, which apply as they would to a project; base weights; Label Studio, for a project.
        asked: see `Asked`.
        console: for progress.

    Returns:
        What came out in short, with the paths of the files.

    Raises:
        WrongUse: an argument or a setting is malformed.
        BackendError: the data do not allow such an experiment.
        ModelError: the data cannot be read, or the folder holds another experiment.
    """
    settings = _learning(doors, asked)
    plan = _valid(lambda: make_plan(settings, asked))
    base = find_base(settings.detector, doors.registry.base_folder)
    source = FactoryDetectors(settings.detector, settings.image_size, base, may_be_pickled(settings.detector))
    _check_data(asked)
    store = _store(asked.out)
    with display(console) as show:
        with store.alone():  # before the pictures of an experiment that goes on could be drawn anew
            store.refuse_other(plan, source, data_name=_known_name(asked))
            try:
                data = _data(doors, settings, asked, lambda done, total: show("images", done, total, None))
            except KeyboardInterrupt:
                raise BackendError("Stopped before the first training; the same command goes on.") from None
        for sentence in problem_note(data.problems):
            console.print(f"! {sentence}", markup=False, highlight=False, soft_wrap=True)
        experiment = Experiment(plan, data, source, asked.out)

        def progress(now: SimulationProgress) -> None:
            show(f"trainings: {'; '.join(now.running) or 'done'}", now.done, now.total, now.eta_seconds)

        outcome = _valid(
            lambda: run_experiment(
                experiment, device=doors.settings.device, parallel=asked.parallel, on_progress=progress
            )
        )
    results = collect(experiment, outcome, others=True)
    files = write_report(results, asked.out)
    return {
        "complete": results.complete,
        "ended_early": outcome.ended_early,
        "seconds": round(outcome.seconds, 1),
        **{kind: str(path) for kind, path in files.items()},
        "notes": notes(results),
        "strategies": [asdict(item) for item in summarise(results)],
    }


def make_plan(settings: LearningSettings, asked: Asked) -> Plan:
    """The experiment's settings: the command line before the environment.

    Raises:
        ValueError: a name is unknown or a number out of range.
    """
    shared = {field.name for field in fields(StrategyConfig)} - {"name", "diversity"}
    config = StrategyConfig(**{name: getattr(settings, name) for name in shared})
    own = f"{settings.strategy}{DIVERSITY_SUFFIX if settings.diversity else ''}"
    names = asked.strategies or ",".join(dict.fromkeys((BASELINE, own)))
    losses = _names(asked.losses or settings.losses)
    unknown = [name for name in losses if name not in LOSSES]
    if unknown:
        raise ValueError(f"losses are {', '.join(unknown)}, expected names among: {', '.join(LOSSES)}")
    return Plan(
        strategies=tuple(parse_strategy(name, config) for name in _names(names)),
        seeds=tuple(range(asked.seeds)),
        initial=settings.min_labels if asked.initial is None else asked.initial,
        budget=settings.budget if asked.budget is None else asked.budget,
        cycles=asked.cycles,
        training=TrainingConfig(
            iterations=settings.iterations if asked.iterations is None else asked.iterations,
            batch_size=settings.batch_size,
        ),
        losses=tuple((name, LOSSES[name]) for name in losses),
        min_score=settings.measured_from(settings.detector),
        pool_size=settings.pool_size,
        full=asked.full,
    )


def _learning(doors: Doors, asked: Asked) -> LearningSettings:
    """The command line before what a connected project overrides before the environment."""
    record = None if asked.project is None else doors.registry.project(asked.project)
    if asked.detector is not None and not is_detector(asked.detector):
        raise WrongUse(
            f"detector is {asked.detector!r}, expected one of: {', '.join(architectures())}; or the path of an "
            "Ultralytics .yaml file"
        )
    own = {"detector": asked.detector, "image_size": asked.image_size}
    learning = doors.settings.learning.overridden({} if record is None else record.overrides)
    learning = learning.replaced({name: value for name, value in own.items() if value is not None})
    _require_file(learning.detector)
    return learning


def _require_file(detector: str) -> None:
    """Refuse a file that is not there now, and not in every training."""
    if detector in architectures() or (detector.endswith(".pt") and Path(detector).is_file()):
        return
    missing = f"detector is {detector!r}: no such file, looked for {Path(detector).absolute()}"
    if detector.endswith(".pt"):
        raise WrongUse(missing)
    from model.detectors.yolo_network import network_description  # seconds, for the names that Ultralytics knows

    try:
        network_description(detector)
    except ValueError as error:
        raise WrongUse(missing if isinstance(error.__cause__, FileNotFoundError) else str(error)) from error


def _data(
    doors: Doors, settings: LearningSettings, asked: Asked, progress: Callable[[int, int], None]
) -> SimulationData:
    if asked.project is not None:
        from al_backend.labelled_project import read_project

        return read_project(doors.settings, settings, doors.label_studio, asked.project, asked.out / "images", progress)
    count = _reef_count(asked)
    if count is not None:
        size = min(settings.image_size, _REEF_SIZE)
        return reef_data(asked.out / "reef", count, size=size, progress=progress)
    return _valid(lambda: directory_data(Path(str(asked.dataset)), split=asked.split, test_split=asked.test_split))


def _check_data(asked: Asked) -> None:
    """Refuse what can be seen to be no data before a folder is made for them."""
    on_disk = asked.dataset is not None and _reef_count(asked) is None
    if (asked.split or asked.test_split) and not on_disk:
        raise WrongUse("Only data sets on disk have splits: leave --split and --test-split out.")
    if on_disk and not Path(str(asked.dataset)).exists():
        raise BackendError(
            f"{asked.dataset} is neither a file nor a folder; expected a VOC, COCO or YOLO data set, "
            "or reef:COUNT for generated pictures."
        )


def _store(out: Path) -> Store:
    """The folder of the experiment, made if missing.

    Raises:
        WrongUse: it cannot be one.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=out, prefix=".probe-"):
            return Store(out)
    except OSError as error:
        expected = "expected a folder that can be written to, or none yet"
        raise WrongUse(f"--out {out}: {error.strerror or error}; {expected}.") from error


def _known_name(asked: Asked) -> str | None:
    """What generated data or a project will be called; None for data sets on disk, which cost nothing to read."""
    if asked.project is not None:
        from al_backend.labelled_project import project_name  # brings the clients

        return project_name(asked.project)
    count = _reef_count(asked)
    return None if count is None else reef_name(count)


def _reef_count(asked: Asked) -> int | None:
    """How many generated pictures are asked for; None where other data are."""
    found = None if asked.dataset is None else _REEF.fullmatch(asked.dataset)
    return None if found is None else int(found[1] or REEF_COUNT)


def _valid(make: Callable[[], Value]) -> Value:
    """What `make` gives; a value that it refuses is the caller's mistake, and told in one sentence."""
    try:
        return make()
    except ModelError:
        raise
    except ValueError as error:
        raise WrongUse(str(error)) from error


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
