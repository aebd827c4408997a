"""Which layer a dock works on."""

from __future__ import annotations

from typing import Any

from napari.layers import Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_medseg.desk.pieces.listening import Listening


class LayerPicker(QComboBox):
    """The viewer's layers of one kind; follows the layer list and the selection in it.

    Parameters
    ----------
    viewer
        The napari viewer.
    kinds
        Layer classes to offer.
    """

    changed = Signal()

    def __init__(self, viewer: Any, kinds: tuple[type[Layer], ...], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer, self._kinds = viewer, kinds
        self._layers: list[Layer] = []
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.currentIndexChanged.connect(self.changed)
        self._listening = Listening(
            self,
            (viewer.layers.events.inserted, self._refill),
            (viewer.layers.events.removed, self._refill),
            (viewer.layers.events.renamed, self._refill),
            (viewer.layers.selection.events.active, self._follow),
        )
        self._refill()
        self._follow()

    @property
    def layer(self) -> Any:
        """The layer chosen, ``None`` when there is none."""
        index = self.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def disconnect_viewer(self) -> None:
        """Stop listening: the dock is going away."""
        self._listening.end()

    def _refill(self, event: Any = None) -> None:
        chosen = self.layer
        self.blockSignals(True)
        self.clear()
        self._layers = [layer for layer in reversed(self._viewer.layers) if isinstance(layer, self._kinds)]
        self.addItems([layer.name for layer in self._layers])
        if chosen in self._layers:
            self.setCurrentIndex(self._layers.index(chosen))
        self.blockSignals(False)
        if self.layer is not chosen or event is None:
            self.changed.emit()

    def _follow(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        if active in self._layers:
            self.setCurrentIndex(self._layers.index(active))
