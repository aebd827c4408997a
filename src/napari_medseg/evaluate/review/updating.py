"""A review after an edit: what touches the edited box is looked for again, and decisions are carried over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from napari_medseg.case import InputError
from napari_medseg.evaluate.pairs import check_label_arrays
from napari_medseg.evaluate.review.components import Component, components
from napari_medseg.evaluate.review.objects import first_voxel, object_regions
from napari_medseg.evaluate.review.queue import ReviewItem, ReviewQueue, State
from napari_medseg.evaluate.review.region import ErrorRegion, RegionRules
from napari_medseg.evaluate.review.regions import measured
from napari_medseg.evaluate.review.runs import Box, Runs, grown, union
from napari_medseg.jobs import Progress

_FIRST_MARGIN = 8


def update_review(
    queue: ReviewQueue,
    candidate: Any,
    reference: Any,
    box: Sequence[slice],
    *,
    uncertainty: Any = None,
    progress: Progress | None = None,
) -> ReviewQueue:
    """The queue after an edit of the candidate inside `box`; the reference must be as it was.

    Only regions that touch the box, or a voxel beside it, are looked for again, in a window that holds them; of
    objects, those that touch the box. A region keeps its number, state and note if a region of the same error and
    labels has voxels in common with it; of several, the one with most. Further pieces of it get numbers of their own
    and its state. If regions became one and one of them was open, it is open. Regions that are no more are fixed, and
    come back as they were if an edit is undone before the review is closed.

    Parameters
    ----------
    queue
        The review before the edit.
    candidate, reference
        The labels as they are now.
    box
        One slice for each axis, around every voxel that changed.
    uncertainty, progress
        As for `ReviewQueue.start`.

    Raises
    ------
    InputError
        If the arrays do not fit the queue, or the box has a step.
    """
    check_label_arrays(candidate, reference)
    shape = tuple(int(n) for n in candidate.shape)
    if shape != queue.candidate.shape:
        raise InputError(f"The labels have the shape {shape} and the review was made for {queue.candidate.shape}.")
    edited = _definite(box, shape)
    if any(part.start >= part.stop for part in edited):
        return queue
    table = queue.table
    if table is not None:
        table, touched = table.updated(candidate, reference, edited)
        unchanged = [item.region for item in queue.present if item.region.candidate_label not in touched]
        found = object_regions(
            candidate, reference, table, queue.rules, uncertainty=uncertainty, known=unchanged, progress=progress
        )
        old = list(queue.present)
        new = [replace(region, id=0) for region in found]
    else:
        around = grown(edited, shape, 1, queue.rules.spatial)
        old = [i for i in queue.present if _meets(i.region, around) and _runs(i.region).touches(around, shape)]
        window = union([around, *(item.region.slices for item in old)])
        parts = _touching(candidate, reference, window, around, queue.rules, uncertainty, progress)
        new = measured(parts, reference, queue.rules, progress)
    kept = {item.id: item for item in queue.items}
    kept.update({item.id: item for item in _carried(queue, old, new)})
    return replace(
        queue,
        items=tuple(kept[number] for number in sorted(kept)),
        candidate=queue.candidate.updated(candidate, edited),
        table=table,
    )


def _definite(box: Sequence[slice], shape: tuple[int, ...]) -> Box:
    if len(box) != len(shape) or any(part.step not in (None, 1) for part in box):
        raise InputError(f"The edited box {tuple(box)} is not one slice without a step for each of {len(shape)} axes.")
    return tuple(slice(*part.indices(n)[:2]) for part, n in zip(box, shape, strict=True))


def _touching(
    candidate: Any,
    reference: Any,
    window: Box,
    around: Box,
    rules: RegionRules,
    uncertainty: Any,
    progress: Progress | None,
) -> list[Component]:
    """Whole components with a voxel in `around`: the window is widened until it cuts none of them."""
    shape = tuple(int(n) for n in candidate.shape)
    margin = _FIRST_MARGIN
    while True:
        found = components(
            candidate,
            reference,
            rules.spatial,
            rules.connectivity,
            window=window,
            uncertainty=uncertainty,
            progress=progress,
        )
        found = [part for part in found if part.runs.touches(around, shape)]
        if not any(_reaches_rim(part, window, shape, rules) for part in found):
            return found
        # regions too small to be listed can lead out of the window
        window = grown(window, shape, margin, rules.spatial)
        margin *= 2


def _reaches_rim(part: Component, window: Box, shape: tuple[int, ...], rules: RegionRules) -> bool:
    inner = tuple(
        slice(w.start + (w.start > 0), w.stop - (w.stop < n)) if k >= len(shape) - rules.spatial else w
        for k, (w, n) in enumerate(zip(window, shape, strict=True))
    )
    points = part.runs.points(shape)
    return any(int(axis.min()) < i.start or int(axis.max()) >= i.stop for axis, i in zip(points.T, inner, strict=True))


def _carried(queue: ReviewQueue, old: list[ReviewItem], new: list[ErrorRegion]) -> list[ReviewItem]:
    """Items for the new regions, and the old ones that changed."""
    gone = [item for item in queue.items if item.gone and item.region.runs is not None]
    items = {item.id: item for item in (*old, *gone)}
    shared = _shared(items.values(), new)
    parents: dict[int, list[ReviewItem]] = {}
    homes: dict[int, int] = {}
    number_of: dict[int, int] = {}
    taken: set[int] = set()
    for is_gone, _, number, k in shared:
        if is_gone and any(not parent.gone for parent in parents.get(k, [])):
            continue
        parents.setdefault(k, []).append(items[number])
        homes.setdefault(number, k)
        if k not in number_of and number not in taken:
            number_of[k] = number
            taken.add(number)
    following = max((item.id for item in queue.items), default=0) + 1
    for k in sorted(range(len(new)), key=lambda k: first_voxel(new[k])):
        if k not in number_of:
            number_of[k], following = following, following + 1
    changed = {
        number: ReviewItem(replace(new[k], id=number), *_decision(parents.get(k, [])))
        for k, number in number_of.items()
    }
    for item in old:
        if item.id in changed:
            continue
        if item.id in homes:
            changed[item.id] = replace(item, gone=True, into=number_of[homes[item.id]], before=item.state)
        else:
            changed[item.id] = replace(item, gone=True, state=State.FIXED, before=item.state)
    return list(changed.values())


def _shared(items: Iterable[ReviewItem], new: list[ErrorRegion]) -> list[tuple[bool, int, int, int]]:
    """Which items have voxels in common with which new regions, from the first to count to the last.

    Those that are there come before those that are gone, large overlaps before small ones: whether gone, minus the
    voxels, the item's number, the position of the new region.
    """
    of_kind: dict[object, list[ReviewItem]] = {}
    for item in items:
        of_kind.setdefault(item.region.kind, []).append(item)
    shared = []
    for k, region in enumerate(new):
        for item in of_kind.get(region.kind, []):
            common = _runs(region).overlap(_runs(item.region)) if _meets(item.region, region.slices) else 0
            if common:
                shared.append((item.gone, -common, item.id, k))
    return sorted(shared)


def _decision(parents: list[ReviewItem]) -> tuple[State, str]:
    """State and note of a region that has voxels in common with `parents`, of which the first counts most."""
    if not parents:
        return State.OPEN, ""
    first = parents[0]
    if first.gone:
        return first.before or State.OPEN, first.note
    return (State.OPEN if any(p.state is State.OPEN for p in parents) else first.state), first.note


def _meets(region: ErrorRegion, box: Box) -> bool:
    return all(a < part.stop and b > part.start for (a, b), part in zip(region.box, box, strict=True))


def _runs(region: ErrorRegion) -> Runs:
    assert region.runs is not None
    return region.runs
