"""Which part of a slide is tissue, so that tiles of bare glass can be skipped.

A cell of a coarse grid counts as tissue where its colour is saturated *or* it absorbs light, both measured against
the glass of the same slide, *or* it has structure, as even the palest tissue does. The thresholds are Otsu's (IEEE
Trans. Syst. Man Cybern. 9, 62-66, 1979) kept between fixed bounds, so that a slide of glass only comes out empty and
a slide of tissue only comes out full. Every doubt is decided for tissue: pen marks, dust, folds and the shadow of a
cover slip stay in, because tissue may lie under them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError, MedicalImage
from napari_medseg.inference.inputs.cells import BoolArray, CellGrid, FloatArray, read_cells

# what may be glass: bright, nearly grey, and without any structure
_GLASS_BRIGHTNESS = 150.0
_GLASS_SATURATION = 0.06
_GLASS_ROUGHNESS = 0.003
_GLASS_SHARE = 0.05
_DARK_BRIGHTNESS = 64.0
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
    grid = CellGrid.plan(image, settings.pixel_um)
    colours, roughness, black = read_cells(image, grid, frame)
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


def _tidied(
    found: BoolArray, certain: BoolArray, black: BoolArray, grid: CellGrid, settings: TissueSettings
) -> BoolArray:
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


def _cells_within(length_um: float, grid: CellGrid) -> tuple[int, int]:
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
