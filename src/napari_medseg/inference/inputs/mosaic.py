"""A volume laid out as one picture, so that a two-dimensional network sees all slices at once.

After Sobirov, Saeed and Yaqub, "Super Images - A New 2D Perspective on 3D Medical Imaging Analysis" (MIUA 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_medseg.inference.inputs.stacks import FloatArray, ReadPlane
from napari_medseg.inference.labels.decide import Decision

_LARGEST_RATIO = 2.0


@dataclass(frozen=True)
class MosaicLayout:
    """Where each slice lies in the mosaic: in reading order, one slice a tile.

    Parameters
    ----------
    depth
        Number of slices.
    height, width
        Shape of a slice.
    rows, columns
        Tiles down and across; tiles after the last slice are empty.
    gutter
        Empty pixels between neighbouring tiles; none around the mosaic.

    Raises
    ------
    ValueError
        If a size is not positive, the gutter is negative, or there are fewer tiles than slices.
    """

    depth: int
    height: int
    width: int
    rows: int
    columns: int
    gutter: int = 0

    def __post_init__(self) -> None:
        if min(self.depth, self.height, self.width, self.rows, self.columns) < 1 or self.gutter < 0:
            raise ValueError(
                f"{self.depth} slices of {self.height} x {self.width} cannot be laid out in {self.rows} rows and "
                f"{self.columns} columns with a gutter of {self.gutter}"
            )
        if self.rows * self.columns < self.depth:
            raise ValueError(f"{self.rows} x {self.columns} tiles do not hold {self.depth} slices")

    @classmethod
    def near_square(cls, depth: int, height: int, width: int, *, exact: bool = False, gutter: int = 0) -> MosaicLayout:
        """The layout whose mosaic comes close to a square.

        It has ``round(sqrt(depth * width / height))`` rows, as many columns as that needs, and no row without
        a slice.

        Parameters
        ----------
        depth, height, width
            Number and shape of the slices.
        exact
            Prefer a layout without empty tiles: of those whose mosaic is at most twice as long as wide, the one
            closest to a square; of two equally close ones that with more rows. Where there is none, as for a
            prime number of slices, the ordinary layout with empty tiles at the end is taken.
        gutter
            Empty pixels between neighbouring tiles.
        """
        if min(depth, height, width) < 1:
            raise ValueError(f"{depth} slices of {height} x {width} cannot be laid out")
        if exact:
            fits = [(rows, depth // rows) for rows in range(depth, 0, -1) if depth % rows == 0]
            rows, columns = min(fits, key=lambda fit: _elongation(fit[0] * height, fit[1] * width))
            if _elongation(rows * height, columns * width) <= _LARGEST_RATIO:
                return cls(depth, height, width, rows, columns, gutter)
        columns = ceil(depth / max(1, round(sqrt(depth * width / height))))
        return cls(depth, height, width, ceil(depth / columns), columns, gutter)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the mosaic in pixels."""
        return (
            self.rows * self.height + (self.rows - 1) * self.gutter,
            self.columns * self.width + (self.columns - 1) * self.gutter,
        )

    def tile_of(self, plane: int) -> tuple[int, int]:
        """The first pixel ``(y0, x0)`` of the tile that holds slice `plane`.

        Raises
        ------
        ValueError
            If there is no such slice.
        """
        if not 0 <= plane < self.depth:
            raise ValueError(f"slice {plane} is not one of the {self.depth} slices of the mosaic")
        row, column = divmod(plane, self.columns)
        return row * (self.height + self.gutter), column * (self.width + self.gutter)

    def slice_at(self, row: int, column: int) -> int | None:
        """The slice in the tile at `row` and `column` of the layout; ``None`` for an empty tile.

        Raises
        ------
        ValueError
            If there is no such tile.
        """
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise ValueError(f"tile {row}, {column} is not one of {self.rows} x {self.columns}")
        plane = row * self.columns + column
        return plane if plane < self.depth else None


def _elongation(height: int, width: int) -> float:
    return max(height, width) / min(height, width)


def pack(volume: Any, layout: MosaicLayout, fill: float = 0.0) -> npt.NDArray[Any]:
    """The mosaic ``(..., Y, X)`` of a volume ``(..., z, y, x)``, with the volume's dtype.

    Parameters
    ----------
    volume
        numpy, zarr or dask; any leading axes, such as channels, are kept. It is read slice by slice.
    layout
        Where the slices go.
    fill
        Value of the gutter and of empty tiles.

    Raises
    ------
    ValueError
        If the volume does not have the layout's shape, or its dtype cannot hold `fill`.
    """
    slices = (layout.depth, layout.height, layout.width)
    if tuple(volume.shape[-3:]) != slices:
        raise ValueError(f"a volume of shape {tuple(volume.shape)} does not fit a mosaic of slices {slices}")
    held = np.asarray(fill).astype(volume.dtype)
    if held != fill and not np.issubdtype(volume.dtype, np.inexact):
        raise ValueError(f"{volume.dtype} cannot hold the fill value {fill:g}")
    mosaic = np.full((*volume.shape[:-3], *layout.shape), held, volume.dtype)
    for plane in range(layout.depth):
        mosaic[_tile(layout, plane)] = np.asarray(volume[..., plane, :, :])
    return mosaic


def unpack(mosaic: npt.NDArray[Any], layout: MosaicLayout) -> npt.NDArray[Any]:
    """The volume ``(..., z, y, x)`` of a mosaic ``(..., Y, X)``, with the mosaic's dtype; the inverse of `pack`.

    Raises
    ------
    ValueError
        If the mosaic does not have the layout's shape.
    """
    if tuple(mosaic.shape[-2:]) != layout.shape:
        raise ValueError(f"a mosaic of shape {tuple(mosaic.shape)} is not one of {layout.shape}")
    volume = np.empty((*mosaic.shape[:-2], layout.depth, layout.height, layout.width), mosaic.dtype)
    for plane in range(layout.depth):
        volume[..., plane, :, :] = mosaic[_tile(layout, plane)]
    return volume


def _tile(layout: MosaicLayout, plane: int) -> tuple[Any, ...]:
    y, x = layout.tile_of(plane)
    return ..., slice(y, y + layout.height), slice(x, x + layout.width)


class MosaicReader:
    """Reads regions of a mosaic without making the mosaic.

    Parameters
    ----------
    read
        Reads float32 ``(channels, *shape)`` of one slice.
    layout
        Where the slices lie.
    channels
        Number of channels that `read` gives.
    fill
        Value of the gutter and of empty tiles, in the image's own intensities; for CT that of air, -1000 HU,
        because 0 HU is water.
    """

    def __init__(self, read: ReadPlane, layout: MosaicLayout, channels: int, fill: float = 0.0) -> None:
        self._read, self._fill = read, fill
        self.layout, self.channel_count = layout, channels

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the mosaic."""
        return self.layout.shape

    def read(self, start: tuple[int, ...], shape: tuple[int, ...]) -> FloatArray:
        """The region of the mosaic as float32 ``(channels, *shape)``.

        Of each slice only what lies in the region is read.

        Raises
        ------
        ValueError
            If the region does not lie inside the mosaic.
        """
        whole = self.layout.shape
        if any(s < 0 or n < 1 or s + n > size for s, n, size in zip(start, shape, whole, strict=True)):
            raise ValueError(f"a region of {shape} at {start} does not lie inside a mosaic of {whole}")
        values = np.full((self.channel_count, *shape), self._fill, np.float32)
        layout = self.layout
        for row, inside_y, target_y in _touched(start[0], shape[0], layout.height, layout.gutter):
            for column, inside_x, target_x in _touched(start[1], shape[1], layout.width, layout.gutter):
                plane = layout.slice_at(row, column)
                if plane is not None:
                    size = (target_y.stop - target_y.start, target_x.stop - target_x.start)
                    values[:, target_y, target_x] = self._read(plane, (inside_y, inside_x), size)
        return values


def _touched(start: int, size: int, tile: int, gutter: int) -> list[tuple[int, int, slice]]:
    """Tiles along one axis that a region touches: their number, where in the tile it begins, where in the region."""
    touched = []
    for number in range(start // (tile + gutter), (start + size - 1) // (tile + gutter) + 1):
        first = number * (tile + gutter)
        low, high = max(start, first), min(start + size, first + tile)
        if low < high:
            touched.append((number, low - first, slice(low - start, high - start)))
    return touched


class MosaicDecisions:
    """Cuts finished rows of a mosaic's maps into slices and decides slice after slice.

    The decision of a slice is made only after that of the slice before was closed, so that ids of objects can
    count on from slice to slice. Rows of the first column are therefore handed on as they come, and those of
    the other columns when their row of tiles is complete: at most one row of tiles is held.

    Parameters
    ----------
    layout
        Where the slices lie.
    make
        Makes the decision of a slice, given its index; called once a slice in ascending order.
    """

    def __init__(self, layout: MosaicLayout, make: Callable[[int], Decision]) -> None:
        self._layout, self._make = layout, make
        self._next_row = 0
        self._waiting: list[tuple[int, torch.Tensor]] = []
        self._first_column: Decision | None = None

    def add(self, first: int, maps: torch.Tensor) -> None:
        """Take the next rows of maps ``(c, rows, X)``, which start at row `first` of the mosaic.

        Rows that wait are not copied: the caller must not change `maps` afterwards.

        Raises
        ------
        ValueError
            If rows were left out or come twice, or do not have the mosaic's width.
        """
        height, width = self._layout.shape
        end = first + maps.shape[1]
        if first != self._next_row or end > height or maps.shape[2] != width:
            raise ValueError(
                f"rows {first} to {end} of width {maps.shape[2]} do not follow row {self._next_row} of a mosaic "
                f"of {(height, width)}"
            )
        for row, inside, part in _touched(first, maps.shape[1], self._layout.height, self._layout.gutter):
            self._add_to_tiles(row, inside, maps[:, part])
        self._next_row = end

    def close(self) -> None:
        """Check that every slice was decided.

        Raises
        ------
        ValueError
            If rows of the mosaic are missing.
        """
        if self._next_row != self._layout.shape[0]:
            raise ValueError(f"the mosaic has {self._layout.shape[0]} rows and only {self._next_row} came")

    def _add_to_tiles(self, row: int, first: int, maps: torch.Tensor) -> None:
        begin = row * self._layout.columns
        if begin >= self._layout.depth:
            return
        if self._first_column is None:
            self._first_column = self._make(begin)
        self._first_column.add(first, maps[..., : self._layout.width])
        self._waiting.append((first, maps))
        if first + maps.shape[1] < self._layout.height:
            return
        self._first_column.close()
        self._first_column = None
        for plane in range(begin + 1, min(begin + self._layout.columns, self._layout.depth)):
            _, left = self._layout.tile_of(plane)
            decision = self._make(plane)
            for start, rows in self._waiting:
                decision.add(start, rows[..., left : left + self._layout.width])
            decision.close()
        self._waiting.clear()
