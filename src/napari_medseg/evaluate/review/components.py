"""Connected errors of labels larger than memory: found block by block, joined where blocks meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from napari_medseg.evaluate.pairs import shared_boxes
from napari_medseg.evaluate.review.runs import Box, Indices, Runs, break_into_runs, grown
from napari_medseg.jobs import Progress

_BLOCK_VOXELS = 1 << 23
_LARGEST_KEY = 1 << 62
# sums of whole numbers do not depend on the order in which blocks are added
UNCERTAINTY_STEPS = 1 << 20
"""Uncertainty is added up in steps of one over this."""


@dataclass(frozen=True, eq=False)
class Component:
    """One connected error.

    Parameters
    ----------
    runs
        Its voxels.
    reference, candidate
        The label that the reference and the candidate give all of them.
    uncertainty
        Mean of the uncertainty of its voxels that have one; ``None`` without any.
    """

    runs: Runs
    reference: int
    candidate: int
    uncertainty: float | None


@dataclass(eq=False)
class _Found:
    """Runs of all blocks, as lists of arrays that belong together, and voxels that two blocks have in common."""

    start: list[Indices]
    length: list[Indices]
    part: list[Indices]
    labels: list[Indices]
    sums: list[Indices]
    shared_voxel: list[Indices]
    shared_part: list[Indices]
    parts: int = 0


def components(
    candidate: Any,
    reference: Any,
    spatial: int,
    connectivity: int,
    *,
    window: Box | None = None,
    block: Sequence[int] | None = None,
    uncertainty: Any = None,
    progress: Progress | None = None,
) -> list[Component]:
    """The connected voxels that candidate and reference label with the same two, different labels.

    Every block is read with one voxel around it; voxels that two blocks have in common tell which parts are one.

    Parameters
    ----------
    candidate, reference
        Integer arrays of one shape.
    spatial
        Number of last axes along which voxels connect; nothing connects along a leading ``t``.
    connectivity
        4 or 8 in two dimensions, 6, 18 or 26 in three.
    window
        Look only here; what leaves the window is cut off. Everywhere when ``None``.
    block
        Shape of a block; whole stored chunks when ``None``.
    uncertainty
        An array of the same shape; values that are no finite number do not count.
    progress
        Told about every block; can cancel.

    Returns
    -------
    components
        In the order of their first voxels.
    """
    progress = progress or Progress()
    shape = tuple(int(n) for n in candidate.shape)
    whole = window or tuple(slice(0, n) for n in shape)
    regions = list(_blocks(candidate, reference, whole, block))
    progress.begin(len(regions), "finding errors")
    found = _Found([], [], [], [], [], [], [])
    for region in regions:
        for frame in product(*(range(r.start, r.stop) for r in region[: len(shape) - spatial])):
            core = (*(slice(t, t + 1) for t in frame), *region[len(shape) - spatial :])
            _search(candidate, reference, uncertainty, core, whole, spatial, connectivity, found)
        progress.advance()
    return _joined(found, shape) if found.start else []


def _blocks(candidate: Any, reference: Any, window: Box, block: Sequence[int] | None) -> Iterator[Box]:
    boxes: Iterator[Box]
    if block is None:
        boxes = shared_boxes(candidate, reference, _BLOCK_VOXELS)
    else:
        starts = product(*(range(0, int(n), b) for n, b in zip(candidate.shape, block, strict=True)))
        boxes = (tuple(slice(s, s + b) for s, b in zip(start, block, strict=True)) for start in starts)
    for box in boxes:
        cut = tuple(slice(max(b.start, w.start), min(b.stop, w.stop)) for b, w in zip(box, window, strict=True))
        if all(c.start < c.stop for c in cut):
            yield cut


def _search(
    candidate: Any,
    reference: Any,
    uncertainty: Any,
    core: Box,
    window: Box,
    spatial: int,
    connectivity: int,
    found: _Found,
) -> None:
    """Add the errors of one block to what was found."""
    shape = tuple(int(n) for n in candidate.shape)
    wide = tuple(
        slice(max(g.start, w.start), min(g.stop, w.stop))
        for g, w in zip(grown(core, shape, 1, spatial), window, strict=True)
    )
    mine, theirs = np.asarray(candidate[wide]), np.asarray(reference[wide])
    where = np.nonzero(mine != theirs)
    if not len(where[0]):
        return
    labels = np.stack([theirs[where].astype(np.int64), mine[where].astype(np.int64)], -1)
    part = _parts(where, labels, spatial, connectivity) + found.parts
    found.parts = int(part.max()) + 1
    places = [axis + w.start for axis, w in zip(where, wide, strict=True)]
    flat = np.ravel_multi_index(tuple(places), shape).astype(np.int64)
    inside = np.ones(len(flat), np.bool_)
    shared = np.zeros(len(flat), np.bool_)
    for place, c, w in zip(places, core, wide, strict=True):
        inside &= (place >= c.start) & (place < c.stop)
        if w.start < c.start:
            shared |= place <= c.start
        if w.stop > c.stop:
            shared |= place >= c.stop - 1
    found.shared_voxel.append(flat[shared])
    found.shared_part.append(part[shared])
    flat, part, labels = flat[inside], part[inside], labels[inside]
    if not len(flat):
        return
    first = break_into_runs(flat, shape[-1], part)
    found.start.append(flat[first])
    found.length.append(np.diff(first, append=len(flat)))
    found.part.append(part[first])
    found.labels.append(labels[first])
    if uncertainty is not None:
        values = np.asarray(uncertainty[wide])[where][inside].astype(np.float64)
        known = np.isfinite(values)
        steps = np.rint(np.where(known, values, 0) * UNCERTAINTY_STEPS).astype(np.int64)
        found.sums.append(np.stack([np.add.reduceat(steps, first), np.add.reduceat(known.astype(np.int64), first)], -1))


def _parts(where: tuple[npt.NDArray[np.intp], ...], labels: Indices, spatial: int, connectivity: int) -> Indices:
    """Number of the connected part, from 0, of each of the voxels `where`."""
    import cc3d

    low = [int(axis.min()) for axis in where[-spatial:]]
    size = [int(axis.max()) + 1 - a for axis, a in zip(where[-spatial:], low, strict=True)]
    place = tuple(axis - a for axis, a in zip(where[-spatial:], low, strict=True))
    keys = _keys(labels)
    codes = np.zeros(size, np.uint16 if int(keys.max()) < 1 << 16 else np.uint64)
    codes[place] = keys
    connected: npt.NDArray[Any] = cc3d.connected_components(codes, connectivity=cast(Any, connectivity))
    parts: Indices = connected[place].astype(np.int64) - 1
    return parts


def _keys(labels: Indices) -> Indices:
    """A number from 1 for each pair of labels ``(n, 2)``, equal for equal pairs."""
    high = labels.max(0)
    if int(high[0] + 1) * int(high[1] + 1) >= _LARGEST_KEY:
        labels = np.stack([np.unique(side, return_inverse=True)[1] for side in labels.T], -1) + 1
        high = labels.max(0)
    # the two differ, so at least one is not 0
    keys: Indices = labels[:, 0] * (int(high[1]) + 1) + labels[:, 1]
    return keys


def _joined(found: _Found, shape: tuple[int, ...]) -> list[Component]:
    start, length, part = (np.concatenate(a) for a in (found.start, found.length, found.part))
    labels = np.concatenate(found.labels)
    sums = np.concatenate(found.sums) if found.sums else None
    whole = _united(np.concatenate(found.shared_voxel), np.concatenate(found.shared_part), found.parts)[part]
    order = np.lexsort((start, whole))
    start, length, whole, labels = start[order], length[order], whole[order], labels[order]
    # runs that a border between blocks cut in two
    fresh = np.ones(len(start), np.bool_)
    fresh[1:] = (start[1:] != start[:-1] + length[:-1]) | (whole[1:] != whole[:-1]) | (start[1:] % shape[-1] == 0)
    first = np.flatnonzero(fresh)
    length = np.add.reduceat(length, first)
    start, whole, labels = start[first], whole[first], labels[first]
    if sums is not None:
        sums = np.add.reduceat(sums[order], first)
    edges = np.concatenate([np.flatnonzero(np.diff(whole, prepend=-1)), [len(whole)]])
    spans = sorted(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True), key=lambda span: int(start[span[0]]))
    components = []
    for a, b in spans:
        mean = None
        if sums is not None:
            total, known = (int(v) for v in sums[a:b].sum(0))
            mean = total / UNCERTAINTY_STEPS / known if known else None
        runs = Runs(start[a:b].copy(), length[a:b].copy())
        components.append(Component(runs, int(labels[a, 0]), int(labels[a, 1]), mean))
    return components


def _united(voxel: Indices, part: Indices, parts: int) -> Indices:
    """For each part the number of the whole that it belongs to: parts with a voxel in common are one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    order = np.argsort(voxel, kind="stable")
    voxel, part = voxel[order], part[order]
    same = np.flatnonzero(voxel[1:] == voxel[:-1])
    links = coo_matrix((np.ones(len(same), np.int8), (part[same], part[same + 1])), shape=(parts, parts))
    whole: Indices = connected_components(links, directed=False)[1].astype(np.int64)
    return whole
