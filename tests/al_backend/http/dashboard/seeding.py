"""Projects as the backend leaves them, made through the doors that its jobs use: no Label Studio, no training."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from al_backend.cycle import RankingState, Snapshot, State, TrainedOn
from al_backend.inference import Outcome
from al_backend.jobs.context import Context
from al_backend.jobs.documents import PUBLISHED, THROUGHPUT
from al_backend.jobs.observe import Observation
from al_backend.jobs.observed import note_observation
from al_backend.jobs.ranking import _row, order
from al_backend.jobs.strategies import context_fields, looks_closer, strategy_fields, strategy_of
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.labelstudio.records import Task
from al_backend.registry import GateVerdict, Phase, Ranking, Registry, Version
from al_backend.settings import LearningSettings, Settings
from model.data.dataset import DetectionDataset
from model.data.reef import write_reef
from model.detections import Detections
from model.detectors.base import View

CLASSES = ("clownfish", "moray_eel", "octopus", "stingray")
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    + "".join(f'<Label value="{name}"/>' for name in CLASSES)
    + "</RectangleLabels></View>"
)
SIZE = (180, 240)
START = datetime(2026, 3, 2, 9, 0, tzinfo=timezone.utc)
