"""Exact distances from each element of one boundary to the nearest of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from math import prod

import numpy as np
import numpy.typing as npt

from napari_medseg.evaluate.surfaces.elements import FloatArray, IndexArray

# offsets that are looked up before a tree is asked: as many as cost no more than the tree
_NEAR_OFFSETS = 160
# a map of the elements has a byte a voxel, of which those near an element are touched; memory stays in proportion
_MAP_BYTES = 1 << 28
_MAP_BYTES_PER_ELEMENT = 128
_LEAF = 32
_ROUNDING = 1e-9
_QUERY_PIECE = 1 << 16


def nearest_distances(
    points: IndexArray, targets: IndexArray, spacing: Sequence[float], tick: Callable[[], None]
) -> FloatArray:
    """Distance of every point to its nearest target.

    Most elements of two alike boundaries lie within a few voxels of each other: their neighbourhood is looked up,
    nearest first. The rest are asked of a k-d tree. Both work on whole indices, so a distance has the same bits either
    way, wherever the two lie in the array.

    Parameters
    ----------
    points, targets
        Indices ``(axes, n)``; there is at least one target.
    spacing
        Length of a step along each axis.
    tick
        Called now and then; may raise to stop.

    Returns
    -------
    distances
        ``(n,)`` in the unit of `spacing`, right to double precision.
    """
    distances = np.full(points.shape[1], np.inf)
    if not points.size:
        return distances
    left = _look_around(points, targets, spacing, distances, tick)
    if len(left):
        _ask_tree(points, targets, spacing, distances, left, tick)
    return distances


def _look_around(
    points: IndexArray,
    targets: IndexArray,
    spacing: Sequence[float],
    distances: FloatArray,
    tick: Callable[[], None],
) -> IndexArray:
    """Fill in the distances of the points that have a target close by; returns which points are left."""
    left = np.arange(points.shape[1])
    offsets, lengths = _offsets(tuple(spacing))
    reach = np.abs(offsets).max(axis=1)
    low = np.minimum(points.min(axis=1), targets.min(axis=1)) - reach
    shape = (np.maximum(points.max(axis=1), targets.max(axis=1)) + reach + 1 - low).tolist()
    if prod(shape) > max(_MAP_BYTES, _MAP_BYTES_PER_ELEMENT * (points.shape[1] + targets.shape[1])):
        return left
    strides = [prod(shape[k + 1 :]) for k in range(len(shape))]
    held = np.zeros(prod(shape), bool)
    held[_flat(targets, low, strides)] = True
    place = _flat(points, low, strides)
    for length, steps in _shells(lengths, _flat(offsets, np.zeros_like(low), strides)):
        hit = held[place + steps[0]]
        for step in steps[1:]:
            hit |= held[place + step]
        tick()
        distances[left[hit]] = length
        left, place = left[~hit], place[~hit]
        if not len(left):
            break
    return left


def _ask_tree(
    points: IndexArray,
    targets: IndexArray,
    spacing: Sequence[float],
    distances: FloatArray,
    left: IndexArray,
    tick: Callable[[], None],
) -> None:
    from scipy.spatial import cKDTree

    low, steps = targets.min(axis=1, keepdims=True), np.asarray(spacing, np.float64)
    tree = cKDTree((targets - low).T * steps, leafsize=_LEAF, balanced_tree=False)
    for start in range(0, len(left), _QUERY_PIECE):
        tick()
        part = left[start : start + _QUERY_PIECE]
        nearest = tree.query((points[:, part] - low).T * steps)[1]
        distances[part] = _lengths(points[:, part] - targets[:, nearest], spacing)


@lru_cache
def _offsets(spacing: tuple[float, ...]) -> tuple[IndexArray, FloatArray]:
    """All offsets up to some length, about `_NEAR_OFFSETS`, the shortest first, and their lengths."""
    radius, offsets = min(spacing), np.zeros((len(spacing), 1), np.int64)
    while offsets.shape[1] < _NEAR_OFFSETS:
        # a length that is a whole number of steps must not be lost to rounding
        reach = radius * (1 + _ROUNDING)
        box = np.meshgrid(*(np.arange(-int(reach / s), int(reach / s) + 1) for s in spacing), indexing="ij")
        offsets = np.stack(box).reshape(len(spacing), -1)
        offsets = offsets[:, _lengths(offsets, spacing) <= reach]
        radius *= 1.2
    lengths = _lengths(offsets, spacing)
    order = np.argsort(lengths, kind="stable")
    return offsets[:, order], lengths[order]


def _shells(lengths: FloatArray, steps: IndexArray) -> Iterator[tuple[float, npt.NDArray[np.int64]]]:
    """Offsets of the same length together."""
    starts = [0, *(np.flatnonzero(np.diff(lengths) > 0) + 1), len(lengths)]
    for start, stop in pairwise(starts):
        yield float(lengths[start]), steps[start:stop]


def _lengths(offsets: IndexArray, spacing: Sequence[float]) -> FloatArray:
    root: FloatArray = np.sqrt(sum((along * step) ** 2 for along, step in zip(offsets, spacing, strict=True)))
    return root


def _flat(index: IndexArray, low: IndexArray, strides: Sequence[int]) -> IndexArray:
    total = np.zeros(index.shape[1], np.int64)
    for along, first, stride in zip(index, low, strides, strict=True):
        total += (along - first) * stride
    return total
