"""A slide as coarse cells: their mean colour, their roughness, and whether they were scanned at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import MedicalImage

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

# one piece in memory; what is computed of it takes about four times as much
_READ_BYTES = 12_000_000
_MOST_CELLS = 4_000_000
_LONGEST_SIDE = 2048
_SHORTEST_SIDE = 1024
# samples along a side of a cell
_FOLD = 4
# how much coarser than wanted samples may be, so that nominal and stated magnifications read the same level
_NEAR = 1.1
# JPEG leaves black at up to this value
_BLACK = 3


@dataclass(frozen=True)
class CellGrid:
    """The cells that become mask pixels: `fold` samples of `stride` pixels of `level`, along ``(y, x)``."""

    level: int
    stride: tuple[int, int]
    fold: tuple[int, int]
    shape: tuple[int, int]
    factors: tuple[float, float]
    cell_um: tuple[float, float]

    @classmethod
    def plan(cls, image: MedicalImage, pixel_um: float) -> CellGrid:
        """Cells of about `pixel_um` micrometres, of the level that suits them; no more than a few million."""
        known = image.geometry.unit is not None
        steps = image.geometry.in_unit("um").steps if known else (1.0, 1.0)
        level, stride, fold = _known_spacing(image, steps, pixel_um) if known else _unknown_spacing(image)
        sides, down = image.spatial_shape(level), image.downsampling(level)
        while math.prod(-(-n // (s * f)) for n, s, f in zip(sides, stride, fold, strict=True)) > _MOST_CELLS:
            fold = (fold[0] + 1, fold[1] + 1)
        cell = (stride[0] * fold[0], stride[1] * fold[1])
        factors = (down[0] * cell[0], down[1] * cell[1])
        cell_um = (factors[0] * steps[0], factors[1] * steps[1]) if known else (pixel_um,) * 2
        return cls(level, stride, fold, (-(-sides[0] // cell[0]), -(-sides[1] // cell[1])), factors, cell_um)


def _known_spacing(
    image: MedicalImage, steps: tuple[float, ...], pixel_um: float
) -> tuple[int, tuple[int, int], tuple[int, int]]:
    sample_um = pixel_um / _FOLD
    level = 0
    for number in range(1, len(image.levels)):
        if max(s * d for s, d in zip(steps, image.downsampling(number), strict=True)) <= sample_um * _NEAR:
            level = number
    own = [s * d for s, d in zip(steps, image.downsampling(level), strict=True)]
    # powers of two divide the pieces in which slides are stored
    rows, columns = (1 << max(0, math.floor(math.log2(_NEAR * sample_um / o))) for o in own)
    down, across = (max(1, math.floor(pixel_um / (o * n) + 0.1)) for o, n in zip(own, (rows, columns), strict=True))
    return level, (rows, columns), (down, across)


def _unknown_spacing(image: MedicalImage) -> tuple[int, tuple[int, int], tuple[int, int]]:
    sides = [max(image.spatial_shape(number)) for number in range(len(image.levels))]
    level = max(number for number, side in enumerate(sides) if number == 0 or side >= _FOLD * _SHORTEST_SIDE)
    # two pixels at least, or the noise of single pixels would look like structure
    stride = 1 << max(1, math.ceil(math.log2(sides[level] / (_FOLD * _LONGEST_SIDE))))
    return level, (stride, stride), (_FOLD, _FOLD)


def read_cells(image: MedicalImage, grid: CellGrid, frame: int) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Mean colour of each cell ``(c, y, x)`` from 0 to 255, its roughness, and which cells hold nothing but black.

    Roughness is the standard deviation of the optical density over the samples of 3 x 3 cells. Black pixels of a
    colour image were not scanned and count nowhere, or every border of them would look dark.
    """
    from scipy.ndimage import uniform_filter

    channels = (0, 1, 2) if image.is_rgb else (0,)
    # of the samples in each cell: sums of the colours, of the optical density and its square, and their number
    total = np.zeros((len(channels) + 3, *grid.shape), np.float32)
    for top, left, block in _blocks(image, grid, frame, channels):
        samples = _samples(block, grid.stride, image.is_rgb)
        down, row_starts = _span(top // grid.stride[0], samples.shape[1], grid.fold[0])
        across, column_starts = _span(left // grid.stride[1], samples.shape[2], grid.fold[1])
        total[:, down, across] += np.add.reduceat(np.add.reduceat(samples, row_starts, 1), column_starts, 2)
    *_, density, square, number = total
    black: BoolArray = number == 0
    weight = np.maximum(uniform_filter(number, 3, mode="constant"), 1e-6)
    mean = uniform_filter(density, 3, mode="constant") / weight
    variance = uniform_filter(square, 3, mode="constant") / weight - mean * mean
    colours: FloatArray = np.divide(total[:-3], np.maximum(number, 1), dtype=np.float32)
    return colours, np.sqrt(np.maximum(variance, 0), dtype=np.float32), black


def _blocks(
    image: MedicalImage, grid: CellGrid, frame: int, channels: tuple[int, ...]
) -> Iterator[tuple[int, int, npt.NDArray[Any]]]:
    """Row, column and pixels of parts that cover a level: whole chunks as far as memory allows, and whole samples."""
    array, axes, sides = image.levels[grid.level], image.axes, image.spatial_shape(grid.level)
    chunks = getattr(array, "chunksize", None) or getattr(array, "chunks", None) or (1,) * len(axes)
    chunk = [chunks[axes.index(a)] for a in "yx"]
    allowed = _READ_BYTES // (image.dtype.itemsize * image.channel_count)
    wide = min(sides[1], chunk[1] * max(1, allowed // (max(chunk[0], grid.stride[0]) * chunk[1])))
    high = min(sides[0], chunk[0] * max(1, allowed // (chunk[0] * wide)))
    rows, columns = (max(s, n // s * s) for n, s in zip((high, wide), grid.stride, strict=True))
    # a chunk larger than what is allowed is decoded once, and then worked on in bands
    band = min(rows, max(1, allowed // columns // grid.stride[0]) * grid.stride[0])
    for top, left in product(range(0, sides[0], rows), range(0, sides[1], columns)):
        region = slice(top, min(top + rows, sides[0])), slice(left, min(left + columns, sides[1]))
        block = image.read(region, grid.level, frame, channels)
        for first in range(0, block.shape[1], band):
            yield top + first, left, block[:, first : first + band]


def _samples(block: npt.NDArray[Any], stride: tuple[int, int], colour: bool) -> FloatArray:
    """Means of `stride` pixels: the channels 0 to 255, optical density, its square, and 1; all 0 where black."""
    largest = int(np.iinfo(block.dtype).max)
    starts = [np.arange(0, n, s) for n, s in zip(block.shape[1:], stride, strict=True)]
    exact = np.uint64 if block.dtype == np.uint16 else np.uint32

    def summed(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        rows = np.add.reduceat(values, starts[0], axis=0, dtype=exact)
        return np.asarray(np.add.reduceat(rows, starts[1], axis=1))

    scanned = np.ones(block.shape[1:], bool)
    if colour:
        scanned = block.max(axis=0) > _BLACK * largest // 255
    number = summed(scanned)
    samples = np.zeros((len(block) + 3, *number.shape), np.float32)
    for channel, values in enumerate(block):
        lit = values if scanned.all() else np.where(scanned, values, 0)
        samples[channel] = summed(lit) / (np.maximum(number, 1) * (largest / 255.0))
    samples[-1] = number > 0
    samples[-3] = -np.log10((samples[:-3].mean(axis=0) + 1.0) / 256.0) * samples[-1]
    samples[-2] = samples[-3] ** 2
    return samples


def _span(start: int, length: int, fold: int) -> tuple[slice, npt.NDArray[np.int64]]:
    """The cells that `length` samples from `start` fall into, and where each begins among these samples."""
    cells = np.arange(start // fold, (start + length - 1) // fold + 1)
    return slice(int(cells[0]), int(cells[-1]) + 1), np.maximum(cells * fold - start, 0)
