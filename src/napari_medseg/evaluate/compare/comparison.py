"""Score candidates on one case and say which is better at what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from napari_medseg.case import InputError, Segmentation
from napari_medseg.evaluate.agreement import PairwiseDice, pairwise_dice
from napari_medseg.evaluate.compare.candidate import Candidate
from napari_medseg.evaluate.grids import check_same_grid
from napari_medseg.evaluate.metric import Metric
from napari_medseg.evaluate.scoring.case_scores import CaseScores, ScoreRow
from napari_medseg.evaluate.scoring.score import ScoreOptions, score
from napari_medseg.io.lazy import AnyArray, LazyArray, stored_chunk
from napari_medseg.jobs import Progress

# what a ranking follows, in this order: the first two that are there
_HEADLINES = ("dice", "pq", "hd95", "aji")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several candidates on one case.

    Parameters
    ----------
    candidates
        In the order in which they were given.
    reference
        Name of the reference; ``None`` where there is none, and no scores either.
    scores
        Of each candidate against the reference.
    agreement
        Dice of each pair of candidates, class by class; of all foreground (as class 1) where ids are objects; ``None``
        with fewer than two.
    """

    candidates: tuple[Candidate, ...]
    reference: str | None
    scores: tuple[CaseScores, ...]
    agreement: PairwiseDice | None

    def rows(self) -> tuple[tuple[str, tuple[ScoreRow | None, ...]], ...]:
        """Name of each row of scores, and the row of each candidate where it has one."""
        keyed = [{_identity(row): row for row in scores.rows} for scores in self.scores]
        names: dict[tuple[int | None, str], str] = {}
        for rows in keyed:
            for identity, row in rows.items():
                names.setdefault(identity, row.name)
        return tuple((name, tuple(rows.get(identity) for rows in keyed)) for identity, name in names.items())

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics that some candidate has, in the order of the columns."""
        found = {column.metric.key: column.metric for scores in self.scores for column in scores.columns()}
        return tuple(found.values())

    @staticmethod
    def best(rows: Sequence[ScoreRow | None], metric: Metric) -> frozenset[int]:
        """Which candidates have the best value of a metric in one row; none where all are alike or one has it alone."""
        if metric.better == "neither":
            return frozenset()
        values = {k: row.values[metric.key] for k, row in enumerate(rows) if row and metric.key in row.values}
        cost = {k: _cost(value, metric) for k, value in values.items() if not math.isnan(value)}
        if len(cost) < 2 or len(set(cost.values())) == 1:
            return frozenset()
        least = min(cost.values())
        return frozenset(k for k, value in cost.items() if value == least)

    def ranking(self) -> tuple[tuple[int, ...], str]:
        """Places of the candidates from best to worst, and in words what was ranked by.

        The mean over the labels counts (for objects their one row): Dice or panoptic quality first, then HD95 or AJI
        where that is equal. Candidates without a value come last. Empty without a reference.
        """
        headlines = [m for key in _HEADLINES for m in self.metrics if m.key == key][:2]
        if not self.scores or not headlines:
            return (), "no reference, so nothing to rank by"
        heads = [scores.labels[0] if scores.objects else scores.mean for scores in self.scores]
        costs = [
            tuple(_cost(row.values.get(m.key, math.nan), m) if row else math.inf for m in headlines) for row in heads
        ]
        order = sorted(range(len(costs)), key=lambda k: costs[k])
        over = "all objects" if self.scores[0].objects else "the mean over the labels"
        return tuple(order), f"{' and then '.join(m.name for m in headlines)}, {over}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; see `CaseScores.to_dict` for units and undefined values."""
        order, by = self.ranking()
        names = [candidate.name for candidate in self.candidates]
        return {
            "reference": self.reference,
            "candidates": [
                {
                    "name": candidate.name,
                    "run": candidate.run.to_dict(),
                    **({"scores": self.scores[k].to_dict()} if self.scores else {}),
                }
                for k, candidate in enumerate(self.candidates)
            ],
            "ranking": [names[k] for k in order],
            "ranked_by": by,
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
        }


def compare(
    candidates: Sequence[Candidate],
    reference: Segmentation | None,
    options: ScoreOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Score `candidates` against `reference`, and against each other.

    Parameters
    ----------
    candidates
        One or more, with names of their own, on one grid.
    reference
        What is taken as right; without one candidates are only compared with each other.
    options
        What is scored.
    progress
        Told about every piece of every candidate; can cancel.

    Raises
    ------
    GridMismatch
        If two lie on different grids; see `napari_medseg.evaluate.grids`.
    InputError
        If there is nothing to compare, or two candidates share a name.
    """
    progress = progress or Progress()
    names = [candidate.name for candidate in candidates]
    if not candidates or (len(candidates) < 2 and reference is None):
        raise InputError("There is nothing to compare: give a reference, or two candidates.")
    if len(set(names)) < len(names):
        raise InputError(f"Two candidates are called {max(names, key=names.count)}; give each a name of its own.")
    first = candidates[0].segmentation if reference is None else reference
    for candidate in candidates:
        check_same_grid(_named(candidate), first)
    scores: tuple[CaseScores, ...] = ()
    if reference is not None:
        scores = tuple(score(_named(c), reference, options, progress=progress) for c in candidates)
    agreement = None
    if len(candidates) > 1:
        arrays = [c.segmentation.data for c in candidates]
        if any(c.segmentation.table.instances for c in candidates):
            arrays = [_Foreground(array) for array in arrays]
        agreement = pairwise_dice(arrays, names, progress=progress)
    return Comparison(tuple(candidates), None if reference is None else reference.name, scores, agreement)


class _Foreground(LazyArray):
    """1 wherever an array of objects has one."""

    def __init__(self, objects: Any) -> None:
        super().__init__(objects.shape, np.uint8, stored_chunk(objects) or objects.shape)
        self._objects = objects

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        return (np.asarray(self._objects[region]) > 0).astype(np.uint8)


def _named(candidate: Candidate) -> Segmentation:
    return replace(candidate.segmentation, name=candidate.name)


def _identity(row: ScoreRow) -> tuple[int | None, str]:
    """What makes rows of two candidates the same: the id of a label, or which summary it is."""
    return (row.id, "") if row.id is not None else (None, row.name.split(" of ")[0])


def _cost(value: float, metric: Metric) -> float:
    """Smaller is better; what is not defined is worst."""
    if math.isnan(value):
        return math.inf
    if metric.better == "higher":
        return -value
    return abs(value) if metric.better == "zero" else value
