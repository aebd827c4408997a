"""The elements of the boundaries of all labels, gathered in one pass over a label array."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.evaluate.surfaces.slabs import Slab, slabs_of

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

# all but the last and all but the first along an axis
_PAIR = (slice(None, -1), slice(1, None))
_Find = Callable[[Slab, npt.NDArray[Any]], Iterator[tuple[IndexArray, npt.NDArray[Any], FloatArray | None]]]
"""Flat places of elements in a slab, the label of each, and what each counts."""


@dataclass(frozen=True)
class Boundary:
    """The boundary of one label.

    Parameters
    ----------
    index
        Where its elements lie on their grid, ``(axes, elements)``, in storage order.
    weight
        What each element counts, more than 0: its area (length in a picture); ``None`` where all count alike.
    """

    index: IndexArray
    weight: FloatArray | None = None

    def __len__(self) -> int:
        return int(self.index.shape[1])


def voxel_boundaries(array: Any, labels: Sequence[int], tick: Callable[[], None]) -> dict[int, Boundary]:
    """Boundary voxels: those of a label that have a face neighbour outside it.

    What lies beyond the array is outside, so voxels of a label at the array's edge belong to its boundary.

    Parameters
    ----------
    array
        Labels ``(z, y, x)`` or ``(y, x)``; see `slabs_of`.
    labels
        Ids whose boundary is wanted.
    tick
        Called after every slab.

    Returns
    -------
    boundaries
        By id; empty for an id that does not occur. Memory grows with the boundaries, not with the array.
    """
    shape = tuple(int(n) for n in array.shape)

    def find(slab: Slab, wanted: npt.NDArray[Any]) -> Iterator[tuple[IndexArray, npt.NDArray[Any], None]]:
        where = np.flatnonzero(_differs(slab, shape, background=0 not in labels))
        values = slab.labels[slab.inside].reshape(-1)[where]
        chosen = np.isin(values, wanted)
        yield _in_array(where[chosen], slab, shape), values[chosen], None

    found = _gathered(array, labels, tick, find)
    return {label: Boundary(_unravel(flat, shape)) for label, (flat, _) in found.items()}


def surfels(
    array: Any, labels: Sequence[int], spacing: Sequence[float], tick: Callable[[], None]
) -> dict[int, Boundary]:
    """Surface elements between voxels, weighted by their area (length in a picture).

    An element sits at each corner point of the voxels whose 2 x 2 (x 2) voxels are not all inside or all outside; its
    area is that of the marching cubes surface in there. Beyond the array is outside. This is the boundary of
    DeepMind's surface-distance and of MONAI's ``use_subvoxels``, whose table of areas (single precision) is used.

    Parameters
    ----------
    array, labels, tick
        As for `voxel_boundaries`.
    spacing
        Edge lengths of a voxel.

    Returns
    -------
    boundaries
        By id; index ``i`` lies between voxels ``i - 1`` and ``i``.
    """
    from monai.metrics.utils import get_code_to_measure_table

    table = get_code_to_measure_table([float(s) for s in spacing])[0].numpy().astype(np.float64)
    shape = tuple(int(n) + 1 for n in array.shape)
    corners = list(product((0, 1), repeat=len(shape)))
    # no label that is wanted: what lies beyond the array
    outside = next(k for k in range(len(labels) + 1) if k not in labels)

    def find(slab: Slab, wanted: npt.NDArray[Any]) -> Iterator[tuple[IndexArray, npt.NDArray[Any], FloatArray]]:
        voxels = _with_rim(slab, array.shape, outside)
        least = most = voxels
        for axis in range(voxels.ndim):
            low, high = (tuple(part if k == axis else slice(None) for k in range(voxels.ndim)) for part in _PAIR)
            least, most = np.minimum(least[low], least[high]), np.maximum(most[low], most[high])
        where = np.nonzero(least != most)
        around = np.stack([voxels[tuple(w + c for w, c in zip(where, corner, strict=True))] for corner in corners])
        flat = _ravel(np.stack([w + c.start for w, c in zip(where, slab.core, strict=True)]), shape)
        for label in wanted[np.isin(wanted, around)]:
            code = np.zeros(len(flat), np.uint8)
            for row in around:
                code = 2 * code + (row == label)
            weight = table[code]
            there = (code > 0) & (code < len(table) - 1)
            yield flat[there], np.full(int(there.sum()), label), weight[there]

    found = _gathered(array, labels, tick, find)
    return {label: Boundary(_unravel(flat, shape), weight) for label, (flat, weight) in found.items()}


def _gathered(
    array: Any, labels: Sequence[int], tick: Callable[[], None], find: _Find
) -> dict[int, tuple[IndexArray, FloatArray | None]]:
    """What `find` finds in the slabs of `array`, sorted by label and place."""
    dtype = np.dtype(np.uint8 if array.dtype == np.bool_ else array.dtype)
    limits = np.iinfo(dtype)
    # in the array's own type: 64-bit ids must not be compared as floating-point numbers
    wanted = np.array([label for label in labels if limits.min <= label <= limits.max], dtype)
    flats, values, weights = [np.zeros(0, np.int64)], [wanted[:0]], []
    for slab in slabs_of(array):
        for flat, value, weight in find(slab, wanted):
            flats.append(flat)
            values.append(value.astype(dtype, copy=False))
            if weight is not None:
                weights.append(weight)
        tick()
    flat, value = np.concatenate(flats), np.concatenate(values)
    order = np.lexsort((flat, value)) if (np.diff(flat) < 0).any() else np.argsort(value, kind="stable")
    flat, value = flat[order], value[order]
    weight = np.concatenate([np.zeros(0), *weights])[order] if weights else None
    starts, stops = np.searchsorted(value, wanted), np.searchsorted(value, wanted, "right")
    found: dict[int, tuple[IndexArray, FloatArray | None]] = dict.fromkeys(labels, (flat[:0], None))
    for label, start, stop in zip(wanted.tolist(), starts, stops, strict=True):
        found[label] = (flat[start:stop], None if weight is None else weight[start:stop])
    return found


def _differs(slab: Slab, shape: tuple[int, ...], background: bool) -> npt.NDArray[np.bool_]:
    """Which voxels of the core have a face neighbour of another label; label 0 is left out where it is background."""
    labels = slab.labels
    low, high = labels.min(), labels.max()
    if background and low == high == 0:
        return np.zeros([c.stop - c.start for c in slab.core], bool)
    differs = np.zeros(labels.shape, bool)
    if low != high:
        flat, found, step = labels.reshape(-1), differs.reshape(-1), labels.size
        for size in labels.shape:
            # neighbours along an axis lie `step` apart; where that runs over the end of a row both voxels lie at the
            # edge of the slab, which is the edge of the array or no part of the core
            step //= size
            unequal = flat[step:] != flat[:-step]
            found[step:] |= unequal
            found[:-step] |= unequal
    for axis, (origin, size) in enumerate(zip(slab.origin, shape, strict=True)):
        view = np.moveaxis(differs, axis, 0)
        if origin == 0:
            view[0] = True
        if origin + labels.shape[axis] == size:
            view[-1] = True
    if background:
        differs &= labels != 0
    return differs[slab.inside]


def _with_rim(slab: Slab, shape: Sequence[int], outside: int) -> npt.NDArray[Any]:
    """The core, the voxels before it, and beyond the array's end one more, as `outside` where there is no array."""
    labels = slab.labels.astype(np.result_type(slab.labels.dtype, np.min_scalar_type(outside)), copy=False)
    inside = tuple(slice(max(0, i.start - 1), i.stop) for i in slab.inside)
    ends = [(int(c.start == 0), int(c.stop == size)) for c, size in zip(slab.core, shape, strict=True)]
    return np.pad(labels[inside], ends, constant_values=outside)


def _in_array(where: IndexArray, slab: Slab, shape: tuple[int, ...]) -> IndexArray:
    """Flat index in the array of flat indices in the core of a slab."""
    sizes = [c.stop - c.start for c in slab.core]
    if sizes[1:] == list(shape[1:]):
        moved: IndexArray = where + slab.core[0].start * prod(shape[1:])
        return moved
    index = _unravel(where, sizes)
    index += np.array([[c.start] for c in slab.core])
    return _ravel(index, shape)


def _ravel(index: IndexArray, shape: Sequence[int]) -> IndexArray:
    flat: IndexArray = index[0].copy()
    for along, size in zip(index[1:], shape[1:], strict=True):
        flat *= size
        flat += along
    return flat


def _unravel(flat: IndexArray, shape: Sequence[int]) -> IndexArray:
    """Indices ``(axes, n)``, each axis contiguous, which numpy's own are not."""
    index = np.empty((len(shape), len(flat)), np.int64)
    for axis in range(len(shape) - 1, 0, -1):
        flat, index[axis] = np.divmod(flat, shape[axis])
    index[0] = flat
    return index
