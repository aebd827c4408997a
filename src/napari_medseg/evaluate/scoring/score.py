"""Score a candidate against a reference: which labels, which metrics, in which unit, and what to know about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from napari_medseg.case import InputError, Segmentation
from napari_medseg.evaluate import surfaces
from napari_medseg.evaluate.grids import check_same_grid
from napari_medseg.evaluate.metric import Metric
from napari_medseg.evaluate.objects import lesions
from napari_medseg.evaluate.objects import scores as objects
from napari_medseg.evaluate.pairs import Confusion, PairCounts, count_pairs
from napari_medseg.evaluate.scoring import overlap
from napari_medseg.evaluate.scoring.case_scores import CaseScores, LengthUnit, ScoreRow, mean_row, reasons_for
from napari_medseg.evaluate.scoring.matching import (
    chosen_ids,
    matched_by_name,
    name_differences,
    restricted_pairs,
    shared_name,
)
from napari_medseg.jobs import Progress

# so many ids in a table of classes are rather objects
_MANY_IDS = 100


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored and how.

    Parameters
    ----------
    labels
        Ids that are scored, the reference's where labels are matched by name; all that are present or named when
        ``None``. Others count as background.
    by_name
        Whether labels of the two sides belong together by name rather than by id.
    boundary
        Whether distances between boundaries and the surface Dice are computed.
    tolerance
        Distance up to which boundaries count as equal for the surface Dice, in the unit of the spacing (pixels when
        unknown); the longest edge of a voxel when ``None``.
    lesions
        Whether connected components of each label are scored as lesions.
    minimum_volume, minimum_overlap
        Lesions smaller than this volume (mm³, µm², ..., voxels when the spacing is unknown) do not count; a lesion is
        found if more than this share of it is covered.
    objects
        Whether every id is one object of one class; what the label tables say when ``None``.
    object_threshold
        IoU that two objects must exceed to be the same.
    """

    labels: tuple[int, ...] | None = None
    by_name: bool = False
    boundary: bool = True
    tolerance: float | None = None
    lesions: bool = False
    minimum_volume: float = 0.0
    minimum_overlap: float = 0.0
    objects: bool | None = None
    object_threshold: float = 0.5


def score(
    candidate: Segmentation,
    reference: Segmentation,
    options: ScoreOptions | None = None,
    *,
    progress: Progress | None = None,
) -> CaseScores:
    """Score `candidate` against `reference`, exactly and without holding either in memory.

    Labels belong together by id unless the options ask for names; a name that differs for one id is told in the notes.
    The frames of a video are scored together: overlap counts the voxels of all frames, and distances, which do not run
    through time, are the mean over the frames in which both sides hold the label.

    Parameters
    ----------
    candidate, reference
        Labels on one grid.
    options
        What is scored.
    progress
        Told about every piece; can cancel.

    Returns
    -------
    scores
        A row for each label; one row for all objects where a label table says that ids are objects.

    Raises
    ------
    GridMismatch
        If the two lie on different grids: nothing is compared then. `on_grid` brings one onto the grid of the other.
    InputError
        If an id is negative, a wanted label is not there, or names do not tell which labels belong together.
    """
    options, progress = options or ScoreOptions(), progress or Progress()
    check_same_grid(candidate, reference)
    notes = _notes_on(candidate, reference)
    as_objects, told = _are_objects(candidate, reference, options)
    notes += told
    if as_objects and (options.labels is not None or options.by_name or options.lesions):
        raise InputError(
            "The ids are objects of one class, so labels are not chosen, matched by name or split into lesions; "
            "leave those options out, or say that the ids are classes."
        )
    if options.by_name:
        candidate = matched_by_name(candidate, reference, progress)
    else:
        notes += [] if as_objects else name_differences(candidate.table, reference.table)
    case = _Case(candidate, reference, count_pairs(candidate.data, reference.data, progress=progress), options)
    if as_objects:
        return _object_scores(case, notes)
    return _class_scores(case, notes, progress)


@dataclass(frozen=True, eq=False)
class _Case:
    """Both sides, what was counted, and what follows from their grid."""

    candidate: Segmentation
    reference: Segmentation
    pairs: PairCounts
    options: ScoreOptions

    @property
    def unit(self) -> LengthUnit:
        return self.reference.geometry.unit or "px"

    @property
    def steps(self) -> tuple[float, ...]:
        spacing = self.reference.geometry.spacing
        return (1.0,) * self.reference.geometry.ndim if spacing is None else spacing

    @property
    def is_video(self) -> bool:
        return self.reference.axes.startswith("t")

    def row(
        self, label: int | None, name: str, confusion: Confusion, more: Mapping[str, float] | None = None
    ) -> ScoreRow:
        """A row with the overlap of `confusion` and `more` values."""
        volume = self.reference.geometry.voxel_volume
        values = overlap.overlap_scores(confusion, 1.0 if volume is None else volume) | dict(more or {})
        sizes = (
            confusion.true_positive + confusion.false_positive,
            confusion.true_positive + confusion.false_negative,
        )
        return ScoreRow(label, name, *sizes, values, reasons_for(values, _ALL_METRICS, *sizes))

    def scores(self, **parts: Any) -> CaseScores:
        return CaseScores(
            candidate=self.candidate.name,
            reference=self.reference.name,
            axes=self.reference.axes,
            shape=tuple(int(n) for n in self.reference.data.shape),
            spacing=self.reference.geometry.spacing,
            unit=self.unit,
            **parts,
        )


_OVERLAP: dict[str, tuple[Metric, ...]] = {"Overlap": overlap.SHARE_METRICS, "Size": overlap.SIZE_METRICS}
_ALL_METRICS: tuple[Metric, ...] = (
    *overlap.METRICS,
    *surfaces.METRICS,
    *lesions.METRICS,
    *objects.METRICS,
    *overlap.ACCURACY_METRICS,
)


def _object_scores(case: _Case, notes: list[str]) -> CaseScores:
    threshold = case.options.object_threshold
    name = shared_name(case.candidate.table, case.reference.table)
    confusion = case.pairs.confusion_any()
    row = case.row(None, name, confusion, objects.object_scores(case.pairs, threshold=threshold))
    return case.scores(
        labels=(row,),
        mean=None,
        any_label=case.row(None, "any label", confusion),
        accuracy={},
        objects=True,
        settings={"matched_by": "overlap", "object_threshold": threshold},
        groups=_OVERLAP | {"Objects": objects.METRICS},
        notes=(*notes, "Every id is one object: overlap is that of all objects together against the background."),
    )


def _class_scores(case: _Case, notes: list[str], progress: Progress) -> CaseScores:
    options = case.options
    ids, names = chosen_ids(case.candidate.table, case.reference.table, case.pairs, options.labels)
    pairs = restricted_pairs(case.pairs, ids)
    if options.labels is not None:
        notes.append("Labels that were not chosen count as background.")
    if len(ids) > _MANY_IDS:
        notes.append(
            f"There are {len(ids)} labels; if each id is one object rather than a class, score them as objects."
        )
    groups, settings = dict(_OVERLAP), dict[str, Any](matched_by="name" if options.by_name else "id")
    rows = [case.row(label, names[label], pairs.confusion(label)) for label in ids]
    if options.boundary:
        tolerance = max(case.steps) if options.tolerance is None else options.tolerance
        rows = _with_boundaries(case, rows, tolerance, notes, progress)
        groups["Boundary"] = surfaces.METRICS
        settings["tolerance"] = tolerance
    if options.lesions:
        rows = [_with_lesions(case, row, progress) for row in rows]
        groups["Lesions"] = lesions.METRICS
        settings |= {"minimum_volume": options.minimum_volume, "minimum_overlap": options.minimum_overlap}
    absent = [row.name for row in rows if not row.candidate_voxels and not row.reference_voxels]
    if not ids or len(absent) == len(rows):
        notes.append("Neither side holds any label: both are background everywhere.")
    elif absent:
        notes.append(f"In neither, and not in the mean: {', '.join(absent)}.")
    return case.scores(
        labels=tuple(rows),
        mean=mean_row(rows, [metric for group in groups.values() for metric in group]),
        any_label=case.row(None, "any label", pairs.confusion_any()),
        accuracy=overlap.accuracy_scores(pairs),
        objects=False,
        settings=settings,
        groups=groups | {"Accuracy": overlap.ACCURACY_METRICS},
        notes=tuple(notes),
    )


# -- boundaries and lesions ---------------------------------------------------------------------


def _with_boundaries(
    case: _Case, rows: Sequence[ScoreRow], tolerance: float, notes: list[str], progress: Progress
) -> list[ScoreRow]:
    if not rows:
        return []
    ids = [row.id for row in rows if row.id is not None]
    arrays = case.candidate.data, case.reference.data
    if case.is_video:
        notes.append(
            "Distances are measured in each frame and averaged over the frames that hold a label on both sides."
        )
        return _with_frame_means(case, rows, ids, tolerance, progress)
    found = surfaces.boundary_scores(*arrays, ids, case.steps, tolerance=tolerance, progress=progress)
    return [_extended(row, found[label]) for row, label in zip(rows, ids, strict=True)]


def _with_frame_means(
    case: _Case, rows: Sequence[ScoreRow], ids: Sequence[int], tolerance: float, progress: Progress
) -> list[ScoreRow]:
    frames = int(case.reference.data.shape[0])
    collected: dict[int, list[dict[str, float]]] = {label: [] for label in ids}
    progress.begin(frames, "boundaries of frames")
    for frame in range(frames):
        arrays = case.candidate.data[frame], case.reference.data[frame]
        for label, found in surfaces.boundary_scores(*arrays, ids, case.steps, tolerance=tolerance).items():
            collected[label].append(found)
        progress.advance()
    extended = []
    for row, label in zip(rows, ids, strict=True):
        means, reasons = {}, {}
        for metric in surfaces.METRICS:
            values = [scores[metric.key] for scores in collected[label]]
            measured = [v for v in values if math.isfinite(v)]
            one_sided = sum(math.isinf(v) for v in values)
            # a label that no frame holds on both sides was missed, as one of a still image would be
            without = math.inf if one_sided else math.nan
            means[metric.key] = float(np.mean(measured)) if measured else without
            if one_sided and measured:
                word = "frame holds" if one_sided == 1 else "frames hold"
                reasons[metric.key] = (
                    f"mean of {len(measured)} frames; {one_sided} {word} the label on one side only and "
                    f"{'is' if one_sided == 1 else 'are'} not in it"
                )
        row = _extended(row, means)
        extended.append(replace(row, reasons={**row.reasons, **reasons}))
    return extended


def _with_lesions(case: _Case, row: ScoreRow, progress: Progress) -> ScoreRow:
    options, spacing = case.options, case.reference.geometry.spacing
    if case.is_video and case.reference.geometry.ndim == 3:
        raise InputError("Lesions of volumes that change in time are not scored; leave the lesions out.")
    if case.is_video and spacing is not None:
        # components of each frame: the time axis takes the place of slices, and adds no length to an area
        spacing = (1.0, *spacing)
    found = lesions.lesion_scores(
        case.candidate.data,
        case.reference.data,
        spacing,
        minimum_volume=options.minimum_volume,
        minimum_overlap=options.minimum_overlap,
        label=row.id,
        per_slice=case.is_video,
        progress=progress,
    )
    return _extended(row, found)


def _extended(row: ScoreRow, values: Mapping[str, float]) -> ScoreRow:
    reasons = reasons_for(values, _ALL_METRICS, row.candidate_voxels, row.reference_voxels)
    return replace(row, values={**row.values, **values}, reasons={**row.reasons, **reasons})


# -- what to know -------------------------------------------------------------------------------


def _notes_on(candidate: Segmentation, reference: Segmentation) -> list[str]:
    notes = []
    if reference.geometry.unit is None:
        notes.append("The spacing is unknown: lengths are in pixels, and areas and volumes count them.")
    for side, segmentation in (("candidate", candidate), ("reference", reference)):
        if not segmentation.complete:
            notes.append(f"The run that makes the {side} has not finished: what is missing counts as background.")
    return notes


def _are_objects(candidate: Segmentation, reference: Segmentation, options: ScoreOptions) -> tuple[bool, list[str]]:
    """Whether ids are objects, and a note where only one of the two says so."""
    said = candidate.table.instances, reference.table.instances
    if options.objects is not None:
        return options.objects, []
    if said == (True, False):
        return True, [
            "Only the candidate says that its ids are objects; those of the reference are taken for objects too."
        ]
    if said == (False, True):
        return True, [
            "Only the reference says that its ids are objects; those of the candidate are taken for objects too."
        ]
    return all(said), []
