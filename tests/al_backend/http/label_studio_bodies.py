"""The bodies that Label Studio sends."""

from __future__ import annotations

from typing import Any

LABEL_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image"><Label value="crab"/><Label value="fish"/></RectangleLabels>
</View>"""

CLASSIFICATION = """<View>
  <Text name="text" value="$text"/>
  <Choices name="choice" toName="text"><Choice value="a"/></Choices>
</View>"""


def setup_body(**changes: Any) -> dict[str, Any]:
    """What Label Studio sends to `/setup`."""
    return {
        "project": "5.1795253337",
        "schema": LABEL_CONFIG,
        "hostname": "http://localhost:8080",
        "access_token": "owners-secret-token",
        "extra_params": None,
    } | changes


def event(action: str, **changes: Any) -> dict[str, Any]:
    """What Label Studio sends to `/webhook`."""
    project = {"id": 5, "title": "reef", "label_config": LABEL_CONFIG, "model_version": "", "sampling": "Sequential"}
    return {"action": action, "project": project | changes}
