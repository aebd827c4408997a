"""Error regions of a candidate: every connected error, measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from napari_medseg.case import InputError
from napari_medseg.case.geometry import Unit
from napari_medseg.evaluate.errors.cache import recent
from napari_medseg.evaluate.errors.distance import nearest_distances
from napari_medseg.evaluate.pairs import check_label_arrays
from napari_medseg.evaluate.review.components import Component, components
from napari_medseg.evaluate.review.objects import ObjectTable, object_regions
from napari_medseg.evaluate.review.region import Error, ErrorRegion, RegionRules, region_of
from napari_medseg.jobs import Progress


def error_regions(
    candidate: Any,
    reference: Any,
    spacing: tuple[float, ...] | None,
    *,
    unit: Unit = "mm",
    axes: str = "",
    connectivity: int | None = None,
    reach: float | None = None,
    min_voxels: int = 1,
    instances: bool = False,
    match_iou: float = 0.5,
    uncertainty: Any = None,
    block: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> tuple[ErrorRegion, ...]:
    """Every connected region in which candidate and reference give one and the same pair of different labels.

    Labels may be larger than memory: they are read block by block, and the result is that of the whole. Memory grows
    with the runs of wrong voxels.

    Parameters
    ----------
    candidate, reference
        Integer arrays (numpy, dask, zarr) of one shape.
    spacing, unit, axes, connectivity, reach, min_voxels, instances, match_iou
        See `RegionRules`.
    uncertainty
        Array of the same shape, for the mean uncertainty of each region.
    block
        Shape of a block; whole stored chunks when ``None``.
    progress
        Told about every block and region; can cancel.

    Returns
    -------
    regions
        Numbered from 1 in the order of their first voxels.

    Raises
    ------
    InputError
        If the arrays or the rules cannot be used.
    """
    check_label_arrays(candidate, reference)
    if uncertainty is not None:
        require_map(uncertainty, candidate)
    rules = RegionRules.of(
        len(candidate.shape),
        spacing,
        unit=unit,
        axes=axes,
        connectivity=connectivity,
        reach=reach,
        min_voxels=min_voxels,
        instances=instances,
        match_iou=match_iou,
    )
    return numbered(find_regions(candidate, reference, rules, uncertainty=uncertainty, block=block, progress=progress))


def find_regions(
    candidate: Any,
    reference: Any,
    rules: RegionRules,
    *,
    uncertainty: Any = None,
    block: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> list[ErrorRegion]:
    """What `error_regions` finds, by rules that are there already, and not numbered."""
    progress = progress or Progress()
    if rules.instances:
        table = ObjectTable.of(candidate, reference, block=block, progress=progress)
        return object_regions(candidate, reference, table, rules, uncertainty=uncertainty, progress=progress)
    found = components(
        candidate,
        reference,
        rules.spatial,
        rules.connectivity,
        block=block,
        uncertainty=uncertainty,
        progress=progress,
    )
    return measured(found, reference, rules, progress)


def measured(
    found: Iterable[Component], reference: Any, rules: RegionRules, progress: Progress | None = None
) -> list[ErrorRegion]:
    """Regions of components with at least as many voxels as the rules ask for, with their boundary distances."""
    progress = progress or Progress()
    kept = [c for c in found if c.runs.voxels >= rules.min_voxels]
    source, shape = recent(reference), tuple(int(n) for n in reference.shape)
    progress.begin(len(kept), "measuring distances")
    regions = []
    for part in kept:
        labels = (part.reference, part.candidate)
        region = region_of(part.runs, _error(*labels), labels, shape, rules, part.uncertainty)
        regions.append(replace(region, distance=_largest_distance(region, source, rules)))
        progress.advance()
    return regions


def numbered(regions: Iterable[ErrorRegion]) -> tuple[ErrorRegion, ...]:
    """Numbers from 1 in the order given."""
    return tuple(replace(region, id=number) for number, region in enumerate(regions, 1))


def require_map(uncertainty: Any, labels: Any) -> None:
    """Raise `InputError` unless the uncertainty map has the shape of the labels."""
    if tuple(uncertainty.shape) != tuple(labels.shape):
        raise InputError(
            f"The uncertainty map has the shape {tuple(uncertainty.shape)} and the labels {tuple(labels.shape)}; "
            "choose the map that was made with these labels."
        )


def _error(reference: int, candidate: int) -> Error:
    if not reference:
        return Error.FALSE_POSITIVE
    return Error.WRONG_CLASS if candidate else Error.FALSE_NEGATIVE


def _largest_distance(region: ErrorRegion, reference: Any, rules: RegionRules) -> float:
    """How far the region reaches away from the boundary of its class in the reference."""
    assert region.runs is not None
    lead = len(reference.shape) - rules.spatial
    frame = tuple(start for start, _ in region.box[:lead])
    outside = region.error is Error.FALSE_POSITIVE

    def other_side(window: tuple[slice, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        labels = np.asarray(reference[(*frame, *window)])
        return np.asarray(labels == region.candidate_label if outside else labels != region.reference_label)

    points = region.runs.points(reference.shape)[:, lead:]
    return float(nearest_distances(other_side, reference.shape[lead:], points, rules.steps, rules.reach).max())
