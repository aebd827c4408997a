"""From blended maps to labels on the image's own grid, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from napari_medseg.bundles.model import Model
from napari_medseg.case import MedsegError
from napari_medseg.inference.grid import WorkGrid
from napari_medseg.inference.resample import RowNeeds, Taps, nearest

LabelArray = npt.NDArray[np.integer]
LabelRows = Callable[[int, LabelArray], None]
"""Takes the first row's index and labels ``(rows, ...)`` on the image's grid."""

_PIECE_VALUES = 1 << 24


class Decision(Protocol):
    """Turns maps on the working grid into labels on the image's grid."""

    def add(self, first: int, maps: torch.Tensor) -> None:
        """Take the next rows of maps ``(c, rows, ...)``, which start at row `first`."""

    def close(self) -> None:
        """Decide what is left."""


def activate(maps: torch.Tensor, activation: str) -> torch.Tensor:
    """Probabilities of maps ``(c, ...)``, or the maps themselves for ``"none"``.

    Raises
    ------
    MedsegError
        If the network gave values that are no numbers: the largest of them would be background.
    """
    if not bool(torch.isfinite(maps).all()):
        raise MedsegError(
            "The model gave values that are no numbers; run it with --precision fp32, or get the model again."
        )
    if activation == "softmax":
        return torch.softmax(maps, 0)
    return torch.sigmoid(maps) if activation == "sigmoid" else maps


def decide(probabilities: torch.Tensor, threshold: float | None) -> LabelArray:
    """Labels of probabilities ``(c, ...)``.

    Without a threshold the largest channel wins and channel 0 is background. With one, channel ``k`` is
    label ``k + 1`` where it is the largest and reaches the threshold.
    """
    if threshold is None:
        winner = probabilities.argmax(0)
    else:
        value, index = probabilities.max(0)
        winner = torch.where(value >= threshold, index + 1, 0)
    kind = torch.uint8 if probabilities.shape[0] < 256 else torch.int32
    labels: LabelArray = winner.to(kind).cpu().numpy()
    return labels


class ClassDecision:
    """Labels of classes: probabilities are brought to the image's grid, then the winner is taken.

    Full-size probabilities exist for a few rows only.

    Parameters
    ----------
    model
        Says which activation and threshold to use.
    grid
        The working grid.
    shape
        The image's grid along the axes the network sees.
    write
        Takes finished label rows.
    """

    def __init__(self, model: Model, grid: WorkGrid, shape: tuple[int, ...], write: LabelRows) -> None:
        self._model, self._grid, self._shape, self._write = model, grid, shape, write
        self._to_image = tuple(1 / f for f in grid.factors)
        self._needs = RowNeeds.of(shape[0], self._to_image[0], grid.shape[0])
        self._waiting: torch.Tensor | None = None
        self._waiting_first = 0
        self._next_row = 0

    def add(self, first: int, maps: torch.Tensor) -> None:
        """Take the next rows of maps ``(c, rows, ...)``, which start at row `first`."""
        values = activate(maps, self._model.activation)
        if self._grid.is_image_grid:
            self._write(first, decide(values, self._model.threshold))
            return
        if self._waiting is None:
            self._waiting_first = first
            self._next_row = self._needs.first_within(first) if first else 0
        else:
            values = torch.cat([self._waiting, values], 1)
        self._waiting = values
        self._write_before(self._needs.ready_before(self._waiting_first + values.shape[1]))

    def close(self) -> None:
        """Nothing is left: the last image row needs no working row beyond the last."""
        self._waiting = None

    def _write_before(self, stop: int) -> None:
        assert self._waiting is not None
        per_row = self._waiting.shape[0] * int(np.prod(self._shape[1:]))
        rows = max(1, _PIECE_VALUES // per_row)
        while self._next_row < stop:
            upto = min(stop, self._next_row + rows)
            taps = Taps.between(self._next_row, upto, self._to_image[0], self._grid.shape[0])
            low = taps.first - self._waiting_first
            values = taps.apply_torch(self._waiting[:, low : low + taps.count], 1)
            for axis in range(1, len(self._shape)):
                across = Taps.between(0, self._shape[axis], self._to_image[axis], self._grid.shape[axis])
                values = across.apply_torch(values, axis + 1)
            self._write(self._next_row, decide(values, self._model.threshold))
            self._next_row = upto
        if self._next_row < self._shape[0]:
            drop = int(self._needs.start[self._next_row]) - self._waiting_first
            if drop > 0:
                self._waiting = self._waiting[:, drop:].clone()
                self._waiting_first += drop


class InstanceDecision:
    """Labels of objects: decoded block by block with a margin, each object owned by exactly one block.

    A block decodes itself with a margin around it and keeps the objects whose centre lies in it. Ids
    count up in reading order of the blocks, so they do not depend on tiles, batches or devices.

    Parameters
    ----------
    model
        Its `instances` decoder turns maps into objects.
    grid, shape, write
        As for `ClassDecision`.
    first_id
        Id of the first object.
    block
        Edge of a block in working pixels.
    """

    def __init__(
        self,
        model: Model,
        grid: WorkGrid,
        shape: tuple[int, ...],
        write: LabelRows,
        *,
        first_id: int = 1,
        block: int = 1024,
    ) -> None:
        assert model.instances is not None
        self._decoder = model.instances
        self._model, self._grid, self._shape, self._write = model, grid, shape, write
        self._block = block
        self._maps = np.zeros((0, 0, 0), np.float32)
        self._maps_first = 0
        self._labels = np.zeros((0, grid.shape[1]), np.uint32)
        self._labels_first = 0
        self._next_block: int | None = None
        self._next_image_row = 0
        self._rows = nearest(shape[0], 1 / grid.factors[0], grid.shape[0])
        self._columns = nearest(shape[1], 1 / grid.factors[1], grid.shape[1])
        self.next_id = first_id

    def add(self, first: int, maps: torch.Tensor) -> None:
        """Take the next rows of maps ``(c, y, x)``, which start at row `first`."""
        rows = activate(maps, self._model.activation).cpu().numpy()
        if self._next_block is None:
            self._maps, self._maps_first = rows, first
            self._next_block = self._labels_first = first
            self._next_image_row = int(np.searchsorted(self._rows, first))
        else:
            self._maps = np.concatenate([self._maps, rows], 1)
        while self._maps_first + self._maps.shape[1] >= self._next_block + self._block + self._decoder.margin:
            self._decode_block_row(self._next_block + self._block)

    def close(self) -> None:
        """Decode what is left."""
        if self._next_block is None:
            return
        end = self._maps_first + self._maps.shape[1]
        while self._next_block < end:
            self._decode_block_row(min(end, self._next_block + self._block))
        self._flush(end)

    def _decode_block_row(self, stop: int) -> None:
        start, margin = self._next_block, self._decoder.margin
        assert start is not None
        held = self._maps_first + self._maps.shape[1]
        low, high = max(self._maps_first, start - margin), min(held, stop + margin)
        self._grow_labels(high)
        width = self._grid.shape[1]
        for left in range(0, width, self._block):
            right = min(width, left + self._block)
            west, east = max(0, left - margin), min(width, right + margin)
            window = self._maps[:, low - self._maps_first : high - self._maps_first, west:east]
            objects = self._decoder.decode(np.ascontiguousarray(window))
            core = (start - low, stop - low, left - west, right - west)
            owned, count = _objects_in_core(objects, core)
            target = self._labels[low - self._labels_first : high - self._labels_first, west:east]
            paste = owned > 0
            target[paste] = owned[paste] + (self.next_id - 1)
            self.next_id += count
        self._next_block = stop
        drop = max(0, stop - margin - self._maps_first)
        self._maps = self._maps[:, drop:].copy()
        self._maps_first += drop
        if held < self._grid.shape[0] or stop < held:
            self._flush(stop - margin)

    def _grow_labels(self, stop: int) -> None:
        missing = stop - (self._labels_first + self._labels.shape[0])
        if missing > 0:
            more = np.zeros((missing, self._grid.shape[1]), np.uint32)
            self._labels = np.concatenate([self._labels, more])

    def _flush(self, stop: int) -> None:
        """Hand on the working rows before `stop`, which no later block can touch."""
        if stop <= self._labels_first:
            return
        count = stop - self._labels_first
        if self._grid.is_image_grid:
            self._write(self._labels_first, self._labels[:count])
        else:
            self._write_nearest(stop)
        self._labels = self._labels[count:].copy()
        self._labels_first = stop

    def _write_nearest(self, stop: int) -> None:
        ready = int(np.searchsorted(self._rows, stop))
        if ready > self._next_image_row:
            rows = self._rows[self._next_image_row : ready] - self._labels_first
            self._write(self._next_image_row, self._labels[rows][:, self._columns])
            self._next_image_row = ready


def _objects_in_core(objects: LabelArray, core: tuple[int, int, int, int]) -> tuple[npt.NDArray[np.uint32], int]:
    """Objects whose centre lies in ``core`` (top, bottom, left, right), renumbered 1, 2, ... and their number."""
    top, bottom, left, right = core
    where = np.nonzero(objects)
    ids = objects[where]
    size = int(ids.max(initial=0)) + 1
    number = np.bincount(ids, minlength=size)
    some = np.maximum(number, 1)
    row = np.floor(np.bincount(ids, where[0], size) / some + 0.5)
    column = np.floor(np.bincount(ids, where[1], size) / some + 0.5)
    inside = (number > 0) & (row >= top) & (row < bottom) & (column >= left) & (column < right)
    inside[0] = False
    renumber = np.where(inside, np.cumsum(inside), 0).astype(np.uint32)
    return renumber[objects], int(inside.sum())
