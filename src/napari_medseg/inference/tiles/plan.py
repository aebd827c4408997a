"""Which tiles cover a grid, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod


@dataclass(frozen=True)
class TilePlan:
    """Overlapping tiles that cover a grid completely.

    Parameters
    ----------
    shape
        Shape of the grid.
    tile
        Shape of one tile; along axes where the grid is shorter the tile reaches beyond it.
    overlap
        Share of a tile that neighbours have in common, 0 up to but not including 1.
    mirrored
        Axes along which tiles are laid from the end, because the network sees them the other way round: the same
        image stored flipped then gets the same tiles.
    window
        Part of the grid that is wanted, one slice an axis. Tiles that do not touch it are left out; the
        others keep their place, so that inside the window nothing differs from a plan for the whole grid.
    margin
        Voxels at a tile's rim that are not used, because the network saw too little around them. Neighbouring
        tiles lie so much closer. At the edge of the grid there is nothing more to see, and the rim is used.

    Raises
    ------
    ValueError
        If the lengths differ, a size is not positive, the overlap is outside ``[0, 1)``, or the margin leaves
        nothing of a tile.
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    overlap: float
    window: tuple[slice, ...] | None = None
    mirrored: tuple[bool, ...] = ()
    margin: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.tile) or min(self.shape) < 1 or min(self.tile) < 1:
            raise ValueError(f"a grid of {self.shape} cannot be covered by tiles of {self.tile}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"an overlap of {self.overlap} is not at least 0 and below 1")
        if self.margin < 0 or 2 * self.margin >= min(self.tile):
            raise ValueError(f"a margin of {self.margin} leaves nothing of tiles of {self.tile}")

    def within(self, window: tuple[slice, ...]) -> TilePlan:
        """The part of this plan that `window` needs."""
        return replace(self, window=window)

    @cached_property
    def bounds(self) -> tuple[slice, ...]:
        """The wanted part of the grid: the window, or all of it."""
        return self.window if self.window is not None else tuple(slice(0, n) for n in self.shape)

    @cached_property
    def _starts(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self._along(axis) for axis in range(len(self.shape)))

    def starts(self, axis: int) -> tuple[int, ...]:
        """Where tiles start along `axis`, ascending; the last one is moved back to end with the grid.

        A grid shorter than the tile has one tile, centred on it: its start is then 0 or negative.
        """
        return self._starts[axis]

    def _along(self, axis: int) -> tuple[int, ...]:
        size, tile = self.shape[axis], self.tile[axis]
        if size <= tile:
            starts: tuple[int, ...] = (-((tile - size) // 2),)
        else:
            stride = max(1, int((tile - 2 * self.margin) * (1 - self.overlap)))
            starts = (*range(0, size - tile, stride), size - tile)
        if self.mirrored and self.mirrored[axis]:
            starts = tuple(size - tile - s for s in reversed(starts))
        if size <= tile:
            return starts
        if self.window is None:
            return starts
        part = self.window[axis]
        return tuple(s for s in starts if s < part.stop and s + tile > part.start)

    def __len__(self) -> int:
        return prod(len(starts) for starts in self._starts)

    @property
    def slabs(self) -> tuple[int, ...]:
        """Where tiles start along the first axis; all tiles of one start make a slab."""
        return self.starts(0)

    def used(self, start: tuple[int, ...]) -> tuple[slice, ...]:
        """The part of the grid that the tile at `start` decides."""
        m = self.margin
        return tuple(
            slice(s + m if s > 0 else 0, s + t - m if s + t < n else n)
            for s, t, n in zip(start, self.tile, self.shape, strict=True)
        )

    def in_slab(self, slab: int) -> Iterator[tuple[int, ...]]:
        """The starts of the tiles of one slab, in reading order."""
        yield from product((slab,), *self._starts[1:])

    def complete_rows(self, number: int) -> int:
        """Before which row of the first axis everything wanted is final once slab `number` is done."""
        slabs = self.slabs
        last = min(self.bounds[0].stop, slabs[-1] + self.tile[0])
        return int(last) if number + 1 == len(slabs) else int(min(last, max(self.first_row, slabs[number + 1])))

    @property
    def first_row(self) -> int:
        """The first wanted row of the first axis."""
        return int(self.bounds[0].start)
