"""The command that fetches weights to start from: `fetch-weights`."""

from __future__ import annotations

from typing import Annotated

import typer

from al_backend.cli.options import JsonOption, app
from al_backend.cli.output import command_output


@app.command("fetch-weights")
def fetch_weights(
    context: typer.Context,
    detector: Annotated[str | None, typer.Argument(metavar="[DETECTOR]", help="AL_DETECTOR unless given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Download weights trained on COCO's photographs into MODEL_DIR/base, where first trainings start from them."""
    with command_output(context.obj, as_json=as_json) as out:
        from al_backend.base_checkpoint import fetch_checkpoint

        settings = out.doors.settings
        document = fetch_checkpoint(out.doors.registry, detector or settings.learning.detector, settings.data_dir)
        out.show(document, lambda shown: f"{shown['detector']}: {shown['file']}, {shown['classes']} classes")
