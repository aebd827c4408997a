"""Run a network over the tiles of a grid and hand on finished rows, reading ahead meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_medseg.bundles.model import Model
from napari_medseg.case import AxisMap
from napari_medseg.inference.blend import Blending, SlabAccumulator, importance
from napari_medseg.inference.devices import Device, autocast
from napari_medseg.inference.grid import TileReader
from napari_medseg.inference.plan import TilePlan
from napari_medseg.jobs import Progress

_BATCHES_AHEAD = 2

Batch = tuple[list[tuple[int, ...]], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Forward:
    """A network on a device: tiles in the image's axes in, maps in the image's axes out.

    Parameters
    ----------
    network
        In evaluation mode, already on the device.
    device
        Where and in which precision to compute.
    to_network
        From the image's axes to the network's.
    mirrored
        Sets of image axes to flip for test-time augmentation; the mean of all views is taken. The
        unflipped view is always among them.
    """

    network: torch.nn.Module
    device: Device
    to_network: AxisMap
    mirrored: tuple[tuple[int, ...], ...] = ((),)

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Maps ``(n, c_out, *tile)`` in float32 of tiles ``(n, c_in, *tile)``."""
        tiles = tiles.to(self.device.name, non_blocking=True)
        views = [self._view(tiles, axes) for axes in self.mirrored]
        return views[0] if len(views) == 1 else torch.stack(views).mean(0)

    def _view(self, tiles: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        dims = tuple(2 + a for a in axes)
        turned = _rearrange(tiles.flip(dims) if dims else tiles, self.to_network)
        with torch.inference_mode(), autocast(self.device):
            maps = self.network(turned)
        maps = _rearrange(maps.float(), self.to_network.inverse())
        return maps.flip(dims) if dims else maps


def _rearrange(tiles: torch.Tensor, axis_map: AxisMap) -> torch.Tensor:
    if axis_map.is_identity:
        return tiles
    turned = tiles.permute(0, 1, *(2 + k for k in axis_map.order))
    dims = [2 + k for k, flip in enumerate(axis_map.flips) if flip]
    return turned.flip(dims) if dims else turned.contiguous()


@dataclass(frozen=True, eq=False)
class TileSource:
    """Tiles of one plane or volume, normalised and padded, ready for a network.

    Parameters
    ----------
    reader
        Reads regions of the working grid.
    model
        Says how intensities are prepared and how tiles beyond the grid are padded.
    statistics
        What the intensity steps need to know about the whole image.
    tile
        Shape of one tile in the image's axes.
    """

    reader: TileReader
    model: Model
    statistics: Any
    tile: tuple[int, ...]

    def tile_at(self, start: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The tile ``(c, *tile)`` that starts at `start`."""
        shape = self.reader.grid.shape
        low = tuple(max(0, s) for s in start)
        high = tuple(min(s + t, n) for s, t, n in zip(start, self.tile, shape, strict=True))
        values = self.reader.read(low, tuple(h - b for b, h in zip(low, high, strict=True)))
        values = self.model.intensity.apply(values, self.statistics)
        beyond = [(b - s, s + t - h) for s, t, b, h in zip(start, self.tile, low, high, strict=True)]
        if any(before or after for before, after in beyond):
            values = _pad(values, beyond, self.model.padding)
        return np.ascontiguousarray(values, dtype=np.float32)

    def batch(self, starts: list[tuple[int, ...]]) -> Batch:
        """Tiles at `starts` as one tensor ``(n, c, *tile)``."""
        return starts, torch.from_numpy(np.stack([self.tile_at(s) for s in starts]))


def _pad(values: npt.NDArray[np.float32], beyond: list[tuple[int, int]], mode: str) -> npt.NDArray[np.float32]:
    widths = [(0, 0), *beyond]
    if mode == "reflect" and all(max(w) < n for w, n in zip(widths[1:], values.shape[1:], strict=True)):
        return np.pad(values, widths, mode="reflect")
    if mode in ("reflect", "replicate"):
        return np.pad(values, widths, mode="edge")
    return np.pad(values, widths, mode="constant")


def stream(
    source: TileSource,
    forward: Forward,
    plan: TilePlan,
    *,
    batch_size: int,
    blending: Blending,
    progress: Progress,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Blended maps, a few rows of the first axis at a time, as soon as no later tile can change them.

    Tiles are read on another thread while the network computes.

    Yields
    ------
    first, maps
        Index of the first row and maps ``(c, rows, ...)`` in float32, before any activation.

    Raises
    ------
    CancelledError
        Within one batch of the request.
    """
    sums: SlabAccumulator | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="medseg-read") as pool:
        reads = _read_ahead(source, plan, batch_size, pool)
        try:
            for number, last_of_slab, pending in reads:
                starts, tiles = pending.result()
                maps = forward(tiles)
                if sums is None:
                    weights = importance(plan.tile, blending)
                    sums = SlabAccumulator(maps.shape[1], plan.shape, weights, plan.first_row, maps.device)
                for start, values in zip(starts, maps, strict=True):
                    sums.add(start, values)
                progress.advance(len(starts))
                if last_of_slab:
                    yield sums.take(plan.complete_rows(number))
        finally:
            pool.shutdown(cancel_futures=True)


def _read_ahead(
    source: TileSource, plan: TilePlan, batch_size: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, bool, Future[Batch]]]:
    """Batches in order, each with its slab's number and whether it is the slab's last."""

    def batches() -> Iterator[tuple[int, bool, list[tuple[int, ...]]]]:
        for number, slab in enumerate(plan.slabs):
            starts = list(plan.in_slab(slab))
            for first in range(0, len(starts), batch_size):
                yield number, first + batch_size >= len(starts), starts[first : first + batch_size]

    waiting: deque[tuple[int, bool, Future[Batch]]] = deque()
    planned = batches()
    for number, last, starts in islice(planned, _BATCHES_AHEAD):
        waiting.append((number, last, pool.submit(source.batch, starts)))
    while waiting:
        current = waiting.popleft()
        for number, last, starts in islice(planned, 1):
            waiting.append((number, last, pool.submit(source.batch, starts)))
        yield current
