"""Contours that stop at edges: distance-regularised level set, and morphological geodesic active contour."""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import numpy as np
from pydantic import Field

from napari_medseg.case import InputError
from napari_medseg.classical.parameters import Contour
from napari_medseg.classical.pixels import Array, Labels, Pixels, one_channel, starting_region, stretched


class DrlseParameters(Contour):
    """Parameters of `drlse`, with the names and values of Li et al. (2010)."""

    edge_scale: float = Field(
        default=1.5, gt=0, le=50, description="Standard deviation of the Gaussian under the edge indicator, in pixels."
    )
    balloon: float = Field(
        default=1.5, ge=0, le=20, description="alpha: how hard the contour shrinks or grows where there is no edge."
    )
    length: float = Field(
        default=5.0, ge=0, le=50, description="lambda: how hard the contour is kept short and on edges."
    )
    regularisation: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="mu: how hard the level set is kept a distance; 0.2 by the time step without (0.13 in volumes).",
    )
    time_step: float = Field(default=5.0, gt=0, le=20, description="Length of a step.")
    width: float = Field(default=1.5, gt=0, le=5, description="epsilon: half the width of the moving band, in pixels.")
    iterations: int = Field(default=200, ge=1, le=100_000, description="Steps with the balloon force.")
    refining: int = Field(default=10, ge=0, le=10_000, description="Steps without it at the end.")


class GeodesicParameters(Contour):
    """Parameters of `geodesic_active_contour`."""

    edge_scale: float = Field(
        default=2.0, gt=0, le=50, description="Standard deviation of the Gaussian under the edge indicator, in pixels."
    )
    steepness: float = Field(
        default=100.0,
        gt=0,
        le=1e6,
        description="How fast the edge indicator falls with the gradient of the image in 0 to 1.",
    )
    threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Edge indicator below which the contour stops; without, the lesser of its 40th percentile and 0.99 "
        "of its largest value.",
    )
    balloon: float = Field(
        default=1.0, ge=0, le=10, description="How hard the contour shrinks or grows where there is no edge; 0 for not."
    )
    iterations: int = Field(
        default=200, ge=1, le=100_000, description="Steps; the contour moves at most a pixel in each."
    )
    curvature_steps: int = Field(default=1, ge=0, le=10, description="How often a step smooths the contour.")


def drlse(image: Array, *, parameters: DrlseParameters | None = None, initial: Array | None = None) -> Labels:
    """The region inside the level set of `level_set` below 0.

    Parameters
    ----------
    image
        ``(*spatial)`` or ``(c, *spatial)``, in any scale: it is stretched to 0 to 255, as the method's values expect.
    parameters
        The defaults without.
    initial
        Region to start from, nonzero; the box inside the frame without.

    Returns
    -------
    int32 ``(*spatial)``, 0 and 1. All 0 where the image has one value.

    Raises
    ------
    InputError
        The image or the region does not fit, or a step is too long to be stable.
    """
    level = level_set(image, parameters=parameters, initial=initial)
    return np.asarray(level < 0, dtype=np.int32)


def level_set(
    image: Array,
    *,
    parameters: DrlseParameters | None = None,
    initial: Array | None = None,
    each: Callable[[int], None] | None = None,
) -> Pixels:
    """Distance-regularised level set (Li, Xu, Gui and Fox, IEEE TIP 19:3243, 2010) with edges, in any dimension.

    ``d phi/dt = mu div(d_p(|grad phi|) grad phi) + lambda delta(phi) div(g grad phi / |grad phi|) + a g delta(phi)``,
    a being alpha where the contour shrinks and -alpha where it grows, g ``1 / (1 + |grad (G * image)|^2)``, with the
    double-well potential of equation 16, whose minima at 0 and 1 keep ``|grad phi|`` near 1 around the contour
    and phi flat elsewhere, so that it needs no reinitialisation. It starts as a step of -2 inside and 2 outside.

    Memory: about 80 bytes a pixel in pictures, 90 in volumes; the whole image evolves at once.

    Parameters
    ----------
    image, parameters, initial
        As for `drlse`.
    each
        Called with the number of steps done after each; what it raises ends the evolution.

    Returns
    -------
    float32 ``(*spatial)``, negative inside; 2 everywhere where the image has one value.

    Raises
    ------
    InputError
        The image or the region does not fit, or a step is too long to be stable.
    """
    from scipy.ndimage import gaussian_filter

    chosen = parameters or DrlseParameters()
    dims, step = chosen.spatial_dims, chosen.time_step
    strength = 0.8 / (2 * dims * step) if chosen.regularisation is None else chosen.regularisation
    if strength * step >= 1 / (2 * dims):
        raise InputError(
            f"a regularisation of {strength:g} with a time step of {step:g} is unstable; their product has to stay "
            f"below {1 / (2 * dims):.3g}"
        )
    pixels = stretched(one_channel(image, chosen))
    if pixels is None:
        return np.full(image.shape[image.ndim - dims :], 2.0, np.float32)
    level = np.where(starting_region(initial, pixels.shape, chosen.margin), np.float32(-2), np.float32(2))
    slopes = _gradient(gaussian_filter(255 * pixels, chosen.edge_scale, mode="nearest"))
    edge: Pixels = 1 / (1 + np.square(slopes).sum(0))
    balloon = chosen.balloon if chosen.direction == "shrink" else -chosen.balloon
    for done in range(chosen.iterations + chosen.refining):
        force = balloon if done < chosen.iterations else 0.0
        level += step * _change(level, edge, strength, chosen.length, force, chosen.width)
        if each is not None:
            each(done + 1)
    return level


def geodesic_active_contour(
    image: Array, *, parameters: GeodesicParameters | None = None, initial: Array | None = None
) -> Labels:
    """Geodesic active contour by dilations and erosions (Márquez-Neila et al., 2014; `snakes`).

    Memory: about 70 bytes a pixel in pictures, 75 in volumes, float64 inside; the whole image evolves at once.

    Parameters
    ----------
    image
        ``(*spatial)`` or ``(c, *spatial)``, in any scale: it is stretched to 0 to 1.
    parameters
        The defaults without.
    initial
        Region to start from, nonzero; the box inside the frame without.

    Returns
    -------
    int32 ``(*spatial)``, 0 and 1. All 0 where the image has one value.

    Raises
    ------
    InputError
        The image or the region does not fit.
    """
    from skimage.segmentation import inverse_gaussian_gradient

    from napari_medseg.classical.snakes import geodesic

    chosen = parameters or GeodesicParameters()
    pixels = stretched(one_channel(image, chosen))
    if pixels is None:
        return np.zeros(image.shape[image.ndim - chosen.spatial_dims :], np.int32)
    start = starting_region(initial, pixels.shape, chosen.margin)
    edge = inverse_gaussian_gradient(pixels.astype(np.float64), chosen.steepness, chosen.edge_scale)
    # where most of the image is perfectly even the percentile is its largest value, and nothing would ever move
    usual = min(float(np.percentile(edge, 40)), 0.99 * float(edge.max()))
    threshold = usual if chosen.threshold is None else chosen.threshold
    balloon = chosen.balloon if chosen.direction == "grow" else -chosen.balloon
    inside = geodesic(edge, start, chosen.iterations, chosen.curvature_steps, threshold, balloon)
    return np.asarray(inside, dtype=np.int32)


def _change(level: Pixels, edge: Pixels, strength: float, length: float, force: float, width: float) -> Pixels:
    """Right side of the evolution; borders of the image have no flow through them."""
    from scipy.ndimage import laplace

    slopes = _gradient(level)
    size = np.sqrt(np.square(slopes).sum(0))
    # div(d_p grad) = div((d_p - 1) grad) + laplace: the compact laplacian damps what central differences cannot see
    pull = _well(size) - 1
    change: Pixels = strength * (_divergence([pull * s for s in slopes]) + laplace(level, mode="nearest"))
    near = np.where(np.abs(level) <= width, (1 + np.cos(pi / width * level)) / (2 * width), np.float32(0))
    if length:
        unit = edge / (size + np.float32(1e-10))
        change += length * near * _divergence([unit * s for s in slopes])
    if force:
        change += force * edge * near
    return change


def _well(size: Pixels) -> Pixels:
    """``d_p(s) = p'(s) / s`` of the double-well potential: ``sin(2 pi s) / (2 pi s)`` up to 1, then ``1 - 1 / s``."""
    inner = np.sinc(2 * np.minimum(size, np.float32(1)))
    outer = 1 - 1 / np.maximum(size, np.float32(1))
    well: Pixels = np.where(size <= 1, inner, outer).astype(np.float32)
    return well


def _gradient(values: Pixels) -> list[Pixels]:
    """Central differences with mirrored borders, hence 0 across the frame."""
    padded = np.pad(values, 1, mode="reflect") if min(values.shape) > 1 else np.pad(values, 1, mode="edge")
    slopes = []
    for axis in range(values.ndim):
        middle = [slice(1, -1)] * values.ndim
        ahead, behind = list(middle), list(middle)
        ahead[axis], behind[axis] = slice(2, None), slice(None, -2)
        slopes.append(0.5 * (padded[tuple(ahead)] - padded[tuple(behind)]))
    return slopes


def _divergence(field: list[Pixels]) -> Pixels:
    total: Pixels = np.zeros_like(field[0])
    for axis, values in enumerate(field):
        total += np.gradient(values, axis=axis)
    return total
