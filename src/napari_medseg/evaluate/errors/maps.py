"""Maps of where labels differ, computed for the part that is looked at and for nothing else.

Every map is a `LazyArray`: it has a shape and a dtype, is sliced like numpy's arrays, and can be the data of a napari
layer, alone or in a list of levels (`map_levels`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError, Segmentation
from napari_medseg.evaluate.candidates import checked_names
from napari_medseg.evaluate.errors.cache import RecentChunks, recent, stored_chunks
from napari_medseg.evaluate.errors.palette import Category
from napari_medseg.evaluate.pairs import check_label_arrays
from napari_medseg.io.lazy import AnyArray, LazyArray


class LabelsMap(LazyArray):
    """A map computed from label images of one shape.

    Labels in memory are read anew each time, so that an edit shows when the layer is refreshed. Of stored labels the
    chunks read last are kept: after an edit call `forget`.

    Parameters
    ----------
    labels
        Integer arrays (numpy, dask, zarr) of one shape.
    dtype
        Type of the result.

    Raises
    ------
    InputError
        If shapes differ, or an array does not hold integers.
    """

    def __init__(self, labels: Sequence[Any], dtype: npt.DTypeLike) -> None:
        for other in labels:
            check_label_arrays(labels[0], other)
        super().__init__(labels[0].shape, dtype, stored_chunks(labels[0]))
        self.labels = tuple(recent(array) for array in labels)

    def forget(self, region: Sequence[slice] | None = None) -> None:
        """Read stored labels of `region` (all when ``None``) anew the next time: they were edited."""
        for array in self.labels:
            if isinstance(array, RecentChunks):
                array.forget(region)


class VoxelwiseMap(LabelsMap):
    """A map whose values depend on the labels of their own voxel alone."""

    @abstractmethod
    def _compare(self, blocks: list[AnyArray]) -> AnyArray:
        """The map of one region, given each label image there."""

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        return self._compare([np.asarray(array[region]) for array in self.labels])


class ErrorCategories(VoxelwiseMap):
    """Where a candidate agrees with a reference and where it does not: a `Category` for every voxel, uint8.

    Two candidates are compared in the same way, the first in the place of the candidate; `difference_table` names
    the values then.

    Parameters
    ----------
    candidate, reference
        Integer arrays of one shape.
    label
        Compare this class with everything else; all classes when ``None``.
    instances
        Whether ids are objects of one class: those of the two sides have nothing to do with one another, and only
        foreground is compared with background.
    """

    def __init__(self, candidate: Any, reference: Any, *, label: int | None = None, instances: bool = False) -> None:
        super().__init__((candidate, reference), np.uint8)
        self.label, self.instances = label, instances

    def _compare(self, blocks: list[AnyArray]) -> AnyArray:
        return categories(blocks[0], blocks[1], label=self.label, instances=self.instances)


def categories(
    candidate: AnyArray, reference: AnyArray, *, label: int | None = None, instances: bool = False
) -> npt.NDArray[np.uint8]:
    """The `Category` of every voxel of two arrays in memory; see `ErrorCategories`."""
    mine = candidate > 0 if label is None else candidate == label
    theirs = reference > 0 if label is None else reference == label
    # 0 neither, 2 candidate only, 3 reference only, 5 both
    found = mine.view(np.uint8) * np.uint8(2)
    found += theirs.view(np.uint8) * np.uint8(3)
    both = found == 5
    if label is None and not instances:
        found[both & (candidate != reference)] = Category.WRONG_CLASS
        both &= candidate == reference
    found[both] = Category.AGREEMENT
    return found


class VotesMap(VoxelwiseMap):
    """A map of how several candidates vote, float32; background is a label like any other.

    Parameters
    ----------
    candidates
        Two or more integer arrays of one shape.

    Raises
    ------
    InputError
        If there are fewer than two, shapes differ, or one does not hold integers.
    """

    def __init__(self, candidates: Sequence[Any]) -> None:
        checked_names(candidates)
        super().__init__(candidates, np.float32)


class Disagreement(VotesMap):
    """Share of candidates that do not say what most of them say: 0 where all agree, below 1."""

    def _compare(self, blocks: list[AnyArray]) -> AnyArray:
        votes = _equal_votes(blocks)
        most = votes[0]
        for other in votes[1:]:
            np.maximum(most, other, out=most)
        return np.float32(1) - most.astype(np.float32) / np.float32(len(blocks))


class VoteEntropy(VotesMap):
    """Entropy of the labels that several candidates give a voxel, over its largest value.

    With the share p of candidates for each label it is ``-sum(p ln p) / ln n``: 0 where all n agree, 1 where each
    says something else (vote entropy of Argamon-Engelson and Dagan, JAIR 11, 1999).
    """

    def _compare(self, blocks: list[AnyArray]) -> AnyArray:
        n = len(blocks)
        # every candidate brings 1/n of its label's -p ln p, so that labels need not be told apart
        each = np.array([0.0, *(-log(m / n) / (n * log(n)) for m in range(1, n + 1))])
        total = np.zeros(blocks[0].shape, np.float64)
        for votes in _equal_votes(blocks):
            total += each[votes]
        return total.astype(np.float32)


def _equal_votes(blocks: list[AnyArray]) -> list[npt.NDArray[np.uint16]]:
    """For each candidate and voxel the number of candidates that say the same, itself included."""
    votes = [np.ones(blocks[0].shape, np.uint16) for _ in blocks]
    for one in range(len(blocks)):
        for other in range(one + 1, len(blocks)):
            same = blocks[one] == blocks[other]
            votes[one] += same
            votes[other] += same
    return votes


MakeMap = Callable[[tuple[Any, ...], tuple[float, ...] | None], LabelsMap]


def map_levels(segmentations: Sequence[Segmentation], make: MakeMap) -> list[LabelsMap]:
    """A map for the finest level and for every coarser grid that all segmentations are stored on.

    A coarser level compares the labels of that level, of which only every n-th voxel was kept: it is an
    approximation for looking at from afar, and thin errors may be missing in it. Numbers come from the finest.

    Parameters
    ----------
    segmentations
        Labels on one grid.
    make
        Makes the map of a level from the labels of all segmentations and the spacing of that level (``None`` when
        unknown), for instance ``lambda labels, spacing: ErrorCategories(*labels)``.

    Returns
    -------
    levels
        From fine to coarse; one if a segmentation has no coarser levels.

    Raises
    ------
    InputError
        If the segmentations do not lie on one grid.
    """
    first = segmentations[0]
    for other in segmentations[1:]:
        if first.axes != other.axes or not first.geometry.is_close(other.geometry):
            raise InputError(
                f"{first.name} and {other.name} lie on different grids; bring them onto one grid before comparing them."
            )
    maps = [make(tuple(s.data for s in segmentations), first.geometry.spacing)]
    for level in first.coarser:
        shape = tuple(int(n) for n in level.shape)
        others = [next((c for c in s.coarser if tuple(c.shape) == shape), None) for s in segmentations[1:]]
        if any(other is None for other in others):
            continue
        maps.append(make((level, *others), _level_spacing(first, shape)))
    return maps


def _level_spacing(segmentation: Segmentation, shape: tuple[int, ...]) -> tuple[float, ...] | None:
    geometry = segmentation.geometry
    if geometry.spacing is None:
        return None
    sizes = zip(geometry.spacing, geometry.shape, shape[-geometry.ndim :], strict=True)
    return tuple(step * fine / coarse for step, fine, coarse in sizes)
