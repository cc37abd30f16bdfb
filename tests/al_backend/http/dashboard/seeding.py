"""Projects as the backend leaves them, made through the doors that its jobs use: no Label Studio, no training."""

from __future__ import annotations

from datetime import datetime, timezone

CLASSES = ("clownfish", "moray_eel", "octopus", "stingray")
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    + "".join(f'<Label value="{name}"/>' for name in CLASSES)
    + "</RectangleLabels></View>"
)
SIZE = (180, 240)
START = datetime(2026, 3, 2, 9, 0, tzinfo=timezone.utc)
