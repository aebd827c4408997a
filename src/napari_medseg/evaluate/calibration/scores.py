"""Whether probabilities mean what they say: reliability curves, calibration errors and the Brier score.

Everything is a sum over voxels, so maps may be larger than memory and may come from several cases: the sums are the
same in whatever pieces they are read. `temperature` makes probabilities mean more of what they say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.calibration.probability_pairs import ProbabilityPairs
from napari_medseg.evaluate.calibration.quantiles import mass_edges
from napari_medseg.evaluate.json_values import json_number
from napari_medseg.evaluate.metric import Metric
from napari_medseg.jobs import Progress

Bins = Literal["width", "mass"]
Floats = npt.NDArray[np.float64]

# float16 maps of many classes add up to 1 within this
_SUM_TOLERANCE = 1e-2
_RANGE_TOLERANCE = 1e-6

_NO_VOXEL = "nan where no voxel is compared."

METRICS: tuple[Metric, ...] = (
    Metric(
        "ece",
        "ECE",
        "Expected calibration error: sum over bins of (voxels in the bin / voxels) |observed - predicted|, of the "
        "confidence in the chosen class, or of the foreground for a map of it.",
        f"{_NO_VOXEL[:-1]}; empty bins count nothing.",
        "lower",
        source="Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3",
    ),
    Metric(
        "mce",
        "MCE",
        "Maximum calibration error: the largest |observed - predicted| of all bins that hold a voxel.",
        f"{_NO_VOXEL[:-1]}; empty bins do not count.",
        "lower",
        source="Guo et al., ICML 2017, equation 5",
    ),
    Metric(
        "classwise_ece",
        "Class-wise ECE",
        "Mean over classes of the ECE of each class against all others.",
        _NO_VOXEL,
        "lower",
        source="Nixon et al., CVPR workshops 2019 (static calibration error)",
    ),
    Metric(
        "brier",
        "Brier score",
        "Mean over voxels of (probability - truth)², summed over classes: 0 to 2 for two or more classes, 0 to 1 for "
        "a map of the foreground alone.",
        _NO_VOXEL,
        "lower",
        source="Brier, Monthly Weather Review 1950",
    ),
)


@dataclass(frozen=True)
class ReliabilityCurve:
    """How often what is given a probability is true.

    Parameters
    ----------
    of
        ``"confidence"`` (the largest probability, true where that class is), ``"foreground"``, or the id of a class.
    edges
        Edges of the bins, one more than there are bins. A bin holds ``edge[k] < p <= edge[k + 1]``, the first one
        its lower edge too.
    voxels
        How many voxels fell into each bin.
    predicted, observed
        Mean probability and share of truth in each bin; ``nan`` in an empty bin.
    """

    of: str | int
    edges: tuple[float, ...]
    voxels: tuple[int, ...]
    predicted: tuple[float, ...]
    observed: tuple[float, ...]

    @property
    def ece(self) -> float:
        """Expected calibration error; ``nan`` without voxels."""
        total = sum(self.voxels)
        return math.fsum(n * g for n, g in self._gaps()) / total if total else math.nan

    @property
    def mce(self) -> float:
        """Maximum calibration error over the bins that are not empty; ``nan`` without voxels."""
        return max((g for _, g in self._gaps()), default=math.nan)

    def _gaps(self) -> list[tuple[int, float]]:
        rows = zip(self.voxels, self.predicted, self.observed, strict=True)
        return [(n, abs(o - p)) for n, p, o in rows if n]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; ``None`` in empty bins."""
        return {
            "of": self.of,
            "edges": list(self.edges),
            "voxels": list(self.voxels),
            "predicted": [json_number(v) for v in self.predicted],
            "observed": [json_number(v) for v in self.observed],
            "ece": json_number(self.ece),
            "mce": json_number(self.mce),
        }


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities mean what they say.

    Parameters
    ----------
    curve
        Of the confidence in the chosen class, or of the foreground.
    classes
        One curve for each class against all others; empty for a map of the foreground.
    brier
        Brier score; see `METRICS` for its range.
    voxels
        How many voxels were compared, and `left_out` how many were not.
    left_out
        Voxels outside the mask or with the ignored id.
    bins
        ``"width"`` (bins of equal width) or ``"mass"`` (equally many voxels in each).
    """

    curve: ReliabilityCurve
    classes: tuple[ReliabilityCurve, ...]
    brier: float
    voxels: int
    left_out: int
    bins: Bins

    @property
    def classwise_ece(self) -> float:
        """Mean ECE of the classes; that of the foreground for a map of it."""
        errors = [c.ece for c in self.classes] or [self.curve.ece]
        return math.fsum(errors) / len(errors)

    @property
    def scores(self) -> dict[str, float]:
        """The numbers by the keys of `METRICS`."""
        return {
            "ece": self.curve.ece,
            "mce": self.curve.mce,
            "classwise_ece": self.classwise_ece,
            "brier": self.brier,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            "scores": {k: json_number(v) for k, v in self.scores.items()},
            "curve": self.curve.to_dict(),
            "classes": [c.to_dict() for c in self.classes],
            "voxels": self.voxels,
            "left_out": self.left_out,
            "bins": self.bins,
        }


def calibration(
    probabilities: Any,
    reference: Any,
    *,
    mask: Any = None,
    ignore_id: int | None = None,
    ids: Sequence[int] | None = None,
    bins: Bins = "width",
    bin_count: int = 10,
    progress: Progress | None = None,
) -> Calibration:
    """Reliability, calibration errors and Brier score of probabilities against a reference.

    Background is part of it: where it is most of the picture and easy, all numbers look good. Give a mask (of the
    organ, of the tissue) to judge what matters.

    Parameters
    ----------
    probabilities
        ``(classes, *spatial)`` that add up to 1, or ``(*spatial)`` of the foreground; 0 to 1 (numpy, dask or zarr).
        A list or tuple of several cases is taken together.
    reference
        Integer labels ``(*spatial)``, one array a case.
    mask
        Spatial array, one a case; voxels where it is 0 are left out and counted.
    ignore_id
        Voxels whose reference is this id are left out and counted.
    ids
        Which id each class is, in order; 0, 1, 2, ... when ``None``. For a map of the foreground the one id that is
        foreground; any above 0 when ``None``.
    bins
        ``"width"``: from 0 to 1 in equal steps. ``"mass"``: between quantiles of all voxels, interpolated as numpy
        does; equal quantiles make one edge, so there can be fewer bins. Exact for float32, to which other numbers are
        rounded; in two passes more.
    bin_count
        Number of bins, 1 or more.
    progress
        Told about every piece; can cancel.

    Raises
    ------
    InputError
        If shapes or numbers of cases differ, probabilities are not finite, leave 0 to 1 or do not add up to 1, or the
        reference holds an id that no class has.
    CancelledError
        Within one piece of `Progress.cancel`.
    """
    progress = progress or Progress()
    if bin_count < 1 or bins not in ("width", "mass"):
        raise InputError(
            f"{bin_count} bins of equal {bins!r} cannot be made; accepted are 1 or more, 'width' or 'mass'."
        )
    source = _Source(
        ProbabilityPairs(probabilities, reference, mask, ignore_id, ids), np.float32 if bins == "mass" else np.float64
    )
    if bins == "mass":
        edges = mass_edges(source, bin_count, progress)
    else:
        edges = [np.linspace(0, 1, bin_count + 1)] * source.curves
    tables = [_Table(e) for e in edges]
    progress.begin(source.count(), "comparing probabilities")
    squares: list[float] = []
    voxels = 0
    for rows, truths, square in source.scored():
        for table, row, truth in zip(tables, rows, truths, strict=True):
            table.add(row, truth)
        squares.append(square)
        voxels += rows.shape[1]
        progress.advance()
    first, *others = (t.curve(name) for t, name in zip(tables, source.names, strict=True))
    return Calibration(
        curve=first,
        classes=tuple(others),
        brier=math.fsum(squares) / voxels if voxels else math.nan,
        voxels=voxels,
        left_out=source.left_out,
        bins=bins,
    )


class _Source:
    """The rows that curves are made of: the confidence and each class, or the foreground alone."""

    def __init__(self, pairs: ProbabilityPairs, dtype: type[np.floating[Any]]) -> None:
        self._pairs, self._dtype = pairs, dtype
        self.names: tuple[str | int, ...] = ("confidence", *pairs.ids) if pairs.has_classes else ("foreground",)
        self.curves = len(self.names)

    @property
    def left_out(self) -> int:
        """Voxels that the last pass left out."""
        return self._pairs.left_out

    def count(self) -> int:
        """Number of pieces."""
        return self._pairs.count()

    def rows(self) -> Any:
        """The probabilities ``(curves, n)`` of every piece."""
        for rows, _, _ in self.scored():
            yield rows

    def scored(self) -> Any:
        """Probabilities and whether they came true, both ``(curves, n)``, and the sum of the Brier score's squares."""
        for numbers, true in self._pairs.pieces():
            p = _checked(numbers.astype(self._dtype), self._pairs.has_classes)
            if not self._pairs.has_classes:
                truth = true[None] == 1
                yield p, truth, float(np.square(p.astype(np.float64) - truth).sum())
                continue
            truth = true == np.arange(len(p))[:, None]
            chosen = p.argmax(0)
            square = float(np.square(p.astype(np.float64) - truth).sum())
            yield np.concatenate([p.max(0)[None], p]), np.concatenate([(chosen == true)[None], truth]), square


def _checked(p: npt.NDArray[Any], has_classes: bool) -> npt.NDArray[Any]:
    if p.size:
        low, high = float(p.min()), float(p.max())
        if low < -_RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
            raise InputError(
                f"Probabilities from {low:g} to {high:g} are none; accepted are 0 to 1, for instance after a softmax."
            )
    np.clip(p, 0, 1, out=p)
    if has_classes and p.size:
        sums = p.sum(0, dtype=np.float64)
        far = int(np.abs(sums - 1).argmax())
        if abs(sums[far] - 1) > _SUM_TOLERANCE:
            raise InputError(
                f"Probabilities of a voxel add up to {sums[far]:.3g} and not to 1; give maps of independent labels one "
                f"by one, as maps of the foreground."
            )
    return p


class _Table:
    """Sums of one curve."""

    def __init__(self, edges: Floats) -> None:
        self._edges = edges
        bins = max(1, len(edges) - 1)
        self._voxels = np.zeros(bins, np.int64)
        self._true = np.zeros(bins, np.int64)
        self._predicted: list[Floats] = []

    def add(self, p: npt.NDArray[Any], truth: npt.NDArray[np.bool_]) -> None:
        """Count one piece."""
        bins = len(self._voxels)
        place = np.searchsorted(self._edges[1:-1], p, side="left")
        self._voxels += np.bincount(place, minlength=bins)
        self._true += np.bincount(place[truth], minlength=bins)
        self._predicted.append(np.bincount(place, p, bins).astype(np.float64))

    def curve(self, name: str | int) -> ReliabilityCurve:
        """The curve of all pieces."""
        held = self._voxels > 0
        counts = np.where(held, self._voxels, 1)
        sums = np.array([math.fsum(column) for column in zip(*self._predicted, strict=True)] or np.zeros(len(counts)))
        return ReliabilityCurve(
            of=name,
            edges=tuple(self._edges.tolist()),
            voxels=tuple(self._voxels.tolist()),
            predicted=tuple(np.where(held, sums / counts, np.nan).tolist()),
            observed=tuple(np.where(held, self._true / counts, np.nan).tolist()),
        )
