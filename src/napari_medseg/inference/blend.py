"""How overlapping tiles become one map."""

from __future__ import annotations

from functools import reduce
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

Blending = Literal["gaussian", "constant"]

_SIGMA_SHARE = 0.125
_FLOOR = 1e-3


def importance(tile: tuple[int, ...], blending: Blending) -> npt.NDArray[np.float32]:
    """Weight of each position of a tile.

    ``"gaussian"`` falls off from the centre with a standard deviation of an eighth of the tile, as in
    MONAI's sliding window, and never below a thousandth of the peak; ``"constant"`` is 1 everywhere.
    """
    if blending == "constant":
        return np.ones(tile, np.float32)
    edges = []
    for size in tile:
        position = np.arange(size) - (size - 1) / 2
        edges.append(np.exp(-0.5 * (position / (_SIGMA_SHARE * size)) ** 2))
    weights = reduce(np.multiply.outer, edges)
    floored: npt.NDArray[np.float32] = np.maximum(weights / weights.max(), _FLOOR).astype(np.float32)
    return floored


class SlabAccumulator:
    """Weighted sums of the rows of the first axis that later tiles may still touch.

    Parameters
    ----------
    channels
        Number of maps.
    shape
        Shape of the whole grid; of its first axis only as many rows as a tile has are held.
    weights
        Weight of each position of a tile, shape of the tile.
    first
        The first row that will be added to.
    device
        Where the sums live.
    """

    def __init__(
        self,
        channels: int,
        shape: tuple[int, ...],
        weights: npt.NDArray[np.float32],
        first: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._shape = shape
        self._rows = min(weights.shape[0], shape[0])
        self._weights = torch.from_numpy(weights).to(device)
        self._sums = torch.zeros((channels, self._rows, *shape[1:]), dtype=torch.float32, device=device)
        self._norm = torch.zeros((self._rows, *shape[1:]), dtype=torch.float32, device=device)
        self._first = first

    def add(self, start: tuple[int, ...], values: torch.Tensor) -> None:
        """Add a tile of maps ``(c, *tile)`` that starts at `start`; what reaches beyond the grid is dropped."""
        inside, target = [], []
        for axis, (begin, size, extent) in enumerate(zip(start, values.shape[1:], self._shape, strict=True)):
            low, high = max(begin, 0), min(begin + size, extent)
            inside.append(slice(low - begin, high - begin))
            first = self._first if axis == 0 else 0
            target.append(slice(low - first, high - first))
        weights = self._weights[tuple(inside)]
        part = values[(slice(None), *inside)]
        self._sums[(slice(None), *target)].addcmul_(part, weights)
        self._norm[tuple(target)] += weights

    def take(self, stop: int) -> tuple[int, torch.Tensor]:
        """Remove the rows before `stop` and return their first index and their blended maps ``(c, rows, ...)``.

        Positions that no tile covered (outside a plan's window) are 0.
        """
        count = stop - self._first
        first = self._first
        norm = self._norm[:count]
        blended = self._sums[:, :count] / torch.where(norm > 0, norm, 1.0)
        keep = self._rows - count
        if keep > 0:
            self._sums[:, :keep] = self._sums[:, count:].clone()
            self._norm[:keep] = self._norm[count:].clone()
        self._sums[:, keep:] = 0
        self._norm[keep:] = 0
        self._first = stop
        return first, blended
