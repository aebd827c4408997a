"""Temperature scaling: one number that makes a network's probabilities mean what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.calibration.probability_pairs import ProbabilityPairs
from napari_medseg.jobs import Progress

LOWEST, HIGHEST = 0.01, 100.0
"""Temperatures are looked for between these."""


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by, and what that gains.

    Parameters
    ----------
    temperature
        Above 1 for a network that is too sure, below 1 for one that is not sure enough.
    nll_before, nll_after
        Mean negative log likelihood of the reference a voxel, in nats, without and with the temperature.
    voxels, left_out
        Voxels it was fitted to, and those left out.
    at_limit
        Whether the best lies at or beyond the limits, `LOWEST` and `HIGHEST`: below for a network that is always right
        on these voxels, above for one that is no better than chance.
    """

    temperature: float
    nll_before: float
    nll_after: float
    voxels: int
    left_out: int
    at_limit: bool

    def probabilities(self, logits: npt.ArrayLike, *, foreground: bool = False) -> npt.NDArray[np.float32]:
        """Probabilities of logits: softmax over the first axis, or the sigmoid of a map of the foreground."""
        from scipy.special import expit, softmax

        scaled = np.asarray(logits, np.float64) / self.temperature
        found: npt.NDArray[np.float32] = (expit(scaled) if foreground else softmax(scaled, 0)).astype(np.float32)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)


def fit_temperature(
    logits: Any,
    reference: Any,
    *,
    mask: Any = None,
    ignore_id: int | None = None,
    ids: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Temperature:
    """The temperature with which the reference is most likely (Guo et al., ICML 2017, section 4.2).

    Fit it on cases that the network was not trained on. It does not change which class wins.

    Parameters
    ----------
    logits
        What the network gives before the softmax ``(classes, *spatial)``, or before the sigmoid ``(*spatial)``. A
        list or tuple of several cases is taken together. The data are read about ten times.
    reference, mask, ignore_id, ids
        As for `calibration.calibration`.
    progress
        Told about every piece; can cancel.

    Raises
    ------
    InputError
        If shapes or numbers of cases differ, logits are not finite, the reference holds an id that no class has, or
        nothing is left to fit to.
    CancelledError
        Within one piece of `Progress.cancel`.
    """
    from scipy.optimize import brentq

    likelihood = _Likelihood(
        ProbabilityPairs(logits, reference, mask, ignore_id, ids, "logits"), progress or Progress()
    )
    before, _, voxels = likelihood.at(0.0)
    if not voxels:
        raise InputError("There is no voxel to fit a temperature to; the mask or the ignored id leaves nothing.")
    # the likelihood is concave in 1 / temperature, so its slope changes sign once at most
    low, high = -math.log(HIGHEST), -math.log(LOWEST)
    at_limit = True
    if likelihood.at(low)[1] >= 0:
        best = low
    elif likelihood.at(high)[1] <= 0:
        best = high
    else:
        best, at_limit = float(brentq(lambda b: likelihood.at(b)[1], low, high, xtol=1e-7)), False
    after = likelihood.at(best)[0]
    return Temperature(math.exp(-best), before, after, voxels, likelihood.left_out, at_limit)


class _Likelihood:
    """The mean negative log likelihood by the logarithm of 1 / temperature."""

    def __init__(self, pairs: ProbabilityPairs, progress: Progress) -> None:
        self._pairs, self._progress = pairs, progress
        self._known: dict[float, tuple[float, float, int]] = {}

    @property
    def left_out(self) -> int:
        """Voxels that do not count."""
        return self._pairs.left_out

    def at(self, log_inverse: float) -> tuple[float, float, int]:
        """The mean, its slope by 1 / temperature, and the number of voxels."""
        if log_inverse not in self._known:
            self._known[log_inverse] = self._pass(math.exp(log_inverse))
        return self._known[log_inverse]

    def _pass(self, inverse: float) -> tuple[float, float, int]:
        from scipy.special import logsumexp

        self._progress.begin(self._pairs.count(), "fitting the temperature")
        losses, slopes, voxels = [], [], 0
        for numbers, true in self._pairs.pieces():
            z = numbers.astype(np.float64)
            if not self._pairs.has_classes:
                # a sigmoid is the softmax of two classes, one of which has logit 0
                z = np.concatenate([np.zeros_like(z), z])
            right = z[true, np.arange(z.shape[1])]
            total = logsumexp(inverse * z, axis=0)
            expected = (np.exp(inverse * z - total) * z).sum(0)
            losses.append(float((total - inverse * right).sum()))
            slopes.append(float((expected - right).sum()))
            voxels += z.shape[1]
            self._progress.advance()
        count = max(voxels, 1)
        return math.fsum(losses) / count, math.fsum(slopes) / count, voxels
