"""Which labels of a candidate and a reference belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from napari_medseg.case import InputError, Label, LabelTable, Segmentation
from napari_medseg.evaluate.pairs import PairCounts
from napari_medseg.io.lazy import AnyArray, LazyArray
from napari_medseg.jobs import Progress


def chosen_ids(
    candidate: LabelTable, reference: LabelTable, pairs: PairCounts, wanted: Sequence[int] | None
) -> tuple[list[int], dict[int, str]]:
    """The ids to score, ascending, and their names.

    All that either table names or either side holds, or those `wanted`. The reference's name counts where both name
    an id; an id without a name is called ``label 7``.

    Raises
    ------
    InputError
        If a wanted id is neither named nor there.
    """
    named = {label.id for table in (candidate, reference) for label in table}
    there = sorted(named | set(pairs.candidate_voxels) | set(pairs.reference_voxels))
    names = {label: (reference if label in reference else candidate).name(label) for label in there}
    if wanted is None:
        return there, names
    missing = [label for label in wanted if label not in names]
    if missing:
        listed = ", ".join(f"{label} ({name})" for label, name in names.items()) or "none"
        raise InputError(f"Label {missing[0]} is on neither side; there are {listed}.")
    return sorted(set(wanted)), names


def restricted_pairs(pairs: PairCounts, ids: Sequence[int]) -> PairCounts:
    """The same counts with every id but `ids` taken for background."""
    sides = [np.where(np.isin(side, ids), side, 0) for side in (pairs.candidate, pairs.reference)]
    both, place = np.unique(np.stack(sides), axis=1, return_inverse=True)
    voxels = np.zeros(both.shape[1], np.int64)
    np.add.at(voxels, place.reshape(-1), pairs.voxels)
    return PairCounts(both[0], both[1], voxels)


def name_differences(candidate: LabelTable, reference: LabelTable) -> list[str]:
    """A sentence for each id that the two tables call by different names; ``label 7`` is no name."""
    notes = []
    for label in candidate:
        names = label.name, reference.name(label.id)
        if label.id not in reference or f"label {label.id}" in names or _plain(names[0]) == _plain(names[1]):
            continue
        notes.append(
            f"Id {label.id} is {names[0]} in the candidate and {names[1]} in the reference; they were compared by id."
        )
    return notes


def shared_name(candidate: LabelTable, reference: LabelTable) -> str:
    """What objects are called: the class of the instance table, the reference's first."""
    named = [table.labels[0].name for table in (reference, candidate) if table.instances]
    return named[0] if named else "objects"


def matched_by_name(candidate: Segmentation, reference: Segmentation, progress: Progress) -> Segmentation:
    """The candidate with the ids of the reference for labels of one name, lazily.

    Labels whose name the reference lacks keep an id of their own that the reference does not use.

    Raises
    ------
    InputError
        If a side lacks names, has a name twice, or no name is on both sides.
    """
    names = [_by_name(s.table, side) for s, side in ((candidate, "candidate"), (reference, "reference"))]
    shared = names[0].keys() & names[1].keys()
    if not shared:
        listed = [", ".join(found) for found in names]
        raise InputError(f"No name is on both sides: the candidate has {listed[0]}, the reference {listed[1]}.")
    present = set(candidate.extents())
    progress.check()
    used = {label.id for label in reference.table} | set(reference.extents())
    progress.check()
    ids = {names[0][name]: names[1][name] for name in shared}
    free = max(used | present | set(ids), default=0) + 1
    for label in sorted((present | set(names[0].values())) - set(ids)):
        ids[label] = free if label in used else label
        free += label in used
    table = LabelTable(tuple(Label(ids[e.id], e.name, e.colour, e.terminology) for e in candidate.table))
    return replace(candidate, data=_Renumbered(candidate.data, ids), table=table, coarser=())


class _Renumbered(LazyArray):
    """The labels of `source` with other ids; those that are not in `ids` become background."""

    def __init__(self, source: Any, ids: Mapping[int, int]) -> None:
        chunks = getattr(source, "chunksize", getattr(source, "chunks", source.shape))
        super().__init__(source.shape, np.int64, chunks)
        pairs = sorted({0: 0, **ids}.items())
        self._source = source
        self._old = np.array([old for old, _ in pairs], np.int64)
        self._new = np.array([new for _, new in pairs], np.int64)

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        block = np.asarray(self._source[region])
        at = np.minimum(np.searchsorted(self._old, block), len(self._old) - 1)
        return np.where(self._old[at] == block, self._new[at], 0)


def _by_name(table: LabelTable, side: str) -> dict[str, int]:
    if not len(table):
        raise InputError(f"The {side} has no names of labels, so labels are not matched by name; match them by id.")
    found: dict[str, int] = {}
    for label in table:
        name = _plain(label.name)
        if name in found:
            raise InputError(f"The {side} has two labels named {label.name}; match them by id.")
        found[name] = label.id
    return found


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()
