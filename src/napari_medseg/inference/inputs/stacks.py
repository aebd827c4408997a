"""Neighbouring slices as channels, for two-dimensional networks that look a little up and down (2.5-D)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

ReadPlane = Callable[[int, tuple[int, int], tuple[int, int]], FloatArray]
"""Reads float32 ``(c, *shape)`` of one slice: ``read(plane, start, shape)``."""

_Region = tuple[int, tuple[int, int], tuple[int, int]]


def stack_planes(plane: int, count: int, depth: int) -> tuple[int, ...]:
    """The `count` slices around `plane`, in ascending order; beyond the volume its first or last slice is repeated.

    Raises
    ------
    ValueError
        If `count` is not odd and positive, or `plane` is not a slice of the volume.
    """
    if count < 1 or count % 2 == 0:
        raise ValueError(f"{count} slices have no middle one; accepted are 1, 3, 5 and so on")
    if not 0 <= plane < depth:
        raise ValueError(f"slice {plane} is not one of the {depth} slices of the volume")
    half = count // 2
    return tuple(min(max(k, 0), depth - 1) for k in range(plane - half, plane + half + 1))


class StackReader:
    """Reads a region of a slice together with its neighbours, as channels.

    Regions of the slices in the current stack are kept, so that going on to the next slice with the same
    tiles reads one new slice instead of all. May be called from several threads.

    Parameters
    ----------
    read
        Reads float32 ``(c, *shape)`` of one slice.
    count
        Slices in a stack; odd.
    depth
        Slices of the volume.
    memory
        Bytes that may be kept. Below `count` slices of the size that is read, slices are read again.

    Raises
    ------
    ValueError
        If `count` is not odd and positive, or the volume has no slice.
    """

    def __init__(self, read: ReadPlane, count: int, depth: int, *, memory: int = 1 << 28) -> None:
        stack_planes(0, count, depth)
        self._read, self._memory = read, memory
        self._kept: OrderedDict[_Region, FloatArray] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        self.count, self.depth = count, depth

    def read(self, plane: int, start: tuple[int, int], shape: tuple[int, int]) -> FloatArray:
        """The region ``(count * c, *shape)`` of the stack around `plane`.

        All channels of the lowest slice come first, then those of the next one.

        Raises
        ------
        ValueError
            If `plane` is not a slice of the volume.
        """
        planes = stack_planes(plane, self.count, self.depth)
        self._forget_all_but(planes)
        return np.concatenate([self._slice((k, start, shape)) for k in planes])

    def _slice(self, region: _Region) -> FloatArray:
        with self._lock:
            if region in self._kept:
                self._kept.move_to_end(region)
                return self._kept[region]
        values = np.asarray(self._read(*region), np.float32)
        with self._lock:
            if region not in self._kept and values.nbytes <= self._memory:
                self._kept[region] = values
                self._held += values.nbytes
            while self._held > self._memory:
                _, oldest = self._kept.popitem(last=False)
                self._held -= oldest.nbytes
        return values

    def _forget_all_but(self, planes: tuple[int, ...]) -> None:
        with self._lock:
            for region in [r for r in self._kept if r[0] not in planes]:
                self._held -= self._kept.pop(region).nbytes
