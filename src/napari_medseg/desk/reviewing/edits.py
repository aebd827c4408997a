"""What was painted on a Labels layer, told once the hand has rested for a moment."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import QObject, QTimer, Signal

from napari_medseg.desk.pieces.listening import Listening
from napari_medseg.desk.reviewing.pair import Box

IDLE_MS = 300


class Edits(QObject):
    """Follows paint, fill, erase, undo and redo on one layer.

    Parameters
    ----------
    layer
        The labels.

    Attributes
    ----------
    settled
        Emitted with the boxes, in indices of the layer, around what changed.
    replaced
        Emitted when the layer got another array.
    """

    settled = Signal(list)
    replaced = Signal()

    def __init__(self, layer: Labels) -> None:
        super().__init__()
        self._layer = layer
        self._array = layer.data
        self._boxes: list[Box] = []
        self._history = _history_of(layer)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(IDLE_MS)
        self._timer.timeout.connect(self._tell)
        self._listening = Listening(
            self,
            (layer.events.paint, self._on_paint),
            (layer.events.set_data, self._on_refresh),
            (layer.events.data, self._on_data),
        )

    def end(self) -> None:
        """Stop following."""
        self._timer.stop()
        self._listening.end()

    def _on_paint(self, event: Any) -> None:
        self._history = _history_of(self._layer)
        self._note(event.value)

    def _on_refresh(self, event: Any = None) -> None:
        # undo and redo tell nothing but that the layer is to be drawn anew; so does every move to another slice
        before, now = self._history, _history_of(self._layer)
        if before == now:
            return
        self._history = now
        undone, redone = now[1] > before[1], now[1] < before[1] and now[0] > before[0]
        if undone:
            self._note(self._layer._redo_history[-1])
        elif redone:
            self._note(self._layer._undo_history[-1])

    def _on_data(self, event: Any = None) -> None:
        # also emitted after every stroke, about the same array
        if self._layer.data is not self._array:
            self._array = self._layer.data
            self._boxes.clear()
            self._timer.stop()
            self.replaced.emit()

    def _note(self, strokes: Any) -> None:
        shape = tuple(int(n) for n in self._layer.data.shape)
        self._boxes.extend(box for box in (_box_of(stroke, shape) for stroke in strokes) if box is not None)
        self._timer.start()

    def _tell(self) -> None:
        boxes, self._boxes = self._boxes, []
        if boxes:
            self.settled.emit(_merged(boxes))


def _history_of(layer: Labels) -> tuple[int, int]:
    """How many strokes can be undone and redone."""
    return len(getattr(layer, "_undo_history", ())), len(getattr(layer, "_redo_history", ()))


def _box_of(stroke: Any, shape: tuple[int, ...]) -> Box | None:
    """The voxels of one stroke: napari keeps their indices, or a box and a mask in it."""
    slices = getattr(stroke, "slice_key", None)
    if slices is not None:
        return tuple(
            part.indices(n)[:2] if isinstance(part, slice) else (int(part), int(part) + 1)
            for part, n in zip(slices, shape, strict=True)
        )
    indices = [np.asarray(axis) for axis in stroke[0]]
    if not indices or not indices[0].size:
        return None
    return tuple((int(axis.min()), int(axis.max()) + 1) for axis in indices)


def _merged(boxes: list[Box]) -> list[Box]:
    """Fewer boxes that cover the same: those that meet or touch become one."""
    merged: list[Box] = []
    for box in boxes:
        while True:
            meets = next((m for m in merged if _touch(m, box)), None)
            if meets is None:
                break
            merged.remove(meets)
            box = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(box, meets, strict=True))
        merged.append(box)
    return merged


def _touch(one: Box, other: Box) -> bool:
    return all(a <= d and c <= b for (a, b), (c, d) in zip(one, other, strict=True))
