"""Hausdorff distances, average symmetric surface distance and surface Dice of all labels from one boundary each."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from numbers import Integral
from typing import Any, Literal, TypeVar

import numpy as np

from napari_medseg.case import InputError
from napari_medseg.evaluate.metric import Metric
from napari_medseg.evaluate.pairs import check_label_arrays
from napari_medseg.evaluate.surfaces.distances import nearest_distances
from napari_medseg.evaluate.surfaces.elements import Boundary, FloatArray, surfels, voxel_boundaries
from napari_medseg.jobs import Progress

T = TypeVar("T")
Elements = Literal["voxels", "surfels"]

_BOUNDARY = (
    "Distances run between the centres of boundary voxels, those with a face neighbour outside the label; "
    "beyond the array is outside."
)
_EMPTY = "nan where both are empty, inf where one is (as MONAI; Metrics Reloaded leaves the worst value to the reader)."
_RELOADED = "Maier-Hein et al., Nature Methods 2024 (Metrics Reloaded)"

METRICS: tuple[Metric, ...] = (
    Metric(
        "hd",
        "Hausdorff distance",
        f"Largest distance from an element of either boundary to the nearest of the other. {_BOUNDARY}",
        _EMPTY,
        "lower",
        "length",
        f"Huttenlocher et al., IEEE PAMI 1993; {_RELOADED}",
    ),
    Metric(
        "hd95",
        "HD95",
        "The larger of both directions' 95th percentile (or the one asked for) of the distances to the nearest element "
        f"of the other boundary, linear between neighbours. {_BOUNDARY}",
        _EMPTY,
        "lower",
        "length",
        f"{_RELOADED}; percentile rule of MONAI, compute_hausdorff_distance",
    ),
    Metric(
        "assd",
        "ASSD",
        "Average symmetric surface distance: mean distance of all elements of both boundaries to the nearest of the "
        f"other, (sum C to R + sum R to C) / (elements of C + of R). {_BOUNDARY}",
        _EMPTY,
        "lower",
        "length",
        f"Heimann et al., IEEE Transactions on Medical Imaging 2009; {_RELOADED}",
    ),
    Metric(
        "surface_dice",
        "Surface Dice",
        "Share of the elements of both boundaries that lie within the tolerance (or exactly at it) of the other "
        f"boundary; also NSD. {_BOUNDARY}",
        "nan where both are empty, 0 where one is.",
        "higher",
        source="Nikolov et al., J Med Internet Res 2021, with voxels for elements as Seidlitz et al., Medical Image "
        f"Analysis 2022; {_RELOADED}",
    ),
)

# a distance that is the tolerance but for rounding lies within it
_ROUNDING = 1e-9


def boundary_scores(
    candidate: Any,
    reference: Any,
    labels: Sequence[int],
    spacing: Sequence[float],
    *,
    tolerance: float,
    percentile: float = 95.0,
    pooled: bool = False,
    elements: Elements = "voxels",
    progress: Progress | None = None,
) -> dict[int, dict[str, float]]:
    """Hausdorff distance, its percentile, mean distance and surface Dice of the boundaries of labels, exactly.

    The boundary of a label is the voxels of it that have a face neighbour outside it; what lies beyond the array is
    outside, as for MONAI, medpy and surface-distance. Every boundary is found once, in one pass over the array, and
    all scores come from the same two lists of distances. Arrays that are not in memory are read slab by slab, and give
    the same numbers to the bit.

    Parameters
    ----------
    candidate, reference
        Integer labels of one shape, ``(z, y, x)`` or ``(y, x)``: numpy, dask, zarr or anything with ``shape``,
        ``dtype`` and slicing. Masks (bool) hold the ids 0 and 1.
    labels
        Ids to score. An id that neither holds is empty on both sides.
    spacing
        Length of a voxel along each axis, in the order of the axes. Distances and `tolerance` are in its unit;
        ``(1, 1, 1)`` measures in voxels.
    tolerance
        Distance up to which boundaries count as equal for the surface Dice, 0 or more.
    percentile
        Of ``hd95``, 0 to 100; linear between neighbours.
    pooled
        ``hd95`` is the percentile of both directions' distances together, as medpy has it, rather than the larger of
        both directions' percentiles.
    elements
        ``"voxels"``, or ``"surfels"``: DeepMind's surface-distance, whose elements lie at the corners of the voxels
        and count by their area. ``assd`` is then the mean by area over both boundaries, the surface Dice the share of
        the area, and the percentile the distance at which that share of the area is reached.
    progress
        Told about every slab, then every direction of every label; can cancel.

    Returns
    -------
    scores
        For each label a number for each key of `METRICS`. Where both masks are empty all are ``nan``; where one is,
        distances are ``inf`` and the surface Dice is 0. Otherwise distances are 0 or more and the surface Dice
        lies from 0 to 1. Candidate and reference may change places.

    Raises
    ------
    InputError
        If the shapes differ, have other than 2 or 3 axes or do not match `spacing`, the labels are not integers, or
        a parameter is out of its range.
    """
    spacing, labels = _checked(candidate, reference, labels, spacing, tolerance, percentile, elements)
    progress = progress or Progress()
    boundaries = _both_boundaries((candidate, reference), labels, spacing, elements, progress)
    distances = _all_distances(boundaries, labels, spacing, progress)
    scores = {}
    for label in labels:
        sides = tuple(side[label] for side in boundaries)
        scores[label] = _scores(sides, distances.get(label), tolerance, percentile, pooled)
    return scores


def _checked(
    candidate: Any,
    reference: Any,
    labels: Sequence[int],
    spacing: Sequence[float],
    tolerance: float,
    percentile: float,
    elements: str,
) -> tuple[tuple[float, ...], list[int]]:
    check_label_arrays(candidate, reference)
    shape = tuple(int(n) for n in candidate.shape)
    if len(shape) not in (2, 3):
        raise InputError(f"Boundaries are measured in 2 or 3 dimensions; the labels have the shape {shape}.")
    if len(spacing) != len(shape):
        raise InputError(
            f"The spacing {tuple(spacing)} does not match the shape {shape}: one length an axis is expected."
        )
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"The spacing is {tuple(spacing)}; lengths above 0 are expected.")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"The tolerance is {tolerance}; a length of 0 or more is expected.")
    if not 0 <= percentile <= 100:
        raise InputError(f"The percentile is {percentile}; a number from 0 to 100 is expected.")
    if elements not in ("voxels", "surfels"):
        raise InputError(f"Boundaries are made of voxels or surfels, not of {elements!r}.")
    wrong = [label for label in labels if not isinstance(label, Integral)]
    if wrong:
        raise InputError(f"The label id {wrong[0]!r} is no whole number.")
    return tuple(float(s) for s in spacing), list(dict.fromkeys(int(label) for label in labels))


def _both_boundaries(
    arrays: tuple[Any, Any], labels: list[int], spacing: tuple[float, ...], elements: Elements, progress: Progress
) -> list[dict[int, Boundary]]:
    progress.begin(len(arrays), "boundaries")

    def find(array: Any) -> dict[int, Boundary]:
        if elements == "surfels":
            found = surfels(array, labels, spacing, progress.check)
        else:
            found = voxel_boundaries(array, labels, progress.check)
        progress.advance()
        return found

    return _in_threads([partial(find, array) for array in arrays])


def _all_distances(
    boundaries: list[dict[int, Boundary]], labels: list[int], spacing: tuple[float, ...], progress: Progress
) -> dict[int, tuple[FloatArray, FloatArray]]:
    """Distances of both directions by label, for labels that both sides hold; the largest boundaries first."""
    candidate, reference = boundaries
    held = [label for label in labels if len(candidate[label]) and len(reference[label])]
    held.sort(key=lambda label: -len(candidate[label]) - len(reference[label]))
    progress.begin(2 * len(held), "distances")

    def measure(points: Boundary, targets: Boundary) -> FloatArray:
        found = nearest_distances(points.index, targets.index, spacing, progress.check)
        progress.advance()
        return found

    tasks: list[Callable[[], FloatArray]] = []
    for label in held:
        tasks.append(partial(measure, candidate[label], reference[label]))
        tasks.append(partial(measure, reference[label], candidate[label]))
    found = _in_threads(tasks)
    return dict(zip(held, zip(found[::2], found[1::2], strict=True), strict=True))


def _in_threads(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Results in the order of `tasks`; the first error stops those that have not begun."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        jobs = [pool.submit(task) for task in tasks]
        done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
        pool.shutdown(wait=True, cancel_futures=True)
    for job in done:
        job.result()
    return [job.result() for job in jobs]


def _scores(
    sides: tuple[Boundary, ...],
    distances: tuple[FloatArray, FloatArray] | None,
    tolerance: float,
    percentile: float,
    pooled: bool,
) -> dict[str, float]:
    if distances is None:
        far = math.inf if any(map(len, sides)) else math.nan
        return {"hd": far, "hd95": far, "assd": far, "surface_dice": 0.0 if any(map(len, sides)) else math.nan}
    both = np.concatenate(distances)
    weights = [side.weight for side in sides]
    known = [weight for weight in weights if weight is not None]
    weight = np.concatenate(known) if known else None
    near = both <= tolerance * (1 + _ROUNDING)
    if pooled:
        quantile = _quantile(both, weight, percentile)
    else:
        quantile = max(_quantile(d, w, percentile) for d, w in zip(distances, weights, strict=True))
    return {
        "hd": float(both.max()),
        "hd95": quantile,
        "assd": float(np.average(both, weights=weight)),
        "surface_dice": float(np.average(near, weights=weight)),
    }


def _quantile(distances: FloatArray, weight: FloatArray | None, percentile: float) -> float:
    if weight is None:
        return float(np.percentile(distances, percentile))
    order = np.lexsort((weight, distances))
    reached = np.cumsum(weight[order]) / weight.sum()
    # rounding can leave the last share just below 1
    place = min(int(np.searchsorted(reached, percentile / 100)), len(order) - 1)
    return float(distances[order[place]])
