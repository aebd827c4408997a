"""How wide the columns of a run are, and how its labels are cut into stored chunks: what fits in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from napari_medseg.inference.tiles.plan import TilePlan

_WIDEST = 8192
"""Pixels a column of a plane has at most, so that memory does not grow with a slide."""
_FLOAT32, _FLOAT16 = 4, 2
# short floats are chosen where whole ones would cost this many times the forward passes
_WORTH_SHORT = 1.25
_MOST_COLUMNS = 32


@dataclass(frozen=True)
class Layout:
    """Chunks and columns along the axes the network sees, and the type of the sums.

    Parameters
    ----------
    chunks
        Shape of a stored chunk.
    column_chunks
        How many chunks a column is wide, along all axes but the first.
    sums
        ``"float32"``, or ``"float16"`` where memory is short.
    fits
        Whether the sums stay within what was allowed.
    """

    chunks: tuple[int, ...]
    column_chunks: tuple[int, ...]
    sums: str
    fits: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the ledger."""
        return {"chunks": list(self.chunks), "column_chunks": list(self.column_chunks), "sums": self.sums}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Layout:
        """The reverse of `to_dict`."""
        return cls(tuple(record["chunks"]), tuple(record["column_chunks"]), str(record["sums"]))


def choose_layout(
    plan: TilePlan, extent: tuple[int, ...], chunks: tuple[int, ...], channels: int, allowed: int
) -> Layout:
    """The layout whose sums stay within `allowed` bytes and that computes the fewest tiles twice.

    Parameters
    ----------
    plan
        The tiles of the whole working grid.
    extent
        The image's grid along the axes the network sees.
    chunks
        Chunks that are stored where memory does not ask for smaller ones.
    channels
        Maps that the network gives.
    allowed
        Bytes that the sums of one column may take.
    """
    # a column narrower than half a tile computes every tile many times over
    least = [t * n / s / 2 for t, n, s in zip(plan.tile[1:], extent[1:], plan.shape[1:], strict=True)]
    options = [list(_widths(n, c, low, len(extent))) for n, c, low in zip(extent[1:], chunks[1:], least, strict=True)]
    best: dict[int, tuple[int, tuple[int, ...]]] = {}
    narrowest: tuple[int, tuple[int, ...]] | None = None
    for widths in product(*options):
        tiles = math.prod(
            _tiles_along(plan, axis, width * plan.shape[axis] / extent[axis])
            for axis, width in enumerate(widths, start=1)
        )
        held = min(plan.tile[0], plan.shape[0]) * math.prod(
            math.ceil(w * s / n) for w, s, n in zip(widths, plan.shape[1:], extent[1:], strict=True)
        )
        for size in (_FLOAT32, _FLOAT16):
            if held * (channels * size + _FLOAT32) <= allowed and (size not in best or tiles < best[size][0]):
                best[size] = (tiles, widths)
        if narrowest is None or held < narrowest[0]:
            narrowest = (held, widths)
    if not best:
        assert narrowest is not None
        return _layout(chunks, narrowest[1], "float16", fits=False)
    short = best[_FLOAT16]
    if _FLOAT32 in best and best[_FLOAT32][0] <= _WORTH_SHORT * short[0]:
        return _layout(chunks, best[_FLOAT32][1], "float32")
    return _layout(chunks, short[1], "float16")


def _layout(chunks: tuple[int, ...], widths: tuple[int, ...], sums: str, *, fits: bool = True) -> Layout:
    smaller = tuple(min(c, w) for c, w in zip(chunks[1:], widths, strict=True))
    counts = tuple(-(-w // c) for w, c in zip(widths, smaller, strict=True))
    return Layout((chunks[0], *smaller), counts, sums, fits)


def _widths(size: int, chunk: int, least: float, ndim: int) -> Iterator[int]:
    """Widths a column may have along an axis of `size` voxels, from wide to narrow."""
    for count in range(1, _MOST_COLUMNS + 1):
        width = -(-size // count)
        if width > chunk:
            width = -(-width // chunk) * chunk
        if ndim == 2 and width > _WIDEST:
            continue
        if count > 1 and width < least:
            return
        yield width
    if ndim == 2 and size > _WIDEST * _MOST_COLUMNS:
        yield _WIDEST


def _tiles_along(plan: TilePlan, axis: int, width: float) -> int:
    """How many tiles columns of `width` working voxels compute along an axis."""
    size, tile = plan.shape[axis], plan.tile[axis]
    cuts = [min(size, round(k * width)) for k in range(math.ceil(size / width - 1e-6) + 1)]
    return sum(sum(1 for s in plan.starts(axis) if s < high and s + tile > low) for low, high in pairwise(cuts))
