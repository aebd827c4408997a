"""What a reviewed region is and by which rules regions are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from napari_medseg.case import InputError
from napari_medseg.case.geometry import Unit
from napari_medseg.evaluate.errors.distance import default_reach, spatial_steps
from napari_medseg.evaluate.review.runs import Box, Runs

_CONNECTIVITIES = {2: (8, 4), 3: (26, 18, 6)}


class Error(StrEnum):
    """The kinds of errors that are reviewed."""

    FALSE_POSITIVE = "false positive"
    """The candidate says a class where the reference says background."""
    FALSE_NEGATIVE = "false negative"
    """The candidate says background where the reference says a class."""
    WRONG_CLASS = "wrong class"
    """Both say a class, and not the same."""
    MISSED = "missed object"
    SPURIOUS = "spurious object"
    SPLIT = "split object"
    MERGED = "merged objects"

    @property
    def about_objects(self) -> bool:
        """Whether it is about a whole object rather than about voxels of a class."""
        return "object" in self.value


@dataclass(frozen=True)
class RegionRules:
    """How regions are found and measured: kept with a review, so that it goes on as it began.

    Parameters
    ----------
    spacing
        Step along each spatial axis, ``(z, y, x)`` or ``(y, x)``; ``None`` when unknown.
    unit
        ``"mm"`` or ``"um"``; ``None`` when the spacing is unknown, and then all is counted in pixels.
    axes
        Names of the array's axes, e.g. ``"zyx"`` or ``"tyx"``. Nothing connects along ``t``.
    connectivity
        Voxels that count as neighbours: 26 (default), 18 or 6 in volumes, 8 (default) or 4 in pictures.
    reach
        Largest boundary distance that is measured, in the unit of the spacing.
    min_voxels
        Smaller regions are left out.
    instances
        Whether ids are objects of one class, so that whole objects are reviewed.
    match_iou
        Objects of the two sides are the same if their intersection over union is above this.
    """

    spacing: tuple[float, ...] | None
    unit: Unit
    axes: str
    connectivity: int
    reach: float
    min_voxels: int = 1
    instances: bool = False
    match_iou: float = 0.5

    @classmethod
    def of(
        cls,
        ndim: int,
        spacing: tuple[float, ...] | None,
        *,
        unit: Unit = "mm",
        axes: str = "",
        connectivity: int | None = None,
        reach: float | None = None,
        min_voxels: int = 1,
        instances: bool = False,
        match_iou: float = 0.5,
    ) -> RegionRules:
        """Rules for arrays of `ndim` axes, with what is not said filled in.

        Raises
        ------
        InputError
            If axes, spacing, connectivity or cut-offs cannot be used.
        """
        steps = spatial_steps(spacing, ndim, axes)
        accepted = _CONNECTIVITIES[len(steps)]
        if connectivity is not None and connectivity not in accepted:
            words = ", ".join(map(str, accepted))
            raise InputError(f"A connectivity of {connectivity} is not known in {len(steps)} axes; accepted: {words}.")
        if not 0.5 <= match_iou < 1:
            raise InputError(f"Objects cannot be matched above an overlap of {match_iou}; accepted is 0.5 to below 1.")
        return cls(
            None if spacing is None else steps,
            None if spacing is None else unit,
            axes or "tzyx"[-ndim:],
            connectivity or accepted[0],
            default_reach(steps) if reach is None else float(reach),
            int(min_voxels),
            bool(instances),
            float(match_iou),
        )

    @property
    def steps(self) -> tuple[float, ...]:
        """Step along each spatial axis; 1 pixel when the spacing is unknown."""
        return self.spacing or (1.0,) * self.spatial

    @property
    def spatial(self) -> int:
        """Number of spatial axes."""
        return len(self.axes.removeprefix("t"))

    @property
    def length_unit(self) -> str:
        """``"mm"``, ``"um"`` or ``"px"``."""
        return self.unit or "px"

    @property
    def size_unit(self) -> str:
        """``"mm3"``, ``"mm2"``, ``"um3"`` or ``"um2"``; ``"px"`` when the spacing is unknown."""
        return f"{self.unit}{self.spatial}" if self.unit else "px"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        record = asdict(self)
        return record | {"spacing": None if self.spacing is None else list(self.spacing)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> RegionRules:
        """The reverse of `to_dict`."""
        spacing = record["spacing"]
        return cls(**{**record, "spacing": None if spacing is None else tuple(float(s) for s in spacing)})


@dataclass(frozen=True)
class ErrorRegion:
    """One connected error, or one object that was not found as it is.

    Parameters
    ----------
    id
        Number of the region in its review, from 1.
    error
        What is wrong.
    reference_label, candidate_label
        What the two say there; 0 is background. For objects the id of the object on its side, 0 on the other.
    voxels
        Number of voxels.
    size, size_unit
        Volume or area, and its unit; in pixels (``"px"``) when the spacing is unknown.
    box
        First index and the index after the last, for each axis of the array.
    centre
        Index of the region's own voxel that is nearest to its centre of mass, along all axes.
    distance, distance_unit
        Largest distance of its voxels to the boundary of the class in the reference: of the candidate's class for
        false positives, else of the reference's. The rules' reach means that much or more. ``None`` for objects.
    uncertainty
        Mean uncertainty, to about 1e-6; ``None`` without an uncertainty map.
    runs
        Its voxels; ``None`` in a region that was read from a file.
    """

    id: int
    error: Error
    reference_label: int
    candidate_label: int
    voxels: int
    size: float
    size_unit: str
    box: tuple[tuple[int, int], ...]
    centre: tuple[int, ...]
    distance: float | None = None
    distance_unit: str = "px"
    uncertainty: float | None = None
    runs: Runs | None = field(default=None, compare=False, repr=False)

    @property
    def label(self) -> int:
        """The class (or object) that the error is about: the reference's where it has one."""
        return self.reference_label or self.candidate_label

    @property
    def slices(self) -> Box:
        """The box as slices of the array."""
        return tuple(slice(a, b) for a, b in self.box)

    @property
    def kind(self) -> tuple[Error, int, int]:
        """Error and labels: regions of one kind can be the same region before and after an edit."""
        return self.error, self.reference_label, self.candidate_label

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON; without the voxels."""
        return {
            "id": self.id,
            "error": str(self.error),
            "reference_label": self.reference_label,
            "candidate_label": self.candidate_label,
            "voxels": self.voxels,
            "size": self.size,
            "size_unit": self.size_unit,
            "box": [list(pair) for pair in self.box],
            "centre": list(self.centre),
            "distance": self.distance,
            "distance_unit": self.distance_unit,
            "uncertainty": self.uncertainty,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ErrorRegion:
        """The reverse of `to_dict`; ``ValueError``, ``KeyError`` or ``TypeError`` on a record that is not one."""
        return cls(
            **{
                **record,
                "error": Error(record["error"]),
                "box": tuple((int(a), int(b)) for a, b in record["box"]),
                "centre": tuple(int(i) for i in record["centre"]),
            }
        )


def region_of(
    runs: Runs,
    error: Error,
    labels: tuple[int, int],
    shape: tuple[int, ...],
    rules: RegionRules,
    uncertainty: float | None,
) -> ErrorRegion:
    """Measure a region of these voxels; its number is 0 and its boundary distance not known.

    Parameters
    ----------
    runs
        Its voxels, at least one.
    error, labels
        What is wrong, and the labels of reference and candidate.
    shape
        Shape of the label image.
    rules
        Spacing and units.
    uncertainty
        Mean uncertainty of its voxels.
    """
    places = np.stack(np.unravel_index(runs.start, shape), -1).astype(np.int64)
    last = places[:, -1] + runs.length - 1
    low, high = places.min(0), places.max(0)
    high[-1] = last.max()
    voxels = runs.voxels
    totals = places.T @ runs.length
    # whole numbers until here, so that the centre does not depend on how runs were put together
    totals[-1] = int(((places[:, -1] + last) * runs.length).sum()) // 2
    mean = totals / voxels
    lead = len(shape) - rules.spatial
    nearest = places.astype(np.float64)
    nearest[:, -1] = np.clip(np.ceil(mean[-1] - 0.5), places[:, -1], last)
    squared = (((nearest - mean)[:, lead:] * rules.steps) ** 2).sum(1)
    centre = nearest[int(squared.argmin())]
    each = float(np.prod(rules.steps))
    return ErrorRegion(
        0,
        error,
        labels[0],
        labels[1],
        voxels,
        voxels * each,
        rules.size_unit,
        tuple((int(a), int(b) + 1) for a, b in zip(low, high, strict=True)),
        tuple(int(i) for i in centre),
        None,
        rules.length_unit,
        uncertainty,
        runs,
    )
