"""Intervals of means and medians by drawing cases again and again."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.json_values import json_number
from napari_medseg.evaluate.statistics.signed_rank import fewest_cases

Statistic = Literal["mean", "median"]

_BATCH_NUMBERS = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A mean or median and how far it can be trusted.

    Parameters
    ----------
    statistic
        ``"mean"`` or ``"median"``.
    estimate
        Its value; ``nan`` without cases.
    low, high
        The interval; ``nan`` where there is none, and `note` says why.
    confidence
        How often such intervals hold the true value, for instance 0.95.
    method
        ``"BCa"``, ``"percentile"``, or ``"none"``.
    cases, left_out
        How many values count, and how many were ``nan``.
    note
        What a reader has to know; mostly empty.
    """

    statistic: Statistic
    estimate: float
    low: float
    high: float
    confidence: float
    method: Literal["BCa", "percentile", "none"]
    cases: int
    left_out: int
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return asdict(self) | {key: json_number(getattr(self, key)) for key in ("estimate", "low", "high")}


def bootstrap_interval(
    values: Sequence[float],
    statistic: Statistic = "mean",
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of the mean or the median of one value a case; differences of pairs make it a paired one.

    The mean gets the bias-corrected and accelerated interval (BCa; Efron, JASA 1987). The median gets the
    percentile interval, because the jackknife that BCa needs is not consistent for it (Efron & Tibshirani 1993,
    section 10.6). The same seed gives the same interval.

    Parameters
    ----------
    values
        One a case; ``nan`` are left out and counted. Infinite values are ordered by the median; a mean that holds one
        is infinite and has no interval.
    statistic
        ``"mean"`` or ``"median"``.
    confidence
        Above 0 and below 1.
    resamples
        How often cases are drawn, 100 or more.
    seed
        Of the random numbers.

    Returns
    -------
    interval
        Without bounds where there are too few cases: fewer than 6 for 95 %, where not even the smallest and largest
        value hold the median often enough.

    Raises
    ------
    InputError
        If the statistic is unknown, or confidence or resamples are not as said.
    """
    if statistic not in get_args(Statistic) or not 0 < confidence < 1 or resamples < 100:
        raise InputError(
            f"No interval of the {statistic} at {confidence:g} with {resamples} resamples can be made; accepted are "
            f"the mean or median, a confidence between 0 and 1, and 100 resamples or more."
        )
    given = np.asarray(values, np.float64).ravel()
    kept = given[~np.isnan(given)]
    low, high = math.nan, math.nan
    method: Literal["BCa", "percentile", "none"] = "none"
    note = ""
    fewest = fewest_cases(1 - confidence)
    if len(kept) < fewest:
        note = (
            f"{len(kept)} case{'s' * (len(kept) != 1)}: too few for an interval at {confidence:.0%}, which needs at "
            f"least {fewest}."
        )
    elif (kept == kept[0]).all():
        low = high = float(kept[0])
        method, note = "percentile", "All cases have the same value, so nothing is known of how it varies."
    elif statistic == "mean" and np.isinf(kept).any():
        note = f"{int(np.isinf(kept).sum())} of {len(kept)} values are infinite: the mean has no interval."
    else:
        low, high, method = _bounds(kept, statistic, confidence, resamples, seed)
        if math.isnan(low) or math.isnan(high):
            low, high, method = math.nan, math.nan, "none"
            note = "Infinite values of both signs meet in the middle: the median has no interval."
    return Interval(
        statistic, _estimate(kept, statistic), low, high, confidence, method, len(kept), len(given) - len(kept), note
    )


def _estimate(kept: npt.NDArray[np.float64], statistic: Statistic) -> float:
    if not len(kept):
        return math.nan
    # of infinities of both signs neither the mean nor the middle is anything
    with np.errstate(invalid="ignore"):
        return float(np.mean(kept) if statistic == "mean" else np.median(kept))


def _bounds(
    kept: npt.NDArray[np.float64], statistic: Statistic, confidence: float, resamples: int, seed: int
) -> tuple[float, float, Literal["BCa", "percentile"]]:
    from scipy.stats import bootstrap

    method: Literal["BCa", "percentile"] = "BCa" if statistic == "mean" else "percentile"
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        # what is degenerate comes back as nan, and is dealt with
        warnings.simplefilter("ignore", RuntimeWarning)
        found = bootstrap(
            (kept,),
            np.mean if statistic == "mean" else np.median,
            n_resamples=resamples,
            batch=max(1, _BATCH_NUMBERS // len(kept)),
            vectorized=True,
            confidence_level=confidence,
            method=method,
            random_state=np.random.default_rng(seed),
        )
    low, high = (float(v) for v in found.confidence_interval)
    if method == "percentile" or math.isnan(low) or math.isnan(high):
        # between two infinities nothing can be interpolated
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = (float(v) for v in np.quantile(found.bootstrap_distribution, tails, method="inverted_cdf"))
        method = "percentile"
    return low, high, method
