"""Which regions are listed, and which comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from napari_medseg.case import LabelTable
from napari_medseg.evaluate.review import Error, Order, ReviewItem, ReviewQueue, State, ranked

Row = tuple[int, ReviewItem]
"""Rank from 1, and the region."""


def listed(
    queue: ReviewQueue,
    by: Order = "size",
    weights: Mapping[int, float] | None = None,
    state: State | None = None,
    error: Error | None = None,
) -> list[Row]:
    """Regions from the first to look at to the last; those that an edit made vanish are listed as fixed.

    Parameters
    ----------
    queue
        The review.
    by, weights
        The order, see `ranked`.
    state, error
        List only these; all when ``None``. Ranks are those among all.
    """
    items = {item.id: item for item in queue.items if item.into is None}
    order = ranked((item.region for item in items.values()), by, weights)
    return [
        (rank, items[region.id])
        for rank, region in enumerate(order, 1)
        if state in (None, items[region.id].state) and error in (None, region.error)
    ]


def row_after(rows: Sequence[Row], current: int | None, rank: int, step: int) -> int | None:
    """The row to go to from the region `current`, going on at the other end.

    Parameters
    ----------
    rows
        What is listed.
    current, rank
        Number of the region that is looked at, and its rank: it need no longer be listed.
    step
        1 forward, -1 back.

    Returns
    -------
    row
        ``None`` if nothing is listed.
    """
    if not rows:
        return None
    if current is None:
        return 0 if step > 0 else len(rows) - 1
    here = next((row for row, (_, item) in enumerate(rows) if item.id == current), None)
    if here is not None:
        return (here + step) % len(rows)
    if step > 0:
        return next((row for row, (other, _) in enumerate(rows) if other > rank), 0)
    return next((row for row, (other, _) in reversed([*enumerate(rows)]) if other < rank), len(rows) - 1)


def names_to_weigh(queue: ReviewQueue, candidate: LabelTable, reference: LabelTable) -> dict[int, str]:
    """The labels that regions are about, by id; objects have one weight together, that of id 1."""
    if queue.rules.instances:
        return {1: "every object"}
    ids = {i for item in queue.items for i in (item.region.reference_label, item.region.candidate_label) if i}
    table = reference if len(reference) else candidate
    return {i: table.name(i) for i in sorted(ids)}
