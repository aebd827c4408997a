"""Scores of objects (nuclei, cells, vessels): which were found, how well, and which were split or merged.

Everything follows from `PairCounts`, so it takes a moment whatever the size of the image. An object is all voxels of
one id above 0, whether or not they hang together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.metric import Metric
from napari_medseg.evaluate.objects.assignment import heaviest_matching, largest_matching
from napari_medseg.evaluate.pairs import Ids, PairCounts

_KUMAR = "Kumar et al., IEEE Transactions on Medical Imaging 2017, Algorithm 1"
_KIRILLOV = "Kirillov et al., CVPR 2019, equation 1"
_GRAHAM = "Graham et al. (HoVer-Net), Medical Image Analysis 2019"
_MATULA = "Matula et al., PLoS ONE 2015 (majority rule)"
# as for Dice: to leave empty what is empty is right, and a folder with an empty case keeps a mean
_EMPTY = "1 where neither side holds an object, 0 where one does not."
_NONE = "0 where there is none."

AJI = Metric(
    "aji",
    "AJI",
    "Aggregated Jaccard index: each reference object with the candidate of highest IoU (of equals the smaller id; "
    "one candidate may serve several), intersections / (unions + candidates never chosen), in voxels.",
    _EMPTY,
    "higher",
    source=_KUMAR,
)
AJI_PLUS = Metric(
    "aji_plus",
    "AJI+",
    "AJI with one-to-one pairs of the highest total IoU; objects without a partner count whole in the union.",
    _EMPTY,
    "higher",
    source=_GRAHAM,
)
PQ = Metric(
    "pq",
    "PQ",
    "Panoptic quality, SQ x RQ: IoU of the pairs above 0.5, summed, / (pairs + half of the objects without one).",
    _EMPTY,
    "higher",
    source=_KIRILLOV,
)
SQ = Metric(
    "sq",
    "SQ",
    "Segmentation quality: mean IoU of the pairs with IoU > 0.5.",
    "nan where there is no such pair.",
    "higher",
    source=_KIRILLOV,
)
RQ = Metric("rq", "RQ", "Recognition quality: F1 of objects at IoU > 0.5.", _EMPTY, "higher", source=_KIRILLOV)
OBJECT_F1 = Metric(
    "object_f1",
    "Object F1",
    "2 x matched / (candidate objects + reference objects); matched one to one where the IoU exceeds the threshold.",
    _EMPTY,
    "higher",
)
OBJECT_SENSITIVITY = Metric(
    "object_sensitivity",
    "Object sensitivity",
    "Matched / reference objects; also recall.",
    "nan where the reference holds no object; 0 where only the candidate holds none.",
    "higher",
)
OBJECT_PRECISION = Metric(
    "object_precision",
    "Object precision",
    "Matched / candidate objects.",
    "nan where the candidate holds no object; 0 where only the reference holds none.",
    "higher",
)
REFERENCE_OBJECTS = Metric(
    "reference_objects", "Reference objects", "Ids above 0 in the reference.", _NONE, "neither", "count"
)
CANDIDATE_OBJECTS = Metric(
    "candidate_objects", "Candidate objects", "Ids above 0 in the candidate.", _NONE, "neither", "count"
)
COUNT_DIFFERENCE = Metric(
    "object_count_difference",
    "Count difference",
    "Candidate objects - reference objects; above 0 where the candidate has more.",
    "The other side's number, with its sign.",
    "zero",
    "count",
)
MATCHED = Metric(
    "matched_objects", "Matched", "Pairs whose IoU exceeds the threshold, one to one.", _NONE, "higher", "count"
)
MISSED = Metric("missed_objects", "Missed", "Reference objects without a match.", _NONE, "lower", "count")
SPURIOUS = Metric("spurious_objects", "Spurious", "Candidate objects without a match.", _NONE, "lower", "count")
SPLITS = Metric(
    "splits",
    "Splits",
    "Reference objects that hold more than half of the voxels of each of two or more candidates.",
    _NONE,
    "lower",
    "count",
    _MATULA,
)
MERGES = Metric(
    "merges",
    "Merges",
    "Candidate objects that hold more than half of the voxels of each of two or more reference objects.",
    _NONE,
    "lower",
    "count",
    _MATULA,
)

METRICS: tuple[Metric, ...] = (
    AJI,
    AJI_PLUS,
    PQ,
    SQ,
    RQ,
    OBJECT_F1,
    OBJECT_SENSITIVITY,
    OBJECT_PRECISION,
    REFERENCE_OBJECTS,
    CANDIDATE_OBJECTS,
    COUNT_DIFFERENCE,
    MATCHED,
    MISSED,
    SPURIOUS,
    SPLITS,
    MERGES,
)

DEFAULT_THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
"""IoU thresholds of a curve: 0.5, 0.55, ..., 0.95."""


@dataclass(frozen=True, eq=False)
class ObjectMatches:
    """Which objects belong together and which are alone; ids ascend.

    Parameters
    ----------
    candidate, reference
        Ids of the pairs, int64 ``(n,)``, in the order of the reference.
    iou
        Intersection over union of each pair, ``(n,)``.
    missed
        Reference ids without a partner.
    spurious
        Candidate ids without a partner.
    """

    candidate: Ids
    reference: Ids
    iou: npt.NDArray[np.float64]
    missed: Ids
    spurious: Ids


def object_scores(pairs: PairCounts, *, threshold: float = 0.5) -> dict[str, float]:
    """All scores of `METRICS`, by key.

    Parameters
    ----------
    pairs
        As `count_pairs` gives them.
    threshold
        IoU that a pair must exceed to be matched, 0 (any shared voxel) or more and below 1. AJI, AJI+, PQ, SQ and RQ do
        not depend on it.

    Raises
    ------
    InputError
        If the threshold is out of range.
    """
    shared = _Overlaps.of(pairs)
    matched = len(shared.match(threshold))
    references, candidates = len(shared.reference_ids), len(shared.candidate_ids)
    iou = shared.iou[shared.match(0.5)]
    objects = references + candidates
    return {
        AJI.key: shared.aji(),
        AJI_PLUS.key: shared.aji_plus(),
        PQ.key: _share(2 * float(iou.sum()), objects, empty=1.0),
        SQ.key: _share(float(iou.sum()), len(iou)),
        RQ.key: _share(2 * len(iou), objects, empty=1.0),
        OBJECT_F1.key: _share(2 * matched, objects, empty=1.0),
        OBJECT_SENSITIVITY.key: _share(matched, references),
        OBJECT_PRECISION.key: _share(matched, candidates),
        REFERENCE_OBJECTS.key: float(references),
        CANDIDATE_OBJECTS.key: float(candidates),
        COUNT_DIFFERENCE.key: float(candidates - references),
        MATCHED.key: float(matched),
        MISSED.key: float(references - matched),
        SPURIOUS.key: float(candidates - matched),
        SPLITS.key: float(len(split_objects(pairs))),
        MERGES.key: float(len(merged_objects(pairs))),
    }


def f1_at(pairs: PairCounts, thresholds: Iterable[float] = DEFAULT_THRESHOLDS) -> dict[float, float]:
    """Object F1 at each IoU threshold; 1 throughout if neither side holds an object.

    Raises
    ------
    InputError
        If a threshold is below 0, or 1 or more.
    """
    shared = _Overlaps.of(pairs)
    objects = len(shared.reference_ids) + len(shared.candidate_ids)
    return {float(t): _share(2 * len(shared.match(t)), objects, empty=1.0) for t in thresholds}


def match_objects(pairs: PairCounts, threshold: float = 0.5) -> ObjectMatches:
    """Match objects one to one where their IoU exceeds `threshold`.

    From 0.5 on no object can have two partners. Below, as many objects as possible are matched, and of the ways to do
    so one with the highest total IoU is taken.

    Raises
    ------
    InputError
        If the threshold is below 0, or 1 or more.
    """
    shared = _Overlaps.of(pairs)
    chosen = shared.match(threshold)
    chosen = chosen[np.argsort(shared.reference[chosen])]
    return ObjectMatches(
        shared.candidate_ids[shared.candidate[chosen]],
        shared.reference_ids[shared.reference[chosen]],
        shared.iou[chosen],
        np.delete(shared.reference_ids, shared.reference[chosen]),
        np.delete(shared.candidate_ids, shared.candidate[chosen]),
    )


def split_objects(pairs: PairCounts) -> Ids:
    """Ids of reference objects that hold more than half of the voxels of each of two or more candidates."""
    shared = _Overlaps.of(pairs)
    return _held_twice(shared.reference_ids, shared.reference, shared.voxels, shared.candidate_size[shared.candidate])


def merged_objects(pairs: PairCounts) -> Ids:
    """Ids of candidates that hold more than half of the voxels of each of two or more reference objects."""
    shared = _Overlaps.of(pairs)
    return _held_twice(shared.candidate_ids, shared.candidate, shared.voxels, shared.reference_size[shared.reference])


def _held_twice(ids: Ids, holder: Ids, voxels: Ids, size: Ids) -> Ids:
    parts = np.bincount(holder[2 * voxels > size], minlength=len(ids))
    return ids[parts >= 2]


def _share(part: float, whole: float, empty: float = float("nan")) -> float:
    return part / whole if whole else empty


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """Objects of both sides, and every pair of them that shares voxels (as positions in the lists of ids)."""

    candidate_ids: Ids
    candidate_size: Ids
    reference_ids: Ids
    reference_size: Ids
    candidate: Ids
    reference: Ids
    voxels: Ids

    @classmethod
    def of(cls, pairs: PairCounts) -> _Overlaps:
        candidate_ids, candidate_size = _sizes(pairs.candidate, pairs.voxels)
        reference_ids, reference_size = _sizes(pairs.reference, pairs.voxels)
        both = (pairs.candidate > 0) & (pairs.reference > 0)
        return cls(
            candidate_ids,
            candidate_size,
            reference_ids,
            reference_size,
            np.searchsorted(candidate_ids, pairs.candidate[both]),
            np.searchsorted(reference_ids, pairs.reference[both]),
            pairs.voxels[both],
        )

    @property
    def union(self) -> Ids:
        union: Ids = self.candidate_size[self.candidate] + self.reference_size[self.reference] - self.voxels
        return union

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        iou: npt.NDArray[np.float64] = self.voxels / self.union
        return iou

    def match(self, threshold: float) -> npt.NDArray[np.intp]:
        """Positions of the pairs that are matched."""
        if not 0 <= threshold < 1:
            raise InputError(f"An IoU threshold of {threshold} is out of range; use 0 or more and less than 1.")
        iou = self.iou
        above = np.flatnonzero(iou > threshold)
        if threshold >= 0.5:
            return above
        return above[largest_matching(self.reference[above], self.candidate[above], iou[above])]

    def aji(self) -> float:
        order = np.lexsort((self.candidate, -self.iou, self.reference))
        best = order[np.unique(self.reference[order], return_index=True)[1]]
        return self._aggregate(best)

    def aji_plus(self) -> float:
        return self._aggregate(heaviest_matching(self.reference, self.candidate, self.iou))

    def _aggregate(self, chosen: npt.NDArray[np.intp]) -> float:
        """Intersections / (unions + objects that were not chosen)."""
        alone = int(np.delete(self.reference_size, self.reference[chosen]).sum())
        alone += int(np.delete(self.candidate_size, self.candidate[chosen]).sum())
        return _share(int(self.voxels[chosen].sum()), int(self.union[chosen].sum()) + alone, empty=1.0)


def _sizes(ids: Ids, voxels: Ids) -> tuple[Ids, Ids]:
    unique, inverse = np.unique(ids, return_inverse=True)
    size = np.zeros(len(unique), np.int64)
    np.add.at(size, inverse, voxels)
    return unique[unique > 0], size[unique > 0]
