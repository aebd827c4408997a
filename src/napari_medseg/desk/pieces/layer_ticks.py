"""Which layers a dock works on, when it can be several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QWidget

from napari_medseg.desk.pieces.listening import Listening

_ROWS_SHOWN = 5


class LayerTicks(QListWidget):
    """The viewer's layers of one kind with a box to tick each; new ones are ticked until somebody says otherwise.

    Parameters
    ----------
    viewer
        The napari viewer.
    offered
        Whether a layer is in the list.
    """

    changed = Signal()

    def __init__(self, viewer: Any, offered: Callable[[Layer], bool], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer, self._offered = viewer, offered
        self._layers: list[Layer] = []
        self._left_out: Layer | None = None
        self._known: set[int] = set()
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.itemChanged.connect(lambda _: self.changed.emit())
        events = viewer.layers.events
        self._listening = Listening(
            self, (events.inserted, self._refill), (events.removed, self._refill), (events.renamed, self._refill)
        )
        self._refill()

    @property
    def layers(self) -> list[Any]:
        """All layers in the list, in its order."""
        return list(self._layers)

    @property
    def ticked(self) -> list[Any]:
        """The layers chosen, in the order of the list."""
        return [layer for row, layer in enumerate(self._layers) if self.item(row).checkState() == Qt.CheckState.Checked]

    def tick(self, layer: Layer, on: bool = True) -> None:
        """Choose a layer, or not."""
        self.item(self._layers.index(layer)).setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)

    def leave_out(self, layer: Layer | None) -> None:
        """Do not offer this one layer, which has another part."""
        if layer is not self._left_out:
            self._left_out = layer
            self._refill()

    def disconnect_viewer(self) -> None:
        """Stop listening: the dock is going away."""
        self._listening.end()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """As tall as it is: layouts would keep more room free."""
        return QSize(super().sizeHint().width(), self.minimumHeight())

    def _refill(self, event: Any = None) -> None:
        chosen = {id(layer) for layer in self.ticked}
        row = self.currentRow()
        self.blockSignals(True)
        self.clear()
        there = [layer for layer in reversed(self._viewer.layers) if self._offered(layer)]
        self._layers = [layer for layer in there if layer is not self._left_out]
        for layer in self._layers:
            item = QListWidgetItem(layer.name, self)
            item.setToolTip(layer.name)
            on = id(layer) in chosen or id(layer) not in self._known
            item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
        # one that was left out and comes back counts as new
        self._known = {id(layer) for layer in self._layers}
        self.setCurrentRow(min(max(row, 0), len(self._layers) - 1))
        self.blockSignals(False)
        rows = min(max(len(self._layers), 2), _ROWS_SHOWN)
        self.setFixedHeight(rows * max(self.sizeHintForRow(0), 18) + 2 * self.frameWidth() + 4)
        self.changed.emit()
