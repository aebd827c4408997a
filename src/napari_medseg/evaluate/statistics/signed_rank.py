"""Wilcoxon's signed-rank test, exact also with ties, and corrections for testing more than once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.json_values import json_number

ZeroMethod = Literal["wilcox", "pratt"]
Correction = Literal["holm", "bh", "none"]
Floats = npt.NDArray[np.float64]

EXACT_CASES = 300
"""Up to this many cases with a difference p is exact; above, the normal approximation is good to many digits."""

_DIGITS = 12


@dataclass(frozen=True)
class SignedRank:
    """Outcome of a two-sided signed-rank test.

    Parameters
    ----------
    cases
        Pairs of scores that were compared, those without a difference included.
    left_out
        Pairs with a ``nan``, which were not.
    zeros
        Pairs without a difference.
    infinite
        Pairs whose difference is infinite; they share the highest rank.
    positive, negative
        Sum of the ranks of the cases where the first score is the larger, and where it is the smaller.
    p
        How probable rank sums at least as uneven are if neither score tends to be larger; 1 if no case differs,
        ``nan`` without cases.
    exact
        Whether `p` is exact rather than by the normal approximation.
    """

    cases: int
    left_out: int
    zeros: int
    infinite: int
    positive: float
    negative: float
    p: float
    exact: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self) | {"p": json_number(self.p)}


def signed_rank(first: Sequence[float], second: Sequence[float], *, zero_method: ZeroMethod = "wilcox") -> SignedRank:
    """Two-sided signed-rank test of two scores of the same cases (Wilcoxon, Biometrics Bulletin 1945).

    Parameters
    ----------
    first, second
        One score a case, in the same order. A pair with a ``nan`` is left out and counted. Infinite differences are
        larger than all others and equal to each other; two equal infinities are no difference.
    zero_method
        What happens to pairs without a difference: ``"wilcox"`` drops them before the ranks are given, ``"pratt"``
        (1959) gives them ranks and drops those.

    Raises
    ------
    InputError
        If the numbers of scores differ, or `zero_method` is unknown.

    Notes
    -----
    Differences that agree to 12 digits of the largest finite score are equal, and 0 within the same: 0.9 - 0.8 and
    0.8 - 0.7 are tied. Tied differences share the mean of their ranks, and p is exact for these ranks.
    """
    from scipy.stats import rankdata, wilcoxon

    if zero_method not in get_args(ZeroMethod):
        raise InputError(f"Zero rule {zero_method!r} is unknown; accepted are {', '.join(get_args(ZeroMethod))}.")
    difference, left_out = paired_differences(first, second)
    zero = difference == 0
    ranked = difference if zero_method == "pratt" else difference[~zero]
    ranks = np.asarray(rankdata(np.abs(ranked)), np.float64)
    kept = ranked != 0
    sign, given = np.sign(ranked[kept]), ranks[kept]
    positive, negative = float(given[sign > 0].sum()), float(given[sign < 0].sum())
    exact = True
    if not len(difference):
        p = math.nan
    elif not len(given):
        p = 1.0
    elif len(given) <= EXACT_CASES:
        p = _exact_p(given, min(positive, negative))
    else:
        exact = False
        # signed ranks stand for the differences, which may be infinite
        p = float(wilcoxon(np.sign(ranked) * ranks, zero_method=zero_method).pvalue)
    return SignedRank(
        cases=len(difference),
        left_out=left_out,
        zeros=int(zero.sum()),
        infinite=int(np.isinf(difference).sum()),
        positive=positive,
        negative=negative,
        p=p,
        exact=exact,
    )


def paired_differences(first: Sequence[float], second: Sequence[float]) -> tuple[Floats, int]:
    """First minus second of all pairs without a ``nan``, rounded as `signed_rank` says, and how many pairs had one.

    Raises
    ------
    InputError
        If the numbers of scores differ.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise InputError(f"There are {one.size} and {other.size} scores; paired are as many of each, case by case.")
    kept = ~(np.isnan(one) | np.isnan(other))
    one, other = one[kept], other[kept]
    difference = np.zeros(len(one))
    apart = one != other
    difference[apart] = one[apart] - other[apart]
    return rounded(difference, np.concatenate([one, other])), int(len(kept) - kept.sum())


def rounded(values: Floats, scores: Floats) -> Floats:
    """Values to 12 digits of the largest finite score, so that only differences that mean something order them."""
    finite = np.abs(scores[np.isfinite(scores)])
    largest = float(finite.max(initial=0)) or 1.0
    # beyond some 300 decimals powers of ten overflow
    found: Floats = np.round(values, min(_DIGITS - math.ceil(math.log10(largest)), 300 - _DIGITS))
    return found


def smallest_p(cases: int) -> float:
    """The smallest p that a two-sided signed-rank test of so many cases can give: all differences have one sign."""
    return min(1.0, 2.0 ** (1 - cases))


def fewest_cases(alpha: float) -> int:
    """How many cases a two-sided signed-rank test needs at least to give a p of `alpha` or less: 6 for 0.05."""
    return math.ceil(1 - math.log2(alpha) - 1e-12)


def corrected(p_values: Sequence[float], method: Correction = "holm") -> tuple[float, ...]:
    """Values of p corrected for how many there are; ``nan`` stands for a test that was not made and stays.

    Parameters
    ----------
    p_values
        From 0 to 1, or ``nan``.
    method
        ``"holm"`` (Scandinavian Journal of Statistics 1979): the chance of even one false finding is held.
        ``"bh"`` (Benjamini & Hochberg, Journal of the Royal Statistical Society B 1995): the share of false ones
        among all findings is. ``"none"``: as they are.

    Raises
    ------
    InputError
        If the method is unknown or a value is not from 0 to 1.
    """
    from scipy.stats import false_discovery_control

    if method not in get_args(Correction):
        raise InputError(f"Correction {method!r} is unknown; accepted are {', '.join(get_args(Correction))}.")
    found = np.array(p_values, np.float64)
    made = np.flatnonzero(~np.isnan(found))
    p = found[made]
    if ((p < 0) | (p > 1)).any():
        raise InputError(f"A p of {p[(p < 0) | (p > 1)][0]:g} cannot be corrected; accepted are 0 to 1.")
    if len(p) and method == "bh":
        found[made] = false_discovery_control(p, method="bh")
    elif len(p) and method == "holm":
        order = np.argsort(p, kind="stable")
        stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
        found[made[order]] = np.minimum(stepped, 1)
    return tuple(float(v) for v in found)


def _exact_p(ranks: Floats, smaller: float) -> float:
    """Twice the chance that signs drawn by coin give a rank sum of `smaller` or less."""
    # tied ranks are halves
    steps = np.round(2 * ranks).astype(np.int64)
    chance = np.zeros(int(steps.sum()) + 1)
    chance[0] = 1
    for step in steps:
        shifted = np.zeros_like(chance)
        shifted[step:] = chance[: len(chance) - step]
        chance = (chance + shifted) / 2
    return min(1.0, 2 * float(chance[: round(2 * smaller) + 1].sum()))
