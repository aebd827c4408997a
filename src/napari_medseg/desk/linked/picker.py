"""Choose an image and its candidates, and open them in linked views."""

from __future__ import annotations

from typing import Any

from napari.layers import Image, Labels, Layer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QPushButton, QVBoxLayout, QWidget

from napari_medseg.case import InputError
from napari_medseg.desk.linked.arrangement import FEWEST_PANELS, MOST_PANELS
from napari_medseg.desk.linked.linked_views import LinkedViews, open_linked_views
from napari_medseg.desk.pieces.dock import new_form
from napari_medseg.desk.pieces.layer_picker import LayerPicker
from napari_medseg.desk.pieces.listening import Listening
from napari_medseg.desk.pieces.message import Message


class LinkedViewsPicker(QWidget):
    """An image, ticks for the labels layers over it, and a button.

    Parameters
    ----------
    viewer
        The napari viewer.
    """

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.views: LinkedViews | None = None
        self.image = LayerPicker(viewer, (Image,))
        self.image.setToolTip("The image below the candidates in every panel")
        self.candidates = QListWidget()
        self.candidates.setAccessibleName("Candidates")
        self.candidates.setToolTip(f"Tick {FEWEST_PANELS} to {MOST_PANELS} labels layers, one for each panel (Space)")
        self.button = QPushButton("Open linked &views")
        self.button.setToolTip(
            "Show the ticked candidates side by side, under a wipe or in turn, in a window of their own"
        )
        self.message = Message()
        form = new_form()
        form.addRow("I&mage", self.image)
        form.addRow("&Candidates", self.candidates)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(form)
        column.addWidget(self.button)
        column.addWidget(self.message)
        self._layers: list[Layer] = []
        layers = viewer.layers.events
        self._listening = Listening(
            self, (layers.inserted, self._refill), (layers.removed, self._refill), (layers.renamed, self._refill)
        )
        self.candidates.itemChanged.connect(self._count)
        self.button.clicked.connect(self.open)
        self._refill()

    @property
    def ticked(self) -> list[Layer]:
        """The candidates chosen, as they are listed."""
        return [
            layer for row, layer in enumerate(self._layers) if self._item(row).checkState() is Qt.CheckState.Checked
        ]

    def tick(self, layer: Layer, on: bool = True) -> None:
        """Choose a candidate or not."""
        state = Qt.CheckState.Checked if on else Qt.CheckState.Unchecked
        self._item(self._layers.index(layer)).setCheckState(state)

    def open(self) -> LinkedViews | None:
        """Open the ticked candidates; says in the picker why not, where it cannot."""
        self.message.clear()
        image = self.image.layer
        try:
            self.views = open_linked_views(self._viewer, () if image is None else image, self.ticked)
        except InputError as error:
            self.message.warn(str(error))
            return None
        return self.views

    def disconnect_viewer(self) -> None:
        """Stop listening: the picker is going away."""
        self._listening.end()
        self.image.disconnect_viewer()

    def _item(self, row: int) -> QListWidgetItem:
        return self.candidates.item(row)

    def _refill(self, event: Any = None) -> None:
        chosen = {id(layer) for layer in self.ticked}
        known = {id(layer) for layer in self._layers}
        self.candidates.blockSignals(True)
        self.candidates.clear()
        self._layers = [layer for layer in reversed(self._viewer.layers) if isinstance(layer, Labels)]
        room = MOST_PANELS - len(chosen)
        for layer in self._layers:
            item = QListWidgetItem(layer.name, self.candidates)
            # new labels are candidates until somebody says otherwise
            fresh = id(layer) not in known and room > 0
            room -= fresh
            ticked = id(layer) in chosen or fresh
            item.setCheckState(Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)
        self.candidates.blockSignals(False)
        self._count()

    def _count(self, *_: Any) -> None:
        self.button.setEnabled(FEWEST_PANELS <= len(self.ticked) <= MOST_PANELS)
