"""What the Compare dock asks for, as plain functions that a job runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Labels, Layer

from napari_medseg.bundles import BundleEntry
from napari_medseg.case import InputError, MedicalImage, Segmentation
from napari_medseg.desk.child import Worker
from napari_medseg.desk.layers import METADATA_KEY, LayerData, labels_layer, segmentation
from napari_medseg.desk.regions import Part
from napari_medseg.desk.segmenting import Made, Unfinished, segment_with
from napari_medseg.evaluate.compare import Candidate, Comparison, compare
from napari_medseg.evaluate.grids import GridMismatch, check_same_grid, on_grid
from napari_medseg.jobs import Progress


@dataclass(frozen=True, eq=False)
class Order:
    """What to compare.

    Parameters
    ----------
    image
        What the labels lie on; without one the reference's grid counts, else that of the first candidate.
    reference
        ``None``: the candidates are compared with each other.
    candidates
        Labels that are there already.
    models
        Models that are run on the image first, each of which gives one more candidate.
    others
        All layers, among which the image under hand-drawn labels may be.
    """

    image: MedicalImage | None
    reference: Labels | None
    candidates: tuple[Labels, ...]
    models: tuple[BundleEntry, ...] = ()
    others: tuple[Layer, ...] = ()


@dataclass(frozen=True, eq=False)
class Stray:
    """Labels that lie on another grid, in what, and why they cannot be brought onto the right one (if so)."""

    layer: Labels
    differences: tuple[str, ...]
    obstacle: str = ""
    lossless: bool = False


@dataclass(frozen=True, eq=False)
class OffGrid:
    """Nothing was compared, because these labels lie on other grids than `grid`, that of `onto`."""

    strays: tuple[Stray, ...]
    onto: str
    grid: Segmentation

    def __str__(self) -> str:
        """One sentence: which, what differs, and what can be done."""
        said = "; ".join(f"{s.layer.name} ({', '.join(s.differences)})" for s in self.strays)
        several = len(self.strays) > 1
        start = f"{said} {'lie' if several else 'lies'} on another grid than {self.onto}, so nothing was compared"
        stuck = [s for s in self.strays if s.obstacle]
        if stuck:
            words = "; ".join(f"{s.layer.name}: {s.obstacle}" for s in stuck)
            return f"{start}, and resampling cannot mend that ({words.replace(' (--spacing)', '')}). Leave it out."
        loss = " without loss" if all(s.lossless for s in self.strays) else ""
        return f"{start}. Bring {'them' if several else 'it'} onto that grid{loss} with the button below."


@dataclass(frozen=True, eq=False)
class Compared:
    """A comparison and what it was made of.

    Parameters
    ----------
    comparison
        The scores.
    reference, reference_layer
        The labels that counted as right, and their layer.
    """

    comparison: Comparison
    reference: Segmentation | None
    reference_layer: Labels | None


def score_layers(
    order: Order, worker: Worker, unfinished: Unfinished, kept: list[Made], *, progress: Progress
) -> Compared | OffGrid:
    """Run the models, then score all candidates; nothing is run or compared where grids differ.

    Parameters
    ----------
    worker
        The child process that models run in.
    unfinished
        Stores of runs that were cancelled.
    kept
        The labels of models that have run are put here at once, so that they stay when the scoring is cancelled.

    Raises
    ------
    InputError
        If there is nothing to compare.
    """
    progress.begin(1, "reading the labels")
    reference = None if order.reference is None else segmentation(order.reference, order.others)
    labels = [segmentation(layer, order.others) for layer in order.candidates]
    progress.check()
    if len(labels) + len(order.models) < 2 and (reference is None or not (labels or order.models)):
        raise InputError("There is nothing to compare: choose a reference, or tick two candidates.")
    found = _strays(order, reference, labels)
    if found is not None:
        return found
    candidates = [Candidate(layer.name, s) for layer, s in zip(order.candidates, labels, strict=True)]
    if order.models:
        if order.image is None:
            raise InputError("Models need an image to run on. Open one, or leave the models out.")
        made = segment_with(worker, order.image, order.models, Part(), "auto", unfinished, progress=progress)
        taken = {layer.name for layer in order.others}
        for one in (_renamed(m, taken) for m in made):
            kept.append(one)
            candidates.append(_candidate(one))
    comparison = compare(candidates, reference, progress=progress)
    return Compared(comparison, reference, order.reference)


def _strays(order: Order, reference: Segmentation | None, labels: Sequence[Segmentation]) -> OffGrid | None:
    named = [*([(order.reference, reference)] if reference else []), *zip(order.candidates, labels, strict=True)]
    if order.image is not None:
        onto, grid = order.image.name, _grid_of(order.image)
    elif reference is not None:
        onto, grid = reference.name, reference
    elif labels:
        onto, grid = labels[0].name, labels[0]
    else:
        return None
    strays = []
    for layer, own in named:
        assert layer is not None and own is not None
        try:
            check_same_grid(own, grid)
        except GridMismatch as error:
            strays.append(Stray(layer, error.differences, error.obstacle, error.lossless))
    return OffGrid(tuple(strays), onto, grid) if strays else None


def _grid_of(image: MedicalImage) -> Segmentation:
    """Labels on the image's grid that hold nothing and take no memory."""
    axes = image.axes.removesuffix("c")
    shape = tuple(int(n) for n in image.levels[0].shape[: len(axes)])
    nothing = np.broadcast_to(np.uint8(0), shape)
    return Segmentation(nothing, image.geometry, name=image.name, axes=axes, seconds_per_frame=image.seconds_per_frame)


def _renamed(made: Made, taken: set[str]) -> Made:
    """The labels under a name that no layer has yet, which napari then keeps."""
    data, options, kind = made.layer
    name, number = str(options["name"]), 1
    while name in taken:
        name, number = f"{options['name']} [{number}]", number + 1
    taken.add(name)
    return replace(made, layer=(data, {**options, "name": name}, kind))


def _candidate(made: Made) -> Candidate:
    options: dict[str, Any] = made.layer[1]
    return Candidate(options["name"], options["metadata"][METADATA_KEY].segmentation)


def bring_onto_grid(
    found: OffGrid, image: MedicalImage | None, others: Sequence[Layer], *, progress: Progress
) -> list[tuple[Labels, LayerData]]:
    """Each stray with the data of a new layer that holds the same labels on the right grid.

    Raises
    ------
    InputError
        If one cannot be brought there.
    """
    moved = []
    for stray in found.strays:
        progress.begin(1, f"resampling {stray.layer.name}")
        own = on_grid(segmentation(stray.layer, others), found.grid.geometry)
        moved.append((stray.layer, labels_layer(replace(own, name=f"{stray.layer.name} on {found.onto}"), image)))
        progress.check()
    return moved


def report_on(compared: Compared, image: MedicalImage, folder: Path, *, progress: Progress) -> Path:
    """Write the report of a comparison into `folder` and return the page.

    Raises
    ------
    InputError
        If a report is there already, or the labels do not lie on the image.
    """
    from napari_medseg.evaluate.report import make_report, write_report

    report = make_report(compared.comparison, image, compared.reference, progress=progress)
    progress.begin(1, "writing the report")
    return write_report(report, folder)
