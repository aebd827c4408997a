"""Connected components of two masks of any size, and how far each is covered by the other mask.

The masks are read slab by slab along the first axis. Components that reach over the border of a slab are joined
afterwards, so the result does not depend on the slabs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import lcm, prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.pairs import Ids, check_label_arrays
from napari_medseg.io.lazy import stored_chunk
from napari_medseg.jobs import Progress

Mask = npt.NDArray[np.bool_]
Connectivity = Literal[4, 6, 8, 18, 26]

# along how many of its axes a neighbour may be off by one
_STEPS: dict[int, dict[Connectivity, int]] = {2: {4: 1, 8: 2}, 3: {6: 1, 18: 2, 26: 3}}
_SLAB_VOXELS = 1 << 25


@dataclass(frozen=True, eq=False)
class Components:
    """The connected components of a mask, in the order of their bounding boxes' first corners.

    Parameters
    ----------
    voxels
        Number of voxels of each, int64 ``(n,)``.
    covered
        How many of those lie in the other mask, int64 ``(n,)``.
    low, high
        Bounding boxes: first index and last index + 1 along each axis, int64 ``(n, axes)``.
    centroid
        Mean index, ``(n, axes)``.
    """

    voxels: Ids
    covered: Ids
    low: Ids
    high: Ids
    centroid: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.voxels)


def connected_components(
    candidate: Any,
    reference: Any,
    *,
    label: int | None = None,
    connectivity: Connectivity | None = None,
    per_slice: bool = False,
    progress: Progress | None = None,
) -> tuple[Components, Components]:
    """The components of candidate and reference.

    Parameters
    ----------
    candidate, reference
        Integer or bool arrays (numpy, dask or zarr) of one shape with axes ``(z, y, x)`` or ``(y, x)``.
    label
        The id that makes the mask; any id above 0 when ``None``.
    connectivity
        How many neighbours a voxel has: 6, 18 or 26 in volumes, 4 or 8 in pictures; 26 and 8 when ``None``.
    per_slice
        Whether every slice along z is taken for itself; 26 and 18 are 8 within it, 6 is 4.
    progress
        Told about every slab; can cancel.

    Returns
    -------
    candidate, reference
        Their components; memory grows with the cross-section and the number of components, not with the length.

    Raises
    ------
    InputError
        If the arrays are no masks of one shape with two or three axes, or the connectivity does not exist there.
    """
    progress = progress or Progress()
    check_label_arrays(candidate, reference)
    ndim = len(candidate.shape)
    if ndim not in _STEPS:
        raise InputError(f"Components are found in two or three dimensions; these labels have {ndim}.")
    if per_slice and ndim == 2:
        raise InputError("A picture has no slices; leave per_slice off.")
    connectivity = max(_STEPS[ndim]) if connectivity is None else connectivity
    if connectivity not in _STEPS[ndim]:
        choices = ", ".join(map(str, _STEPS[ndim]))
        raise InputError(f"A connectivity of {connectivity} does not exist in {ndim} dimensions; use one of {choices}.")
    found = [_Gathering(ndim, connectivity), _Gathering(ndim, connectivity)]
    slabs = list(_slabs(candidate, reference))
    progress.begin(len(slabs), "finding components")
    for slab in slabs:
        masks = [_mask(array[slab], label) for array in (candidate, reference)]
        pieces = [slice(k, k + 1) for k in range(len(masks[0]))] if per_slice else [slice(None)]
        for piece in pieces:
            first = slab.start + (piece.start or 0)
            found[0].add(first, masks[0][piece], masks[1][piece], joined=not per_slice)
            found[1].add(first, masks[1][piece], masks[0][piece], joined=not per_slice)
        progress.advance()
    return found[0].finish(), found[1].finish()


def _mask(block: Any, label: int | None) -> Mask:
    values = np.asarray(block)
    return np.ascontiguousarray(values > 0 if label is None else values == label)


def _slabs(candidate: Any, reference: Any) -> Iterator[slice]:
    """Whole chunks along the first axis where they are not too thick to hold; else they are read more than once."""
    length, *across = (int(n) for n in candidate.shape)
    most = max(1, _SLAB_VOXELS // max(1, prod(across)))
    chunks = [c[0] for c in (stored_chunk(candidate), stored_chunk(reference)) if c]
    stored = lcm(*chunks) if chunks else 1
    thickness = most // stored * stored or most
    for start in range(0, length, thickness):
        yield slice(start, min(start + thickness, length))


class _Gathering:
    """The components of one mask, slab after slab, without gaps between the slabs."""

    def __init__(self, ndim: int, connectivity: Connectivity) -> None:
        self._ndim, self._connectivity = ndim, connectivity
        steps = _STEPS[ndim][connectivity] - 1
        self._offsets = [o for o in product((-1, 0, 1), repeat=ndim - 1) if np.count_nonzero(o) <= steps]
        self._number = 0
        self._border: Ids | None = None
        self._voxels = [np.zeros(0, np.int64)]
        self._covered = [np.zeros(0, np.int64)]
        self._low = [np.zeros((0, ndim), np.int64)]
        self._high = [np.zeros((0, ndim), np.int64)]
        self._sums = [np.zeros((0, ndim), np.int64)]
        self._joints = [np.zeros((2, 0), np.int64)]

    def add(self, first: int, mask: Mask, other: Mask, *, joined: bool) -> None:
        """Take the slab that starts at index `first`; with `joined` it touches the one before."""
        import cc3d

        if not mask.any():
            self._border = None
            return
        # of bool, cc3d 4.1 also labels background at the end of a line where pictures have an odd side
        parts, number = cc3d.connected_components(mask.view(np.uint8), connectivity=self._connectivity, return_N=True)
        facts = cc3d.statistics(parts, no_slice_conversion=True)
        voxels = facts["voxel_counts"][1:].astype(np.int64)
        boxes = facts["bounding_boxes"][1:].astype(np.int64)
        start = np.array([first] + [0] * (self._ndim - 1), np.int64)
        self._voxels.append(voxels)
        self._covered.append(np.bincount(parts[mask & other], minlength=number + 1)[1:])
        self._low.append(boxes[:, 0::2] + start)
        self._high.append(boxes[:, 1::2] + start + 1)
        # sums of indices are whole numbers, and those do not depend on the slabs
        sums: Ids = np.rint(facts["centroids"][1:] * voxels[:, None]).astype(np.int64)
        self._sums.append(sums + start * voxels[:, None])
        if joined:
            if self._border is not None:
                self._joints.append(self._touching(self._border, self._own_ids(parts[0])))
            self._border = self._own_ids(parts[-1])
        self._number += number

    def _own_ids(self, plane: npt.NDArray[Any]) -> Ids:
        """Numbers 1, 2, ... over all slabs."""
        ids: Ids = np.where(plane > 0, plane.astype(np.int64) + self._number, 0)
        return ids

    def _touching(self, before: Ids, after: Ids) -> Ids:
        """Which components of two neighbouring planes touch, ``(2, n)``, numbered from 0."""
        found = [np.zeros((2, 0), np.int64)]
        base = int(after.max()) + 1
        for offset in self._offsets:
            here = before[tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, before.shape, strict=True))]
            there = after[tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, after.shape, strict=True))]
            both = (here > 0) & (there > 0)
            found.append(np.stack(np.divmod(np.unique(here[both] * base + there[both]), base)) - 1)
        return np.concatenate(found, 1)

    def finish(self) -> Components:
        """All components."""
        from scipy.sparse import coo_array, csgraph

        joints = np.concatenate(self._joints, 1)
        size = (self._number, self._number)
        graph = coo_array((np.ones(joints.shape[1], np.int8), (joints[0], joints[1])), shape=size)
        number, group = csgraph.connected_components(graph, directed=False) if self._number else (0, np.zeros(0, int))
        voxels, covered = np.zeros(number, np.int64), np.zeros(number, np.int64)
        sums = np.zeros((number, self._ndim), np.int64)
        low = np.full((number, self._ndim), np.iinfo(np.int64).max)
        high = np.zeros((number, self._ndim), np.int64)
        np.add.at(voxels, group, np.concatenate(self._voxels))
        np.add.at(covered, group, np.concatenate(self._covered))
        np.add.at(sums, group, np.concatenate(self._sums))
        np.minimum.at(low, group, np.concatenate(self._low))
        np.maximum.at(high, group, np.concatenate(self._high))
        centroid = sums / np.maximum(voxels, 1)[:, None]
        order = np.lexsort((*centroid.T[::-1], *low.T[::-1]))
        return Components(voxels[order], covered[order], low[order], high[order], centroid[order])
