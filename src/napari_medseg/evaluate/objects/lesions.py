"""Which lesions were found, by cut-offs of volume and overlap; a lesion is a connected component of one class.

The rules are those of Zoetmulder et al. (Comput. Methods Programs Biomed. 2022), with false positives added as in the
ISLES'22 challenge: a lesion of the reference is found if the share of its voxels that the candidate covers is *more*
than the overlap cut-off; lesions smaller than the volume cut-off do not count; a component of the candidate that
touches no lesion of the reference, however small, is a false positive unless it is smaller than the cut-off itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.metric import Metric
from napari_medseg.evaluate.objects.components import Components, Connectivity, connected_components
from napari_medseg.jobs import Progress

Side = Literal["reference", "candidate"]

_ZOETMULDER = "Zoetmulder et al., Computer Methods and Programs in Biomedicine 2022"
_ISLES = "ISLES'22, Hernandez Petzsche et al., Scientific Data 2022"
_NONE = "0 where there is none."

LESION_SENSITIVITY = Metric(
    "lesion_sensitivity",
    "Lesion sensitivity",
    "Found / counted lesions of the reference; found is covered by more than the overlap cut-off, counted is at least "
    "as large as the volume cut-off.",
    "nan where the reference holds no lesion that counts; 0 where only the candidate is empty.",
    "higher",
    source=_ZOETMULDER,
)
LESION_PRECISION = Metric(
    "lesion_precision",
    "Lesion precision",
    "Found lesions / (found lesions + false positives).",
    "nan where nothing was found, rightly or wrongly.",
    "higher",
    source=_ISLES,
)
LESION_F1 = Metric(
    "lesion_f1",
    "Lesion F1",
    "2 x found / (2 x found + missed + false positives).",
    "1 where no lesion counts and no false positive is there, 0 where only one of both holds.",
    "higher",
    source=_ISLES,
)
FALSE_POSITIVES = Metric(
    "lesion_false_positives",
    "False positive lesions",
    "Components of the candidate, at least as large as the volume cut-off, that touch no lesion of the reference.",
    _NONE,
    "lower",
    "count",
    _ISLES,
)
COUNTED = Metric(
    "lesions_counted",
    "Lesions counted",
    "Lesions of the reference at least as large as the volume cut-off.",
    _NONE,
    "neither",
    "count",
)
FOUND = Metric(
    "lesions_found", "Lesions found", "Counted lesions that the candidate found.", _NONE, "higher", "count", _ZOETMULDER
)
MISSED = Metric("lesions_missed", "Lesions missed", "Counted lesions that it did not find.", _NONE, "lower", "count")

METRICS: tuple[Metric, ...] = (
    LESION_SENSITIVITY,
    LESION_PRECISION,
    LESION_F1,
    FALSE_POSITIVES,
    COUNTED,
    FOUND,
    MISSED,
)


@dataclass(frozen=True)
class Lesion:
    """One row of the table of lesions.

    Parameters
    ----------
    side
        Whose component it is.
    volume
        Volume in the unit of `Lesions.unit` cubed, area in pictures; voxels if that unit is ``"px"``.
    overlap
        Share of its voxels inside the other mask, 0 to 1.
    counted
        Whether it is as large as the volume cut-off.
    detected
        Of a lesion of the reference: whether it was found. Of a component of the candidate: whether it touches a
        lesion of the reference.
    centroid
        Mean index along each axis.
    box
        Bounding box.
    """

    side: Side
    volume: float
    overlap: float
    counted: bool
    detected: bool
    centroid: tuple[float, ...]
    box: tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Lesions:
    """The components of both masks, to be scored with one cut-off after the other.

    Parameters
    ----------
    candidate, reference
        The components.
    voxel_volume
        Volume of a voxel in `unit` cubed (area of a pixel in pictures, squared).
    unit
        Unit of length of the volumes; ``"px"`` where the spacing is unknown and volumes are numbers of voxels.
    """

    candidate: Components
    reference: Components
    voxel_volume: float
    unit: str

    def scores(self, *, minimum_volume: float = 0.0, minimum_overlap: float = 0.0) -> dict[str, float]:
        """All scores of `METRICS`, by key.

        Parameters
        ----------
        minimum_volume
            Smaller lesions do not count; in `unit` cubed (1 mL is 1000 mm³), in voxels if that is ``"px"``.
        minimum_overlap
            A lesion is found if a share of *more* than this is covered, 0 or more and less than 1.

        Raises
        ------
        InputError
            If a cut-off is out of range.
        """
        counted = self._large(self.reference, minimum_volume)
        number = int(counted.sum())
        found = int((counted & self._found(minimum_overlap)).sum())
        wrong = int((self._large(self.candidate, minimum_volume) & (self.candidate.covered == 0)).sum())
        everything = found + number + wrong
        return {
            LESION_SENSITIVITY.key: found / number if number else float("nan"),
            LESION_PRECISION.key: found / (found + wrong) if found + wrong else float("nan"),
            LESION_F1.key: 2 * found / everything if everything else 1.0,
            FALSE_POSITIVES.key: float(wrong),
            COUNTED.key: float(number),
            FOUND.key: float(found),
            MISSED.key: float(number - found),
        }

    def rows(self, *, minimum_volume: float = 0.0, minimum_overlap: float = 0.0) -> list[Lesion]:
        """Every component of the reference, then every one of the candidate; cut-offs as for `scores`."""
        reference = self._rows("reference", self.reference, self._found(minimum_overlap), minimum_volume)
        return reference + self._rows("candidate", self.candidate, self.candidate.covered > 0, minimum_volume)

    def table(
        self, minimum_volumes: Sequence[float] = (0.0,), minimum_overlaps: Sequence[float] = (0.0, 0.2)
    ) -> dict[tuple[float, float], dict[str, float]]:
        """The scores of every pair of cut-offs (volume, overlap)."""
        return {
            (float(volume), float(overlap)): self.scores(minimum_volume=volume, minimum_overlap=overlap)
            for volume in minimum_volumes
            for overlap in minimum_overlaps
        }

    def _large(self, components: Components, minimum_volume: float) -> npt.NDArray[np.bool_]:
        if not minimum_volume >= 0:
            raise InputError(f"A volume cut-off of {minimum_volume} is out of range; use 0 or more.")
        # products of spacings are rounded, and a lesion of exactly the cut-off counts
        large: npt.NDArray[np.bool_] = components.voxels * self.voxel_volume >= minimum_volume * (1 - 1e-9)
        return large

    def _found(self, minimum_overlap: float) -> npt.NDArray[np.bool_]:
        if not 0 <= minimum_overlap < 1:
            raise InputError(f"An overlap cut-off of {minimum_overlap} is out of range; use 0 or more and less than 1.")
        found: npt.NDArray[np.bool_] = self.reference.covered / self.reference.voxels > minimum_overlap
        return found

    def _rows(
        self, side: Side, found: Components, detected: npt.NDArray[np.bool_], minimum_volume: float
    ) -> list[Lesion]:
        counted = self._large(found, minimum_volume)
        return [
            Lesion(
                side,
                float(found.voxels[k] * self.voxel_volume),
                float(found.covered[k] / found.voxels[k]),
                bool(counted[k]),
                bool(detected[k]),
                tuple(found.centroid[k].tolist()),
                tuple(slice(a, b) for a, b in zip(found.low[k].tolist(), found.high[k].tolist(), strict=True)),
            )
            for k in range(len(found))
        ]


def find_lesions(
    candidate: Any,
    reference: Any,
    spacing: Sequence[float] | None,
    *,
    unit: str = "mm",
    label: int | None = None,
    connectivity: Connectivity | None = None,
    per_slice: bool = False,
    progress: Progress | None = None,
) -> Lesions:
    """Find the lesions of both masks, once for all cut-offs.

    Parameters
    ----------
    candidate, reference
        Integer or bool arrays (numpy, dask or zarr) of one shape with axes ``(z, y, x)`` or ``(y, x)``; larger than
        memory is fine.
    spacing
        Edges of a voxel in the order of the axes; ``None`` when unknown: volumes are then numbers of voxels and the
        unit is ``"px"``.
    unit
        Unit of `spacing`.
    label
        The id of the class; any id above 0 when ``None``.
    connectivity
        How many neighbours a voxel has: 6, 18 or 26 in volumes, 4 or 8 in pictures; 26 and 8 when ``None``.
    per_slice
        Whether components are those of the single slices along z, as in the paper.
    progress
        Told about every slab; can cancel.

    Raises
    ------
    InputError
        If the arrays are no masks of one shape with two or three axes, the connectivity does not exist there, or the
        spacing does not fit.
    """
    if spacing is not None and (len(spacing) != len(candidate.shape) or not all(0 < s < np.inf for s in spacing)):
        raise InputError(
            f"The spacing {tuple(spacing)} does not fit labels of shape {tuple(candidate.shape)};"
            " one length above 0 is needed for each axis."
        )
    found, wanted = connected_components(
        candidate, reference, label=label, connectivity=connectivity, per_slice=per_slice, progress=progress
    )
    if spacing is None:
        return Lesions(found, wanted, 1.0, "px")
    return Lesions(found, wanted, float(prod(spacing)), unit)


def lesion_scores(
    candidate: Any,
    reference: Any,
    spacing: Sequence[float] | None,
    *,
    minimum_volume: float = 0.0,
    minimum_overlap: float = 0.0,
    label: int | None = None,
    connectivity: Connectivity | None = None,
    per_slice: bool = False,
    progress: Progress | None = None,
) -> dict[str, float]:
    """All scores of `METRICS` for one pair of cut-offs; parameters as for `find_lesions` and `Lesions.scores`.

    `minimum_volume` is in the unit of the spacing, cubed (squared for pictures), and in voxels where that is ``None``.
    """
    lesions = find_lesions(
        candidate,
        reference,
        spacing,
        label=label,
        connectivity=connectivity,
        per_slice=per_slice,
        progress=progress,
    )
    return lesions.scores(minimum_volume=minimum_volume, minimum_overlap=minimum_overlap)
