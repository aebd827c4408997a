"""How overlapping tiles become one map."""

from __future__ import annotations

import math
from functools import reduce
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from napari_medseg.inference.tiles.plan import TilePlan

Blending = Literal["gaussian", "constant"]

_SIGMA_SHARE = 0.125
_FLOOR = 1e-3
PIECE_VALUES = 1 << 22
"""About how many values of maps are handed on at a time."""


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

    Only the wanted part of the grid is held, and of its first axis only as many rows as a tile has.

    Parameters
    ----------
    background
        Maps of a position that no tile covered, one value a channel.
    plan
        The tiles; says which part of the grid is wanted, and of each tile.
    weights
        Weight of each position of a tile, shape of the tile.
    device
        Where the sums live.
    dtype
        Of the sums; float16 takes half the memory and moves maps by about a thousandth.
    """

    def __init__(
        self,
        background: torch.Tensor,
        plan: TilePlan,
        weights: npt.NDArray[np.float32],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._plan = plan
        bounds = plan.bounds
        across = tuple(b.stop - b.start for b in bounds[1:])
        self._rows = min(weights.shape[0], bounds[0].stop - bounds[0].start)
        self._weights = torch.from_numpy(weights).to(device)
        self._background = background.to(device, dtype)
        self._sums = torch.zeros((len(background), self._rows, *across), dtype=dtype, device=device)
        self._norm = torch.zeros((self._rows, *across), dtype=torch.float32, device=device)
        self._base = self._first = bounds[0].start
        per_row = len(background) * math.prod(across)
        self.rows_at_once = max(1, PIECE_VALUES // per_row)

    @property
    def channels(self) -> int:
        """Number of maps."""
        return int(self._sums.shape[0])

    @property
    def first(self) -> int:
        """The first row that was not taken yet."""
        return int(self._first)

    @property
    def device(self) -> torch.device:
        """Where the sums live."""
        return self._sums.device

    def to_host(self) -> None:
        """Move the sums to the processor's memory."""
        for name in ("_weights", "_background", "_sums", "_norm"):
            setattr(self, name, getattr(self, name).cpu())

    def add(self, start: tuple[int, ...], values: torch.Tensor) -> None:
        """Add a tile of maps ``(c, *tile)`` that starts at `start`; what nobody wants of it is dropped."""
        inside, target = [], []
        used = self._plan.used(start)
        for axis, (begin, use, bound) in enumerate(zip(start, used, self._plan.bounds, strict=True)):
            # rows before the first one held were handed on already
            first = self._base if axis == 0 else bound.start
            low, high = max(use.start, first), min(use.stop, bound.stop)
            if low >= high:
                return
            inside.append(slice(low - begin, high - begin))
            target.append(slice(low - first, high - first))
        weights = self._weights[tuple(inside)]
        part = values[(slice(None), *inside)].to(self._sums.device)
        if self._sums.dtype == torch.float32:
            self._sums[(slice(None), *target)].addcmul_(part.float(), weights)
        else:
            self._add_as_mean(target, part.float(), weights)
        self._norm[tuple(target)] += weights

    def _add_as_mean(self, target: list[slice], part: torch.Tensor, weights: torch.Tensor) -> None:
        """Keep the weighted mean so far instead of the sum: it stays within the range of a short float."""
        share = weights / (self._norm[tuple(target)] + weights)
        held = self._sums[(slice(None), *target)]
        for channel, values in enumerate(part):
            # a channel at a time: many classes are why memory is short
            mean = held[channel].float()
            held[channel].copy_(mean + (values - mean) * share)

    def take(self, stop: int) -> tuple[int, torch.Tensor]:
        """The blended maps ``(c, rows, ...)`` in float32 of the first rows held, up to `stop`, and their first index.

        The rows are handed on only once; `settle` makes room for others in their place.
        """
        low, high = self._first - self._base, stop - self._base
        first, self._first = self._first, stop
        norm = self._norm[low:high]
        covered = norm > 0
        if self._sums.dtype == torch.float32:
            blended = self._sums[:, low:high] / torch.where(covered, norm, 1.0)
        else:
            blended = self._sums[:, low:high].float()
        if not bool(covered.all()):
            shape = (-1,) + (1,) * covered.ndim
            blended = torch.where(covered, blended, self._background.float().reshape(shape))
        return first, blended

    def settle(self) -> None:
        """Forget the rows that were taken."""
        count = self._first - self._base
        keep = self._rows - count
        for held in (self._norm, *self._sums):
            if count and keep > 0:
                held[:keep] = held[count:].clone()
            held[max(keep, 0) :] = 0
        self._base = self._first
