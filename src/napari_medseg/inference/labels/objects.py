"""From blended maps to separate objects, block by block, and how the blocks fit together.

A block decodes itself with a margin around it and keeps the objects whose centre lies in it. What a block keeps
does not depend on its neighbours, so blocks can be decoded anywhere and in any order; where objects of two blocks
meet, the later one in reading order lies on top.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from napari_medseg.bundles.model import Model
from napari_medseg.inference.labels.decide import LabelArray, activate

Ids = npt.NDArray[np.uint32]
Box = tuple[slice, ...]

BLOCK = 1024
"""Edge of a block in working pixels."""


class ObjectDecision:
    """Objects of one unit after the other, down a column of the working grid.

    Parameters
    ----------
    model
        Its `instances` decoder turns maps into objects.
    cores
        The parts of the grid whose objects are wanted, top down, all of the same columns.
    window
        The part of the grid that the maps cover.
    write
        Takes for each core the part of the grid its objects may reach, their ids there (1, 2, ... in reading order
        of the blocks), and their number.
    block
        Edge of a block.
    """

    def __init__(
        self,
        model: Model,
        cores: list[Box],
        window: Box,
        write: Callable[[Box, Ids, int], None],
        *,
        block: int,
    ) -> None:
        assert model.instances is not None
        self._decoder, self._activation = model.instances, model.activation
        self._cores, self._window, self._write, self._block = list(cores), window, write, block
        self._maps = np.zeros((0, 0, 0), np.float32)
        self._first = window[0].start

    def add(self, first: int, maps: torch.Tensor) -> None:
        """Take the next rows of maps ``(c, y, x)``, which start at row `first`."""
        rows = activate(maps, self._activation).cpu().numpy()
        if self._maps.size:
            self._maps = np.concatenate([self._maps, rows], 1)
        else:
            self._maps, self._first = rows, first
        while self._cores and self._first + self._maps.shape[1] >= self._reach(self._cores[0])[0].stop:
            self._decode(self._cores.pop(0))

    def close(self) -> None:
        """Nothing is left: the maps reach as far as the last core needs."""

    def _reach(self, core: Box) -> Box:
        """The core with its margin, as far as there are maps."""
        margin = self._decoder.margin
        return tuple(
            slice(max(w.start, c.start - margin), min(w.stop, c.stop + margin))
            for c, w in zip(core, self._window, strict=True)
        )

    def _decode(self, core: Box) -> None:
        reach = self._reach(core)
        ids = np.zeros(tuple(r.stop - r.start for r in reach), np.uint32)
        number = 0
        for top in range(core[0].start, core[0].stop, self._block):
            for left in range(core[1].start, core[1].stop, self._block):
                own = (
                    slice(top, min(core[0].stop, top + self._block)),
                    slice(left, min(core[1].stop, left + self._block)),
                )
                around = self._reach(own)
                rows = slice(around[0].start - self._first, around[0].stop - self._first)
                columns = slice(around[1].start - self._window[1].start, around[1].stop - self._window[1].start)
                objects = self._decoder.decode(np.ascontiguousarray(self._maps[:, rows, columns]))
                owned, count = _objects_in_core(objects, own, around)
                paste(ids, reach, owned, around, number)
                number += count
        self._write(reach, ids, number)
        if self._cores:
            drop = max(0, self._reach(self._cores[0])[0].start - self._first)
            self._maps = self._maps[:, drop:].copy()
            self._first += drop


def paste(target: Ids, target_box: Box, ids: Ids, box: Box, offset: int) -> None:
    """Lay the objects `ids` of `box` over `target`, which covers `target_box`; ids grow by `offset`."""
    common = [slice(max(t.start, b.start), min(t.stop, b.stop)) for t, b in zip(target_box, box, strict=True)]
    if any(c.start >= c.stop for c in common):
        return
    there = target[tuple(slice(c.start - t.start, c.stop - t.start) for c, t in zip(common, target_box, strict=True))]
    here = ids[tuple(slice(c.start - b.start, c.stop - b.start) for c, b in zip(common, box, strict=True))]
    is_object = here > 0
    there[is_object] = here[is_object] + np.uint32(offset)


def _objects_in_core(objects: LabelArray, core: Box, around: Box) -> tuple[Ids, int]:
    """Objects of `around` whose centre lies in `core`, renumbered 1, 2, ... and their number."""
    top, left = core[0].start - around[0].start, core[1].start - around[1].start
    bottom, right = core[0].stop - around[0].start, core[1].stop - around[1].start
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
