"""What several candidates say without a reference: how far they agree, where they differ, what most of them say.

Agreement is no proof of being right: models trained alike share their errors. Where they differ is shown by the maps
`napari_medseg.evaluate.errors.Disagreement` and `VoteEntropy`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.candidates import checked_names
from napari_medseg.evaluate.json_values import json_number
from napari_medseg.evaluate.pairs import count_pairs
from napari_medseg.evaluate.scoring.overlap import overlap_scores
from napari_medseg.io.lazy import LazyArray
from napari_medseg.jobs import Progress

if TYPE_CHECKING:
    from napari_medseg.inference.ensembles.staple import Consensus

Array = npt.NDArray[Any]

_CHUNK_2D = (1024, 1024)
_CHUNK_3D = (64, 256, 256)


@dataclass(frozen=True)
class PairwiseDice:
    """Dice of every two candidates, for every class.

    Parameters
    ----------
    names
        Names of the candidates.
    ids
        Ids of the classes, background 0 not among them.
    matrices
        For each class the Dice of every two candidates, ``[class][candidate][candidate]``; 1 where both hold nothing
        of the class and on the diagonal, 0 where one holds nothing.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    matrices: tuple[tuple[tuple[float, ...], ...], ...]

    def matrix(self, label: int) -> npt.NDArray[np.float64]:
        """The symmetric matrix ``(candidates, candidates)`` of one class; raises ``ValueError`` for an unknown id."""
        return np.array(self.matrices[self.ids.index(label)])

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Mean over classes ``(candidates, candidates)``; ``nan`` without a class."""
        if not self.ids:
            return np.full((len(self.names),) * 2, np.nan)
        found: npt.NDArray[np.float64] = np.mean(self.matrices, axis=0)
        return found

    @property
    def mean_with_others(self) -> tuple[float, ...]:
        """How far each candidate agrees with all others, mean over classes; the lowest is the odd one out."""
        total = self.mean
        return tuple(float(v) for v in (total.sum(1) - np.diagonal(total)) / (len(self.names) - 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            "names": list(self.names),
            "dice": {str(i): [list(row) for row in m] for i, m in zip(self.ids, self.matrices, strict=True)},
            "mean": [[json_number(v) for v in row] for row in self.mean.tolist()],
        }


def pairwise_dice(
    candidates: Sequence[Any],
    names: Sequence[str] | None = None,
    ids: Sequence[int] | None = None,
    *,
    progress: Progress | None = None,
) -> PairwiseDice:
    """Dice of every two candidates, for every class; each pair is read once, box by box.

    Parameters
    ----------
    candidates
        Two or more integer arrays (numpy, dask or zarr) on one grid, whose ids mean the same.
    names
        Their names; ``candidate 1``, ... when ``None``.
    ids
        The classes; all ids above 0 that occur when ``None``.
    progress
        Told about every box; can cancel.

    Raises
    ------
    InputError
        If there are fewer than 2 candidates, names are too few or doubled, shapes differ, or labels are not integers.
    CancelledError
        Within one box of `Progress.cancel`.
    """
    progress = progress or Progress()
    called = checked_names(candidates, names)
    pairs = {(a, b): count_pairs(candidates[a], candidates[b], progress=progress) for a, b in _pairs(candidates)}
    occurring = set().union(*(p.candidate_voxels.keys() | p.reference_voxels.keys() for p in pairs.values()))
    wanted = tuple(sorted(occurring if ids is None else {int(i) for i in ids} - {0}))
    matrices = np.ones((len(wanted), len(called), len(called)))
    for (a, b), counts in pairs.items():
        for matrix, label in zip(matrices, wanted, strict=True):
            matrix[a, b] = matrix[b, a] = overlap_scores(counts.confusion(label))["dice"]
    return PairwiseDice(called, wanted, tuple(tuple(tuple(row) for row in m) for m in matrices.tolist()))


def majority(candidates: Sequence[Any], tied: int | None = None) -> LazyArray:
    """For each voxel the id that most candidates give, computed where it is looked at.

    Parameters
    ----------
    candidates
        Two or more integer arrays (numpy, dask or zarr) on one grid, whose ids mean the same. Background, 0, has a
        vote like any other id.
    tied
        The id of voxels where several ids have equally many votes. ``None``: of those ids, the one that the
        first-listed candidate gave, so that of two candidates the first is always right.

    Raises
    ------
    InputError
        If there are fewer than 2 candidates, shapes differ, values are not integers, or `tied` does not fit them.
    """
    checked_names(candidates)
    # masks (bool) count as ids 0 and 1
    dtype = np.result_type(np.uint8, *(c.dtype for c in candidates if np.dtype(c.dtype) != bool))
    if dtype.kind not in "ui":
        kinds = ", ".join(sorted({str(np.dtype(c.dtype)) for c in candidates}))
        raise InputError(f"No kind of integer holds the ids of {kinds}; bring the candidates to one kind first.")
    if tied is not None and not np.iinfo(dtype).min <= tied <= np.iinfo(dtype).max:
        raise InputError(f"Tied voxels cannot get the id {tied} in labels of {dtype}.")
    return _VoteMap(candidates, partial(_majority, tied=tied), dtype)


def tied_votes(candidates: Sequence[Any]) -> LazyArray:
    """Where several ids share the most votes, as bool, computed where it is looked at; arguments as `majority`."""
    return _VoteMap(candidates, _tied, bool)


@dataclass(frozen=True, eq=False)
class StapleConsensus:
    """What STAPLE made of several candidates, and how far it trusts each.

    Parameters
    ----------
    labels
        The consensus, with the candidates' shape and dtype.
    names
        Names of the candidates.
    ids
        The ids told apart, background 0 not among them.
    sensitivity
        ``[candidate][id]``: how probably a candidate gives an id where it is true; ``nan`` where it never is.
    specificity
        ``[candidate]``: how probably a candidate gives background where it is true.
    iterations, converged
        Steps of the expectation maximisation, and whether it came to rest.
    """

    labels: Array
    names: tuple[str, ...]
    ids: tuple[int, ...]
    sensitivity: tuple[tuple[float, ...], ...]
    specificity: tuple[float, ...]
    iterations: int
    converged: bool

    def to_dict(self) -> dict[str, Any]:
        """All but the labels, as plain numbers and strings, for JSON."""
        return {
            "candidates": {
                name: {
                    "sensitivity": {str(i): json_number(v) for i, v in zip(self.ids, row, strict=True)},
                    "specificity": json_number(right),
                }
                for name, row, right in zip(self.names, self.sensitivity, self.specificity, strict=True)
            },
            "iterations": self.iterations,
            "converged": self.converged,
        }


def staple_consensus(
    candidates: Sequence[Any],
    names: Sequence[str] | None = None,
    ids: Sequence[int] | None = None,
    *,
    progress: Progress | None = None,
) -> StapleConsensus:
    """The consensus of candidates that are each trusted as far as the others bear it out (STAPLE).

    Everything is read into memory, after it is known to fit; see `inference.ensembles.staple.staple` for the method,
    its limits and what it does with undecided voxels.

    Parameters
    ----------
    candidates, names
        As for `pairwise_dice`.
    ids
        The classes; all ids above 0 that occur when ``None``.
    progress
        Asked to stop after each candidate that is read and each iteration.

    Raises
    ------
    InputError
        If there are too many voxels or ids or too few candidates for STAPLE, an id that was not listed, different
        shapes, or values that are not integers.
    CancelledError
        Within one iteration of `Progress.cancel`.
    """
    from napari_medseg.inference.ensembles.staple import require_possible, staple

    progress = progress or Progress()
    called = checked_names(candidates, names)
    require_possible(prod(candidates[0].shape), len(set(ids or ()) - {0}), len(candidates))
    progress.begin(len(candidates), "reading labels")
    blocks = []
    for candidate in candidates:
        blocks.append(_integers(candidate[...]))
        progress.advance()
    found: Consensus = staple(blocks, ids, progress=progress)
    return StapleConsensus(
        labels=found.labels,
        names=called,
        ids=found.ids[1:],
        sensitivity=tuple(tuple(row) for row in found.sensitivity.tolist()),
        specificity=tuple(found.specificity.tolist()),
        iterations=found.iterations,
        converged=found.converged,
    )


class _VoteMap(LazyArray):
    """A function of all candidates' labels, voxel by voxel."""

    def __init__(
        self, candidates: Sequence[Any], of_blocks: Callable[[list[Array]], Array], dtype: npt.DTypeLike
    ) -> None:
        checked_names(candidates)
        self._candidates, self._of_blocks = tuple(candidates), of_blocks
        shape = tuple(int(n) for n in candidates[0].shape)
        stored = (getattr(c, "chunksize", None) or getattr(c, "chunks", None) for c in candidates)
        usual = ((1,) * len(shape) + (_CHUNK_2D if len(shape) == 2 else _CHUNK_3D))[-len(shape) :]
        super().__init__(shape, dtype, next((c for c in stored if c), usual))

    def _read(self, region: tuple[slice, ...]) -> Array:
        return self._of_blocks([_integers(c[region]) for c in self._candidates])


def _integers(block: Any) -> Array:
    array = np.asarray(block)
    return array.view(np.uint8) if array.dtype == bool else array


def _majority(blocks: list[Array], tied: int | None) -> Array:
    from napari_medseg.inference.ensembles.votes import majority_vote

    found = majority_vote(blocks)
    if tied is not None:
        found[_tied(blocks)] = tied
    return found


def _votes(blocks: list[Array]) -> npt.NDArray[np.uint16]:
    """How many candidates, itself included, say what each says: ``(candidates, ...)``."""
    votes = np.ones((len(blocks), *blocks[0].shape), np.uint16)
    for a, b in combinations(range(len(blocks)), 2):
        same = blocks[a] == blocks[b]
        votes[a] += same
        votes[b] += same
    return votes


def _tied(blocks: list[Array]) -> Array:
    votes = _votes(blocks)
    most = votes.max(0)
    # an id with the most votes is counted once by each candidate that gave it
    found: Array = (votes == most).sum(0) > most
    return found


def _pairs(candidates: Sequence[Any]) -> list[tuple[int, int]]:
    return list(combinations(range(len(candidates)), 2))
