"""Pickers of layers that stay on what was chosen while other layers are selected and painted on."""

from __future__ import annotations

from typing import Any

from napari_medseg.desk.pieces.layer_picker import LayerPicker

_NONE = "none"


class StayingPicker(LayerPicker):
    """A layer picker that does not follow the selection in the layer list."""

    def choose(self, layer: Any) -> None:
        """Show `layer` as chosen; does nothing if it is not offered."""
        if layer in self._layers:
            self.setCurrentIndex(self._layers.index(layer))

    @property
    def offered(self) -> list[Any]:
        """The layers to choose from."""
        return list(self._layers)

    def _follow(self, event: Any = None) -> None:
        """The choice is the user's alone."""


class OptionalPicker(StayingPicker):
    """A picker of a layer or none; none at first."""

    @property
    def layer(self) -> Any:
        """The layer chosen, ``None`` for none."""
        index = self.currentIndex() - 1
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def choose(self, layer: Any) -> None:
        """Show `layer` as chosen, or none."""
        self.setCurrentIndex(self._layers.index(layer) + 1 if layer in self._layers else 0)

    def _refill(self, event: Any = None) -> None:
        chosen = self.layer
        self.blockSignals(True)
        self.clear()
        self._layers = [layer for layer in reversed(self._viewer.layers) if isinstance(layer, self._kinds)]
        self.addItems([_NONE, *(layer.name for layer in self._layers)])
        self.choose(chosen)
        self.blockSignals(False)
        if self.layer is not chosen or event is None:
            self.changed.emit()
