"""From blended maps to classes on the image's own grid, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from napari_medseg.bundles.model import Model
from napari_medseg.case import MedsegError
from napari_medseg.inference.inputs.grid import WorkGrid
from napari_medseg.inference.inputs.resample import RowNeeds, Taps
from napari_medseg.inference.tiles.blend import PIECE_VALUES

LabelArray = npt.NDArray[np.integer]
LabelRows = Callable[[int, LabelArray], None]
"""Takes the first row's index and labels ``(rows, ...)``."""
MapRows = Callable[[int, torch.Tensor], None]
"""Takes the first row's index and maps ``(c, rows, ...)``."""

# so sure of background that no blending of it with its neighbours tips over
_SURE = 30.0


class Decision(Protocol):
    """Turns the rows of maps on the working grid into labels."""

    def add(self, first: int, maps: torch.Tensor) -> None:
        """Take the next rows of maps ``(c, rows, ...)``, which start at row `first`."""

    def close(self) -> None:
        """Decide what is left."""


def activate(maps: torch.Tensor, activation: str) -> torch.Tensor:
    """Probabilities of maps ``(c, ...)``, or the maps themselves for ``"none"``.

    Raises
    ------
    MedsegError
        If the network gave values that are no numbers: the largest of them would be background.
    """
    require_numbers(maps)
    if activation == "softmax":
        return torch.softmax(maps, 0)
    return torch.sigmoid(maps) if activation == "sigmoid" else maps


def require_numbers(maps: torch.Tensor) -> None:
    """Raise `MedsegError` if a value of `maps` is not a finite number."""
    # one infinite or missing value makes the sum so; a test of each value takes ten times as long
    if not bool(torch.isfinite(maps.sum())) and not bool(torch.isfinite(maps).all()):
        raise MedsegError(
            "The model gave values that are no numbers; run it with --precision fp32, or get the model again."
        )


def background_maps(model: Model) -> torch.Tensor:
    """Maps ``(c,)`` that `model` would give where there is nothing at all."""
    maps = torch.full((model.out_channels,), -_SURE if model.activation == "sigmoid" else 0.0)
    if model.activation == "softmax":
        maps[0] = _SURE
    elif model.activation == "none" and model.threshold is None and model.instances is None:
        maps[0] = 1.0
    elif model.activation == "none" and model.threshold is not None:
        maps[:] = min(0.0, model.threshold - 1.0)
    return maps


def decide(probabilities: torch.Tensor, threshold: float | None) -> LabelArray:
    """Labels of probabilities ``(c, ...)``.

    Without a threshold the largest channel wins and channel 0 is background. With one, channel ``k`` is
    label ``k + 1`` where it is the largest and reaches the threshold.
    """
    kind = torch.uint8 if probabilities.shape[0] < 256 else torch.int32
    best, winner = _largest(probabilities, kind)
    if threshold is not None:
        winner = torch.where(best >= threshold, winner + 1, 0).to(kind)
    labels: LabelArray = winner.cpu().numpy()
    return labels


def _largest(values: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of each position's channels and which one it is, the first of equals."""
    best = values[0].clone()
    index = torch.zeros(best.shape, dtype=kind, device=best.device)
    for channel, candidate in enumerate(values[1:], start=1):
        # argmax over the first axis takes ten times as long on a processor for few channels, and half more for many
        index.masked_fill_(candidate > best, channel)
        torch.maximum(best, candidate, out=best)
    return best, index


class ImageRows:
    """Brings rows of maps from the working grid to a part of the image's grid, a few rows at a time.

    Parameters
    ----------
    grid
        The working grid.
    extent
        The image's grid along the axes the network sees.
    box
        The part of the image's grid that is wanted, one slice an axis.
    window
        The part of the working grid that the maps cover, one slice an axis.
    break_every
        Rows are never resampled together with rows beyond a multiple of this: the rows of a unit then come out
        the same to the bit whether or not the run began with them.
    write
        Takes finished rows of maps; their index counts in the image's grid.
    """

    def __init__(
        self,
        grid: WorkGrid,
        extent: tuple[int, ...],
        box: tuple[slice, ...],
        window: tuple[slice, ...],
        break_every: int,
        write: MapRows,
    ) -> None:
        self._grid, self._box, self._window, self._write = grid, box, window, write
        self._break_every = break_every
        self._to_image = tuple(1 / f for f in grid.factors)
        self._needs = RowNeeds.of(extent[0], self._to_image[0], grid.shape[0])
        self._waiting: torch.Tensor | None = None
        self._waiting_first = 0
        self._next_row = box[0].start

    def add(self, first: int, maps: torch.Tensor) -> None:
        """Take the next rows of maps ``(c, rows, ...)``, which start at working row `first`."""
        if self._grid.is_image_grid:
            inside = tuple(
                slice(b.start - w.start, b.stop - w.start) for b, w in zip(self._box[1:], self._window[1:], strict=True)
            )
            low, high = max(first, self._box[0].start), min(first + maps.shape[1], self._box[0].stop)
            if low < high:
                self._write(low, maps[(slice(None), slice(low - first, high - first), *inside)])
            return
        if self._waiting is None:
            self._waiting, self._waiting_first = maps, first
        else:
            self._waiting = torch.cat([self._waiting, maps], 1)
        held_before = self._waiting_first + self._waiting.shape[1]
        self._write_before(min(self._box[0].stop, self._needs.ready_before(held_before)))

    def _write_before(self, stop: int) -> None:
        assert self._waiting is not None
        across = [
            Taps.between(b.start, b.stop, factor, n)
            for b, factor, n in zip(self._box[1:], self._to_image[1:], self._grid.shape[1:], strict=True)
        ]
        per_row = self._waiting.shape[0] * int(np.prod([b.stop - b.start for b in self._box[1:]]))
        rows = max(1, PIECE_VALUES // per_row)
        while self._next_row < stop:
            upto = min(stop, self._next_row + rows, (self._next_row // self._break_every + 1) * self._break_every)
            taps = Taps.between(self._next_row, upto, self._to_image[0], self._grid.shape[0])
            low = taps.first - self._waiting_first
            values = taps.apply_torch(self._waiting[:, low : low + taps.count], 1)
            for axis, (tap, window) in enumerate(zip(across, self._window[1:], strict=True), start=2):
                held = values.narrow(axis, tap.first - window.start, tap.count)
                values = tap.apply_torch(held, axis)
            self._write(self._next_row, values)
            self._next_row = upto
        if self._next_row < self._box[0].stop:
            drop = int(self._needs.start[self._next_row]) - self._waiting_first
            if drop > 0:
                self._waiting = self._waiting[:, drop:].clone()
                self._waiting_first += drop


class ClassDecision:
    """Labels of classes: probabilities are brought to the image's grid, then the winner is taken.

    Full-size probabilities exist for a few rows only.

    Parameters
    ----------
    model
        Says which activation and threshold to use.
    grid, extent, box, window, break_every
        As for `ImageRows`.
    write
        Takes finished label rows.
    write_probabilities
        Takes the probabilities of the same rows, when somebody wants them.
    """

    def __init__(
        self,
        model: Model,
        grid: WorkGrid,
        extent: tuple[int, ...],
        box: tuple[slice, ...],
        window: tuple[slice, ...],
        break_every: int,
        write: LabelRows,
        write_probabilities: MapRows | None = None,
    ) -> None:
        self._model, self._write, self._write_probabilities = model, write, write_probabilities
        # the largest logit is the largest probability: only a mixture of positions or a reader needs the latter
        plain = grid.is_image_grid and model.threshold is None and write_probabilities is None
        self._activation = "none" if plain and model.activation == "softmax" else model.activation
        self._rows = ImageRows(grid, extent, box, window, break_every, self._decide)

    def add(self, first: int, maps: torch.Tensor) -> None:
        """Take the next rows of maps ``(c, rows, ...)``, which start at working row `first`."""
        self._rows.add(first, activate(maps, self._activation))

    def close(self) -> None:
        """Nothing is left: the last image row needs no working row beyond the last."""

    def _decide(self, first: int, probabilities: torch.Tensor) -> None:
        if self._write_probabilities is not None:
            # first, because stored labels are what makes a unit count as done
            self._write_probabilities(first, probabilities)
        self._write(first, decide(probabilities, self._model.threshold))
