"""Which tiles cover a grid, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product


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

    Raises
    ------
    ValueError
        If the lengths differ, a size is not positive, or the overlap is outside ``[0, 1)``.
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    overlap: float
    window: tuple[slice, ...] | None = None
    mirrored: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.tile) or min(self.shape) < 1 or min(self.tile) < 1:
            raise ValueError(f"a grid of {self.shape} cannot be covered by tiles of {self.tile}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"an overlap of {self.overlap} is not at least 0 and below 1")

    def starts(self, axis: int) -> tuple[int, ...]:
        """Where tiles start along `axis`, ascending; the last one is moved back to end with the grid.

        A grid shorter than the tile has one tile, centred on it: its start is then 0 or negative.
        """
        size, tile = self.shape[axis], self.tile[axis]
        if size <= tile:
            starts: tuple[int, ...] = (-((tile - size) // 2),)
        else:
            stride = max(1, int(tile * (1 - self.overlap)))
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
        count = 1
        for axis in range(len(self.shape)):
            count *= len(self.starts(axis))
        return count

    @property
    def slabs(self) -> tuple[int, ...]:
        """Where tiles start along the first axis; all tiles of one start make a slab."""
        return self.starts(0)

    def in_slab(self, slab: int) -> Iterator[tuple[int, ...]]:
        """The starts of the tiles of one slab, in reading order."""
        yield from product((slab,), *(self.starts(axis) for axis in range(1, len(self.shape))))

    def complete_rows(self, number: int) -> int:
        """Before which row of the first axis everything is final once slab `number` is done."""
        slabs = self.slabs
        last = min(self.shape[0], slabs[-1] + self.tile[0])
        return last if number + 1 == len(slabs) else slabs[number + 1]

    @property
    def first_row(self) -> int:
        """The first row of the first axis that a tile touches."""
        return max(0, self.slabs[0])
