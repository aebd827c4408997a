"""What the Review dock asks for, as plain functions that run in a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari.layers import Image, Labels, Layer

from napari_medseg.case import InputError
from napari_medseg.desk.exporting import Order as ExportOrder
from napari_medseg.desk.exporting import export
from napari_medseg.desk.reviewing.pair import Box, Pair, kept_at, read_pair
from napari_medseg.evaluate.review import RegionRules, ReviewQueue, open_review, save_review, update_review
from napari_medseg.jobs import Progress


@dataclass(frozen=True, eq=False)
class Question:
    """What to look for errors in.

    Parameters
    ----------
    candidate, reference
        The layers.
    layers
        All layers of the viewer: images under labels that were drawn by hand tell their grid.
    uncertainty
        An image layer on the same grid, or ``None``.
    objects
        Whether every id is one object, so that whole objects are reviewed.
    anew
        Whether a review that is kept with the labels is left aside and replaced.
    """

    candidate: Labels
    reference: Labels
    layers: Sequence[Layer] = ()
    uncertainty: Image | None = None
    objects: bool = False
    anew: bool = False

    def is_same_review(self, other: Question | None) -> bool:
        """Whether `other` is about the same layers and finds regions by the same rules."""
        return other is not None and (self.candidate, self.reference, self.objects) == (
            other.candidate,
            other.reference,
            other.objects,
        )


@dataclass(frozen=True, eq=False)
class Found:
    """A review that has begun or goes on, and where it is kept (``None``: nowhere yet)."""

    question: Question
    pair: Pair
    queue: ReviewQueue
    path: Path | None
    reopened: bool = False


def find(question: Question, known: ReviewQueue | None = None, *, progress: Progress) -> Found:
    """Find the errors of a candidate, or go on with the review that is kept with it.

    Parameters
    ----------
    known
        A review of the same layers that is open: its decisions are carried over.

    Raises
    ------
    InputError
        If the layers cannot be compared, or the review that is kept was made for other labels.
    """
    progress.begin(1, "reading the labels")
    pair = read_pair(question.candidate, question.reference, question.layers, question.uncertainty)
    path = kept_at(question.candidate)
    if known is not None:
        everything = tuple(slice(0, n) for n in pair.shape)
        queue = update_review(
            known, pair.candidate.data, pair.reference.data, everything, uncertainty=pair.uncertainty, progress=progress
        )
        return Found(question, pair, queue, path)
    if path is not None and not question.anew:
        stored = open_review(
            path, pair.candidate.data, pair.reference.data, uncertainty=pair.uncertainty, progress=progress
        )
        if stored is not None and stored.rules.instances == question.objects:
            return Found(question, pair, stored, path, reopened=True)
        if stored is not None:
            kind = "objects" if stored.rules.instances else "connected errors"
            raise InputError(
                f"{question.candidate.name}: the review that is kept with it is about {kind}; "
                f"{'tick' if stored.rules.instances else 'untick'} “Every id is one object”, or start a new review."
            )
    geometry = pair.candidate.geometry
    rules = RegionRules.of(
        len(pair.shape), geometry.spacing, unit=geometry.unit, axes=pair.candidate.axes, instances=question.objects
    )
    queue = ReviewQueue.start(
        pair.candidate.data, pair.reference.data, rules, uncertainty=pair.uncertainty, progress=progress
    )
    return Found(question, pair, queue, path)


def bring_up_to_date(found: Found, queue: ReviewQueue, boxes: Sequence[Box], *, progress: Progress) -> ReviewQueue:
    """The queue after edits of the candidate inside `boxes`, given in indices of the layer."""
    pair = found.pair
    for box in boxes:
        own = tuple(slice(a, b) for a, b in pair.own_box(box))
        queue = update_review(
            queue, pair.candidate.data, pair.reference.data, own, uncertainty=pair.uncertainty, progress=progress
        )
    return queue


def keep(queue: ReviewQueue, path: Path, overwrite: bool, *, progress: Progress) -> Path:
    """Write the review to where it is kept."""
    progress.check()
    return save_review(queue, path, overwrite=overwrite)


@dataclass(frozen=True, eq=False)
class Written:
    """A review that was written with its labels."""

    found: Found
    queue: ReviewQueue
    path: Path


def keep_with_labels(found: Found, queue: ReviewQueue, path: Path, *, progress: Progress) -> Written:
    """Write the candidate's labels to a new OME-Zarr store at `path`, and the review with them.

    Raises
    ------
    InputError
        If something is there already, or the store would not hold the grid that the review is about.
    """
    if path.suffix != ".zarr":
        raise InputError(f"{path.name}: labels are kept together with their review in a store; end its name in .zarr.")
    if path.exists():
        raise InputError(f"{path.name} already exists; choose another name.")
    layer = found.question.candidate
    export(layer, found.question.layers, ExportOrder(path), progress=progress)
    save_review(queue, path)
    return Written(found, queue, path)
