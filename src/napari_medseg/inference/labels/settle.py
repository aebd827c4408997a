"""Units into the finished label image: one after the other, in their order, whoever computed them.

Settling reads a unit's labels back from where they were stored, lays objects of neighbouring units over each
other and gives them their final ids, counts voxels, and brings everything into the coarser levels. It keeps no
state but its place, so a resumed run settles again from the start.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import MedsegError
from napari_medseg.inference.inputs.grid import WorkGrid
from napari_medseg.inference.inputs.resample import nearest
from napari_medseg.inference.labels.objects import Box, Ids, paste
from napari_medseg.inference.labels.strips import Strips
from napari_medseg.inference.ledger import Ledger, UnitRecord
from napari_medseg.inference.tiles.units import Partition, Unit
from napari_medseg.io.ome_zarr import LabelGroup
from napari_medseg.io.ome_zarr.labels import count_ids

Place = Callable[[Unit], tuple[int, ...]]
"""Index along the axes before those that the network sees: frame and plane."""


def checksum(labels: npt.NDArray[Any]) -> int:
    """CRC-32 of an array's content."""
    return zlib.crc32(np.ascontiguousarray(labels).reshape(-1).view(np.uint8).data)


class ClassSettler:
    """Settles units of a model of classes, whose labels lie in the finest level already."""

    def __init__(self, labels: LabelGroup, place: Place) -> None:
        self._labels, self._place = labels, place
        self.voxels: dict[int, int] = {}

    def is_there(self, unit: Unit, record: UnitRecord) -> bool:
        """Whether the labels of `unit` are in the store as they were written."""
        return checksum(self._read(unit)) == record.checksum

    def needs(self, unit: Unit, partition: Partition) -> tuple[Unit, ...]:
        """Which units must be computed before `unit` can be settled."""
        return (unit,)

    def settle(self, unit: Unit, partition: Partition, ledger: Ledger) -> None:
        """Settle `unit`.

        Raises
        ------
        MedsegError
            If the store does not hold what was written to it.
        """
        block = self._read(unit)
        if checksum(block) != ledger.records[unit.number].checksum:
            raise MedsegError("The stored labels differ from those decided; check the disk, then resume the run.")
        count_ids(block, self.voxels)
        place = self._place(unit)
        region = (*(slice(k, k + 1) for k in place), *unit.core)
        self._labels.shrink(region, block.reshape((1,) * len(place) + block.shape))

    def _read(self, unit: Unit) -> npt.NDArray[Any]:
        block: npt.NDArray[Any] = np.asarray(self._labels.array[(*self._place(unit), *unit.core)])
        return block


class ObjectSettler:
    """Settles units of a model of objects: puts them together and onto the image's grid.

    Parameters
    ----------
    labels, place
        The label image, and where a unit's plane lies in it.
    strips
        Where the units' objects wait.
    grid, extent
        The working grid, and the image's grid along the axes the network sees.
    part
        The part of the image's grid that is wanted.
    """

    def __init__(
        self, labels: LabelGroup, place: Place, strips: Strips, grid: WorkGrid, extent: tuple[int, ...], part: Box
    ) -> None:
        self._labels, self._place, self._strips, self._part = labels, place, strips, part
        self._nearest = [nearest(n, 1 / f, s) for n, f, s in zip(extent, grid.factors, grid.shape, strict=True)]
        self._offsets: list[int] = []
        self._loaded: dict[int, tuple[Box, Ids]] = {}
        self.voxels: dict[int, int] = {}

    def is_there(self, unit: Unit, record: UnitRecord) -> bool:
        """Whether the objects of `unit` are in their file as they were written."""
        return self._strips.is_there(unit.number, record.checksum)

    def needs(self, unit: Unit, partition: Partition) -> tuple[Unit, ...]:
        """Which units must be computed before `unit` can be settled: those before it, for the ids, and around it."""
        last = partition.neighbours(unit)[-1].number
        return partition.units[unit.number : last + 1]

    def settle(self, unit: Unit, partition: Partition, ledger: Ledger) -> None:
        """Settle `unit`.

        Raises
        ------
        MedsegError
            If a strip changed, or the store does not hold what was written to it.
        """
        around = partition.neighbours(unit)
        ids = np.zeros(tuple(c.stop - c.start for c in unit.core), np.uint32)
        for other in around:
            reach, objects = self._strip(other, ledger)
            paste(ids, unit.core, objects, reach, self._offset(other.number, ledger))
        for number in [n for n in self._loaded if n < around[0].number]:
            del self._loaded[number]
        target, taken = [], []
        for positions, core, part in zip(self._nearest, unit.core, self._part, strict=True):
            low, high = (int(v) for v in np.searchsorted(positions, (core.start, core.stop)))
            low, high = max(low, part.start), max(min(high, part.stop), max(low, part.start))
            target.append(slice(low, high))
            taken.append(positions[low:high] - core.start)
        block = ids[np.ix_(*taken)].astype(self._labels.array.dtype, copy=False)
        if not block.size:
            return
        place = self._place(unit)
        region = (*(slice(k, k + 1) for k in place), *target)
        block = block.reshape((1,) * len(place) + block.shape)
        self._labels.array[region] = block
        if not np.array_equal(np.asarray(self._labels.array[region]), block):
            raise MedsegError("The stored labels differ from those decided; check the disk, then resume the run.")
        count_ids(block, self.voxels)
        self._labels.shrink(region, block)

    def _strip(self, unit: Unit, ledger: Ledger) -> tuple[Box, Ids]:
        if unit.number not in self._loaded:
            self._loaded[unit.number] = self._strips.load(unit.number, ledger.records[unit.number].checksum)
        return self._loaded[unit.number]

    def _offset(self, number: int, ledger: Ledger) -> int:
        """How many objects lie in the units before."""
        while len(self._offsets) <= number:
            k = len(self._offsets)
            self._offsets.append(self._offsets[k - 1] + ledger.records[k - 1].objects if k else 0)
        return self._offsets[number]


class Settling:
    """Settles every unit as soon as its turn has come."""

    def __init__(self, settler: ClassSettler | ObjectSettler, partition: Partition, ledger: Ledger) -> None:
        self._settler, self._partition, self._ledger = settler, partition, ledger
        self._next = 0

    def advance(self) -> None:
        """Settle what can be settled now."""
        units = self._partition.units
        while self._next < len(units):
            unit = units[self._next]
            if any(u.number not in self._ledger.records for u in self._settler.needs(unit, self._partition)):
                return
            self._settler.settle(unit, self._partition, self._ledger)
            self._next += 1

    @property
    def done(self) -> bool:
        """Whether every unit is settled."""
        return self._next == len(self._partition.units)
