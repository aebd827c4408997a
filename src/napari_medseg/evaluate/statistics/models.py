"""Which model is better over a folder of cases, and whether that is more than chance.

Scores of two models on one case belong together: a hard case is hard for both. All comparisons are paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.json_values import json_number
from napari_medseg.evaluate.metric import Better
from napari_medseg.evaluate.statistics.bootstrap import Interval, bootstrap_interval
from napari_medseg.evaluate.statistics.signed_rank import (
    Correction,
    ZeroMethod,
    corrected,
    fewest_cases,
    paired_differences,
    rounded,
    signed_rank,
    smallest_p,
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairComparison:
    """Two models on the same cases.

    Parameters
    ----------
    first, second
        Names of the models.
    cases, left_out
        Cases that both have a score for, and those where one is ``nan``.
    zeros, infinite
        Cases without a difference, and with an infinite one.
    median_first, median_second
        Median score of each over these cases.
    difference
        Median of first minus second, with its interval.
    p
        Of the two-sided signed-rank test; ``nan`` where there are too few cases for one.
    corrected_p
        The same, corrected for all comparisons that were made.
    exact
        Whether `p` is exact.
    better
        Name of the better model if `corrected_p` is at most alpha, else ``None``.
    notes
        What was left out, and what cannot be said.
    """

    first: str
    second: str
    cases: int
    left_out: int
    zeros: int
    infinite: int
    median_first: float
    median_second: float
    difference: Interval
    p: float
    corrected_p: float
    exact: bool
    better: str | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        numbers = ("median_first", "median_second", "p", "corrected_p")
        return (
            asdict(self)
            | {key: json_number(getattr(self, key)) for key in numbers}
            | {"difference": self.difference.to_dict(), "notes": list(self.notes)}
        )


@dataclass(frozen=True)
class ModelRank:
    """Where a model stands among the others.

    Parameters
    ----------
    name
        Of the model.
    mean_rank
        Mean over cases of its rank, 1 for the best; equal scores share the mean of their ranks.
    first_places
        Cases where no model is better; equal ones all count.
    """

    name: str
    mean_rank: float
    first_places: int


@dataclass(frozen=True)
class RankTable:
    """Models by mean rank, the best first.

    Parameters
    ----------
    rows
        The models.
    cases, left_out
        Cases that all models have a score for, and those where one is ``nan``.
    """

    rows: tuple[ModelRank, ...]
    cases: int
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            "rows": [asdict(row) | {"mean_rank": json_number(row.mean_rank)} for row in self.rows],
            "cases": self.cases,
            "left_out": self.left_out,
        }


@dataclass(frozen=True)
class ModelComparison:
    """All models of a folder of cases against each other.

    Parameters
    ----------
    pairs
        The comparisons.
    ranks
        The models by mean rank.
    better
        Which scores are better.
    alpha
        What `PairComparison.better` asks of the corrected p; intervals have the confidence 1 - alpha.
    correction, zero_method
        How p was corrected, and what happened to cases without a difference.
    notes
        What cannot be said with so few cases.
    """

    pairs: tuple[PairComparison, ...]
    ranks: RankTable
    better: Better
    alpha: float
    correction: Correction
    zero_method: ZeroMethod
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return asdict(self) | {
            "pairs": [p.to_dict() for p in self.pairs],
            "ranks": self.ranks.to_dict(),
            "notes": list(self.notes),
        }


def compare_models(
    scores: Mapping[str, Sequence[float]],
    *,
    better: Better = "higher",
    reference: str | None = None,
    correction: Correction = "holm",
    alpha: float = 0.05,
    zero_method: ZeroMethod = "wilcox",
    resamples: int = 9999,
    seed: int = 0,
) -> ModelComparison:
    """Compare models by one score a case: signed-rank tests, intervals of the median difference, ranks.

    Parameters
    ----------
    scores
        For each model one score a case, in the same order of cases. ``nan`` where a score is not defined: the case is
        left out of every pair it belongs to, counted and said. Infinite scores count by their rank.
    better
        ``"higher"``, ``"lower"``, or ``"zero"`` for signed scores: then their magnitudes are compared.
    reference
        Compare all others with this model only; every two models when ``None``.
    correction
        Of p for the number of comparisons that were made, see `signed_rank.corrected`.
    alpha
        Above 0, at most 0.5.
    zero_method
        What happens to cases without a difference, see `signed_rank.signed_rank`.
    resamples, seed
        For the intervals, see `bootstrap.bootstrap_interval`.

    Returns
    -------
    comparison
        A pair with too few cases for a p of `alpha` has no p and no interval, and a note says what can be said.

    Raises
    ------
    InputError
        If there are fewer than 2 models or no cases, models have different numbers of cases, the reference is none of
        them, or an option is not as said.
    """
    table = _table(scores, better)
    if reference is not None and reference not in table:
        raise InputError(f"Model {reference} is none of those with scores: {', '.join(table)}.")
    if not 0 < alpha <= 0.5:
        raise InputError(f"An alpha of {alpha:g} cannot be used; accepted is above 0 and at most 0.5.")
    if reference is None:
        names = list(combinations(table, 2))
    else:
        names = [(name, reference) for name in table if name != reference]
    found = [_pair(table, one, other, alpha, zero_method, resamples, seed) for one, other in names]
    p_values = corrected([pair.p for pair, _ in found], correction)
    pairs = tuple(_judged(pair, p, lead, better, alpha) for (pair, lead), p in zip(found, p_values, strict=True))
    notes = _out_of_reach(pairs, alpha) if correction == "holm" else ()
    return ModelComparison(pairs, rank_models(scores, better=better), better, alpha, correction, zero_method, notes)


def rank_models(scores: Mapping[str, Sequence[float]], *, better: Better = "higher") -> RankTable:
    """Rank the models on every case and take the mean; arguments and errors as for `compare_models`.

    Only cases that all models have a score for count. Scores that agree to 12 digits of the largest are equal.
    """
    from scipy.stats import rankdata

    table = _table(scores, better)
    values = np.stack(list(table.values()))
    kept = np.asarray(~np.isnan(values).any(0))
    worse_first = rounded(values[:, kept], values) * (-1 if better == "higher" else 1)
    ranks = np.asarray(rankdata(worse_first, axis=0)) if kept.any() else np.full((len(table), 1), np.nan)
    best = np.asarray(worse_first == worse_first.min(0)) if kept.any() else np.zeros((len(table), 1), bool)
    rows = [ModelRank(name, float(r.mean()), int(b.sum())) for name, r, b in zip(table, ranks, best, strict=True)]
    rows.sort(key=lambda row: (row.mean_rank, -row.first_places))
    return RankTable(tuple(rows), int(kept.sum()), int(len(kept) - kept.sum()))


def _table(scores: Mapping[str, Sequence[float]], better: Better) -> dict[str, Floats]:
    """The scores as arrays of one length, magnitudes where those are compared."""
    if better == "neither" or better not in get_args(Better):
        raise InputError(
            f"Models cannot be compared by a score of which {better!r} is better; accepted are higher, lower, zero."
        )
    table = {name: np.asarray(values, np.float64).ravel() for name, values in scores.items()}
    if len(table) < 2:
        raise InputError(f"A comparison is that of two or more models; given was {len(table)}.")
    counts = {name: len(values) for name, values in table.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(
            f"Scores are compared case by case and their numbers are {listed}; give one a case to each model."
        )
    return {name: np.abs(v) for name, v in table.items()} if better == "zero" else table


def _pair(
    table: Mapping[str, Floats], one: str, other: str, alpha: float, zero_method: ZeroMethod, resamples: int, seed: int
) -> tuple[PairComparison, float]:
    """The comparison without a corrected p, and by how much the ranks of the first's larger scores outweigh."""
    first, second = table[one], table[other]
    test = signed_rank(first.tolist(), second.tolist(), zero_method=zero_method)
    differences, _ = paired_differences(first.tolist(), second.tolist())
    there = ~(np.isnan(first) | np.isnan(second))
    notes = []
    if test.left_out:
        notes.append(f"{_cases(test.left_out)} left out, where a score is not defined.")
    if test.infinite:
        notes.append(
            f"{_cases(test.infinite)} with an infinite difference, which {_count(test.infinite)} as the largest."
        )
    enough = test.cases >= fewest_cases(alpha)
    if not enough:
        notes.append(
            f"{_cases(test.cases)}: the smallest p a two-sided signed-rank test can give is "
            f"{smallest_p(test.cases):.4g}; {fewest_cases(alpha)} or more are needed for {alpha:g}."
        )
    elif test.cases - test.zeros < fewest_cases(alpha):
        differ = test.cases - test.zeros
        notes.append(f"{_cases(differ)} of {test.cases} with a difference: the smallest p is {smallest_p(differ):.4g}.")
    pair = PairComparison(
        first=one,
        second=other,
        cases=test.cases,
        left_out=test.left_out,
        zeros=test.zeros,
        infinite=test.infinite,
        median_first=_median(first[there]),
        median_second=_median(second[there]),
        difference=bootstrap_interval(
            differences.tolist(), "median", confidence=1 - alpha, resamples=resamples, seed=seed
        ),
        p=test.p if enough else math.nan,
        corrected_p=math.nan,
        exact=test.exact,
        better=None,
        notes=tuple(notes),
    )
    return pair, test.positive - test.negative


def _judged(pair: PairComparison, p: float, lead: float, better: Better, alpha: float) -> PairComparison:
    """The comparison with its corrected p and what follows from it."""
    winner = None
    if p <= alpha and lead:
        winner = pair.first if (lead > 0) == (better == "higher") else pair.second
    return replace(pair, corrected_p=p, better=winner)


def _out_of_reach(pairs: Sequence[PairComparison], alpha: float) -> tuple[str, ...]:
    """Whether Holm's correction leaves no pair a chance: all values are at least the smallest p times their number."""
    tested = [p for p in pairs if not math.isnan(p.p)]
    most = max((p.cases - p.zeros for p in tested), default=0)
    smallest = min(1.0, len(tested) * smallest_p(most))
    if len(tested) < 2 or smallest <= alpha:
        return ()
    return (
        f"{len(tested)} comparisons of at most {_cases(most)} with a difference: the smallest p after Holm's "
        f"correction is {smallest:.4g}, so that none can reach {alpha:g}.",
    )


def _median(values: Floats) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.median(values)) if len(values) else math.nan


def _cases(number: int) -> str:
    return f"{number} case{'s' * (number != 1)}"


def _count(number: int) -> str:
    return "count" if number != 1 else "counts"
