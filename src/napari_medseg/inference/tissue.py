"""Which part of a slide is tissue, so that tiles of bare glass can be skipped.

A cell of a coarse grid counts as tissue where its colour is saturated *or* it absorbs light, both measured against
the glass of the same slide, *or* it has structure, as even the palest tissue does. The thresholds are Otsu's (IEEE
Trans. Syst. Man Cybern. 9, 62-66, 1979) kept between fixed bounds, so that a slide of glass only comes out empty and
a slide of tissue only comes out full. Every doubt is decided for tissue: pen marks, dust, folds and the shadow of a
cover slip stay in, because tissue may lie under them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError, MedicalImage

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

# what may be glass: bright, nearly grey, and without any structure
_GLASS_BRIGHTNESS = 150.0
_GLASS_SATURATION = 0.06
_GLASS_ROUGHNESS = 0.003
_GLASS_SHARE = 0.05
_DARK_BRIGHTNESS = 64.0
# JPEG leaves black at up to this value
_BLACK = 3
_ACCEPTED = "accepted are 8-bit and 16-bit colour slides, and grey ones of the same depth with a bright background"


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is told from glass. Where the spacing is unknown, one mask pixel counts as `pixel_um` long.

    Parameters
    ----------
    pixel_um
        About how many micrometres a mask pixel spans; never fewer than one of the image's own. Where
        the spacing is unknown it spans 8 of them or more, and the mask's longer side has up to 2048.
    saturation_bounds
        Saturation (HSV, relative to the glass, 0 to 1): below the first never tissue by colour, above the second
        always; Otsu's threshold decides between.
    density_bounds
        The same for the optical density relative to the glass, mean of the channels.
    roughness_bounds
        The same for the standard deviation of the optical density over 3 x 3 mask pixels, which shows structure
        in tissue so pale that it has hardly any colour.
    closing_um
        Gaps up to twice this are closed.
    hole_area_um2
        Holes smaller than this count as tissue, and so do unscanned black areas.
    min_area_um2
        Pieces smaller than this are dropped as specks, unless they are as dense as `certain_density`.
    certain_density
        Optical density at which even the smallest piece is kept, as it may be a cell.
    margin_um
        How far the tissue is widened to every side.

    Raises
    ------
    InputError
        If a length or area is negative or not finite, or bounds do not ascend within 0 to 1.
    """

    pixel_um: float = 8.0
    saturation_bounds: tuple[float, float] = (0.02, 0.035)
    density_bounds: tuple[float, float] = (0.035, 0.045)
    roughness_bounds: tuple[float, float] = (0.004, 0.006)
    closing_um: float = 40.0
    hole_area_um2: float = 250_000.0
    min_area_um2: float = 600.0
    certain_density: float = 0.1
    margin_um: float = 48.0

    def __post_init__(self) -> None:
        for name in ("pixel_um", "closing_um", "hole_area_um2", "min_area_um2", "margin_um", "certain_density"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name == "pixel_um" and value == 0):
                raise InputError(f"Tissue setting {name} is {value:g}; accepted are finite numbers from 0 upwards.")
        for name in ("saturation_bounds", "density_bounds", "roughness_bounds"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise InputError(
                    f"Tissue setting {name} is {low:g} to {high:g}; accepted are two ascending numbers above 0 up to 1."
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Where tissue may be.

    Parameters
    ----------
    mask
        Boolean array ``(y, x)`` over the whole image.
    factors
        Image pixels per mask pixel along ``(y, x)``: mask pixel ``i`` covers ``[i, i + 1) * factor``.
    thresholds
        Those that were used for ``"saturation"`` (``None`` for a grey image), ``"density"`` and ``"roughness"``.
    glass
        Red, green and blue (or grey) of the glass, 0 to 255; white where the image shows none.
    level
        The pyramid level that was read.
    settings
        What was asked for.
    """

    mask: BoolArray
    factors: tuple[float, float]
    thresholds: dict[str, float | None]
    glass: tuple[float, ...]
    level: int
    settings: TissueSettings
    _before: npt.NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        np.cumsum(self.mask, axis=0, out=table[1:, 1:])
        np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
        object.__setattr__(self, "_before", table)

    @property
    def share(self) -> float:
        """Share of the mask that is tissue, 0 to 1."""
        return float(self._before[-1, -1] / self.mask.size)

    def touches(self, region: tuple[slice, slice]) -> bool:
        """Whether any tissue lies in a region of the image.

        Parameters
        ----------
        region
            Slices along ``(y, x)`` in pixels of level 0, with start and stop; they may pass the image's edges.
        """
        if any(part.start >= part.stop for part in region):
            return False
        (top, bottom), (left, right) = (
            (max(0, math.floor(part.start / factor)), min(size, math.ceil(part.stop / factor)))
            for part, factor, size in zip(region, self.factors, self.mask.shape, strict=True)
        )
        if top >= bottom or left >= right:
            return False
        table = self._before
        inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return bool(inside > 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for the report and the history."""
        return {
            "share": self.share,
            "shape": list(self.mask.shape),
            "image_pixels_per_mask_pixel": list(self.factors),
            "pyramid_level": self.level,
            "thresholds": dict(self.thresholds),
            "glass": list(self.glass),
            "settings": self.settings.to_dict(),
        }


def tissue_mask(image: MedicalImage, settings: TissueSettings | None = None, frame: int = 0) -> TissueMask:
    """Find where tissue may be on a slide; memory stays bounded however large the image is.

    Parameters
    ----------
    image
        A flat picture taken with transmitted light: colour, or grey with a bright background.
    settings
        See `TissueSettings`.
    frame
        Index along ``t``.

    Raises
    ------
    InputError
        If the image is a volume, holds other numbers than 8-bit or 16-bit intensities, or is grey without a bright
        background.
    """
    settings = settings or TissueSettings()
    _require_slide(image)
    grid = _Grid.plan(image, settings)
    colours, roughness, black = _cells(image, grid, frame)
    even = (roughness < _GLASS_ROUGHNESS) & ~black
    if not image.is_rgb:
        _require_bright_background(colours[0], even, black)
    glass = _glass(colours, even)
    # light that passed the sample over light that passed the glass
    passed = np.minimum(colours / np.asarray(glass, np.float32)[:, np.newaxis, np.newaxis], 1.0)
    density = -np.log10((255.0 * passed + 1.0) / 256.0).mean(axis=0)
    density_limit = _limit(density[~black], settings.density_bounds)
    roughness_limit = _limit(roughness[~black], settings.roughness_bounds)
    # the border of what was not scanned is rough everywhere, on glass too
    found = (density > density_limit) | ((roughness > roughness_limit) & ~_widened(black, (1, 1)))
    saturation_limit = None
    if image.is_rgb:
        brightest = passed.max(axis=0)
        saturation = (brightest - passed.min(axis=0)) / np.maximum(brightest, 1.0 / 255.0)
        saturation_limit = _limit(saturation[~black], settings.saturation_bounds)
        found |= saturation > saturation_limit
    mask = _tidied(found, density >= settings.certain_density, black, grid, settings)
    limits = {"saturation": saturation_limit, "density": density_limit, "roughness": roughness_limit}
    return TissueMask(mask, grid.factors, limits, glass, grid.level, settings)


def _require_slide(image: MedicalImage) -> None:
    if image.spatial_axes != "yx":
        raise InputError("Tissue is told from glass on flat pictures only, and this image is a volume.")
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"Tissue cannot be told from glass in pixels stored as {image.dtype}; {_ACCEPTED}.")
    if not image.is_rgb and image.channel_count != 1:
        raise InputError(
            f"Tissue cannot be told from glass in an image of {image.channel_count} channels that are not red, green "
            f"and blue; {_ACCEPTED}."
        )


def _require_bright_background(brightness: FloatArray, even: BoolArray, black: BoolArray) -> None:
    bright = np.count_nonzero(even & (brightness >= _GLASS_BRIGHTNESS))
    dark = np.count_nonzero((brightness < _DARK_BRIGHTNESS) | black)
    if bright <= dark or bright < _GLASS_SHARE * even.size:
        raise InputError(
            f"Tissue cannot be told from glass: this grey image has no bright, even background; {_ACCEPTED}."
        )


@dataclass(frozen=True)
class _Grid:
    """The cells that become mask pixels: `fold` samples of `stride` pixels of `level`, along ``(y, x)``."""

    level: int
    stride: tuple[int, int]
    fold: tuple[int, int]
    shape: tuple[int, int]
    factors: tuple[float, float]
    cell_um: tuple[float, float]

    @classmethod
    def plan(cls, image: MedicalImage, settings: TissueSettings) -> _Grid:
        known = image.geometry.unit is not None
        steps = image.geometry.in_unit("um").steps if known else (1.0, 1.0)
        level, stride, fold = _known_spacing(image, steps, settings) if known else _unknown_spacing(image)
        sides, down = image.spatial_shape(level), image.downsampling(level)
        while math.prod(-(-n // (s * f)) for n, s, f in zip(sides, stride, fold, strict=True)) > _MOST_CELLS:
            fold = (fold[0] + 1, fold[1] + 1)
        cell = (stride[0] * fold[0], stride[1] * fold[1])
        factors = (down[0] * cell[0], down[1] * cell[1])
        cell_um = (factors[0] * steps[0], factors[1] * steps[1]) if known else (settings.pixel_um,) * 2
        return cls(level, stride, fold, (-(-sides[0] // cell[0]), -(-sides[1] // cell[1])), factors, cell_um)


def _known_spacing(
    image: MedicalImage, steps: tuple[float, ...], settings: TissueSettings
) -> tuple[int, tuple[int, int], tuple[int, int]]:
    sample_um = settings.pixel_um / _FOLD
    level = 0
    for number in range(1, len(image.levels)):
        if max(s * d for s, d in zip(steps, image.downsampling(number), strict=True)) <= sample_um * _NEAR:
            level = number
    own = [s * d for s, d in zip(steps, image.downsampling(level), strict=True)]
    # powers of two divide the pieces in which slides are stored
    rows, columns = (1 << max(0, math.floor(math.log2(_NEAR * sample_um / o))) for o in own)
    down, across = (
        max(1, math.floor(settings.pixel_um / (o * n) + 0.1)) for o, n in zip(own, (rows, columns), strict=True)
    )
    return level, (rows, columns), (down, across)


def _unknown_spacing(image: MedicalImage) -> tuple[int, tuple[int, int], tuple[int, int]]:
    sides = [max(image.spatial_shape(number)) for number in range(len(image.levels))]
    level = max(number for number, side in enumerate(sides) if number == 0 or side >= _FOLD * _SHORTEST_SIDE)
    # two pixels at least, or the noise of single pixels would look like structure
    stride = 1 << max(1, math.ceil(math.log2(sides[level] / (_FOLD * _LONGEST_SIDE))))
    return level, (stride, stride), (_FOLD, _FOLD)


def _cells(image: MedicalImage, grid: _Grid, frame: int) -> tuple[FloatArray, FloatArray, BoolArray]:
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
    image: MedicalImage, grid: _Grid, frame: int, channels: tuple[int, ...]
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


def _glass(colours: FloatArray, candidates: BoolArray) -> tuple[float, ...]:
    """Colour of the glass; white where too little of the image could be glass.

    The brightest of what could be glass is taken: too bright a glass only makes more of the slide tissue.
    """
    white = (255.0,) * len(colours)
    brightness = colours.mean(axis=0)
    brightest = colours.max(axis=0)
    grey = brightest - colours.min(axis=0) <= _GLASS_SATURATION * brightest
    chosen = candidates & grey & (brightness >= _GLASS_BRIGHTNESS)
    if np.count_nonzero(chosen) < max(1.0, _GLASS_SHARE * chosen.size):
        return white
    top = chosen & (brightness >= np.percentile(brightness[chosen], 90))
    return tuple(round(float(np.median(channel[top])), 2) for channel in colours)


def _limit(values: FloatArray, bounds: tuple[float, float]) -> float:
    """Otsu's threshold of `values`, kept between `bounds`."""
    from skimage.filters import threshold_otsu

    if values.size == 0 or values.min() == values.max():
        return bounds[0]
    return min(max(float(threshold_otsu(values)), bounds[0]), bounds[1])


def _tidied(found: BoolArray, certain: BoolArray, black: BoolArray, grid: _Grid, settings: TissueSettings) -> BoolArray:
    """`found` without specks and large black areas, closed, filled and widened."""
    area = grid.cell_um[0] * grid.cell_um[1]
    unscanned = black & ~_small_pieces(black, settings.hole_area_um2 / area)
    closed = _closed((found | black) & ~unscanned, _cells_within(settings.closing_um, grid))
    specks = _small_pieces(closed, settings.min_area_um2 / area, keep=certain)
    kept = closed & ~specks
    # what is open to the image's edge is no hole
    edge = np.pad(np.zeros([max(0, n - 2) for n in kept.shape], bool), 1, constant_values=True)
    edge = edge[: kept.shape[0], : kept.shape[1]]
    kept |= _small_pieces(~kept, settings.hole_area_um2 / area, keep=edge & ~kept) & ~unscanned
    return _widened(kept, _cells_within(settings.margin_um, grid))


def _cells_within(length_um: float, grid: _Grid) -> tuple[int, int]:
    rows, columns = (math.ceil(length_um / side - 0.1) for side in grid.cell_um)
    return max(0, rows), max(0, columns)


def _small_pieces(mask: BoolArray, cells: float, keep: BoolArray | None = None) -> BoolArray:
    """Connected pieces of fewer than `cells` cells, corners counted as connected, none of them in `keep`."""
    from scipy.ndimage import label

    pieces, number = label(mask, np.ones((3, 3), bool))
    small = np.bincount(pieces.ravel(), minlength=number + 1) < cells
    small[0] = False
    if keep is not None:
        small[np.unique(pieces[keep])] = False
    result: BoolArray = small[pieces]
    return result


def _widened(mask: BoolArray, reach: tuple[int, int]) -> BoolArray:
    """Everything within `reach` rows and columns of the mask."""
    from scipy.ndimage import maximum_filter

    size = (2 * reach[0] + 1, 2 * reach[1] + 1)
    wide: BoolArray = maximum_filter(mask.view(np.uint8), size, mode="constant", cval=0).view(bool)
    return wide


def _closed(mask: BoolArray, reach: tuple[int, int]) -> BoolArray:
    """The mask with its gaps closed; what lies beyond the image takes no tissue away."""
    rest = ~_widened(mask, reach)
    return mask | ~_widened(rest, reach)
