"""Exact quantiles of numbers that do not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from napari_medseg.jobs import Progress

Floats = npt.NDArray[np.float64]

_HALF = 1 << 16


class Rows(Protocol):
    """Several rows of numbers from 0 to 1, read piece by piece as often as needed."""

    curves: int

    def count(self) -> int:
        """Number of pieces."""

    def rows(self) -> Iterator[npt.NDArray[np.float32]]:
        """The pieces ``(curves, n)``, float32."""


def mass_edges(source: Rows, bins: int, progress: Progress) -> list[Floats]:
    """For each row the edges that cut it into parts of equally many numbers.

    As bits, float32 numbers of 0 and above sort like whole numbers: one pass counts their upper halves, a second one
    the lower halves of those upper halves that a quantile falls into.

    Parameters
    ----------
    source
        The rows.
    bins
        Number of parts.
    progress
        Told about every piece; can cancel.

    Returns
    -------
    edges
        ``numpy.quantile`` at ``0, 1 / bins, ..., 1``, each value once; 0 and 1 for rows without numbers, and the one
        value twice for rows that hold no other.
    """
    progress.begin(2 * source.count(), "finding equal bins")
    upper = np.zeros((source.curves, _HALF), np.int64)
    for piece in source.rows():
        for counts, bits in zip(upper, _bits(piece), strict=True):
            counts += np.bincount(bits >> 16, minlength=_HALF)
        progress.advance()
    number = int(upper[0].sum())
    if not number:
        return [np.array([0.0, 1.0])] * source.curves
    # numpy's linear rule: the numbers at both sides of a place, counted from 0; whole numbers, as rounding would
    # move a number that is an edge into the next bin
    below, rest = np.divmod(np.arange(bins + 1, dtype=np.int64) * (number - 1), bins)
    wanted = np.unique(np.concatenate([below, np.minimum(below + 1, number - 1)]))
    halves = [np.searchsorted(np.cumsum(counts), wanted, side="right") for counts in upper]
    lower = [np.zeros((len(np.unique(h)), _HALF), np.int64) for h in halves]
    for piece in source.rows():
        for counts, half, bits in zip(lower, halves, _bits(piece), strict=True):
            held = np.unique(half)
            row = np.searchsorted(held, bits >> 16)
            inside = held[np.minimum(row, len(held) - 1)] == bits >> 16
            code = row[inside] * _HALF + (bits[inside] & (_HALF - 1))
            counts += np.bincount(code, minlength=counts.size).reshape(counts.shape)
        progress.advance()
    edges = []
    for whole, parts, half in zip(upper, lower, halves, strict=True):
        before = np.cumsum(whole) - whole
        row = np.searchsorted(np.unique(half), half)
        low = [
            int(np.searchsorted(np.cumsum(parts[r]), w - before[h], side="right"))
            for r, w, h in zip(row, wanted, half, strict=True)
        ]
        values = ((half << 16) + np.array(low)).astype(np.uint32).view(np.float32).astype(np.float64)
        one = values[np.searchsorted(wanted, below)]
        other = values[np.searchsorted(wanted, np.minimum(below + 1, number - 1))]
        found = np.unique(one + (other - one) * (rest / bins))
        edges.append(found if len(found) > 1 else np.repeat(found, 2))
    return edges


def _bits(piece: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    # adding 0 makes -0 positive, whose bits would sort last
    return (np.ascontiguousarray(piece, np.float32) + np.float32(0)).view(np.uint32).astype(np.int64)
