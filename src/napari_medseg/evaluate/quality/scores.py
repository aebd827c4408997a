"""How close an image is to its reference: PSNR, SSIM, MAE and RMSE, also inside a mask and larger than memory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from napari_medseg.case import InputError
from napari_medseg.evaluate.json_values import json_number
from napari_medseg.evaluate.metric import Metric
from napari_medseg.evaluate.pairs import Region
from napari_medseg.evaluate.quality.image_pair import SSIM_RADIUS, Floats, ImagePair, error_sums, mean_ssim
from napari_medseg.jobs import Progress

_WINDOW = 2 * SSIM_RADIUS + 1
_NO_PIXEL = "nan where the mask holds nothing."

METRICS: tuple[Metric, ...] = (
    Metric(
        "psnr",
        "PSNR",
        "20 log10(data range / RMSE), in decibels; the data range is given, or is maximum - minimum of the reference.",
        f"{_NO_PIXEL[:-1]} or the reference is constant and no range is given; inf for identical images.",
        "higher",
        "decibel",
        source="scikit-image peak_signal_noise_ratio",
    ),
    Metric(
        "ssim",
        "SSIM",
        "Mean structural similarity over all pixels at least 5 from the border (inside the mask), Gaussian window of "
        "11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance; channels count alike.",
        f"{_NO_PIXEL[:-1]}, an axis is shorter than 11, or the reference is constant and no range is given; "
        "1 for identical images.",
        "higher",
        source="Wang et al., IEEE Transactions on Image Processing 2004",
    ),
    Metric("mae", "MAE", "Mean of |candidate - reference|.", _NO_PIXEL, "lower", "intensity"),
    Metric("rmse", "RMSE", "Root of the mean of (candidate - reference)².", _NO_PIXEL, "lower", "intensity"),
)


@dataclass(frozen=True)
class Quality:
    """How close a candidate image is to its reference.

    Parameters
    ----------
    psnr
        Peak signal-to-noise ratio in decibels; ``inf`` for identical images.
    ssim
        Mean structural similarity, 1 for identical images; ``nan`` where it was not asked for.
    mae, rmse
        Mean absolute error and root mean square error, in the images' intensities.
    data_range
        The range that PSNR and SSIM relate errors to.
    data_range_from
        ``"given"``, or ``"reference"``: maximum - minimum of the reference where it is compared.
    pixels
        Numbers compared: pixels inside the mask times channels.
    ssim_pixels
        Those of them that SSIM is defined for.
    by_slice
        Whether the windows of SSIM lie in the slices ``(y, x)`` of a volume.
    notes
        What a reader of the numbers has to know: why one of them is ``nan``, what is only known by convention.
    """

    psnr: float
    ssim: float
    mae: float
    rmse: float
    data_range: float
    data_range_from: Literal["given", "reference"]
    pixels: int
    ssim_pixels: int
    by_slice: bool
    notes: tuple[str, ...] = ()

    @property
    def scores(self) -> dict[str, float]:
        """The numbers by the keys of `METRICS`."""
        return {"psnr": self.psnr, "ssim": self.ssim, "mae": self.mae, "rmse": self.rmse}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON: ``nan`` is ``None``, infinity ``"inf"``."""
        record = {k: json_number(v) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return record | {"notes": list(self.notes)}


def image_quality(
    candidate: Any,
    reference: Any,
    *,
    mask: Any = None,
    channel_axis: int | None = None,
    data_range: float | None = None,
    ssim: bool = True,
    by_slice: bool = False,
    progress: Progress | None = None,
) -> Quality:
    """PSNR, SSIM, MAE and RMSE of an image against a reference on the same grid, box by box.

    Errors of images of at most 16-bit integers are added up exactly; otherwise sums differ from those of the whole
    by rounding in double precision. SSIM reads each box with the 5 pixels around it, so every value of its map is
    what the whole image gives.

    Parameters
    ----------
    candidate, reference
        Real numbers (numpy, dask or zarr), ``(z, y, x)`` or ``(y, x)``, with or without a channel axis. Nothing is
        scaled: both must be in the same intensities.
    mask
        Spatial shape; compared where it is not 0. SSIM windows reach out of the mask, only its map is masked.
    channel_axis
        Which axis holds channels; ``None`` for none. Channels are compared one by one and count alike.
    data_range
        Difference between the largest and smallest possible intensity, for instance 255 or, in HU, 2000. ``None``:
        maximum - minimum of the reference where it is compared. It is never taken from the candidate.
    ssim
        Whether to compute SSIM, by far the slowest.
    by_slice
        Whether the windows of SSIM are those of the slices ``(y, x)`` rather than cubes; for volumes of few or of
        thick slices. Windows count voxels, not millimetres.
    progress
        Told about every box; can cancel.

    Raises
    ------
    InputError
        If shapes differ, an image has not 2 or 3 spatial axes, the range is not above 0, values are not real
        numbers, or a value that is compared or that an SSIM window reaches is ``nan`` or infinite.
    CancelledError
        Within one box of `Progress.cancel`.
    """
    progress = progress or Progress()
    pair = ImagePair(candidate, reference, mask, channel_axis)
    if data_range is not None and not (math.isfinite(data_range) and data_range > 0):
        raise InputError(f"A data range of {data_range:g} cannot be used; accepted is a number above 0, as 255.")
    errors = error_sums(pair, progress)
    notes: list[str] = []
    identical = errors.pixels > 0 and errors.squared == 0
    span = float(data_range) if data_range is not None else errors.highest - errors.lowest
    mae = errors.absolute / errors.pixels if errors.pixels else math.nan
    mse = errors.squared / errors.pixels if errors.pixels else math.nan
    similarity, ssim_pixels = math.nan, 0
    if not errors.pixels:
        notes.append("The mask holds nothing, so there is nothing to compare.")
    elif span == 0 and not identical:
        notes.append("The reference is constant and so has no range to relate errors to; PSNR and SSIM need one given.")
    if ssim and errors.pixels:
        if short := [n for n in pair.window_shape(by_slice) if n < _WINDOW]:
            notes.append(f"SSIM needs {_WINDOW} pixels along each axis of its window and one has {min(short)}.")
        elif span > 0 or identical:
            # identical images have SSIM 1 for every range, also where the reference has none
            similarity, ssim_pixels = mean_ssim(pair, span or 1.0, by_slice, progress)
            if not ssim_pixels:
                notes.append(f"SSIM has no window inside the mask: all of it is within {SSIM_RADIUS} of the border.")
    return Quality(
        psnr=_psnr(mse, span),
        ssim=similarity,
        mae=mae,
        rmse=math.sqrt(mse),
        data_range=span,
        data_range_from="given" if data_range is not None else "reference",
        pixels=errors.pixels,
        ssim_pixels=ssim_pixels,
        by_slice=by_slice,
        notes=tuple(notes),
    )


def ssim_map(
    candidate: Any,
    reference: Any,
    data_range: float,
    region: Region | None = None,
    *,
    channel_axis: int | None = None,
    by_slice: bool = False,
) -> Floats:
    """The structural similarity around each pixel, for a region of an image; the same numbers as for the whole.

    Parameters
    ----------
    candidate, reference
        As for `image_quality`.
    data_range
        Difference between the largest and smallest possible intensity, above 0.
    region
        Slices with definite bounds along all axes; everything when ``None``.
    channel_axis, by_slice
        As for `image_quality`.

    Returns
    -------
    ndarray
        The region's shape, float64, from -1 to 1; ``nan`` within 5 pixels of the image's border, where the window
        leaves the image, and where it holds a value that is not finite.

    Raises
    ------
    InputError
        As `image_quality`, except for values that are not finite.
    """
    pair = ImagePair(candidate, reference, None, channel_axis)
    if not (math.isfinite(data_range) and data_range > 0):
        raise InputError(f"A data range of {data_range:g} cannot be used; accepted is a number above 0, as 255.")
    wanted = region or tuple(slice(0, n) for n in pair.shape)
    found = np.full(tuple(r.stop - r.start for r in wanted), np.nan)
    inside = pair.inside(wanted, by_slice)
    if all(r.start < r.stop for r in inside):
        place = tuple(slice(i.start - w.start, i.stop - w.start) for i, w in zip(inside, wanted, strict=True))
        found[place] = pair.ssim(inside, data_range, by_slice)
    return found


def _psnr(mse: float, data_range: float) -> float:
    if math.isnan(mse):
        return math.nan
    if mse == 0:
        return math.inf
    return 20 * math.log10(data_range) - 10 * math.log10(mse) if data_range > 0 else math.nan
