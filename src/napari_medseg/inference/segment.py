"""Segment an image with one or more models into an OME-Zarr store of labels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from napari_medseg.bundles.model import Model
from napari_medseg.case import InputError, MedicalImage, Segmentation
from napari_medseg.inference.ensembles.consensus import (
    NAME,
    check_ensemble,
    drop_maps,
    forget_consensus,
    tasks_for,
    write_consensus,
)
from napari_medseg.inference.options import SegmentOptions
from napari_medseg.inference.report import SegmentReport
from napari_medseg.inference.run import Run, Workers
from napari_medseg.inference.task import Task
from napari_medseg.inference.unfinished import UnfinishedStore
from napari_medseg.io.ome_zarr import Ngff, copy_image, read_segmentation
from napari_medseg.jobs import Progress


@dataclass(frozen=True)
class SegmentResult:
    """The labels, where they are stored, and how the run went."""

    segmentation: Segmentation
    path: Path
    report: SegmentReport


def segment(
    image: MedicalImage,
    model: Model,
    out: Path,
    options: SegmentOptions | None = None,
    *,
    progress: Progress | None = None,
    name: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    ngff: Ngff = "0.5",
    with_image: bool = False,
    workers: Workers | None = None,
) -> SegmentResult:
    """Run `model` over `image` and store the labels on the image's own grid.

    Parameters
    ----------
    image
        Video is segmented frame by frame; a volume plane by plane by a two-dimensional model.
    out
        The OME-Zarr store to write; until it is complete it lies beside that name (``labels.partial.zarr``).
    name
        Name of the labels in the store; the model's id when ``None``.
    overwrite
        Whether a store of that name may be replaced.
    resume
        Whether to go on with an unfinished store of that name, if there is one.
    ngff
        OME-Zarr version, ``"0.5"`` or ``"0.4"``.
    with_image
        Whether the image is copied into the store.
    workers
        Other processes that compute; this one when ``None``.

    Raises
    ------
    InputError
        If the model cannot read this image, or the unfinished store was made with something else.
    CancelledError
        Within one batch of tiles after `Progress.cancel`; what was finished stays and can be resumed.
    """
    return segment_all(
        image,
        [model],
        out,
        options,
        progress=progress,
        names=[name or model.card.id],
        overwrite=overwrite,
        resume=resume,
        ngff=ngff,
        with_image=with_image,
        workers=workers,
    )[0]


def segment_all(
    image: MedicalImage,
    models: Sequence[Model],
    out: Path,
    options: SegmentOptions | None = None,
    *,
    progress: Progress | None = None,
    names: Sequence[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    ngff: Ngff = "0.5",
    with_image: bool = False,
    workers: Workers | None = None,
    ensemble: str | None = None,
) -> list[SegmentResult]:
    """Run several models one after the other into one store, each under its own name.

    The store gets its name only when all are done. Parameters and errors are those of `segment`, and:

    Parameters
    ----------
    ensemble
        ``"mean"`` of the probabilities, ``"vote"`` or ``"staple"``: also store what all models together say, under
        the name ``ensemble``.
    """
    names = list(names) if names is not None else [m.card.id for m in models]
    if len(set(names)) < len(names):
        raise InputError(f"Two of the models share the id {max(names, key=names.count)}; name each model once.")
    progress = progress or Progress()
    # everything that can be refused is refused before anything is written
    asked = tasks = [Task(image, model, options or SegmentOptions()) for model in models]
    if ensemble is not None:
        check_ensemble(asked, ensemble, names)
        tasks = tasks_for(asked, ensemble)
    reports = []
    with ThreadPoolExecutor(1) as hashing, UnfinishedStore(out, ngff, overwrite=overwrite, resume=resume) as store:
        forget_consensus(store, names)
        sha256 = hashing.submit(image.source.sha256)
        for task, name in zip(tasks, names, strict=True):
            reports.append(Run(store, task, name, ngff, progress, workers).run(sha256))
        if ensemble is not None:
            hashed = sha256.result()
            reports.append(write_consensus(store, asked, names, ensemble, ngff, image_sha256=hashed, progress=progress))
        if with_image:
            progress.begin(1, "copying the image")
            # a file's name may be a patient's
            copy_image(replace(image, name=image.modality.value), store.root, ngff)
        if ensemble is not None:
            drop_maps(store, asked, names)
            names.append(NAME)
        store.publish()
    return [
        SegmentResult(read_segmentation(out / "labels" / name), out, report)
        for name, report in zip(names, reports, strict=True)
    ]
