"""Otsu's threshold, and the watershed that parts touching objects above it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from napari_medseg.case import InputError
from napari_medseg.classical.parameters import OneChannel
from napari_medseg.classical.pixels import Array, Labels, Pixels, one_channel


class OtsuParameters(OneChannel):
    """Parameters of `otsu`."""

    classes: int = Field(default=2, ge=2, le=5, description="Number of classes of brightness.")
    bright: bool = Field(default=True, description="Whether objects are brighter than background, which is class 0.")
    smallest: int = Field(default=0, ge=0, le=10**9, description="Objects of fewer pixels are removed.")
    fill_holes: bool = Field(default=False, description="Whether holes in the objects are filled (two classes).")


class WatershedParameters(OneChannel):
    """Parameters of `watershed`."""

    threshold: float | None = Field(
        default=None,
        description="Values from here on are bright, in the image's units; Otsu's threshold without.",
    )
    bright: bool = Field(default=True, description="Whether objects are brighter than background.")
    spacing: tuple[float, ...] | None = Field(
        default=None, description="Size of a pixel along each axis; distances below are in its unit. 1 without."
    )
    minimum_distance: float = Field(
        default=4.0, gt=0, le=1000, description="Centres closer than this belong to one object."
    )
    distance_smoothing: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="Standard deviation that smooths the distances; more joins lumpy objects.",
    )
    smallest: int = Field(default=30, ge=0, le=10**9, description="Pieces of fewer pixels are removed before.")


def otsu(image: Array, *, parameters: OtsuParameters | None = None) -> Labels:
    """Classes of brightness, the thresholds between them chosen by Otsu's criterion (Otsu, 1979; scikit-image).

    Memory: at most 30 bytes a pixel; the whole image at once.

    Parameters
    ----------
    image
        ``(*spatial)`` or ``(c, *spatial)``, in any scale.
    parameters
        The defaults without.

    Returns
    -------
    int32 ``(*spatial)``: 0 background, then classes further and further from it in brightness. All 0 where the image
    has one value.

    Raises
    ------
    InputError
        The image does not fit, or has fewer values than classes.
    """
    from scipy.ndimage import binary_fill_holes

    chosen = parameters or OtsuParameters()
    pixels = one_channel(image, chosen)
    if pixels.min() == pixels.max():
        return np.zeros(pixels.shape, np.int32)
    labels = np.zeros(pixels.shape, np.int32)
    for limit in _limits(pixels, chosen.classes):
        labels += pixels >= limit
    if not chosen.bright:
        labels = chosen.classes - 1 - labels
    if chosen.fill_holes and chosen.classes == 2:
        labels = binary_fill_holes(labels).astype(np.int32)
    if chosen.smallest > 1:
        labels[~_large(labels > 0, chosen.smallest)] = 0
    return labels


def watershed(image: Array, *, parameters: WatershedParameters | None = None) -> Labels:
    """Objects apart although they touch: a watershed from the peaks of the distance to background.

    Memory: about 50 bytes a pixel, distances being float64, and the flood's queue; the whole image at once.

    Parameters
    ----------
    image
        ``(*spatial)`` or ``(c, *spatial)``, in any scale.
    parameters
        The defaults without; they are those of nuclei at 0.25 µm a pixel.

    Returns
    -------
    int32 ``(*spatial)``: 0 background, then one number an object, 1, 2, 3 and so on.

    Raises
    ------
    InputError
        The image or the spacing does not fit.
    """
    from scipy.ndimage import center_of_mass, distance_transform_edt, gaussian_filter, label, maximum_filter
    from scipy.spatial import KDTree
    from skimage.segmentation import watershed as flooded

    chosen = parameters or WatershedParameters()
    pixels = one_channel(image, chosen)
    spacing = _spacing(chosen, pixels.ndim)
    if chosen.threshold is None and pixels.min() == pixels.max():
        return np.zeros(pixels.shape, np.int32)
    limit = _limits(pixels, 2)[0] if chosen.threshold is None else chosen.threshold
    inside = _large(pixels >= limit if chosen.bright else pixels < limit, chosen.smallest)
    distance = distance_transform_edt(inside, sampling=spacing)
    distance = gaussian_filter(distance, [chosen.distance_smoothing / step for step in spacing])
    peaks = inside & (distance == maximum_filter(distance, footprint=_ball(chosen.minimum_distance, spacing)))
    everywhere = np.ones((3,) * peaks.ndim)
    summits, count = label(peaks, structure=everywhere)
    if count > 1:
        # equally high peaks do not suppress one another
        middles = np.array(center_of_mass(peaks, summits, range(1, count + 1))) * spacing
        later = [max(pair) + 1 for pair in KDTree(middles).query_pairs(chosen.minimum_distance)]
        peaks &= ~np.isin(summits, later)
    pieces, _ = label(inside)
    # a small piece beside a large one has no peak of its own and still is an object
    peaks |= inside & ~np.isin(pieces, np.unique(pieces[peaks]))
    seeds, _ = label(peaks, structure=everywhere)
    labels: Labels = flooded(-distance, seeds, mask=inside).astype(np.int32)
    return labels


def _limits(pixels: Pixels, classes: int) -> npt.NDArray[np.float64]:
    """Otsu's thresholds between `classes` of a histogram of 256 bins; a pixel at one belongs above it."""
    from skimage.filters import threshold_multiotsu, threshold_otsu

    counts, edges = np.histogram(pixels, 256)
    # scikit-image takes the middles of bins, which would part the pixels of the threshold's own bin
    histogram = (counts, edges[1:].astype(np.float64))
    if classes == 2:
        return np.atleast_1d(threshold_otsu(hist=histogram))
    try:
        limits: npt.NDArray[np.float64] = threshold_multiotsu(classes=classes, hist=histogram)
    except ValueError as error:
        raise InputError(f"the image has too few values for {classes} classes; ask for fewer") from error
    return limits


def _large(mask: npt.NDArray[np.bool_], smallest: int) -> npt.NDArray[np.bool_]:
    """`mask` without its connected pieces of fewer than `smallest` pixels."""
    if smallest <= 1:
        return mask
    from scipy.ndimage import label

    pieces, _ = label(mask)
    keep = np.bincount(pieces.ravel()) >= smallest
    keep[0] = False
    kept: npt.NDArray[np.bool_] = keep[pieces]
    return kept


def _spacing(chosen: WatershedParameters, dims: int) -> tuple[float, ...]:
    spacing = chosen.spacing or (1.0,) * dims
    if len(spacing) != dims or min(spacing) <= 0:
        raise InputError(f"the spacing {spacing} does not fit; {dims} sizes above 0 are needed")
    return spacing


def _ball(radius: float, spacing: tuple[float, ...]) -> npt.NDArray[np.bool_]:
    """Pixels within `radius`, in the spacing's unit, of the middle one."""
    reach = [int(radius / step) for step in spacing]
    grid = np.meshgrid(*(np.arange(-r, r + 1) * s for r, s in zip(reach, spacing, strict=True)), indexing="ij")
    return np.asarray(np.square(grid).sum(0) <= radius**2, dtype=bool)
