"""Run a network over the tiles of a grid and hand on finished rows, reading ahead meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from napari_medseg.bundles.model import Model
from napari_medseg.case import AxisMap, CancelledError, MedsegError
from napari_medseg.inference.compute.ladder import Ladder, is_out_of_memory
from napari_medseg.inference.tiles.blend import Blending, SlabAccumulator, importance
from napari_medseg.inference.tiles.plan import TilePlan
from napari_medseg.jobs import Progress

_READERS = 2
_BATCHES_AHEAD = 3

Start = tuple[int, ...]
Batch = tuple[list[Start], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Forward:
    """A network as the engine uses it: tiles in the image's axes in, maps in the image's axes out.

    Parameters
    ----------
    ladder
        Computes the maps of tiles in the network's axes.
    to_network
        From the image's axes to the network's.
    mirrored
        Sets of image axes to flip for test-time augmentation; the mean of all views is taken. The
        unflipped view is always among them.
    """

    ladder: Ladder
    to_network: AxisMap
    mirrored: tuple[tuple[int, ...], ...] = ((),)

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Maps ``(n, c_out, *tile)`` of tiles ``(n, c_in, *tile)``."""
        mean: torch.Tensor | None = None
        for axes in self.mirrored:
            maps = self._view(tiles, axes)
            mean = maps if mean is None else mean + maps
        assert mean is not None
        return mean if len(self.mirrored) == 1 else mean / len(self.mirrored)

    def _view(self, tiles: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        dims = tuple(2 + a for a in axes)
        turned = rearrange(tiles.flip(dims) if dims else tiles, self.to_network)
        maps = rearrange(self.ladder(turned), self.to_network.inverse())
        return maps.float().flip(dims) if dims else maps


def rearrange(tiles: torch.Tensor, axis_map: AxisMap) -> torch.Tensor:
    """Tiles ``(n, c, *tile)`` with their spatial axes transposed and flipped."""
    if axis_map.is_identity:
        return tiles
    turned = tiles.permute(0, 1, *(2 + k for k in axis_map.order))
    dims = [2 + k for k, flip in enumerate(axis_map.flips) if flip]
    return turned.flip(dims) if dims else turned.contiguous()


class Reader(Protocol):
    """Reads regions of one plane, volume or mosaic."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what can be read."""

    def read(self, start: tuple[int, ...], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The region as float32 ``(c, *shape)``; it must lie inside."""


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

    reader: Reader
    model: Model
    statistics: Any
    tile: tuple[int, ...]

    def tile_at(self, start: Start) -> npt.NDArray[np.float32]:
        """The tile ``(c, *tile)`` that starts at `start`."""
        shape = self.reader.shape
        low = tuple(max(0, s) for s in start)
        high = tuple(min(s + t, n) for s, t, n in zip(start, self.tile, shape, strict=True))
        values = self.reader.read(low, tuple(h - b for b, h in zip(low, high, strict=True)))
        values = self.model.intensity.apply(values, self.statistics)
        beyond = [(b - s, s + t - h) for s, t, b, h in zip(start, self.tile, low, high, strict=True)]
        if any(before or after for before, after in beyond):
            values = _pad(values, beyond, self.model.padding)
        return values

    def batch(self, starts: list[Start]) -> Batch:
        """Tiles at `starts` as one tensor ``(n, c, *tile)``."""
        first = self.tile_at(starts[0])
        tiles = np.empty((len(starts), *first.shape), np.float32)
        tiles[0] = first
        for k, start in enumerate(starts[1:], start=1):
            tiles[k] = self.tile_at(start)
        return starts, torch.from_numpy(tiles)


def _pad(values: npt.NDArray[np.float32], beyond: list[tuple[int, int]], mode: str) -> npt.NDArray[np.float32]:
    widths = [(0, 0), *beyond]
    if mode == "reflect" and all(max(w) < n for w, n in zip(widths[1:], values.shape[1:], strict=True)):
        return np.pad(values, widths, mode="reflect")
    if mode in ("reflect", "replicate"):
        return np.pad(values, widths, mode="edge")
    return np.pad(values, widths, mode="constant")


@dataclass(frozen=True)
class Blend:
    """How tiles become one map.

    Parameters
    ----------
    blending
        How overlapping tiles are weighted.
    background
        Maps ``(c,)`` of a position that no tile covers.
    dtype
        Of the sums.
    device
        Where the sums live.
    """

    blending: Blending
    background: torch.Tensor
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


def stream(
    source: TileSource,
    forward: Forward,
    plan: TilePlan,
    blend: Blend,
    *,
    batch_size: int,
    progress: Progress,
    wanted: Callable[[Start], bool] | None = None,
    failed: Callable[[Start, Exception], None] | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Blended maps, a few rows of the first axis at a time, as soon as no later tile can change them.

    Tiles are read on other threads while the network computes. Which tiles share a pass depends on the plan
    only, so that a part of a plan gives the same maps as the whole.

    Parameters
    ----------
    wanted
        Whether the tile at a start is to be computed; all by default.
    failed
        Told of a tile that could not be read or computed, before its error is raised.

    Yields
    ------
    first, maps
        Index of the first row and maps ``(c, rows, ...)`` in float32, before any activation.

    Raises
    ------
    CancelledError
        Within one batch of the request.
    """
    sums = _Sums(plan, blend, forward.ladder)
    with one_thread_each(_READERS, "medseg-read") as pool:
        try:
            for number, starts, pending in _read_ahead(source, plan, batch_size, pool, wanted):
                if pending is not None:
                    try:
                        maps = forward(pending.result()[1])
                    except CancelledError:
                        raise
                    except Exception as error:
                        if failed is not None:
                            failed(starts[0], error)
                        raise
                    sums.add(starts, maps)
                    del maps
                    progress.advance(len(starts))
                if number is not None:
                    yield from sums.take(plan.complete_rows(number))
        finally:
            pool.shutdown(cancel_futures=True)


def one_thread_each(workers: int, name: str) -> ThreadPoolExecutor:
    """Threads whose torch operations do not spread over processors, which the network needs for itself."""
    threads = torch.get_num_threads()

    def alone() -> None:
        # what a thread is told stays with it once torch has taken it over
        torch.set_num_threads(1)
        torch.get_num_threads()

    pool = ThreadPoolExecutor(workers, thread_name_prefix=name, initializer=alone)
    everyone = threading.Barrier(workers)
    for started in [pool.submit(everyone.wait) for _ in range(workers)]:
        started.result()
    torch.set_num_threads(threads)
    return pool


class _Sums:
    """The accumulator of a stream, moved to the host when its device has no room for it."""

    def __init__(self, plan: TilePlan, blend: Blend, ladder: Ladder) -> None:
        self._ladder, self._plan = ladder, plan
        weights = importance(plan.tile, blend.blending)

        def make() -> SlabAccumulator:
            device = "cpu" if ladder.rung.host_sums else blend.device
            return SlabAccumulator(blend.background, plan, weights, device, blend.dtype)

        self._held: SlabAccumulator | None = None
        self._held = self._with_room(make)

    def add(self, starts: list[Start], maps: torch.Tensor) -> None:
        held = self._held
        assert held is not None
        if self._ladder.rung.host_sums and held.device.type != "cpu":
            held.to_host()
        if maps.shape[1] != held.channels:
            raise MedsegError(f"The network gave {maps.shape[1]} maps where its bundle states {held.channels}.")
        for start, values in zip(starts, maps, strict=True):
            self._with_room(partial(held.add, start, values))

    def take(self, stop: int) -> Iterator[tuple[int, torch.Tensor]]:
        held = self._held
        assert held is not None
        while held.first < stop:
            yield self._with_room(lambda: held.take(min(stop, held.first + held.rows_at_once)))
        held.settle()

    def _with_room(self, work: Callable[[], Any]) -> Any:
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._ladder.sums_to_host(self._plan.tile)
                if self._held is not None:
                    self._held.to_host()


def _read_ahead(
    source: TileSource,
    plan: TilePlan,
    batch_size: int,
    pool: ThreadPoolExecutor,
    wanted: Callable[[Start], bool] | None,
) -> Iterator[tuple[int | None, list[Start], Future[Batch] | None]]:
    """Batches in order, each with its slab's number if it is the slab's last; a slab without tiles has one empty."""

    def batches() -> Iterator[tuple[int | None, list[Start]]]:
        for number, slab in enumerate(plan.slabs):
            starts = [s for s in plan.in_slab(slab) if wanted is None or wanted(s)]
            if not starts:
                yield number, []
            for first in range(0, len(starts), batch_size):
                last = first + batch_size >= len(starts)
                yield (number if last else None), starts[first : first + batch_size]

    waiting: deque[tuple[int | None, list[Start], Future[Batch] | None]] = deque()
    planned = batches()

    def submit(count: int) -> None:
        for number, starts in islice(planned, count):
            waiting.append((number, starts, pool.submit(source.batch, starts) if starts else None))

    submit(_BATCHES_AHEAD)
    while waiting:
        current = waiting.popleft()
        submit(1)
        yield current
