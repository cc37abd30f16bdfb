"""How much of a pretrained backbone a training leaves alone."""

from __future__ import annotations


def blocks_to_freeze(images: int, available: int) -> int:
    """Leading blocks that a training on few images leaves alone: all below 200 images, half up to 1000, then none."""
    if images < 200:
        return available
    return available // 2 if images <= 1000 else 0
