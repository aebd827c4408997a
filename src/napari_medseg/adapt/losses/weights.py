"""Weights of classes from how often they occur in labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError

Array = npt.NDArray[Any]


def median_frequency_weights(
    labels: Iterable[Array], classes: int, bounds: tuple[float, float] | None = None
) -> npt.NDArray[np.float64]:
    """``median(f) / f_c`` with f_c the pixels of class c by all pixels of the images that contain it.

    Parameters
    ----------
    labels
        Integer label images of any shapes; read one after the other, so only one has to be in memory.
    classes
        Number of classes, background included.
    bounds
        Smallest and largest weight; (0.1, 10) keeps rare classes from drowning the rest. None without.

    Returns
    -------
    float64 ``(classes,)``

    Raises
    ------
    InputError
        A class is in no image, or an image holds a class that is not among them.
    """
    pixels, sizes = np.zeros(classes), np.zeros(classes)
    for image in labels:
        counts = _counts(image, classes)
        pixels += counts
        sizes[counts > 0] += image.size
    if (pixels == 0).any():
        raise InputError(f"class {int(np.argmin(pixels))} is in none of the labelled images, so it can have no weight")
    frequency = pixels / sizes
    weights: npt.NDArray[np.float64] = np.median(frequency) / frequency
    return weights if bounds is None else np.clip(weights, *bounds)


def foreground_balance(labels: Iterable[Array]) -> float:
    """Share of background among all pixels: the balance of `BalancedCrossEntropy` (nonzero is foreground).

    Raises
    ------
    InputError
        The labels are all foreground, or all background.
    """
    foreground = total = 0
    for image in labels:
        foreground += int(np.count_nonzero(image))
        total += image.size
    if not 0 < foreground < total:
        raise InputError("the labels need both foreground and background to be balanced")
    return 1 - foreground / total


def _counts(image: Array, classes: int) -> npt.NDArray[np.intp]:
    lowest, highest = int(image.min()), int(image.max())
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        raise InputError(f"a labelled image holds class {wrong}; the classes are 0 to {classes - 1}")
    return np.bincount(np.ravel(image).astype(np.int64, copy=False), minlength=classes)
