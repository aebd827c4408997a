"""Forward passes that survive a device that runs out of memory.

Only a real out-of-memory error of a device climbs the ladder, and only the tiles that met it are computed again:
fewer tiles a pass, smaller pieces of a tile, half precision, sums on the host, and at last the processor. What
helped is remembered for the session, so that the next run does not fail its way up again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from napari_medseg.case import MedsegError
from napari_medseg.inference.tiles.blend import importance

_MOST_HALVINGS = 2
_PIECE_OVERLAP = 4  # a quarter of a piece is shared with the next


class Runner(Protocol):
    """What runs a network on tiles."""

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Maps ``(n, c_out, *tile)`` of tiles ``(n, c_in, *tile)``."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, and not the host, ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # Apple's devices raise a plain RuntimeError
    return isinstance(error, RuntimeError) and "MPS backend out of memory" in str(error)


@dataclass(frozen=True)
class Rung:
    """How far up a device's memory has driven us.

    Parameters
    ----------
    batch
        Most tiles a pass; ``None`` for as many as come.
    halvings
        How often a tile is halved along every axis.
    half_precision, host_sums, cpu
        Whether to compute in half precision, to keep sums in the host's memory, to leave the device.
    """

    batch: int | None = None
    halvings: int = 0
    half_precision: bool = False
    host_sums: bool = False
    cpu: bool = False


_remembered: dict[str, Rung] = {}
_lock = threading.Lock()


def forget_all() -> None:
    """Begin at the foot of the ladder again, as after a restart."""
    with _lock:
        _remembered.clear()


class Ladder:
    """A runner that climbs when the device's memory runs out.

    Parameters
    ----------
    runner
        Computes on the device.
    half
        Makes the runner that computes in half precision; ``None`` where `runner` already does.
    on_cpu
        Makes the runner that computes on the processor; ``None`` where `runner` already does.
    divisible_by
        Pieces of tiles are multiples of these.
    key
        What the ladder is remembered under: device and model.
    said
        Called with one sentence for every step up.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        half: Callable[[], Runner] | None,
        on_cpu: Callable[[], Runner] | None,
        divisible_by: Sequence[int],
        key: str,
        said: Callable[[str], None],
    ) -> None:
        self._runner, self._make_half, self._make_cpu = runner, half, on_cpu
        self._divisible_by, self._key, self._said = tuple(divisible_by), key, said
        self._half: Runner | None = None
        self._cpu: Runner | None = None
        self._whole = False
        self.rung = _remembered.get(key, Rung())
        if self.rung != Rung():
            said(f"Began as the last run of this session ended: {_in_words(self.rung)}.")

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Maps ``(n, c_out, *tile)`` of tiles ``(n, c_in, *tile)``.

        Raises
        ------
        MedsegError
            If not even the processor has room for one tile.
        """
        done: list[torch.Tensor] = []
        first = 0
        while first < len(tiles):
            size = self.rung.batch or len(tiles)
            part = tiles[first : first + size]
            try:
                done.append(self._run(part))
                first += len(part)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                _free()
                self.climb(len(part), tuple(tiles.shape[2:]))
        return done[0] if len(done) == 1 else torch.cat([d.to(done[0].device) for d in done])

    def climb(self, batch: int, tile: tuple[int, ...]) -> None:
        """One step up, after `batch` tiles of shape `tile` did not fit."""
        rung = self.rung
        if batch > 1 and not rung.cpu:
            self._step(replace(rung, batch=batch // 2), f"{batch} tiles did not fit: {batch // 2} a pass")
        elif rung.halvings < _MOST_HALVINGS and self._piece(tile, rung.halvings + 1) and not rung.cpu:
            piece = self._piece(tile, rung.halvings + 1)
            assert piece is not None
            words = f"one tile did not fit: pieces of {' x '.join(map(str, piece))}"
            self._step(replace(rung, batch=1, halvings=rung.halvings + 1), words)
        elif not rung.half_precision and self._make_half is not None and not rung.cpu:
            self._step(replace(rung, half_precision=True), "pieces did not fit: half precision")
        elif not rung.host_sums and not rung.cpu:
            self._step(replace(rung, host_sums=True), "still too little memory: sums on the host")
        elif not rung.cpu and self._make_cpu is not None:
            self._step(replace(rung, cpu=True), "the device has no room for this model: computed on the processor")
        else:
            raise MedsegError(
                "Not even one tile of this model fits in memory; close other programs, or choose a smaller model."
            )

    def sums_to_host(self, tile: tuple[int, ...]) -> None:
        """The device has no room for the sums themselves: keep them on the host."""
        if self.rung.host_sums:
            self.climb(1, tile)
        else:
            self._step(replace(self.rung, host_sums=True), "the sums did not fit: kept on the host")

    def _step(self, rung: Rung, words: str) -> None:
        self.rung = rung
        with _lock:
            _remembered[self._key] = rung
        self._said(f"Out of memory on {self._key.split(' ')[0]}; {words}.")

    def _run(self, tiles: torch.Tensor) -> torch.Tensor:
        rung = self.rung
        if rung.cpu:
            if self._cpu is None:
                assert self._make_cpu is not None
                self._cpu = self._make_cpu()
            return self._cpu(tiles)
        runner = self._runner
        if rung.half_precision and self._make_half is not None:
            if self._half is None:
                self._half = self._make_half()
            runner = self._half
        piece = self._piece(tuple(tiles.shape[2:]), rung.halvings) if rung.halvings else None
        return runner(tiles) if piece is None else _in_pieces(runner, tiles, piece)

    def _piece(self, tile: tuple[int, ...], halvings: int) -> tuple[int, ...] | None:
        """Shape of the pieces after so many halvings; ``None`` if the network takes none that small."""
        piece = tuple(max(d, t // 2**halvings // d * d) for t, d in zip(tile, self._divisible_by, strict=True))
        return piece if piece != tile else None


def _in_pieces(runner: Runner, tiles: torch.Tensor, piece: tuple[int, ...]) -> torch.Tensor:
    """Maps of tiles from overlapping pieces of them, blended."""
    from itertools import product

    from napari_medseg.inference.tiles.plan import TilePlan

    shape = tuple(tiles.shape[2:])
    weights = torch.from_numpy(importance(piece, "gaussian"))
    total: torch.Tensor | None = None
    norm = torch.zeros(shape)
    plan = TilePlan(shape, piece, 1 / _PIECE_OVERLAP)
    for start in product(*(plan.starts(axis) for axis in range(len(shape)))):
        where = tuple(slice(s, s + p) for s, p in zip(start, piece, strict=True))
        # maps wait on the host: the device is what has no room
        maps = runner(tiles[(slice(None), slice(None), *where)].contiguous()).float().cpu()
        if total is None:
            total = torch.zeros((len(tiles), maps.shape[1], *shape))
        total[(slice(None), slice(None), *where)].addcmul_(maps, weights)
        norm[where] += weights
    assert total is not None
    return total / norm


def _in_words(rung: Rung) -> str:
    said = []
    if rung.cpu:
        return "on the processor"
    if rung.batch is not None:
        said.append(f"{rung.batch} tiles a pass" if rung.batch > 1 else "one tile a pass")
    if rung.halvings:
        said.append(f"tiles in pieces of 1/{2**rung.halvings}")
    if rung.half_precision:
        said.append("half precision")
    if rung.host_sums:
        said.append("sums on the host")
    return ", ".join(said)


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
