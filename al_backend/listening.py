"""Whether the web server can listen where the settings say."""

from __future__ import annotations

import socket

from al_backend.errors import ConfigError
from al_backend.settings import Settings


def check_address(settings: Settings) -> None:
    """Say at once what gunicorn would say after five silent retries.

    Raises:
        ConfigError: nothing can listen on `AL_HOST` and `PORT`.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[0][4])
    except OSError as error:
        raise ConfigError(
            f"The web server cannot listen on {settings.host}:{settings.port} ({error.strerror or error}); "
            "stop what uses the port, or set PORT to another, for the other commands too, or AL_HOST."
        ) from error
