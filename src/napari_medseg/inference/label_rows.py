"""Store finished label rows so that every chunk of the store is written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from napari_medseg.inference.decide import LabelArray, LabelRows


@contextmanager
def label_rows(
    array: Any,
    prefix: tuple[int, ...],
    shape: tuple[int, ...],
    count: Callable[[LabelArray], None],
    region: tuple[slice, ...] | None,
) -> Iterator[LabelRows]:
    """A function that stores label rows of one plane or volume in whole rows of chunks, cut to the region.

    Parameters
    ----------
    array
        A zarr array with the image's frames and spatial axes.
    prefix
        Index along the axes before those of the rows: frame and plane.
    shape
        Shape of the plane or volume.
    count
        Called with every piece that is stored.
    region
        One slice for each spatial axis of the image; labels outside become 0.
    """
    chunk = int(array.chunks[len(prefix)])
    waiting: list[LabelArray] = []
    first_waiting = 0
    part = region[-len(shape) :] if region is not None else None

    def store() -> None:
        nonlocal first_waiting
        rows = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        waiting.clear()
        array[(*prefix, slice(first_waiting, first_waiting + len(rows)))] = rows
        first_waiting += len(rows)

    def write(first: int, rows: LabelArray) -> None:
        nonlocal first_waiting
        if part is not None:
            rows = _only_inside(first, rows, part)
        count(rows)
        if not waiting:
            first_waiting = first
        held = sum(len(w) for w in waiting)
        while len(rows):
            room = chunk - (first_waiting + held) % chunk
            waiting.append(rows[:room])
            held += len(waiting[-1])
            full = len(waiting[-1]) == room
            rows = rows[room:]
            if full:
                store()
                held = 0

    yield write
    if waiting:
        store()


def _only_inside(first: int, rows: LabelArray, part: tuple[slice, ...]) -> LabelArray:
    low, high = max(part[0].start - first, 0), max(part[0].stop - first, 0)
    inside = (slice(low, high), *part[1:])
    kept = np.zeros_like(rows)
    kept[inside] = rows[inside]
    return kept
