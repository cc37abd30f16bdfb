"""The backend as a label-studio-ml class, for teams that serve their models through label-studio-ml itself.

`label_studio_ml.api.init_app(ActiveLearningBackend)` works with 1.0.9 from PyPI, which constructs the class with
`label_config` and `train_output`, and with the 2.x line, which constructs it with `project_id` and `label_config`.
Predictions are made in the serving process; training and ranking are handed to the same queues that `al-backend
worker` takes, because label-studio-ml's own jobs keep one model for all projects and lose events.
"""

from __future__ import annotations

import logging
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from al_backend.errors import BackendError, LabelConfigError
from al_backend.jobs import live
from al_backend.jobs.client import enqueue_reconcile, request_training
from al_backend.jobs.context import Context, context
from al_backend.labelstudio.labeling_config import parse_labeling_config

logger = logging.getLogger(__name__)


class ActiveLearningBackend(LabelStudioMLBase):
    """Pre-annotates tasks with the project's active version and starts its next cycle."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes whatever the installed label-studio-ml passes.

        Raises:
            LabelConfigError: the labelling config has no RectangleLabels on an Image.
        """
        super().__init__(*args, **kwargs)
        config = kwargs.get("label_config") or getattr(self, "label_config", None)
        if config:
            parse_labeling_config(config)
        self._config: str | None = config

    def predict(self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """One prediction per task.

        Args:
            tasks: as Label Studio sends them, with `id`, `data` and `project`.
            context: of an interactive request; not used, boxes need no prompt.
            kwargs: whatever else the installed label-studio-ml passes.

        Returns:
            `{"result", "score", "model_version"}` for every task, in order; score 0 = label first.
        """
        if not tasks:
            return []
        project_id = self._project_of(tasks[0])
        self._register(_here(), project_id)
        return live.predict(project_id, tasks)

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Take an event as a hint: ask the workers to look at the project, or to train it when that was asked for.

        Label Studio's events reach this as `fit(tasks, event=..., data=...)` in 1.0.9 and `fit(event, data)` in 2.x.

        Returns:
            `{"project": id, "job": id or None}`.

        Raises:
            ConfigError: no Redis is reachable, so nobody could train.
        """
        event, data = kwargs.get("event"), kwargs.get("data")
        if event is None and len(args) >= 2:
            event, data = args[0], args[1]
        project = (data or {}).get("project")
        project_id = project.get("id") if isinstance(project, dict) else project
        if project_id is None:
            raise BackendError(f"Event {event!r} names no project; nothing can be trained from it.")
        here = _here()
        self._register(here, int(project_id), project if isinstance(project, dict) else None)
        if event == "START_TRAINING":
            return {"project": int(project_id), "job": request_training(here.registry, here.queues, int(project_id))}
        enqueue_reconcile(here.queues, int(project_id), str(event))
        return {"project": int(project_id), "job": None}

    def _project_of(self, task: dict[str, Any]) -> int:
        found = task.get("project") or getattr(self, "project_id", None)
        if found is None:
            raise BackendError("The task names no project; Label Studio sends it as `project`.")
        return int(str(found).split(".")[0])

    def _register(self, here: Context, project_id: int, project: dict[str, Any] | None = None) -> None:
        config = (project or {}).get("label_config") or self._config
        record = here.registry.project(project_id)
        if config is None:
            if record is None:
                raise LabelConfigError(
                    f"Project {project_id} is unknown and came without a labelling config; "
                    f"run `al-backend connect {project_id}`."
                )
            return
        if record is None or record.label_config != config:
            overrides = {} if record is None else record.overrides
            here.registry.register_project(project_id, label_config=config, overrides=overrides)


def _here() -> Context:
    """The process's context; a function because `predict` has an argument of that name."""
    return context()
