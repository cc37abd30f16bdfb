"""How every process opens the registry: alike, so that they share the copies that a remote one needs."""

from __future__ import annotations

from al_backend.registry.registry import Registry
from al_backend.settings import Settings


def open_registry(settings: Settings) -> Registry:
    """The registry at `MODEL_DIR`, with its copies among the data of this machine.

    Raises:
        RegistryError: see `Registry`.
    """
    return Registry(settings.model_dir, cache_folder=settings.data_dir / "cache", cache_mb=settings.weights_cache_mb)
