"""Reading in large blocks: overlapping tiles ask for the same pixels many times, and decoding them is the cost."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK_BYTES = 3 << 20
_KEPT_BYTES = 64 << 20


class BlockReader:
    """An array that reads its source in aligned blocks of whole chunks and keeps the last ones. Thread-safe.

    Parameters
    ----------
    source
        Anything with ``shape``, ``dtype`` and slicing; ``chunksize`` or ``chunks`` says how it is stored.
    spatial
        Which axes are spatial; along the others a block is as long as the array, or one of them for a leading axis.
    """

    def __init__(self, source: Any, spatial: tuple[int, ...]) -> None:
        self._source = source
        self.shape = tuple(int(n) for n in source.shape)
        self.dtype = np.dtype(source.dtype)
        self._edges = _block_edges(source, spatial)
        self._kept: OrderedDict[tuple[int, ...], Future[npt.NDArray[Any]]] = OrderedDict()
        self._most = max(4, _KEPT_BYTES // max(1, prod(self._edges) * self.dtype.itemsize))
        self._lock = threading.Lock()

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: tuple[Any, ...]) -> npt.NDArray[Any]:
        dropped = tuple(a for a, i in enumerate(index) if not isinstance(i, slice))
        region = [
            slice(*i.indices(n)[:2]) if isinstance(i, slice) else slice(int(i), int(i) + 1)
            for i, n in zip((*index, *(slice(None),) * (self.ndim - len(index))), self.shape, strict=True)
        ]
        numbers = [range(r.start // e, -(-r.stop // e)) for r, e in zip(region, self._edges, strict=True)]
        if all(len(n) == 1 for n in numbers):
            only = tuple(n[0] for n in numbers)
            offsets = [k * e for k, e in zip(only, self._edges, strict=True)]
            values = self._block(only)[
                tuple(slice(r.start - o, r.stop - o) for r, o in zip(region, offsets, strict=True))
            ]
        else:
            values = np.empty(tuple(r.stop - r.start for r in region), self.dtype)
            for number in product(*numbers):
                block = self._block(number)
                here, there = [], []
                for k, e, r, n in zip(number, self._edges, region, block.shape, strict=True):
                    low, high = max(r.start, k * e), min(r.stop, k * e + n)
                    here.append(slice(low - k * e, high - k * e))
                    there.append(slice(low - r.start, high - r.start))
                values[tuple(there)] = block[tuple(here)]
        return values.squeeze(dropped) if dropped else values

    def _block(self, number: tuple[int, ...]) -> npt.NDArray[Any]:
        with self._lock:
            found = self._kept.get(number)
            if found is not None:
                self._kept.move_to_end(number)
            else:
                mine: Future[npt.NDArray[Any]] = Future()
                self._kept[number] = mine
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        if found is not None:
            return found.result()
        region = tuple(
            slice(k * e, min((k + 1) * e, n)) for k, e, n in zip(number, self._edges, self.shape, strict=True)
        )
        try:
            mine.set_result(np.asarray(self._source[region]))
        except BaseException as error:
            with self._lock:
                self._kept.pop(number, None)
            mine.set_exception(error)
            raise
        return mine.result()


def _block_edges(source: Any, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Whole chunks of the source, several together up to a few megabytes, as square as they come."""
    shape = [int(n) for n in source.shape]
    stored = getattr(source, "chunksize", getattr(source, "chunks", None)) or shape
    edges = [max(1, min(n, int(c[0] if isinstance(c, tuple) else c))) for n, c in zip(shape, stored, strict=True)]
    room = _BLOCK_BYTES // np.dtype(source.dtype).itemsize
    while True:
        # the last two spatial axes: tiles are read in rows of these
        grown = [a for a in spatial[-2:] if edges[a] < shape[a] and prod(edges) * 2 <= room]
        if not grown:
            return tuple(edges)
        axis = min(grown, key=lambda a: edges[a])
        edges[axis] = min(shape[axis], edges[axis] * 2)


def in_blocks(level: Any, spatial: tuple[int, ...]) -> Any:
    """`level` read in blocks; an array that lies in memory as it is."""
    return level if isinstance(level, np.ndarray) else BlockReader(level, spatial)
