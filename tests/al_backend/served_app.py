"""The app on a port of its own, so that a real Label Studio can call it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from werkzeug.serving import make_server

from al_backend.demo.server import LabelStudioServer
from al_backend.http.app import create_app
from al_backend.jobs.queues import Queues
from al_backend.registry import Registry
from al_backend.settings import Settings, load_settings

LABEL_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image"><Label value="crab"/><Label value="fish"/></RectangleLabels>
</View>"""


@contextmanager
def served(
    label_studio: LabelStudioServer, folder: Path, queues: Queues, *, port: int = 0, **changes: Any
) -> Iterator[tuple[Settings, Registry]]:
    """Settings and registry of an app that answers at `settings.own_url` while the block runs; port 0 is a free one."""
    socket_settings = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.token}
    base: dict[str, Any] = {"model_dir": str(folder / "registry"), "data_dir": folder / "data", **socket_settings}
    registry = Registry(base["model_dir"])
    # The port is known once the server listens, and the app needs none of the addresses.
    app = create_app(load_settings(**(base | changes)), registry=registry, queues=queues)
    server = make_server("127.0.0.1", port, app, threaded=True)
    settings = load_settings(**(base | {"public_url": f"http://127.0.0.1:{server.port}"} | changes))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield settings, registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
