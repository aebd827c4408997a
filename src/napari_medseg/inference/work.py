"""From units to stored labels: what differs between models of classes, models of objects, and mosaics.

Each kind of work says how a run is cut into units, computes a few units that follow each other, and settles them.
Nothing here knows whether it runs in the process that was started, in a child, or on a cluster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_medseg.case import CancelledError
from napari_medseg.inference.compute.prepare import Compute
from napari_medseg.inference.inputs.mosaic import MosaicDecisions
from napari_medseg.inference.labels import objects
from napari_medseg.inference.labels.decide import ClassDecision, Decision, LabelArray, background_maps
from napari_medseg.inference.labels.objects import Box, Ids, ObjectDecision
from napari_medseg.inference.labels.settle import ClassSettler, ObjectSettler, checksum
from napari_medseg.inference.labels.strips import Strips
from napari_medseg.inference.ledger import UnitRecord
from napari_medseg.inference.task import Task
from napari_medseg.inference.tiles.engine import Blend, Start, one_thread_each, stream
from napari_medseg.inference.tiles.layout import Layout
from napari_medseg.inference.tiles.units import (
    Partition,
    Unit,
    box_of,
    own_slabs,
    partition_classes,
    partition_objects,
    window_of,
)
from napari_medseg.io.ome_zarr import LabelFrame, LabelGroup
from napari_medseg.io.ome_zarr.maps import MapGroup
from napari_medseg.jobs import Progress

Finished = Callable[[Unit, UnitRecord], None]
Failed = Callable[[Unit, Start, Exception], None]


class Arrays:
    """The arrays of one run in its store.

    Parameters
    ----------
    root
        The store's root group, opened for writing.
    folder
        The store's folder.
    task
        Says which maps are wanted beside the labels.
    frame
        What the label image is.
    resume
        Use what is there already.
    """

    def __init__(self, root: Any, folder: Path, task: Task, frame: LabelFrame, *, resume: bool) -> None:
        self.labels = LabelGroup(root, frame, resume=resume)
        self.strips = Strips(scratch(folder) / f"{frame.name}.strips") if task.model.instances else None
        self.probabilities: MapGroup | None = None
        self.uncertainty: MapGroup | None = None
        if task.options.probabilities:
            self.probabilities = MapGroup(root, frame, "probabilities", class_names(task), resume=resume)
        if task.options.uncertainty:
            self.uncertainty = MapGroup(root, frame, "uncertainty", ("entropy",), resume=resume)

    @property
    def maps(self) -> list[MapGroup]:
        """The maps that are stored beside the labels."""
        return [m for m in (self.probabilities, self.uncertainty) if m is not None]


def scratch(store: Path) -> Path:
    """The folder in an unfinished store for what is needed only while it grows."""
    return store / ".medseg"


def class_names(task: Task) -> tuple[str, ...]:
    """Names of the network's maps, in their order."""
    table, count = task.model.card.labels, task.model.out_channels
    first = 0 if task.model.threshold is None else 1
    return tuple("background" if k + first == 0 else table.name(k + first) for k in range(count))


class Work(ABC):
    """How one kind of model fills a label image.

    Parameters
    ----------
    task, layout
        What is computed, and how it is cut.
    """

    def __init__(self, task: Task, layout: Layout) -> None:
        self.task, self.layout = task, layout
        self.partition = self._partition()

    @abstractmethod
    def _partition(self) -> Partition:
        """The units."""

    @abstractmethod
    def settler(self, arrays: Arrays) -> ClassSettler | ObjectSettler:
        """What settles the units."""

    @abstractmethod
    def _decision(self, units: Sequence[Unit], arrays: Arrays, finish: Callable[..., None]) -> Decision:
        """What turns the maps of `units` into stored labels; `finish` is told of each unit's labels."""

    def compute(
        self,
        units: Sequence[Unit],
        compute: Compute,
        arrays: Arrays,
        *,
        progress: Progress,
        finished: Finished,
        failed: Failed,
    ) -> None:
        """Compute units of one column that follow each other, and store their labels.

        Parameters
        ----------
        finished
            Told of every unit whose labels lie in the store; called on another thread, one unit after the other.
        failed
            Told of a tile that could not be read or computed, before its error is raised.
        """
        task = self.task
        window = window_of(units)
        waiting = list(units)

        def finish(unit: Unit, sum_of_labels: int, number: int = 0) -> None:
            skipped = self.skipped(unit)
            waiting.remove(unit)
            finished(unit, UnitRecord(unit.tiles - skipped, skipped, sum_of_labels, number))

        decision = self._decision(units, arrays, finish)
        rung = compute.forward.ladder.rung
        blend = Blend(
            task.options.blending,
            background_maps(task.model),
            getattr(torch, self.layout.sums),
            "cpu" if rung.host_sums else compute.device.name,
        )
        rows = stream(
            task.source(units[0].frame, units[0].plane),
            compute.forward,
            task.plan.within(window),
            blend,
            batch_size=task.batch_size,
            progress=progress,
            wanted=task.wanted(units[0].frame),
            failed=lambda start, error: failed(waiting[0], start, error),
        )
        # deciding and storing go on behind the forward passes, a piece at a time
        with one_thread_each(1, "medseg-decide") as pool:
            pending: Future[None] | None = None
            try:
                for first, maps in rows:
                    if pending is not None:
                        pending.result()
                    pending = pool.submit(decision.add, first, maps)
                    del maps
            except CancelledError:
                if pending is not None:
                    pending.result()
                raise
            if pending is not None:
                pending.result()
            pool.submit(decision.close).result()

    def skipped(self, unit: Unit) -> int:
        """How many of a unit's own tiles hold no tissue."""
        wanted = self.task.wanted(unit.frame)
        if wanted is None:
            return 0
        return sum(1 for start in self.own_tiles(unit) if not wanted(start))

    def own_tiles(self, unit: Unit) -> list[Start]:
        """The tiles that count as a unit's own: those of its column that start in its rows."""
        column = [u for u in self.partition.plane_of(unit) if u.column == unit.column]
        stream = self.task.plan.within(window_of(column))
        slabs = own_slabs(stream, [u.window for u in column], unit.band)
        return [start for slab in slabs for start in stream.in_slab(slab)]


class ClassWork(Work):
    """Models of classes: every unit writes whole chunks of the finest level."""

    def _partition(self) -> Partition:
        task = self.task
        return partition_classes(
            task.plan, task.grid, task.planes, task.part, self.layout.chunks, self.layout.column_chunks
        )

    def settler(self, arrays: Arrays) -> ClassSettler:
        """What settles the units."""
        return ClassSettler(arrays.labels, self.task.place)

    def _decision(self, units: Sequence[Unit], arrays: Arrays, finish: Callable[..., None]) -> Decision:
        task = self.task
        array = arrays.labels.array

        def store(unit: Unit, box: Box, labels: LabelArray) -> None:
            array[(*task.place(unit), *box)] = labels
            finish(unit, checksum(labels.astype(array.dtype, copy=False)))

        rows = RowsOfUnits(units, store)
        return ClassDecision(
            task.model,
            task.grid,
            task.extent,
            box_of(units),
            window_of(units),
            self.layout.chunks[0],
            rows.add,
            _map_writer(task, units, arrays) if arrays.maps else None,
        )


class MosaicWork(Work):
    """A two-dimensional model over all slices as one picture: one unit a time point."""

    def _partition(self) -> Partition:
        task = self.task
        whole = tuple(slice(0, n) for n in task.image.geometry.shape)
        window = tuple(slice(0, n) for n in task.plan.shape)
        units = [Unit(k, frame, None, 0, 0, whole, window, len(task.plan)) for k, (frame, _) in enumerate(task.planes)]
        return Partition(tuple(units), 1, 1)

    def settler(self, arrays: Arrays) -> ClassSettler:
        """What settles the units."""
        return ClassSettler(arrays.labels, self.task.place)

    def _decision(self, units: Sequence[Unit], arrays: Arrays, finish: Callable[..., None]) -> Decision:
        task, (unit,) = self.task, units
        array = arrays.labels.array
        assert task.mosaic is not None
        face = tuple(slice(0, n) for n in task.extent)

        def make(plane: int) -> Decision:
            slice_of_it = Unit(0, unit.frame, plane, 0, 0, face, face, 0)

            def store(_: Unit, box: Box, labels: LabelArray) -> None:
                array[(*task.place(slice_of_it), *box)] = labels

            rows = RowsOfUnits([slice_of_it], store)
            maps = _map_writer(task, [slice_of_it], arrays) if arrays.maps else None
            return ClassDecision(task.model, task.grid, task.extent, face, face, face[0].stop, rows.add, maps)

        decisions = MosaicDecisions(task.mosaic, make)

        class Closing:
            def add(self, first: int, maps: torch.Tensor) -> None:
                decisions.add(first, maps)

            def close(self) -> None:
                decisions.close()
                finish(unit, checksum(np.asarray(array[(*task.place(unit), *unit.core)])))

        return Closing()


class ObjectWork(Work):
    """Models of objects: every unit keeps its objects in a strip, and settling lays the strips together."""

    def _partition(self) -> Partition:
        task = self.task
        assert task.model.instances is not None
        window = tuple(
            slice(max(0, int(np.floor(p.start / f - 1))), min(n, int(np.ceil(p.stop / f + 1))))
            for p, f, n in zip(task.part, task.grid.factors, task.grid.shape, strict=True)
        )
        if task.grid.is_image_grid:
            window = task.part
        margin, blocks = task.model.instances.margin, max(1, self.layout.column_chunks[0])
        return partition_objects(task.plan, task.planes, window, margin, blocks, block=objects.BLOCK)

    def settler(self, arrays: Arrays) -> ObjectSettler:
        """What settles the units."""
        task = self.task
        assert arrays.strips is not None
        return ObjectSettler(arrays.labels, task.place, arrays.strips, task.grid, task.extent, task.part)

    def _decision(self, units: Sequence[Unit], arrays: Arrays, finish: Callable[..., None]) -> Decision:
        strips = arrays.strips
        assert strips is not None
        left = list(units)

        def keep(reach: Box, ids: Ids, number: int) -> None:
            unit = left.pop(0)
            finish(unit, strips.save(unit.number, reach, ids), number)

        return ObjectDecision(self.task.model, [u.core for u in units], window_of(units), keep, block=objects.BLOCK)


class RowsOfUnits:
    """Gathers rows that come in pieces of any height into boxes of units, or into lower boxes within them.

    Parameters
    ----------
    units
        Units of one column that follow each other.
    store
        Takes a unit, the box of it that is complete, and the values of that box.
    axis
        Which axis of the pieces holds the rows.
    height
        Boxes end at multiples of this; at the units' ends when ``None``.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        store: Callable[[Unit, Box, Any], None],
        *,
        axis: int = 0,
        height: int | None = None,
    ) -> None:
        self._units, self._store, self._axis, self._height = list(units), store, axis, height
        self._pieces: list[npt.NDArray[Any]] = []
        self._first = units[0].core[0].start
        self._held = 0

    def add(self, first: int, rows: Any) -> None:
        """Take the next rows, which start at row `first`."""
        rows = np.asarray(rows)
        lead = (slice(None),) * self._axis
        while rows.shape[self._axis]:
            end = self._units[0].core[0].stop
            if self._height is not None:
                end = min(end, (self._first // self._height + 1) * self._height)
            room = end - self._first - self._held
            part, rows = rows[(*lead, slice(0, room))], rows[(*lead, slice(room, None))]
            self._pieces.append(part)
            self._held += part.shape[self._axis]
            if self._first + self._held == end:
                self._hand_on(end)

    def _hand_on(self, end: int) -> None:
        unit = self._units[0]
        values = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces, self._axis)
        box = (slice(self._first, end), *unit.core[1:])
        self._pieces, self._held, self._first = [], 0, end
        if end == unit.core[0].stop:
            self._units.pop(0)
        self._store(unit, box, values)


def _map_writer(task: Task, units: Sequence[Unit], arrays: Arrays) -> Callable[[int, torch.Tensor], None]:
    """What stores the maps that are wanted beside the labels."""
    gather: list[tuple[RowsOfUnits, bool]] = []
    for group in arrays.maps:

        def store(unit: Unit, box: Box, values: Any, group: MapGroup = group) -> None:
            group.write(task.place(unit), box, values)

        gather.append((RowsOfUnits(units, store, axis=1, height=group.rows), group is arrays.uncertainty))

    def write(first: int, probabilities: torch.Tensor) -> None:
        for rows, is_entropy in gather:
            rows.add(first, (entropy(probabilities) if is_entropy else probabilities).cpu())

    return write


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy ``(1, ...)`` of probabilities ``(c, ...)`` as a share of the largest possible: 0 sure, 1 no idea.

    Probabilities that are not of one distribution (sigmoid) are taken one by one, and the most doubtful counts.
    """
    p = probabilities.clamp(1e-7, 1.0)
    if len(p) > 1 and bool((probabilities.sum(0) - 1).abs().max() < 1e-2):
        return -(p * p.log()).sum(0, keepdim=True) / float(np.log(len(p)))
    q = (1 - probabilities).clamp(1e-7, 1.0)
    return (-(p * p.log() + q * q.log()) / float(np.log(2))).amax(0, keepdim=True)


def work_for(task: Task, layout: Layout) -> Work:
    """The work that fits the model."""
    if task.mosaic is not None:
        return MosaicWork(task, layout)
    return ObjectWork(task, layout) if task.model.instances is not None else ClassWork(task, layout)
