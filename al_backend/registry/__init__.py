"""Versions, the active pointer, rankings and small documents, on any fsspec location.

Redis holds only work in progress; what has to outlive it is here, as plain files that a person can read and copy.
"""

from __future__ import annotations

from al_backend.errors import RegistryError, VersionNotFound
from al_backend.registry.opening import open_registry
from al_backend.registry.rankings import Phase
from al_backend.registry.records import ActivePointer, GateVerdict, ProjectRecord, Ranking, Version
from al_backend.registry.registry import FORMAT, Registry
from al_backend.registry.retention import Retained

__all__ = [
    "FORMAT",
    "ActivePointer",
    "GateVerdict",
    "Phase",
    "ProjectRecord",
    "Ranking",
    "Registry",
    "RegistryError",
    "Retained",
    "Version",
    "VersionNotFound",
    "open_registry",
]
