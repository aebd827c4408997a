"""How a run is cut into units: parts that are computed, stored and resumed on their own.

A unit is a band of rows in a column of the grid. Units of one column that follow each other are computed in one
stream, so that no tile between them is computed twice; where a column ends, the tiles across its edge are.
Units of classes are boxes of whole chunks of the image's grid, so that no two of them share a stored chunk; units
of objects are rows of blocks of the working grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from napari_medseg.inference.inputs.grid import WorkGrid
from napari_medseg.inference.inputs.resample import RowNeeds
from napari_medseg.inference.tiles.plan import TilePlan

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Unit:
    """One part of a run.

    Parameters
    ----------
    number
        Its place in the ledger, and in the order of object ids.
    frame, plane
        Time point, and plane of a volume for a two-dimensional model.
    band, column
        Its place in the plane: which band of rows, which column.
    core
        What it is responsible for: a box of the image's grid for classes, of the working grid for objects.
    window
        The part of the working grid whose maps it needs.
    tiles
        How many tiles count as its own: those of its column that start in its band.
    """

    number: int
    frame: int
    plane: int | None
    band: int
    column: int
    core: Box
    window: Box
    tiles: int


@dataclass(frozen=True)
class Partition:
    """All units of a run, in the order of their numbers.

    Parameters
    ----------
    units
        Plane after plane; in each, band after band from column to column.
    bands, columns
        How many of each a plane has.
    """

    units: tuple[Unit, ...]
    bands: int
    columns: int

    @property
    def tiles(self) -> int:
        """Tiles of all units."""
        return sum(unit.tiles for unit in self.units)

    def plane_of(self, unit: Unit) -> tuple[Unit, ...]:
        """All units of the plane that `unit` lies in."""
        size = self.bands * self.columns
        first = unit.number // size * size
        return self.units[first : first + size]

    def neighbours(self, unit: Unit) -> tuple[Unit, ...]:
        """Units of the same plane that touch `unit`, and itself, in the order of their numbers."""
        return tuple(
            other
            for other in self.plane_of(unit)
            if abs(other.band - unit.band) <= 1 and abs(other.column - unit.column) <= 1
        )

    def streams(self, pending: Iterable[int]) -> Iterator[tuple[Unit, ...]]:
        """Runs of pending units that follow each other down a column, each to be computed in one go."""
        wanted = set(pending)
        size = self.bands * self.columns
        for first in range(0, len(self.units), size):
            for column in range(self.columns):
                run: list[Unit] = []
                for band in range(self.bands):
                    unit = self.units[first + band * self.columns + column]
                    if unit.number in wanted:
                        run.append(unit)
                    elif run:
                        yield tuple(run)
                        run = []
                if run:
                    yield tuple(run)


def window_of(units: Sequence[Unit]) -> Box:
    """The part of the working grid that a run of units of one column needs."""
    first, last = units[0].window, units[-1].window
    return (slice(first[0].start, last[0].stop), *first[1:])


def box_of(units: Sequence[Unit]) -> Box:
    """What a run of units of one column is responsible for."""
    first, last = units[0].core, units[-1].core
    return (slice(first[0].start, last[0].stop), *first[1:])


def partition_classes(
    plan: TilePlan,
    grid: WorkGrid,
    planes: Sequence[tuple[int, int | None]],
    part: Box,
    chunks: tuple[int, ...],
    column_chunks: tuple[int, ...],
) -> Partition:
    """Units for a model of classes.

    Parameters
    ----------
    plan
        The tiles of the whole working grid.
    grid
        The working grid.
    planes
        Time point and plane of everything that is to be segmented.
    part
        The part of the image's grid that is wanted, along the axes the network sees.
    chunks
        Shape of a stored chunk along these axes; a band is as high.
    column_chunks
        How many chunks a column is wide, along all but the first of these axes.
    """
    widths = (chunks[0], *(c * n for c, n in zip(chunks[1:], column_chunks, strict=True)))
    return _partition(plan, planes, part, widths, lambda core: _window_of_box(grid, core, plan.shape))


def partition_objects(
    plan: TilePlan,
    planes: Sequence[tuple[int, int | None]],
    part: Box,
    margin: int,
    column_blocks: int,
    *,
    block: int,
) -> Partition:
    """Units for a model of objects; `part` is along the working grid and cores take in `margin` around them."""

    def window(core: Box) -> Box:
        return tuple(
            slice(max(0, c.start - margin), min(n, c.stop + margin)) for c, n in zip(core, plan.shape, strict=True)
        )

    return _partition(plan, planes, part, (block, block * column_blocks), window)


def _partition(
    plan: TilePlan,
    planes: Sequence[tuple[int, int | None]],
    part: Box,
    widths: tuple[int, ...],
    window_for: Callable[[Box], Box],
) -> Partition:
    cuts = [_cut(p, w) for p, w in zip(part, widths, strict=True)]
    across = list(product(*cuts[1:]))
    units: list[Unit] = []
    layout = []
    for band, rows in enumerate(cuts[0]):
        for column, sides in enumerate(across):
            core = (rows, *sides)
            layout.append((band, column, core, window_for(core)))
    own = _own_tiles(plan, layout, len(across))
    for frame, plane in planes:
        for (band, column, core, window), tiles in zip(layout, own, strict=True):
            units.append(Unit(len(units), frame, plane, band, column, core, window, tiles))
    return Partition(tuple(units), len(cuts[0]), len(across))


def _cut(part: slice, width: int) -> list[slice]:
    """Pieces of `part` between multiples of `width`."""
    first = part.start // width * width
    return [slice(max(part.start, low), min(part.stop, low + width)) for low in range(first, part.stop, width)]


def own_slabs(stream: TilePlan, windows: Sequence[Box], band: int) -> list[int]:
    """First rows of the tiles of a column that count as those of one band; what starts above is the first band's.

    Parameters
    ----------
    stream
        The tiles of the whole column.
    windows
        Windows of the column's units, band after band.
    band
        Which of them.
    """
    low = None if band == 0 else windows[band][0].start
    below = windows[band + 1][0].start if band + 1 < len(windows) else None
    return [s for s in stream.slabs if (low is None or s >= low) and (below is None or s < below)]


def _own_tiles(plan: TilePlan, layout: list[tuple[int, int, Box, Box]], columns: int) -> list[int]:
    """How many tiles each unit of a plane has as its own."""
    counts = []
    for band, column, _, _ in layout:
        windows = [window for _, other, _, window in layout if other == column]
        stream = plan.within((slice(windows[0][0].start, windows[-1][0].stop), *windows[0][1:]))
        per_slab = len(stream) // max(1, len(stream.slabs))
        counts.append(len(own_slabs(stream, windows, band)) * per_slab)
    return counts


def _window_of_box(grid: WorkGrid, box: Box, extent: tuple[int, ...]) -> Box:
    """The working voxels that a box of the image's grid looks at."""
    window = []
    for part, factor, size in zip(box, grid.factors, extent, strict=True):
        needs = RowNeeds.of(part.stop, 1 / factor, size)
        window.append(slice(int(needs.start[part.start]), int(needs.stop[part.stop - 1])))
    return tuple(window)
