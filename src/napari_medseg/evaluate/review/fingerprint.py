"""What labels a review belongs to: checksums of their pieces, renewed where an edit changed them."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from napari_medseg.evaluate.review.runs import Box

_CELL = (64, 256, 256)
_CELL_2D = (1024, 1024)


@dataclass(frozen=True)
class Contents:
    """Checksums of the cells of a label image; the same for the same ids, however they are stored.

    Parameters
    ----------
    shape
        Shape of the labels.
    sums
        CRC-32 of each cell in C order; 0 for cells of nothing but background.
    """

    shape: tuple[int, ...]
    sums: tuple[int, ...]

    @classmethod
    def of(cls, labels: Any) -> Contents:
        """Read `labels`, an integer array, cell by cell."""
        shape = tuple(int(n) for n in labels.shape)
        return cls(shape, tuple(_checksum(labels, box) for box in _boxes(shape)))

    def updated(self, labels: Any, region: Sequence[slice]) -> Contents:
        """The same after an edit of the labels inside `region`, definite slices."""
        sums = list(self.sums)
        for k, box in enumerate(_boxes(self.shape)):
            if all(b.start < r.stop and b.stop > r.start for b, r in zip(box, region, strict=True)):
                sums[k] = _checksum(labels, box)
        return replace(self, sums=tuple(sums))

    @property
    def digest(self) -> str:
        """SHA-256 of shape and checksums."""
        return hashlib.sha256(json.dumps([self.shape, self.sums]).encode()).hexdigest()


def _boxes(shape: tuple[int, ...]) -> list[Box]:
    cell = _CELL_2D if len(shape) < 3 else (*(1 for _ in shape[:-3]), *_CELL)
    starts = product(*(range(0, n, c) for n, c in zip(shape, cell, strict=True)))
    return [tuple(slice(s, min(s + c, n)) for s, c, n in zip(start, cell, shape, strict=True)) for start in starts]


def _checksum(labels: Any, box: Box) -> int:
    piece = np.asarray(labels[box])
    largest = int(piece.max()) if prod(piece.shape) else 0
    if not largest:
        return 0
    # the smallest type that holds the ids of the cell: the file's own type says nothing
    return zlib.crc32(np.ascontiguousarray(piece, dtype=np.min_scalar_type(largest)).data)
