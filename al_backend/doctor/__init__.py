"""Finds out what keeps the cycle from running, and says what to do about it."""

from __future__ import annotations

from al_backend.doctor.examination import examine
from al_backend.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
