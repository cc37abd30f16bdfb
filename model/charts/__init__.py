"""Pictures of what labels buy: drawn once, shown in a report's file and in a page that changes its colours."""

from __future__ import annotations

from model.charts.balance import ClassShare, class_balance, class_shares
from model.charts.curves import Mark, Panel, learning_curves
from model.charts.picture import Picture

__all__ = ["ClassShare", "Mark", "Panel", "Picture", "class_balance", "class_shares", "learning_curves"]
