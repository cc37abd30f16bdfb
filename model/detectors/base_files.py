"""Which file a detector starts from. Needs no torch, so that processes without it may ask."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent.parent / "base"
"""Folder of the checkpoints that come with this package."""

TORCHVISION_FILES = {
    "ssd300_vgg16": "ssd300_vgg16_coco-b556d3b4.pth",
    "ssdlite320_mobilenet_v3_large": "ssdlite320_mobilenet_v3_large_coco-a79551df.pth",
    "fasterrcnn_resnet50_fpn_v2": "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
    "fasterrcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth",
}
"""Names under which torchvision publishes its COCO weights; a file of that name is taken as it is."""

PICKLED = (".pt", ".pth")


def own_files(architecture: str) -> tuple[str, ...]:
    """Names that the user's checkpoint of an architecture may have, the preferred one first."""
    published = TORCHVISION_FILES.get(architecture)
    return (
        *(f"{architecture}{suffix}" for suffix in (".safetensors", *PICKLED)),
        *((published,) if published else ()),
    )


def base_file(architecture: str, folder: Path | None) -> Path | None:
    """The file that a detector starts from, which `factory.find_base` converts where it has to; None for none.

    The user's own come first, in the order of `own_files`, then the one that comes with this package. A `.pt` file is
    what it starts from itself.

    Args:
        architecture: name, or the path of an Ultralytics file.
        folder: of the user's own; None or missing means that there are none.
    """
    if architecture.endswith(".pt"):
        named = Path(architecture)
        return named if named.is_file() else None
    if "/" in architecture or "\\" in architecture:
        return None
    own = [] if folder is None else [folder / name for name in own_files(architecture)]
    return next((path for path in (*own, SHIPPED / f"{architecture}.safetensors") if path.is_file()), None)
