"""Which errors to look at first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from napari_medseg.case import InputError
from napari_medseg.evaluate.review.region import ErrorRegion

Order = Literal["size", "distance", "uncertainty", "weight"]


def ranked(
    regions: Iterable[ErrorRegion], by: Order = "size", weights: Mapping[int, float] | None = None
) -> list[ErrorRegion]:
    """Regions from the first to look at to the last; ties by size, then in the order of their numbers.

    Parameters
    ----------
    regions
        The regions, in any order.
    by
        ``"size"``: volume or area. ``"distance"``: largest boundary distance. ``"uncertainty"``: mean uncertainty.
        Regions without the value come last. ``"weight"``: clinical weight of the label.
    weights
        Clinical weight by label id, for ``"weight"``; labels that are not listed weigh 1. A wrong class weighs as
        much as the heavier of its two labels. Ids of objects have no weight of their own: list their class as 1.

    Raises
    ------
    InputError
        If there is no such order.
    """
    if by not in get_args(Order):
        raise InputError(f"Regions cannot be ranked by {by!r}; accepted are {', '.join(get_args(Order))}.")
    known = weights or {}

    def key(region: ErrorRegion) -> tuple[bool, float, int, int]:
        value = _value(region, by, known)
        return value is None, -(value or 0.0), -region.voxels, region.id

    return sorted(regions, key=key)


def _value(region: ErrorRegion, by: Order, weights: Mapping[int, float]) -> float | None:
    if by == "weight":
        if region.error.about_objects:
            return weights.get(1, 1.0)
        return max(weights.get(i, 1.0) for i in (region.reference_label, region.candidate_label) if i)
    values: dict[str, float | None] = {
        "size": region.size,
        "distance": region.distance,
        "uncertainty": region.uncertainty,
    }
    return values[by]
