"""Which image the labels lie on: maps of errors, which may be image layers too, are none."""

from __future__ import annotations

from typing import Any

from napari_medseg.desk.comparing.error_maps import is_map
from napari_medseg.desk.pieces.layer_picker import LayerPicker


class ImagePicker(LayerPicker):
    """A layer picker that offers no maps and follows the selection to no map."""

    def _refill(self, event: Any = None) -> None:
        chosen = self.layer
        self.blockSignals(True)
        self.clear()
        fitting = [layer for layer in reversed(self._viewer.layers) if isinstance(layer, self._kinds)]
        self._layers = [layer for layer in fitting if not is_map(layer)]
        self.addItems([layer.name for layer in self._layers])
        if chosen in self._layers:
            self.setCurrentIndex(self._layers.index(chosen))
        self.blockSignals(False)
        if self.layer is not chosen or event is None:
            self.changed.emit()
