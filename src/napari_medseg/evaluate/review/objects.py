"""Objects that were missed, invented, split or merged, from the voxels that objects have in common.

An object of the candidate is *the same* as one of the reference if their intersection over union is above a cut-off
of at least one half, which makes the match unique (Kirillov et al., Panoptic Segmentation, CVPR 2019). A reference
object is *split* if two or more objects of the candidate have more than half of their voxels in it; candidate objects
are *merged* where one has in it more than half of each of two or more objects of the reference. What is neither the
same, nor split or merged, nor a piece of such, is *missed* or *spurious*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from napari_medseg.evaluate.errors.cache import recent
from napari_medseg.evaluate.pairs import shared_boxes
from napari_medseg.evaluate.review.components import UNCERTAINTY_STEPS
from napari_medseg.evaluate.review.region import Error, ErrorRegion, RegionRules, region_of
from napari_medseg.evaluate.review.runs import Box, Runs, break_into_runs, union
from napari_medseg.jobs import Progress

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """Where the objects of both sides lie and how many voxels they have in common.

    Parameters
    ----------
    common
        Voxels of each pair ``(candidate id, reference id)``; 0 is background.
    candidate, reference
        The box around each object.
    """

    common: Mapping[Pair, int]
    candidate: Mapping[int, Box]
    reference: Mapping[int, Box]

    @classmethod
    def of(
        cls,
        candidate: Any,
        reference: Any,
        *,
        block: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> ObjectTable:
        """Count two label images block by block."""
        progress = progress or Progress()
        shape = tuple(int(n) for n in candidate.shape)
        if block is None:
            regions = list(shared_boxes(candidate, reference))
        else:
            starts = product(*(range(0, n, b) for n, b in zip(shape, block, strict=True)))
            regions = [
                tuple(slice(s, min(s + b, n)) for s, b, n in zip(start, block, shape, strict=True)) for start in starts
            ]
        progress.begin(len(regions), "comparing objects")
        common: dict[Pair, int] = {}
        sides: tuple[dict[int, Box], dict[int, Box]] = ({}, {})
        for region in regions:
            _count(np.asarray(candidate[region]), np.asarray(reference[region]), region, common, sides)
            progress.advance()
        return cls(common, *sides)

    def updated(self, candidate: Any, reference: Any, box: Box) -> tuple[ObjectTable, set[int]]:
        """The table after an edit of the candidate inside `box`, and the candidate objects that it may have changed."""
        corner = np.asarray(candidate[box])
        touched = {int(i) for i in np.unique(corner) if i}
        touched |= {i for i, around in self.candidate.items() if _meet(around, box)}
        window = union([box, *(self.candidate[i] for i in touched if i in self.candidate)])
        mine, theirs = np.asarray(candidate[window]), np.asarray(reference[window])
        common: dict[Pair, int] = {}
        sides: tuple[dict[int, Box], dict[int, Box]] = ({}, {})
        others = np.where(np.isin(mine, sorted(touched)), mine, 0)
        _count(others, theirs, window, common, sides)
        kept = {pair: n for pair, n in self.common.items() if pair[0] not in touched and pair[0]}
        changed = {pair: n for pair, n in common.items() if pair[0]}
        # background of the candidate: what is left of every object of the reference
        covered: dict[int, int] = {}
        sizes = self.sizes(1)
        for (mine_id, theirs_id), n in (kept | changed).items():
            if mine_id:
                covered[theirs_id] = covered.get(theirs_id, 0) + n
        free = {(0, i): n - covered.get(i, 0) for i, n in sizes.items() if n > covered.get(i, 0)}
        boxes = {i: around for i, around in self.candidate.items() if i not in touched} | sides[0]
        return ObjectTable(kept | changed | free, boxes, self.reference), touched

    def sizes(self, side: int) -> dict[int, int]:
        """Voxels of each object of the candidate (0) or the reference (1)."""
        sizes: dict[int, int] = {}
        for pair, n in self.common.items():
            if pair[side]:
                sizes[pair[side]] = sizes.get(pair[side], 0) + n
        return sizes

    def errors(self, match_iou: float) -> list[tuple[Error, int]]:
        """What is wrong, and the object's id: on the candidate's side for spurious and merged ones."""
        mine, theirs = self.sizes(0), self.sizes(1)
        matched: tuple[set[int], set[int]] = (set(), set())
        pieces: dict[int, list[int]] = {}
        swallowed: dict[int, list[int]] = {}
        for (a, b), n in self.common.items():
            if not a or not b:
                continue
            if n > match_iou * (mine[a] + theirs[b] - n):
                matched[0].add(a)
                matched[1].add(b)
            if 2 * n > mine[a]:
                pieces.setdefault(b, []).append(a)
            if 2 * n > theirs[b]:
                swallowed.setdefault(a, []).append(b)
        split = {b: found for b, found in pieces.items() if len(found) > 1}
        merged = {a: found for a, found in swallowed.items() if len(found) > 1}
        part_of_split = {a for found in split.values() for a in found}
        part_of_merge = {b for found in merged.values() for b in found}
        missed = set(theirs) - matched[1] - set(split) - part_of_merge
        spurious = set(mine) - matched[0] - set(merged) - part_of_split
        return [
            *((Error.MISSED, b) for b in sorted(missed)),
            *((Error.SPURIOUS, a) for a in sorted(spurious)),
            *((Error.SPLIT, b) for b in sorted(split)),
            *((Error.MERGED, a) for a in sorted(merged)),
        ]


def object_regions(
    candidate: Any,
    reference: Any,
    table: ObjectTable,
    rules: RegionRules,
    *,
    uncertainty: Any = None,
    known: Iterable[ErrorRegion] = (),
    progress: Progress | None = None,
) -> list[ErrorRegion]:
    """A region for each object that is wrong, in the order of their first voxels; none is numbered.

    Parameters
    ----------
    candidate, reference, table
        The objects and where they lie.
    rules
        When objects are the same, and how they are measured.
    uncertainty
        For their mean uncertainty.
    known
        Regions of objects that are as they were: they are not read again.
    progress
        Told about every region; can cancel.
    """
    progress = progress or Progress()
    before = {region.kind: region for region in known}
    sources, shape = (recent(candidate), recent(reference)), tuple(int(n) for n in candidate.shape)
    errors = table.errors(rules.match_iou)
    progress.begin(len(errors), "measuring objects")
    regions = []
    for error, number in errors:
        mine = error in (Error.SPURIOUS, Error.MERGED)
        labels = (0, number) if mine else (number, 0)
        region = before.get((error, *labels))
        if region is None:
            box = (table.candidate if mine else table.reference)[number]
            region = _object(sources[0 if mine else 1], number, box, error, labels, shape, rules, uncertainty)
        if region.voxels >= rules.min_voxels:
            regions.append(region)
        progress.advance()
    return sorted(regions, key=first_voxel)


def first_voxel(region: ErrorRegion) -> tuple[int, str, int, int]:
    """Where the region begins, and what it is where several begin."""
    assert region.runs is not None
    return int(region.runs.start[0]), str(region.error), region.reference_label, region.candidate_label


def _object(
    source: Any,
    number: int,
    box: Box,
    error: Error,
    labels: Pair,
    shape: tuple[int, ...],
    rules: RegionRules,
    uncertainty: Any,
) -> ErrorRegion:
    inside = np.asarray(source[box]) == number
    where = np.nonzero(inside)
    places = tuple(axis + part.start for axis, part in zip(where, box, strict=True))
    flat = np.ravel_multi_index(places, shape).astype(np.int64)
    first = break_into_runs(flat, shape[-1])
    mean = None
    if uncertainty is not None:
        values = np.asarray(uncertainty[box])[where].astype(np.float64)
        known = np.isfinite(values)
        steps = np.rint(values[known] * UNCERTAINTY_STEPS).astype(np.int64)
        mean = int(steps.sum()) / UNCERTAINTY_STEPS / len(steps) if len(steps) else None
    runs = Runs(flat[first], np.diff(first, append=len(flat)))
    return region_of(runs, error, labels, shape, rules, mean)


def _count(
    candidate: np.ndarray[Any, Any],
    reference: np.ndarray[Any, Any],
    region: Box,
    common: dict[Pair, int],
    sides: tuple[dict[int, Box], dict[int, Box]],
) -> None:
    """Add the pairs and the boxes of one block."""
    where = np.nonzero((candidate != 0) | (reference != 0))
    if not len(where[0]):
        return
    ids = (candidate[where].astype(np.int64), reference[where].astype(np.int64))
    pairs, counts = np.unique(np.stack(ids), axis=1, return_counts=True)
    for a, b, n in zip(pairs[0].tolist(), pairs[1].tolist(), counts.tolist(), strict=True):
        common[a, b] = common.get((a, b), 0) + n
    places = [axis + part.start for axis, part in zip(where, region, strict=True)]
    for own, boxes in zip(ids, sides, strict=True):
        order = np.argsort(own, kind="stable")
        found, first = np.unique(own[order], return_index=True)
        low = np.stack([np.minimum.reduceat(axis[order], first) for axis in places], -1)
        high = np.stack([np.maximum.reduceat(axis[order], first) for axis in places], -1) + 1
        for number, a, b in zip(found.tolist(), low.tolist(), high.tolist(), strict=True):
            if number:
                box = tuple(slice(x, y) for x, y in zip(a, b, strict=True))
                boxes[number] = union([box, boxes[number]]) if number in boxes else box


def _meet(one: Box, other: Box) -> bool:
    return all(a.start < b.stop and a.stop > b.start for a, b in zip(one, other, strict=True))
