"""Chunks that were read a moment ago: moving on by one slice needs the same ones again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from napari_medseg.io.lazy import AnyArray, LazyArray, stored_chunk

_BUDGET_BYTES = 1 << 27


class RecentChunks(LazyArray):
    """An array that keeps the chunks of it that were read last.

    Reading part of a chunk of a compressed store unpacks all of it, so the whole chunk is kept. Parts that touch more
    chunks than half the budget holds are read as they are and keep nothing.

    Parameters
    ----------
    source
        The array: zarr, dask or one of ours.
    budget
        Bytes that are kept.
    """

    def __init__(self, source: Any, budget: int = _BUDGET_BYTES) -> None:
        super().__init__(source.shape, source.dtype, stored_chunks(source))
        self._source, self._budget = source, int(budget)
        self._kept: OrderedDict[tuple[int, ...], AnyArray] = OrderedDict()
        # napari slices on threads of its own
        self._lock = threading.Lock()

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        touched = [range(r.start // c, (r.stop - 1) // c + 1) for r, c in zip(region, self.chunks, strict=True)]
        size = prod(self.chunks) * self.dtype.itemsize
        if 2 * size * prod(len(t) for t in touched) > self._budget:
            return np.asarray(self._source[region])
        found = np.empty(tuple(r.stop - r.start for r in region), self.dtype)
        for place in product(*touched):
            chunk = self._chunk(place)
            corner = [k * c for k, c in zip(place, self.chunks, strict=True)]
            ends = [min(r.stop, f + n) for r, f, n in zip(region, corner, chunk.shape, strict=True)]
            starts = [max(r.start, f) for r, f in zip(region, corner, strict=True)]
            target = tuple(slice(a - r.start, b - r.start) for a, b, r in zip(starts, ends, region, strict=True))
            found[target] = chunk[tuple(slice(a - f, b - f) for a, b, f in zip(starts, ends, corner, strict=True))]
        return found

    def _chunk(self, place: tuple[int, ...]) -> AnyArray:
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
        edges = zip(place, self.chunks, self.shape, strict=True)
        chunk = np.asarray(self._source[tuple(slice(k * c, min((k + 1) * c, n)) for k, c, n in edges)])
        with self._lock:
            self._kept[place] = chunk
            while len(self._kept) > 1 and sum(c.nbytes for c in self._kept.values()) > self._budget:
                self._kept.popitem(last=False)
        return chunk

    def forget(self, region: Sequence[slice] | None = None) -> None:
        """Forget the chunks that touch `region`, or all: the labels there have been edited."""
        with self._lock:
            for place in list(self._kept):
                if region is None or _touches(place, self.chunks, region, self.shape):
                    del self._kept[place]


def recent(array: Any) -> Any:
    """`array` with its chunks kept for a moment; arrays in memory, where an edit must show at once, as they are."""
    return array if isinstance(array, np.ndarray | RecentChunks) else RecentChunks(array)


def stored_chunks(array: Any) -> tuple[int, ...]:
    """Shape of a stored piece of `array`; 64 x 256 x 256 or 1024 x 1024 voxels of one that has none."""
    chunk = stored_chunk(array)
    if chunk is not None:
        return chunk
    edges = (1024, 1024) if len(array.shape) < 3 else (*(1 for _ in array.shape[:-3]), 64, 256, 256)
    return tuple(edges[-len(array.shape) :])


def _touches(place: tuple[int, ...], chunks: tuple[int, ...], region: Sequence[slice], shape: tuple[int, ...]) -> bool:
    bounds = [part.indices(n)[:2] for part, n in zip(region, shape, strict=True)]
    return all(start < (k + 1) * c and stop > k * c for k, c, (start, stop) in zip(place, chunks, bounds, strict=True))
