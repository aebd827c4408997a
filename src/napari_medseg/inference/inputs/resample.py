"""Resampling along one axis, so that every value depends on its own position only.

Output position ``o`` looks at input position ``(o + 0.5) * factor - 0.5`` (the half-pixel rule). Enlarging
(factor below 1) mixes two neighbours linearly. Reducing takes a triangle as wide as the step, so that fine
detail is averaged rather than aliased. Positions beyond the edge repeat the last sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Taps:
    """Which input samples make the output positions `begin` to `stop` of one axis.

    Parameters
    ----------
    first, count
        The run of input samples that is needed.
    weights
        ``(outputs, count)``, rows sum to 1; ``None`` where outputs are inputs.
    """

    first: int
    count: int
    weights: FloatArray | None

    @classmethod
    def between(cls, begin: int, stop: int, factor: float, extent: int) -> Taps:
        """The taps of output positions `begin` to `stop`, on an input axis of `extent` samples."""
        if factor == 1.0:
            return cls(begin, stop - begin, None)
        centres = _centres(begin, stop, factor)
        reach = max(1.0, factor)
        samples = np.floor(centres - reach).astype(int)[:, np.newaxis] + np.arange(int(np.ceil(2 * reach)) + 2)
        weights = np.maximum(0.0, 1 - np.abs(samples - centres[:, np.newaxis]) / reach)
        weights /= weights.sum(axis=1, keepdims=True)
        # what only rounding lets in is left out, so that `RowNeeds` names every sample that counts
        used = weights > 1e-6
        samples = np.clip(samples, 0, extent - 1)
        first, last = int(samples[used].min()), int(samples[used].max())
        table = np.zeros((len(centres), last - first + 1), np.float32)
        rows = np.broadcast_to(np.arange(len(centres))[:, np.newaxis], samples.shape)
        np.add.at(table, (rows[used], samples[used] - first), weights[used].astype(np.float32))
        return cls(first, last - first + 1, table)

    def apply(self, values: FloatArray, axis: int) -> FloatArray:
        """Resample an array that holds exactly the run of samples along `axis`."""
        if self.weights is None:
            return values
        return np.moveaxis(np.tensordot(self.weights, values, axes=(1, axis)), 0, axis)

    def apply_torch(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        """`apply` for a tensor, on its device."""
        if self.weights is None:
            return values
        table = torch.from_numpy(self.weights).to(values.device)
        return torch.movedim(torch.tensordot(table, values, dims=([1], [axis])), 0, axis)


@dataclass(frozen=True, eq=False)
class RowNeeds:
    """For each output position of an axis, the run of inputs it looks at: `start` up to but not including `stop`."""

    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]

    @classmethod
    def of(cls, outputs: int, factor: float, extent: int) -> RowNeeds:
        """The needs of all `outputs` positions on an input axis of `extent` samples."""
        centres = _centres(0, outputs, factor)
        reach = 1e-9 if factor == 1.0 else max(1.0, factor)
        start = np.clip(np.floor(centres - reach).astype(np.int64) + 1, 0, extent - 1)
        stop = np.clip(np.ceil(centres + reach).astype(np.int64), 1, extent)
        return cls(start, stop)

    def ready_before(self, available_before: int) -> int:
        """How many outputs need nothing at or after input `available_before`."""
        return int(np.searchsorted(self.stop, available_before, side="right"))


def nearest(outputs: int, factor: float, extent: int) -> npt.NDArray[np.int64]:
    """The closest input of each output position."""
    return np.clip(np.rint(_centres(0, outputs, factor)).astype(np.int64), 0, extent - 1)


def _centres(begin: int, stop: int, factor: float) -> npt.NDArray[np.float64]:
    centres: npt.NDArray[np.float64] = (np.arange(begin, stop, dtype=np.float64) + 0.5) * factor - 0.5
    return centres
