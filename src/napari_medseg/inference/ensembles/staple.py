"""STAPLE: the consensus of several segmentations, each trusted as far as the others bear it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError, MedsegError
from napari_medseg.inference.ensembles.votes import LabelArray, common_dtype, majority_vote
from napari_medseg.jobs import Progress

STAPLE_VOXELS = 1 << 27
"""Most voxels for STAPLE with one id: 512 x 512 x 512, for which it takes about 3 GB beside the labels."""

STAPLE_VOXELS_SEVERAL = 1 << 24
"""Most voxels for STAPLE with several ids: older releases of the filter count in single precision, up to 2**24."""

STAPLE_IDS = 250
"""Most ids for STAPLE beside background: the filter runs on 8-bit codes and needs some of them itself."""

_PIECE_VOXELS = 1 << 22
_UNDECIDED = 255
_SAME_PROBABILITY = 1e-9


@dataclass(frozen=True, eq=False)
class Consensus:
    """What STAPLE made of several segmentations, and how far it trusted each.

    Parameters
    ----------
    labels
        The consensus, with the shape and dtype of the inputs.
    ids
        The ids that were told apart, background 0 first.
    confusion
        ``(inputs, ids, ids)``: the estimated probability that an input gave the id of the row where the id of the
        column is true. Columns add up to 1, or are nan for ids that are nowhere true.
    iterations
        Steps of the expectation maximisation.
    converged
        Whether it came to rest before it was stopped.
    """

    labels: LabelArray
    ids: tuple[int, ...]
    confusion: npt.NDArray[np.float64]
    iterations: int
    converged: bool

    @property
    def sensitivity(self) -> npt.NDArray[np.float64]:
        """How probably each input is right where an id other than background is true, ``(inputs, ids - 1)``."""
        right: npt.NDArray[np.float64] = np.diagonal(self.confusion, axis1=1, axis2=2)[:, 1:]
        return right

    @property
    def specificity(self) -> npt.NDArray[np.float64]:
        """How probably each input is right where background is true, ``(inputs,)``."""
        right: npt.NDArray[np.float64] = self.confusion[:, 0, 0]
        return right


def staple(
    blocks: Sequence[LabelArray],
    ids: Sequence[int] | None = None,
    *,
    max_iterations: int = 1000,
    progress: Progress | None = None,
) -> Consensus:
    """The consensus of several segmentations, each trusted as far as the others bear it out (STAPLE).

    One id: Warfield et al. 2004, with the share of the voxels that have it over all inputs as prior. Several:
    Rohlfing et al. 2004, started from a vote. Voxels that STAPLE leaves undecided, because two ids are
    equally likely or no id explains what the inputs say, get the majority vote.

    Parameters
    ----------
    blocks
        One array of integer ids an input, all of one shape; 0 is background.
    ids
        The ids to tell apart from background and each other; all that occur when ``None``.
    max_iterations
        Where to stop if it does not come to rest.
    progress
        Asked to stop after each iteration.

    Raises
    ------
    InputError
        If there are more than `STAPLE_VOXELS` voxels, or `STAPLE_VOXELS_SEVERAL` for several ids, more than
        `STAPLE_IDS` ids, fewer than 2 inputs, or 3 for several ids, an id that was not listed, different shapes,
        or values that are not integers.
    CancelledError
        Within one iteration of `Progress.cancel`.
    """
    progress = progress or Progress()
    dtype = common_dtype(blocks)
    _refuse_above(blocks[0].size, STAPLE_VOXELS)
    if not blocks[0].size:
        raise InputError("There is nothing to combine; the segmentations have no voxels.")
    occurring = set().union(*(_ids_in(block) for block in blocks))
    wanted = sorted({int(i) for i in (occurring if ids is None else ids)} - {0})
    if wanted and wanted[0] < 0:
        raise InputError(f"Id {wanted[0]} is below 0; accepted are ids from 1 and background 0.")
    if strange := sorted(occurring - {0, *wanted}):
        raise InputError(
            f"Id {strange[0]} is not one of those to combine, {', '.join(map(str, wanted))}; list it or set it to 0."
        )
    require_possible(blocks[0].size, len(wanted), len(blocks))
    classes = np.array([0, *wanted])
    if len(occurring) == 1:
        return _unanimous(blocks, classes, dtype)
    progress.begin(1, "weighing the models")
    run = _one_id if len(wanted) == 1 else _several_ids
    index, confusion, iterations = run(blocks, classes, max_iterations, progress)
    undecided = index < 0
    labels = classes.astype(dtype)[index]
    if undecided.any():
        labels[undecided] = majority_vote([block[undecided] for block in blocks])
    progress.advance()
    return Consensus(labels, tuple(classes.tolist()), confusion, iterations, iterations < max_iterations)


def require_possible(voxels: int, ids: int, inputs: int) -> None:
    """Refuse what `staple` cannot do.

    Parameters
    ----------
    voxels, ids, inputs
        Voxels of one segmentation, ids beside background, and segmentations.

    Raises
    ------
    InputError
        If there are too many voxels or ids, or too few segmentations.
    """
    _refuse_above(voxels, STAPLE_VOXELS_SEVERAL if ids > 1 else STAPLE_VOXELS)
    if ids > STAPLE_IDS:
        raise InputError(f"STAPLE tells at most {STAPLE_IDS} ids apart and there are {ids}; take the vote.")
    # with two inputs the vote it starts from is undecided wherever they differ, and nothing is learnt
    fewest = 3 if ids > 1 else 2
    if inputs < fewest:
        raise InputError(
            f"STAPLE needs at least {fewest} segmentations for {ids} id{'s' * (ids != 1)} and got {inputs}; "
            f"add {'some' if fewest - inputs > 1 else 'one'}, or combine them another way."
        )


def _ids_in(block: LabelArray) -> set[int]:
    flat = block.reshape(-1)
    pieces = (np.unique(flat[first : first + _PIECE_VOXELS]) for first in range(0, flat.size, _PIECE_VOXELS))
    return set().union(*(piece.tolist() for piece in pieces))


_Run = tuple[npt.NDArray[np.int16], npt.NDArray[np.float64], int]


def _unanimous(blocks: Sequence[LabelArray], classes: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> Consensus:
    """One id everywhere: the filters would divide nothing by nothing."""
    confusion = np.full((len(blocks), len(classes), len(classes)), np.nan)
    column = int(np.searchsorted(classes, int(blocks[0].flat[0])))
    confusion[:, :, column] = np.arange(len(classes)) == column
    return Consensus(blocks[0].astype(dtype), tuple(classes.tolist()), confusion, 0, True)


def _one_id(
    blocks: Sequence[LabelArray], classes: npt.NDArray[np.int64], max_iterations: int, progress: Progress
) -> _Run:
    import SimpleITK as sitk

    staple_filter = sitk.STAPLEImageFilter()
    staple_filter.SetForegroundValue(1)
    staple_filter.SetMaximumIterations(max_iterations)
    probability, iterations = _execute(staple_filter, [(b == classes[1]).astype(np.uint8) for b in blocks], progress)
    if not np.isfinite(probability).all():
        raise MedsegError("STAPLE found no consensus: the segmentations contradict each other; take the vote instead.")
    index = (probability > 0.5).astype(np.int16)
    index[(probability > 0.5 - _SAME_PROBABILITY) & (probability < 0.5 + _SAME_PROBABILITY)] = -1
    p, q = np.array(staple_filter.GetSensitivity()), np.array(staple_filter.GetSpecificity())
    confusion = np.stack([np.stack([q, 1 - p], -1), np.stack([1 - q, p], -1)], 1)
    return index.reshape(blocks[0].shape), confusion, iterations


def _several_ids(
    blocks: Sequence[LabelArray], classes: npt.NDArray[np.int64], max_iterations: int, progress: Progress
) -> _Run:
    import SimpleITK as sitk

    number = len(classes)
    # Code 0 stays unused with prior 0: where the vote it starts from is tied, the filter counts a voxel of the next
    # code as truly 0 (ITK pull request 6579), and so the stray counts have no effect.
    codes = [(np.searchsorted(classes, block) + 1).astype(np.uint8) for block in blocks]
    frequency = sum(np.bincount(c.ravel(), minlength=number + 2) for c in codes)
    staple_filter = sitk.MultiLabelSTAPLEImageFilter()
    staple_filter.SetLabelForUndecidedPixels(_UNDECIDED)
    staple_filter.SetMaximumNumberOfIterations(max_iterations)
    # counted here, because older releases count over all inputs in single precision (ITK pull request 6759)
    staple_filter.SetPriorProbabilities((frequency / np.sum(frequency)).tolist())
    found, iterations = _execute(staple_filter, codes, progress)
    last_code = max(int(c.max()) for c in codes)
    confusion = np.zeros((len(blocks), number, number))
    for k in range(len(blocks)):
        matrix = np.array(staple_filter.GetConfusionMatrix(k)).reshape(last_code + 2, last_code + 1)
        confusion[k, :last_code, :last_code] = matrix[1 : last_code + 1, 1:]
    never_true = confusion.sum((0, 1)) == 0
    confusion[:, :, never_true] = np.nan
    index = np.where((found >= 1) & (found <= last_code), found.astype(np.int16) - 1, np.int16(-1))
    return index.reshape(blocks[0].shape), confusion, iterations


def _execute(staple_filter: Any, blocks: list[npt.NDArray[np.uint8]], progress: Progress) -> tuple[LabelArray, int]:
    """The filter's output in one line, and how often it iterated; where voxels lie does not matter to it."""
    import SimpleITK as sitk

    iterations = 0

    def count() -> None:
        nonlocal iterations
        iterations += 1
        if progress.cancelled:
            staple_filter.Abort()

    staple_filter.AddCommand(sitk.sitkIterationEvent, count)
    try:
        output = staple_filter.Execute([sitk.GetImageFromArray(b.reshape(1, -1)) for b in blocks])
    except RuntimeError:
        progress.check()
        raise
    finally:
        staple_filter.RemoveAllCommands()
    progress.check()
    return sitk.GetArrayFromImage(output), iterations


def _refuse_above(voxels: int, limit: int) -> None:
    if voxels > limit:
        raise InputError(
            f"STAPLE needs everything in memory and takes at most {limit:,} voxels here; these have {voxels:,}. "
            f"Cut out a region, or take the vote."
        )
