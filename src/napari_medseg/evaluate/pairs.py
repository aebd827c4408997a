"""Which ids of two label images lie on each other, counted in one pass: all that overlap and object scores need.

Labels may be larger than memory. They are read box by box in whole stored chunks, each box is turned into runs of
equal pairs, and only the distinct pairs are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import lcm, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.io.lazy import stored_chunk
from napari_medseg.jobs import Progress

Ids = npt.NDArray[np.int64]
Region = tuple[slice, ...]

# large enough that calls do not matter, small enough that a box of each thread is nothing beside the rest
_BOX_VOXELS = 1 << 22
# comparisons of this many voxels stay in the processor's cache
_PIECE_VOXELS = 1 << 18
_MERGE_AT = 1 << 20
_LARGEST_ID = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Confusion:
    """Voxels of one class: in both label images, in one of them only, in none."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


@dataclass(frozen=True, eq=False)
class PairCounts:
    """How many voxels carry each pair of ids.

    Sorted by (candidate, reference), every pair once; background is id 0, the pair (0, 0) is there if it occurs.

    Parameters
    ----------
    candidate, reference
        The ids of each pair, int64 ``(n,)``.
    voxels
        Number of voxels with that pair, int64 ``(n,)``, each 1 or more.
    """

    candidate: Ids
    reference: Ids
    voxels: Ids

    def confusion(self, label: int) -> Confusion:
        """Voxels of the class `label` against everything else."""
        return self._confusion(self.candidate == label, self.reference == label)

    def confusion_any(self) -> Confusion:
        """Voxels of any id above 0 in the candidate against any in the reference."""
        return self._confusion(self.candidate > 0, self.reference > 0)

    def _confusion(self, candidate: npt.NDArray[np.bool_], reference: npt.NDArray[np.bool_]) -> Confusion:
        def count(where: npt.NDArray[np.bool_]) -> int:
            return int(self.voxels[where].sum())

        return Confusion(
            true_positive=count(candidate & reference),
            false_positive=count(candidate & ~reference),
            false_negative=count(~candidate & reference),
            true_negative=count(~candidate & ~reference),
        )

    @cached_property
    def candidate_voxels(self) -> dict[int, int]:
        """Voxels of every id of the candidate except 0, by id."""
        return _voxels_by_id(self.candidate, self.voxels)

    @cached_property
    def reference_voxels(self) -> dict[int, int]:
        """Voxels of every id of the reference except 0, by id."""
        return _voxels_by_id(self.reference, self.voxels)


def count_pairs(candidate: Any, reference: Any, *, progress: Progress | None = None) -> PairCounts:
    """Count the voxels of every pair of ids of two label images, exactly.

    Parameters
    ----------
    candidate, reference
        Integer arrays (numpy, dask or zarr) of one shape; 0 is background. Masks (bool) count as ids 0 and 1.
    progress
        Told about every box that has been read; can cancel.

    Returns
    -------
    pairs
        Memory grows with the number of distinct pairs and with the stored chunks, not with the label images.

    Raises
    ------
    InputError
        If the shapes differ, a label image does not hold integers, or an id is negative or larger than 2**63 - 1.
    """
    progress = progress or Progress()
    check_label_arrays(candidate, reference)
    regions = list(shared_boxes(candidate, reference, _BOX_VOXELS))
    progress.begin(len(regions), "counting labels")
    found = [np.zeros((3, 0), np.int64)]
    waiting = merged = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            jobs = [pool.submit(_count_region, candidate, reference, region) for region in regions]
            for job in as_completed(jobs):
                found.append(job.result())
                waiting += found[-1].shape[1]
                if waiting > max(_MERGE_AT, merged):
                    found = [_merge(np.concatenate(found, 1))]
                    waiting, merged = 0, found[0].shape[1]
                progress.advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    total = _merge(np.concatenate(found, 1))
    return PairCounts(total[0], total[1], total[2])


def check_label_arrays(candidate: Any, reference: Any) -> None:
    """Raise `InputError` unless both are arrays of integers (or bool) of one shape."""
    for side, array in (("candidate", candidate), ("reference", reference)):
        if np.dtype(array.dtype).kind not in "uib":
            raise InputError(f"The {side} holds {np.dtype(array.dtype)} values; labels are whole numbers.")
    if tuple(candidate.shape) != tuple(reference.shape):
        raise InputError(
            f"The candidate has the shape {tuple(candidate.shape)} and the reference {tuple(reference.shape)};"
            " bring them onto one grid first."
        )


def shared_boxes(candidate: Any, reference: Any, voxels: int = _BOX_VOXELS) -> Iterator[Region]:
    """Boxes that cover two arrays of one shape, in storage order, made of whole chunks of both where that is possible.

    Parameters
    ----------
    candidate, reference
        The arrays; dask says how it is stored in ``chunksize``, zarr in ``chunks``, numpy can be cut anywhere.
    voxels
        How many voxels a box has at most, unless a single stored chunk has more.
    """
    shape = tuple(int(n) for n in candidate.shape)
    edges = _shared_edges(shape, [c for c in (stored_chunk(candidate), stored_chunk(reference)) if c], voxels)
    for axis in reversed(range(len(shape))):
        room = max(1, voxels // max(1, prod(edges)))
        edges[axis] *= min(room, max(1, -(-shape[axis] // edges[axis])))
    for start in product(*(range(0, n, e) for n, e in zip(shape, edges, strict=True))):
        yield tuple(slice(s, min(s + e, n)) for s, e, n in zip(start, edges, shape, strict=True))


def _shared_edges(shape: Sequence[int], chunks: list[tuple[int, ...]], voxels: int) -> list[int]:
    """The smallest box of whole chunks of both arrays; of the larger chunk if that box would be too large."""
    if not chunks:
        return [1] * len(shape)
    along = list(zip(*chunks, strict=True))
    for edges in ([lcm(*lengths) for lengths in along], [max(lengths) for lengths in along]):
        edges = [min(edge, max(1, n)) for edge, n in zip(edges, shape, strict=True)]
        if prod(edges) <= voxels:
            return edges
    return list(max(chunks, key=prod))


def _count_region(candidate: Any, reference: Any, region: Region) -> Ids:
    """Distinct pairs of one region and their voxels, ``(3, n)``."""
    first = np.ascontiguousarray(candidate[region]).reshape(-1)
    second = np.ascontiguousarray(reference[region]).reshape(-1)
    runs = [
        _runs(first[start : start + _PIECE_VOXELS], second[start : start + _PIECE_VOXELS])
        for start in range(0, first.size, _PIECE_VOXELS)
    ]
    return _merge(np.concatenate([np.zeros((3, 0), np.int64), *runs], 1))


def _runs(candidate: npt.NDArray[Any], reference: npt.NDArray[Any]) -> Ids:
    """Runs of equal pairs of two flat arrays: both ids and the length, ``(3, n)``."""
    change = candidate[1:] != candidate[:-1]
    change |= reference[1:] != reference[:-1]
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    lengths = np.diff(starts, append=candidate.size)
    # every id that occurs begins a run
    return np.stack([_as_ids(candidate[starts], "candidate"), _as_ids(reference[starts], "reference"), lengths])


def _as_ids(values: npt.NDArray[Any], side: str) -> Ids:
    if values.dtype.kind == "i" and int(values.min()) < 0:
        raise InputError(f"The {side} holds the id {int(values.min())}; label ids are 0 (background) and above.")
    if values.dtype == np.uint64 and int(values.max()) > _LARGEST_ID:
        raise InputError(f"The {side} holds the id {int(values.max())}; the largest that can be counted is 2**63 - 1.")
    return values.astype(np.int64)


def _merge(table: Ids) -> Ids:
    """Sort pairs ``(3, n)`` and add up the voxels of those that occur more than once."""
    if not table.shape[1]:
        return table
    code = _pair_codes(table[0], table[1])
    order = np.argsort(code)
    code = code[order]
    first = np.concatenate([[0], np.flatnonzero(code[1:] != code[:-1]) + 1])
    taken = order[first]
    return np.stack([table[0, taken], table[1, taken], np.add.reduceat(table[2, order], first)])


def _pair_codes(candidate: Ids, reference: Ids) -> Ids:
    """One number a pair, in the order of (candidate, reference)."""
    low, high = int(candidate.min()), int(candidate.max())
    base, top = int(reference.min()), int(reference.max())
    if (high - low + 1) * (top - base + 1) <= _LARGEST_ID:
        return (candidate - low) * (top - base + 1) + (reference - base)
    # ids too far apart for one number: their ranks are not
    rank = np.unique(candidate, return_inverse=True)[1]
    others, other_rank = np.unique(reference, return_inverse=True)
    code: Ids = rank.astype(np.int64) * len(others) + other_rank
    return code


def _voxels_by_id(ids: Ids, voxels: Ids) -> dict[int, int]:
    unique, inverse = np.unique(ids, return_inverse=True)
    sums = np.zeros(len(unique), np.int64)
    np.add.at(sums, inverse, voxels)
    return {label: count for label, count in zip(unique.tolist(), sums.tolist(), strict=True) if label}
