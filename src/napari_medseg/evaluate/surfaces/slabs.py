"""Label arrays read slab by slab, each voxel with its face neighbours, every stored chunk as rarely as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.io.lazy import stored_chunk

# read at once from an array that is not in memory
_READ_BYTES = 1 << 26
# looked at at once: a slab and what is worked out of it then stay in the processor's cache
_CACHE_BYTES = 1 << 20


@dataclass(frozen=True)
class Slab:
    """A part of a label array.

    Parameters
    ----------
    labels
        What was read, C-contiguous: the core and one more voxel on every side where the array goes on.
    core
        Where the core lies in the array, one slice an axis; the cores of all slabs cover the array once.
    origin
        Index in the array of the first voxel of `labels`.
    """

    labels: npt.NDArray[Any]
    core: tuple[slice, ...]
    origin: tuple[int, ...]

    @property
    def inside(self) -> tuple[slice, ...]:
        """Where the core lies in `labels`."""
        return tuple(slice(c.start - o, c.stop - o) for c, o in zip(self.core, self.origin, strict=True))


def slabs_of(array: Any) -> Iterator[Slab]:
    """Cut an array into slabs across its first axis, small enough for the cache.

    Parameters
    ----------
    array
        Labels ``(z, y, x)`` or ``(y, x)``: numpy, or anything with ``shape``, ``dtype`` and slicing, which is then
        read by whole rows of chunks. Along the first axis no chunk is read twice; along the others the chunks beside
        a column are, where a layer of chunks is too large for one column.
    """
    shape = tuple(int(n) for n in array.shape)
    if not prod(shape):
        return
    if isinstance(array, np.ndarray):
        yield from _thin(array, tuple(slice(0, n) for n in shape), (0,) * len(shape))
        return
    for labels, core, origin in _read(array, shape):
        yield from _thin(labels, core, origin)


def _read(array: Any, shape: tuple[int, ...]) -> Iterator[tuple[npt.NDArray[Any], tuple[slice, ...], tuple[int, ...]]]:
    """Columns of chunks from top to bottom; the last two planes of a piece are kept for the next one."""
    chunk = stored_chunk(array, shards=True) or (1,) * len(shape)
    depth, *across = _piece_shape(
        shape, [min(c, n) for c, n in zip(chunk, shape, strict=True)], np.dtype(array.dtype).itemsize
    )
    for corner in product(*(range(0, n, step) for n, step in zip(shape[1:], across, strict=True))):
        core = [slice(c, min(c + step, n)) for c, step, n in zip(corner, across, shape[1:], strict=True)]
        window = [slice(max(0, c.start - 1), min(n, c.stop + 1)) for c, n in zip(core, shape[1:], strict=True)]
        held: npt.NDArray[Any] | None = None
        for start in range(0, shape[0], depth):
            stop = min(start + depth, shape[0])
            piece = np.asarray(array[(slice(start, stop), *window)])
            labels = piece if held is None else np.concatenate([held, piece])
            first = stop - len(labels)
            # the last plane waits for the one below it
            rows = slice(max(0, start - 1), stop if stop == shape[0] else stop - 1)
            if rows.start < rows.stop:
                yield labels, (rows, *core), (first, *(w.start for w in window))
            held = labels[-2:].copy()


def _piece_shape(shape: Sequence[int], chunk: Sequence[int], itemsize: int) -> list[int]:
    """Whole chunks, many along the last axes first, as many as may be read at once."""
    piece = list(chunk)
    for axis in reversed(range(len(shape))):
        room = max(1, _READ_BYTES // (itemsize * prod(piece)))
        piece[axis] = min(shape[axis], piece[axis] * room)
    return piece


def _thin(labels: npt.NDArray[Any], core: tuple[slice, ...], origin: tuple[int, ...]) -> Iterator[Slab]:
    rows = max(1, _CACHE_BYTES // max(1, labels[:1].nbytes))
    for start in range(core[0].start, core[0].stop, rows):
        stop = min(start + rows, core[0].stop)
        first = max(origin[0], start - 1)
        part = np.ascontiguousarray(labels[first - origin[0] : stop + 1 - origin[0]])
        part = part.view(np.uint8) if part.dtype == np.bool_ else part
        yield Slab(part, (slice(start, stop), *core[1:]), (first, *origin[1:]))
