"""One layer among those that somebody else lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QWidget


class LayerChoice(QComboBox):
    """Keeps the layer chosen for as long as it is offered, whatever else comes and goes.

    Parameters
    ----------
    none
        What stands first for no layer; without it there is no such choice.
    """

    changed = Signal()

    def __init__(self, none: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._none = none
        self._layers: list[Layer | None] = []
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.offer(())
        self.currentIndexChanged.connect(self.changed)

    @property
    def layer(self) -> Any:
        """The layer chosen, ``None`` when there is none."""
        index = self.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def choose(self, layer: Layer | None) -> None:
        """Choose one of the layers offered."""
        self.setCurrentIndex(self._layers.index(layer))

    def offer(self, layers: Sequence[Layer], first: int = 0) -> None:
        """Offer these layers; `first` is chosen where the one chosen before is not among them."""
        chosen = self.layer
        self.blockSignals(True)
        self.clear()
        self._layers = [*([None] if self._none else []), *layers]
        self.addItems([self._none if layer is None else layer.name for layer in self._layers])
        known = chosen in self._layers and chosen is not None
        self.setCurrentIndex(self._layers.index(chosen) if known else min(first, len(self._layers) - 1))
        self.blockSignals(False)
        if self.layer is not chosen:
            self.changed.emit()
