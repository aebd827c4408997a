"""Two images on one grid, compared box by box: sums of their errors, and SSIM with the pixels around each box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.pairs import Region, shared_boxes
from napari_medseg.jobs import Progress

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

SSIM_RADIUS = 5
"""The Gaussian window of SSIM reaches this many pixels to either side: 11 in all, sigma 1.5."""

_SIGMA = 1.5
# SSIM holds about fifteen arrays of a box in double precision
_SSIM_BOX_VOXELS = 1 << 21


class ImagePair:
    """Two images and a mask, read by regions of the whole."""

    def __init__(self, candidate: Any, reference: Any, mask: Any, channel_axis: int | None) -> None:
        self.shape = tuple(int(n) for n in reference.shape)
        if tuple(candidate.shape) != self.shape:
            raise InputError(
                f"The candidate has the shape {tuple(candidate.shape)} and the reference {self.shape}; bring them "
                f"onto one grid first."
            )
        for side, array in (("candidate", candidate), ("reference", reference)):
            if np.dtype(array.dtype).kind not in "uibf":
                raise InputError(f"The {side} holds {np.dtype(array.dtype)} values; accepted are real numbers.")
        ndim = len(self.shape)
        if channel_axis is not None and not -ndim <= channel_axis < ndim:
            raise InputError(f"Channel axis {channel_axis} is none of the {ndim} axes of the images.")
        channel = None if channel_axis is None else channel_axis % ndim
        self.spatial = tuple(k for k in range(ndim) if k != channel)
        if len(self.spatial) not in (2, 3):
            raise InputError(
                f"Images of shape {self.shape} {'without' if channel is None else 'with'} a channel axis have "
                f"{len(self.spatial)} spatial axes; accepted are 2 or 3."
            )
        space = tuple(self.shape[k] for k in self.spatial)
        if mask is not None and tuple(mask.shape) != space:
            raise InputError(f"The mask has the shape {tuple(mask.shape)}; the images' spatial shape is {space}.")
        self.candidate, self.reference, self.mask = candidate, reference, mask

    def masked(self, region: Region) -> npt.NDArray[np.bool_] | None:
        """Where pixels of a region are compared, with a channel axis of length 1; ``None`` for everywhere."""
        if self.mask is None:
            return None
        there = np.asarray(self.mask[tuple(region[k] for k in self.spatial)]) != 0
        missing = [k for k in range(len(self.shape)) if k not in self.spatial]
        found: npt.NDArray[np.bool_] = np.expand_dims(there, tuple(missing))
        return found

    def window_axes(self, by_slice: bool) -> tuple[int, ...]:
        """The axes that windows of SSIM extend along."""
        return self.spatial[-2:] if by_slice else self.spatial

    def window_shape(self, by_slice: bool) -> tuple[int, ...]:
        """Size of the image along these axes."""
        return tuple(self.shape[k] for k in self.window_axes(by_slice))

    def inside(self, region: Region, by_slice: bool) -> Region:
        """The part of a region where windows lie within the image; may be empty."""
        axes = self.window_axes(by_slice)
        return tuple(
            slice(max(r.start, SSIM_RADIUS), min(r.stop, n - SSIM_RADIUS)) if k in axes else r
            for k, (r, n) in enumerate(zip(region, self.shape, strict=True))
        )

    def ssim(self, region: Region, data_range: float, by_slice: bool) -> Floats:
        """SSIM of a region that `inside` gave."""
        from skimage.metrics import structural_similarity

        axes = self.window_axes(by_slice)
        wide = tuple(
            slice(r.start - SSIM_RADIUS, r.stop + SSIM_RADIUS) if k in axes else r for k, r in enumerate(region)
        )
        # windowed variances are differences of squares: single precision loses them
        blocks = [np.asarray(a[wide]).astype(np.float64) for a in (self.candidate, self.reference)]
        last = range(-len(axes), 0)
        one, other = (np.moveaxis(block, axes, last) for block in blocks)
        found = np.empty(one.shape)
        with np.errstate(invalid="ignore", over="ignore"):
            for index in np.ndindex(one.shape[: -len(axes)]):
                found[index] = structural_similarity(
                    np.ascontiguousarray(one[index]),
                    np.ascontiguousarray(other[index]),
                    data_range=data_range,
                    gaussian_weights=True,
                    sigma=_SIGMA,
                    use_sample_covariance=False,
                    full=True,
                )[1]
        inner = np.moveaxis(found, last, axes)
        return inner[tuple(slice(SSIM_RADIUS, -SSIM_RADIUS) if k in axes else slice(None) for k in range(inner.ndim))]


@dataclass(frozen=True)
class ErrorSums:
    """Sums of errors, and the reference's extremes, over all that is compared."""

    absolute: float
    squared: float
    lowest: float
    highest: float
    pixels: int


def error_sums(pair: ImagePair, progress: Progress) -> ErrorSums:
    """Add up the errors of a pair; exactly for images of at most 16-bit integers.

    Raises
    ------
    InputError
        If a value that is compared is not finite.
    """
    regions = list(shared_boxes(pair.candidate, pair.reference))
    progress.begin(len(regions), "comparing pixels")
    small = all(
        d.kind in "uib" and d.itemsize <= 2 for d in map(np.dtype, (pair.candidate.dtype, pair.reference.dtype))
    )
    dtype = np.int64 if small else np.float64
    absolute: list[float] = []
    squared: list[float] = []
    lowest, highest, pixels = math.inf, -math.inf, 0
    for region in regions:
        one, other = np.asarray(pair.candidate[region]), np.asarray(pair.reference[region])
        there = pair.masked(region)
        if there is not None:
            everywhere = np.broadcast_to(there, one.shape)
            one, other = one[everywhere], other[everywhere]
        if one.size:
            _require_finite(one, "candidate")
            _require_finite(other, "reference")
            difference = one.astype(dtype)
            difference -= other.astype(dtype)
            np.abs(difference, out=difference)
            absolute.append(difference.sum().item())
            np.square(difference, out=difference)
            squared.append(difference.sum().item())
            lowest, highest = min(lowest, float(other.min())), max(highest, float(other.max()))
            pixels += one.size
        progress.advance()
    if not pixels:
        lowest = highest = math.nan
    total = sum if small else math.fsum
    return ErrorSums(total(absolute), total(squared), lowest, highest, pixels)


def mean_ssim(pair: ImagePair, data_range: float, by_slice: bool, progress: Progress) -> tuple[float, int]:
    """Mean SSIM of a pair, and how many pixels it is the mean of; ``nan`` of 0.

    Raises
    ------
    InputError
        If a window of a pixel that is compared holds a value that is not finite.
    """
    regions = list(shared_boxes(pair.candidate, pair.reference, _SSIM_BOX_VOXELS))
    progress.begin(len(regions), "comparing structure")
    sums: list[float] = []
    pixels = 0
    for region in regions:
        inside = pair.inside(region, by_slice)
        there = None
        if all(r.start < r.stop for r in inside) and pair.mask is not None:
            inside, there = _narrowed(pair, inside)
        if all(r.start < r.stop for r in inside):
            values = pair.ssim(inside, data_range, by_slice)
            if there is not None:
                values = values[np.broadcast_to(there, values.shape)]
            if not np.isfinite(values).all():
                raise InputError(
                    f"Values that are not finite numbers lie within {SSIM_RADIUS} pixels of pixels that are compared; "
                    f"fill them, shrink the mask, or leave SSIM out."
                )
            sums.append(float(values.sum()))
            pixels += values.size
        progress.advance()
    return (math.fsum(sums) / pixels if pixels else math.nan), pixels


def _narrowed(pair: ImagePair, region: Region) -> tuple[Region, npt.NDArray[np.bool_] | None]:
    """The box around what the mask holds of a region, and the mask in it; nothing is computed around small masks."""
    there = pair.masked(region)
    assert there is not None
    narrow = list(region)
    for axis in pair.spatial:
        held = np.flatnonzero(there.any(tuple(k for k in range(there.ndim) if k != axis)))
        if not len(held):
            return tuple(slice(0, 0) for _ in region), None
        start = region[axis].start
        narrow[axis] = slice(start + int(held[0]), start + int(held[-1]) + 1)
    return tuple(narrow), pair.masked(tuple(narrow))


def _require_finite(values: Array, side: str) -> None:
    if values.dtype.kind != "f":
        return
    wrong = values.size - int(np.isfinite(values).sum())
    if wrong:
        raise InputError(
            f"The {side} is not a finite number (NaN or infinite) at {wrong} of the places that are compared; fill "
            f"them, or leave them out with a mask."
        )
