"""Finds out what keeps the cycle from running, says what to do about it, and does what is safe."""

from __future__ import annotations

from al_backend.doctor.examination import examine
from al_backend.doctor.finding import Finding, Level
from al_backend.doctor.repair import Treatment, treat

__all__ = ["Finding", "Level", "Treatment", "examine", "treat"]
