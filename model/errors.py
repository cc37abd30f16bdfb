"""The errors of the learning side: each message says what was found, what was expected, what to do."""

from __future__ import annotations


class ModelError(Exception):
    """Base of every error that `model/` raises on purpose."""


class ImageUnreadable(ModelError):
    """A file that is not an image, is damaged, or is larger than the caller allows."""


class DatasetUnreadable(ModelError):
    """A data set whose description is missing, damaged or contradicts itself."""


class NotEnoughLabels(ModelError):
    """Fewer labelled images or boxes than a training needs."""


class TrainingCancelled(ModelError):
    """The progress callback asked the training to stop."""


class WeightsRefused(ModelError):
    """A weights file that is damaged, of another architecture, or pickled without permission."""
