"""The image as the methods read it, and the region where a contour starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.classical.parameters import MethodParameters, OneChannel

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]


def channels(image: Array, parameters: MethodParameters) -> Pixels:
    """The image as float32 ``(c, *spatial)``.

    Raises
    ------
    InputError
        It has not as many axes as the parameters say, is empty, or holds values that are no numbers.
    """
    dims = parameters.spatial_dims
    if image.ndim not in (dims, dims + 1) or 0 in image.shape:
        raise InputError(f"an image of shape {image.shape} was given; {dims} axes are needed, or one more for channels")
    pixels = np.asarray(image, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise InputError("the image holds values that are not finite; fill them first")
    return pixels if image.ndim == dims + 1 else pixels[None]


def one_channel(image: Array, parameters: OneChannel) -> Pixels:
    """The channel that is asked for, smoothed, as float32 ``(*spatial)`` in the image's own units.

    Raises
    ------
    InputError
        As `channels` does, or there is no such channel.
    """
    every = channels(image, parameters)
    if parameters.channel is None:
        pixels: Pixels = every[0] if len(every) == 1 else every.mean(0)
    elif parameters.channel < len(every):
        pixels = every[parameters.channel]
    else:
        raise InputError(f"channel {parameters.channel} was asked for; the image has channels 0 to {len(every) - 1}")
    if parameters.smoothing > 0:
        from scipy.ndimage import gaussian_filter

        pixels = gaussian_filter(pixels, parameters.smoothing, mode="nearest")
    return pixels


def stretched(pixels: Pixels) -> Pixels | None:
    """The pixels from their smallest, 0, to their largest, 1; ``None`` where all are alike."""
    lowest, highest = float(pixels.min()), float(pixels.max())
    if lowest == highest:
        return None
    wide = (pixels.astype(np.float64) - lowest) / (highest - lowest)
    return wide.astype(np.float32)


def starting_region(initial: Array | None, shape: tuple[int, ...], margin: int) -> npt.NDArray[np.bool_]:
    """The region that is given (nonzero), or the box `margin` pixels inside the frame.

    Raises
    ------
    InputError
        The region lies on another grid, is empty or is everything, or the image is too small for the box.
    """
    if initial is None:
        region: npt.NDArray[np.bool_] = np.zeros(shape, bool)
        region[tuple(slice(margin, side - margin) for side in shape)] = True
        if not region.any():
            raise InputError(f"a margin of {margin} pixels leaves nothing of an image of shape {shape}")
        return region
    region = np.asarray(initial).astype(bool)
    if region.shape != shape:
        raise InputError(f"the starting region is {region.shape} while the image is {shape}; one grid is needed")
    if not region.any() or region.all():
        raise InputError("the starting region is empty or everything; a contour needs an inside and an outside")
    return region
