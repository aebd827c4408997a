"""How far two masks cover each other, from counts of voxels alone.

Everything here follows from how many voxels are in both masks, in one of them, or in neither, so it is exact however
the labels are stored and whatever their size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from napari_medseg.evaluate.metric import Metric

if TYPE_CHECKING:
    from napari_medseg.evaluate.pairs import Confusion, PairCounts

_TAHA = "Taha & Hanbury, BMC Medical Imaging 2015"
_NEITHER = "nan where the reference holds nothing"

SHARE_METRICS: tuple[Metric, ...] = (
    Metric(
        "dice",
        "Dice",
        "2 |C and R| / (|C| + |R|) of candidate C and reference R.",
        "1 where both are empty, 0 where one is.",
        "higher",
        source="Dice, Ecology 1945; " + _TAHA,
    ),
    Metric(
        "iou",
        "IoU",
        "|C and R| / |C or R|, the Jaccard index.",
        "1 where both are empty, 0 where one is.",
        "higher",
        source="Jaccard 1912; " + _TAHA,
    ),
    Metric(
        "sensitivity",
        "Sensitivity",
        "TP / (TP + FN), the share of the reference that the candidate covers; also recall or class accuracy.",
        f"{_NEITHER}; 0 where only the candidate is empty.",
        "higher",
        source=_TAHA,
    ),
    Metric(
        "specificity",
        "Specificity",
        "TN / (TN + FP), the share of the voxels outside the reference that the candidate leaves out; "
        "it depends on how much background the picture shows.",
        "1 where both are empty; nan where the reference covers everything.",
        "higher",
        source=_TAHA,
    ),
    Metric(
        "precision",
        "Precision",
        "TP / (TP + FP), the share of the candidate that lies in the reference.",
        "nan where the candidate holds nothing; 0 where only the reference is empty.",
        "higher",
        source=_TAHA,
    ),
    Metric(
        "fpsr",
        "FPSR",
        "|C without R| / (|C| + |R|), what is too much; Dice + FPSR + FNSR = 1.",
        "0 where both are empty, 1 where only the reference is.",
        "lower",
        source="Hou et al., Surgical Innovation 2024",
    ),
    Metric(
        "fnsr",
        "FNSR",
        "|R without C| / (|C| + |R|), what is missing; Dice + FPSR + FNSR = 1.",
        "0 where both are empty, 1 where only the candidate is.",
        "lower",
        source="Hou et al., Surgical Innovation 2024",
    ),
)

SIZE_METRICS: tuple[Metric, ...] = (
    Metric(
        "volume_candidate",
        "Candidate volume",
        "Voxels of the candidate times the volume of one.",
        "0 where it is empty.",
        "neither",
        "volume",
    ),
    Metric(
        "volume_reference",
        "Reference volume",
        "Voxels of the reference times the volume of one.",
        "0 where it is empty.",
        "neither",
        "volume",
    ),
    Metric(
        "volume_difference",
        "Volume difference",
        "Candidate volume - reference volume; above 0 where the candidate is larger.",
        "0 where both are empty.",
        "zero",
        "volume",
    ),
    Metric(
        "relative_volume_difference",
        "Relative volume difference",
        "(candidate volume - reference volume) / reference volume; above 0 where the candidate is larger.",
        f"{_NEITHER}; -1 where only the candidate is empty.",
        "zero",
        source="Heimann et al., IEEE Transactions on Medical Imaging 2009",
    ),
)

METRICS: tuple[Metric, ...] = (*SHARE_METRICS, *SIZE_METRICS)

ACCURACY_METRICS: tuple[Metric, ...] = (
    Metric(
        "global_accuracy",
        "Global accuracy",
        "Voxels with the same id in both / all voxels, background included.",
        "1 where both hold background only.",
        "higher",
        source="evaluateSemanticSegmentation of MATLAB (GlobalAccuracy); Gil et al., MIUA 2023",
    ),
    Metric(
        "class_accuracy",
        "Class accuracy",
        "Mean sensitivity of the ids that the reference holds, background included.",
        "Ids that the reference lacks do not count.",
        "higher",
        source="evaluateSemanticSegmentation of MATLAB (MeanAccuracy)",
    ),
)


def overlap_scores(confusion: Confusion, voxel_volume: float = 1.0) -> dict[str, float]:
    """The overlap of two masks.

    Parameters
    ----------
    confusion
        Voxels in both masks, in one of them, and in neither.
    voxel_volume
        Volume (area in two dimensions) of a voxel, more than 0; the default counts voxels.

    Returns
    -------
    scores
        One number for each key of `METRICS`; ``nan`` where it is not defined. Shares run from 0 to 1; volumes are in
        the unit of `voxel_volume`. ``dice + fpsr + fnsr`` is 1.
    """
    both, extra = confusion.true_positive, confusion.false_positive
    missing, neither = confusion.false_negative, confusion.true_negative
    total = 2 * both + extra + missing
    candidate, reference = both + extra, both + missing
    return {
        "dice": 2 * both / total if total else 1.0,
        "iou": both / (both + extra + missing) if total else 1.0,
        "sensitivity": _ratio(both, reference),
        "specificity": _ratio(neither, neither + extra),
        "precision": _ratio(both, candidate),
        "fpsr": extra / total if total else 0.0,
        "fnsr": missing / total if total else 0.0,
        "volume_candidate": candidate * voxel_volume,
        "volume_reference": reference * voxel_volume,
        "volume_difference": (candidate - reference) * voxel_volume,
        "relative_volume_difference": _ratio(candidate - reference, reference),
    }


def accuracy_scores(pairs: PairCounts) -> dict[str, float]:
    """Global and class accuracy over all ids, background included; keys of `ACCURACY_METRICS`.

    Parameters
    ----------
    pairs
        How many voxels hold each pair of candidate and reference id.

    Returns
    -------
    scores
        Numbers from 0 to 1.
    """
    # python's integers: the sums do not overflow, and the ratios are rounded once
    right: dict[int, int] = {}
    there: dict[int, int] = {}
    listed = zip(pairs.candidate.tolist(), pairs.reference.tolist(), pairs.voxels.tolist(), strict=True)
    for candidate, reference, voxels in listed:
        there[reference] = there.get(reference, 0) + voxels
        right[reference] = right.get(reference, 0) + (voxels if candidate == reference else 0)
    shares = [right[label] / there[label] for label in there if there[label]]
    return {
        "global_accuracy": _ratio(sum(right.values()), sum(there.values())),
        "class_accuracy": float(np.mean(shares)) if shares else math.nan,
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
