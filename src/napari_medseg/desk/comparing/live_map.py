"""A map that follows its labels while somebody paints on them."""

from __future__ import annotations

from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer, Signal

from napari_medseg.desk.comparing.error_maps import MapOrder, levels_of
from napari_medseg.desk.pieces.listening import Listening

# the picture follows ten times a second; numbers of the whole image wait until the hand rests
_REFRESH_MS = 100
_COUNT_MS = 600


class LiveMap(QObject):
    """Joins the layer of a map with the layers that it is made of.

    Parameters
    ----------
    viewer
        The napari viewer, which holds all of them.
    order
        What the map shows.
    layer
        The map's layer.
    """

    edited = Signal()
    """The labels changed and have been left alone since: shares of the whole image are out of date."""
    ended = Signal()
    """The map or one of its sources is gone."""

    def __init__(self, viewer: Any, order: MapOrder, layer: Layer, parent: QObject) -> None:
        super().__init__(parent)
        self.order, self.layer = order, layer
        self._viewer = viewer
        self._replaced = False
        self._refreshing, self._counting = QTimer(self), QTimer(self)
        for timer, wait, slot in (
            (self._refreshing, _REFRESH_MS, self.refresh),
            (self._counting, _COUNT_MS, self.edited.emit),
        ):
            timer.setSingleShot(True)
            timer.setInterval(wait)
            timer.timeout.connect(slot)
        painted = [(getattr(s.events, n), self._paint) for s in order.layers for n in ("paint", "labels_update")]
        exchanged = [(s.events.data, self._exchange) for s in order.layers]
        self._listening = Listening(self, (viewer.layers.events.removed, self._removed), *painted, *exchanged)

    def refresh(self) -> None:
        """Compute what is looked at anew."""
        if self._replaced:
            self._replaced = False
            levels = levels_of(self.order)
            self.layer.data = levels if len(levels) > 1 else levels[0]
            self.layer.editable = False
            return
        for level in self.layer.data if self.layer.multiscale else (self.layer.data,):
            level.forget()
        self.layer.refresh(extent=False)

    def end(self) -> None:
        """Let go of the layers; the map stays as it is."""
        self._listening.end()
        self._refreshing.stop()
        self._counting.stop()

    def _paint(self, event: Any) -> None:
        if not self._refreshing.isActive():
            self._refreshing.start()
        self._counting.start()

    def _exchange(self, event: Any) -> None:
        source = event.source
        now = source.data[0] if source.multiscale else source.data
        used = self.layer.data[0] if self.layer.multiscale else self.layer.data
        # napari says "data" for edits in place too
        if not any(getattr(array, "_source", array) is now for array in used.labels):
            self._replaced = True
        self._paint(event)

    def _removed(self, event: Any) -> None:
        gone = event.value
        if gone is self.layer or gone in self.order.layers:
            self.end()
            self.ended.emit()
