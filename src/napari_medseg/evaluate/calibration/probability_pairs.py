"""Probabilities or logits of one or several cases beside their reference, read piece by piece as flat numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.pairs import shared_boxes

Floats = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

_PIECE_NUMBERS = 1 << 22


class ProbabilityPairs:
    """Maps with their references, voxels that are left out already gone.

    Parameters
    ----------
    maps
        ``(classes, *spatial)``, or ``(*spatial)`` of the foreground; several cases as a list or tuple.
    references
        Integer labels ``(*spatial)``; as many as there are maps.
    masks
        ``None``, or spatial arrays as many as there are maps; voxels where they are 0 are left out.
    ignore_id
        Voxels whose reference is this id are left out.
    ids
        Which id of the reference each class is, in order; 0, 1, 2, ... when ``None``. For a foreground map the one
        id that is foreground; any id above 0 when ``None``.
    what
        Word for a map in messages.

    Raises
    ------
    InputError
        If numbers of cases or shapes differ, or labels are not integers.
    """

    def __init__(
        self,
        maps: Any,
        references: Any,
        masks: Any = None,
        ignore_id: int | None = None,
        ids: Sequence[int] | None = None,
        what: str = "probabilities",
    ) -> None:
        self.maps, self.references = _cases(maps), _cases(references)
        self.masks = [None] * len(self.maps) if masks is None else _cases(masks)
        if not len(self.maps) == len(self.references) == len(self.masks) or not self.maps:
            raise InputError(
                f"There are {len(self.maps)} maps, {len(self.references)} references and {len(self.masks)} masks; "
                f"accepted is one of each for every case."
            )
        self.ignore_id, self.what = ignore_id, what
        self.has_classes = len(self.maps[0].shape) == len(self.references[0].shape) + 1
        classes = int(self.maps[0].shape[0]) if self.has_classes else 1
        self._check(classes)
        if self.has_classes:
            self.ids = tuple(range(classes)) if ids is None else tuple(int(i) for i in ids)
            if len(self.ids) != classes or len(set(self.ids)) != classes or classes < 2:
                raise InputError(
                    f"{what.capitalize()} of {classes} classes cannot be those of the ids "
                    f"{', '.join(map(str, self.ids))}; accepted are two or more classes with one id each."
                )
        else:
            self.ids = () if ids is None else tuple(int(i) for i in ids)
            if len(self.ids) > 1:
                raise InputError(f"A map of the foreground is that of one id; given were {len(self.ids)}.")
        self.classes = classes
        self.left_out = 0

    def _check(self, classes: int) -> None:
        for one, reference, mask in zip(self.maps, self.references, self.masks, strict=True):
            space = tuple(int(n) for n in reference.shape)
            wanted = (classes, *space) if self.has_classes else space
            if tuple(one.shape) != wanted:
                raise InputError(
                    f"The {self.what} have the shape {tuple(one.shape)} and the reference {space}; accepted is "
                    f"{space}, or one such map for each class before it."
                )
            if mask is not None and tuple(mask.shape) != space:
                raise InputError(f"The mask has the shape {tuple(mask.shape)} and the reference {space}.")
            if np.dtype(reference.dtype).kind not in "uib":
                raise InputError(f"The reference holds {np.dtype(reference.dtype)} values; labels are whole numbers.")
            if np.dtype(one.dtype).kind not in "uibf":
                raise InputError(f"The {self.what} hold {np.dtype(one.dtype)} values; accepted are real numbers.")

    def count(self) -> int:
        """How many pieces `pieces` gives."""
        return sum(sum(1 for _ in self._boxes(reference)) for reference in self.references)

    def pieces(self) -> Iterator[tuple[Floats, Ids]]:
        """The numbers ``(classes, n)`` of every piece, and which class is true ``(n,)``.

        For a map of the foreground that is ``(1, n)``, and 1 where it is true. `left_out` counts anew in every pass.

        Raises
        ------
        InputError
            If a number is not finite or the reference holds an id that no class has, where it is not left out.
        """
        self.left_out = 0
        for one, reference, mask in zip(self.maps, self.references, self.masks, strict=True):
            for box in self._boxes(reference):
                labels = np.asarray(reference[box]).reshape(-1)
                numbers = np.asarray(one[(slice(None), *box)] if self.has_classes else one[box])
                numbers = numbers.reshape(self.classes, -1)
                kept = self._kept(labels, None if mask is None else np.asarray(mask[box]).reshape(-1))
                if kept is not None:
                    self.left_out += int(kept.size - kept.sum())
                    labels, numbers = labels[kept], numbers[:, kept]
                if not np.isfinite(numbers).all():
                    raise InputError(
                        f"The {self.what} hold values that are not finite numbers (NaN or infinite) where they are "
                        f"compared; leave them out with a mask."
                    )
                yield numbers, self._true_class(labels)

    def _boxes(self, reference: Any) -> Iterator[tuple[slice, ...]]:
        return shared_boxes(reference, reference, max(1, _PIECE_NUMBERS // self.classes))

    def _kept(self, labels: npt.NDArray[Any], mask: npt.NDArray[Any] | None) -> npt.NDArray[np.bool_] | None:
        kept: npt.NDArray[np.bool_] | None = None if mask is None else mask != 0
        if self.ignore_id is not None:
            named = labels != self.ignore_id
            kept = named if kept is None else kept & named
        return kept

    def _true_class(self, labels: npt.NDArray[Any]) -> Ids:
        if not self.has_classes:
            found: npt.NDArray[np.bool_] = labels == self.ids[0] if self.ids else labels > 0
            return found.astype(np.int64)
        order = np.argsort(self.ids)
        ordered = np.array(self.ids)[order]
        place = np.minimum(np.searchsorted(ordered, labels), self.classes - 1)
        if (strange := ordered[place] != labels).any():
            raise InputError(
                f"The reference holds the id {int(labels[strange][0])}, which no class has; the classes are "
                f"{', '.join(map(str, self.ids))}. Leave that id out, or say which id each class is."
            )
        return order[place].astype(np.int64)


def _cases(arrays: Any) -> list[Any]:
    return list(arrays) if isinstance(arrays, list | tuple) else [arrays]
