"""Voxels of regions as runs along the last axis: exact, small, and independent of how the labels are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of neighbouring voxels, none across the end of a row, sorted by their start.

    Parameters
    ----------
    start
        Index of the first voxel of each run in the flattened (C order) array, int64 ``(n,)``.
    length
        Voxels of each run, int64 ``(n,)``.
    """

    start: Indices
    length: Indices

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(self.length.sum())

    def points(self, shape: Sequence[int]) -> Indices:
        """Index ``(n, axes)`` of every voxel in an array of `shape`."""
        ends = np.cumsum(self.length)
        offset = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - self.length, self.length)
        flat = np.repeat(self.start, self.length) + offset
        return np.stack(np.unravel_index(flat, tuple(shape)), -1).astype(np.int64)

    def touches(self, box: Box, shape: Sequence[int]) -> bool:
        """Whether a voxel lies in `box`, definite slices of an array of `shape`."""
        return bool(in_box(self.start, self.length, box, shape).any())

    def overlap(self, other: Runs) -> int:
        """Number of voxels in both."""
        if not len(self.start) or not len(other.start):
            return 0
        before = np.concatenate([[0], np.cumsum(other.length)])

        def covered(flat: Indices) -> Indices:
            """Voxels of `other` in front of each flat index."""
            last = np.searchsorted(other.start, flat, side="right") - 1
            inside = np.minimum(flat - other.start[last], other.length[last])
            counted: Indices = np.where(last < 0, 0, before[last] + inside)
            return counted

        return int((covered(self.start + self.length) - covered(self.start)).sum())


def in_box(start: Indices, length: Indices, box: Box, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which runs have a voxel in `box`."""
    places = np.unravel_index(start, tuple(shape))
    inside = (places[-1] < box[-1].stop) & (places[-1] + length > box[-1].start)
    for place, part in zip(places[:-1], box[:-1], strict=True):
        inside &= (place >= part.start) & (place < part.stop)
    return np.asarray(inside)


def break_into_runs(flat: Indices, width: int, *values: npt.NDArray[Any]) -> Indices:
    """Where runs begin among sorted flat indices: neighbours in one row with equal `values` belong together."""
    fresh = np.ones(len(flat), np.bool_)
    fresh[1:] = (np.diff(flat) != 1) | (flat[1:] % width == 0)
    for value in values:
        fresh[1:] |= value[1:] != value[:-1]
    return np.flatnonzero(fresh)


def grown(box: Box, shape: Sequence[int], margin: int, spatial: int) -> Box:
    """`box` wider by `margin` along its last `spatial` axes, as far as the array reaches."""
    lead = len(box) - spatial
    return tuple(
        part if k < lead else slice(max(0, part.start - margin), min(int(n), part.stop + margin))
        for k, (part, n) in enumerate(zip(box, shape, strict=True))
    )


def union(boxes: Sequence[Box]) -> Box:
    """The smallest box around all."""
    return tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in zip(*boxes, strict=True))
