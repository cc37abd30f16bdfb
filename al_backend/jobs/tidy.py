"""The job that makes room in the registry."""

from __future__ import annotations

import logging

from al_backend.jobs.context import job_running
from al_backend.jobs.documents import now, published_model_version
from al_backend.retention import GRACE, plan

logger = logging.getLogger(__name__)


def tidy(project_id: int) -> list[str]:
    """Job: remove rankings, weights and leftovers that nothing needs any more.

    May be killed and run again. What is in use is looked up anew here, and not taken from who asked.

    Returns:
        Names of the versions whose weights were removed.
    """
    with job_running() as here:
        registry = here.registry
        plan_now = plan(
            registry.all_versions(project_id),
            registry.rankings(project_id),
            registry.active(project_id),
            published_model_version(registry, project_id),
            last=here.settings.keep_versions,
            now=now(),
        )
        for ranking in plan_now.rankings:
            registry.delete_ranking(project_id, ranking)
        done = registry.retain(project_id, plan_now.keep, grace=GRACE)
        registry.cleanup(project_id)
        if done.leaving or done.removed or plan_now.rankings:
            logger.info(
                "Project %d: weights removed: %s; to be removed: %s; %d rankings removed",
                project_id,
                ", ".join(done.removed) or "none",
                ", ".join(done.leaving) or "none",
                len(plan_now.rankings),
            )
        return list(done.removed)
