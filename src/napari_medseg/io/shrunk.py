"""Coarser levels for large pictures that were stored without any, computed when they are looked at."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import product

import numpy as np

from napari_medseg.io.lazy import AnyArray, LazyArray

_FACTOR = 4
_CHUNK = 256
# pictures up to this many pixels a side are shown well enough as they are
_NEEDED_ABOVE = 8192
_COARSEST_SIDE = 2048
_KEPT_BYTES = 64_000_000


class Shrunk(LazyArray):
    """Means over boxes of 4 x 4 pixels of another array. Pieces once computed are kept, up to 64 MB.

    Parameters
    ----------
    source
        Array with axes `axes`.
    axes
        Names of the axes; ``y`` and ``x`` shrink. Boxes that stick out at the end are means of what they cover.
    """

    def __init__(self, source: LazyArray, axes: str) -> None:
        self._source = source
        self._ratio = tuple(_FACTOR if a in "yx" else 1 for a in axes)
        shape = [-(-n // r) for n, r in zip(source.shape, self._ratio, strict=True)]
        chunks = [_CHUNK if a in "yx" else n if a == "c" else 1 for a, n in zip(axes, shape, strict=True)]
        self._kept: OrderedDict[tuple[int, ...], AnyArray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        super().__init__(shape, source.dtype, chunks)

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        found = np.empty(tuple(part.stop - part.start for part in region), self.dtype)
        spans = [range(p.start // c, -(-p.stop // c)) for p, c in zip(region, self.chunks, strict=True)]
        for position in product(*spans):
            corner = [k * c for k, c in zip(position, self.chunks, strict=True)]
            piece = self._piece(position, corner)
            low = [max(p.start, s) for p, s in zip(region, corner, strict=True)]
            high = [min(p.stop, s + n) for p, s, n in zip(region, corner, piece.shape, strict=True)]
            inside = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, corner, strict=True))
            target = tuple(slice(a - p.start, b - p.start) for a, b, p in zip(low, high, region, strict=True))
            found[target] = piece[inside]
        return found

    def _piece(self, position: tuple[int, ...], corner: Sequence[int]) -> AnyArray:
        with self._lock:
            if position in self._kept:
                self._kept.move_to_end(position)
                return self._kept[position]
        part = tuple(
            slice(s * r, min((s + c) * r, n))
            for s, c, r, n in zip(corner, self.chunks, self._ratio, self._source.shape, strict=True)
        )
        piece = box_mean(self._source[part], self._ratio)
        with self._lock:
            self._bytes += piece.nbytes - (self._kept[position].nbytes if position in self._kept else 0)
            self._kept[position] = piece
            while self._bytes > _KEPT_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return piece


def with_coarser_levels(levels: Sequence[LazyArray], axes: str) -> tuple[LazyArray, ...]:
    """`levels` as they are, or with computed ones below a single large one."""
    found = list(levels)
    rows, columns = axes.index("y"), axes.index("x")
    if len(found) == 1 and max(found[0].shape[rows], found[0].shape[columns]) > _NEEDED_ABOVE:
        while max(found[-1].shape[rows], found[-1].shape[columns]) > _COARSEST_SIDE:
            found.append(Shrunk(found[-1], axes))
    return tuple(found)


def box_mean(block: AnyArray, ratio: Sequence[int]) -> AnyArray:
    """Mean over boxes of `ratio` elements, rounded for integers; boxes at the end may be smaller."""
    total = block.astype(np.float64 if block.dtype.itemsize > 2 else np.float32)
    for axis, step in enumerate(ratio):
        if step > 1:
            starts = np.arange(0, block.shape[axis], step)
            lengths = np.diff(np.append(starts, block.shape[axis]))
            shape = [-1 if k == axis else 1 for k in range(block.ndim)]
            total = np.add.reduceat(total, starts, axis) / lengths.reshape(shape)
    found: AnyArray = (np.rint(total) if block.dtype.kind in "ui" else total).astype(block.dtype)
    return found
