"""Two regions of even brightness: Chan-Vese, as a differential equation and as morphology."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from napari_medseg.classical.parameters import OneChannel
from napari_medseg.classical.pixels import Array, Labels, Pixels, one_channel, starting_region, stretched


class _TwoRegions(OneChannel):
    bright: bool = Field(default=True, description="Whether the brighter of the two regions becomes label 1.")
    lambda1: float = Field(default=1.0, gt=0, le=100, description="Weight of evenness inside.")
    lambda2: float = Field(default=1.0, gt=0, le=100, description="Weight of evenness outside.")


class ChanVeseParameters(_TwoRegions):
    """Parameters of `chan_vese`."""

    length: float = Field(
        default=0.25, ge=0, le=10, description="Weight of the contour's length: more gives rounder regions."
    )
    iterations: int = Field(default=1000, ge=1, le=100_000, description="Steps at most.")
    tolerance: float = Field(default=1e-5, gt=0, le=1, description="Change of the level set below which it ends.")
    time_step: float = Field(default=0.5, gt=0, le=10, description="Length of a step.")


class MorphologicalChanVeseParameters(_TwoRegions):
    """Parameters of `morphological_chan_vese`."""

    iterations: int = Field(default=100, ge=1, le=100_000, description="Steps.")
    curvature_steps: int = Field(default=1, ge=0, le=10, description="How often a step smooths the contour.")


def chan_vese(image: Array, *, parameters: ChanVeseParameters | None = None, initial: Array | None = None) -> Labels:
    """The two regions that differ least from their means (Chan and Vese, 2001; scikit-image). Pictures only.

    Memory: about 80 bytes a pixel; the whole picture evolves at once.

    Parameters
    ----------
    image
        ``(y, x)`` or ``(c, y, x)``, in any scale: it is stretched to 0 to 1.
    parameters
        The defaults without.
    initial
        Region to start from, nonzero; a checkerboard without.

    Returns
    -------
    int32 ``(y, x)``, 0 and 1. All 0 where the image has one value.

    Raises
    ------
    InputError
        The image or the region does not fit.
    """
    from skimage.segmentation import chan_vese as evolve

    chosen = parameters or ChanVeseParameters()
    pixels = stretched(one_channel(image, chosen))
    if pixels is None:
        return _nothing(image, chosen)
    start: Any = "checkerboard"
    if initial is not None:
        start = np.where(starting_region(initial, pixels.shape, 1), 1.0, -1.0)
    inside = evolve(
        pixels,
        mu=chosen.length,
        lambda1=chosen.lambda1,
        lambda2=chosen.lambda2,
        tol=chosen.tolerance,
        max_num_iter=chosen.iterations,
        dt=chosen.time_step,
        init_level_set=start,
    )
    return _oriented(pixels, inside, chosen.bright)


def morphological_chan_vese(
    image: Array, *, parameters: MorphologicalChanVeseParameters | None = None, initial: Array | None = None
) -> Labels:
    """Chan-Vese by dilations and erosions, in pictures and volumes (Márquez-Neila et al., 2014; `snakes`).

    The contour moves at most a pixel a step and only where it is, so a region to start from has to touch the object.

    Memory: about 40 bytes a pixel in pictures, 55 in volumes; the whole image evolves at once.

    Parameters
    ----------
    image
        ``(*spatial)`` or ``(c, *spatial)``, in any scale: it is stretched to 0 to 1.
    parameters
        The defaults without.
    initial
        Region to start from, nonzero; a checkerboard without.

    Returns
    -------
    int32 ``(*spatial)``, 0 and 1. All 0 where the image has one value.

    Raises
    ------
    InputError
        The image or the region does not fit.
    """
    from skimage.segmentation import checkerboard_level_set

    from napari_medseg.classical.snakes import without_edges

    chosen = parameters or MorphologicalChanVeseParameters()
    pixels = stretched(one_channel(image, chosen))
    if pixels is None:
        return _nothing(image, chosen)
    if initial is None:
        start = checkerboard_level_set(pixels.shape).astype(bool)
    else:
        start = starting_region(initial, pixels.shape, 1)
    inside = without_edges(pixels, start, chosen.iterations, chosen.curvature_steps, chosen.lambda1, chosen.lambda2)
    return _oriented(pixels, inside, chosen.bright)


def _oriented(pixels: Pixels, inside: npt.NDArray[np.bool_], bright: bool) -> Labels:
    """Label 1 on the brighter or the darker region; which one the contour calls inside depends on its start."""
    if inside.any() and not inside.all():
        inside_is_bright = pixels[inside].mean(dtype=np.float64) > pixels[~inside].mean(dtype=np.float64)
        return np.asarray(inside == (inside_is_bright == bright), dtype=np.int32)
    return np.zeros(pixels.shape, np.int32)


def _nothing(image: Array, parameters: OneChannel) -> Labels:
    return np.zeros(image.shape[image.ndim - parameters.spatial_dims :], np.int32)
