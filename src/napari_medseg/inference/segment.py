"""Segment an image with one or more models into an OME-Zarr store of labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from napari_medseg import __version__
from napari_medseg.bundles.model import Model
from napari_medseg.case import InputError, MedicalImage, MedsegError, Provenance, Segmentation, Step
from napari_medseg.inference.checks import doubts
from napari_medseg.inference.compute import Compute, prepare, resolve_device
from napari_medseg.inference.consensus import (
    NAME,
    check_ensemble,
    drop_maps,
    forget_consensus,
    tasks_for,
    write_consensus,
)
from napari_medseg.inference.layout import Layout
from napari_medseg.inference.ledger import Ledger, UnitRecord
from napari_medseg.inference.memory import layout_for
from napari_medseg.inference.options import SegmentOptions
from napari_medseg.inference.report import LabelAmount, SegmentReport, peak_device_memory, peak_rss
from napari_medseg.inference.settle import Settling
from napari_medseg.inference.task import Task
from napari_medseg.inference.unfinished import UnfinishedStore
from napari_medseg.inference.units import Unit
from napari_medseg.inference.work import Arrays, Failed, Finished, Work, work_for
from napari_medseg.io.ome_zarr import LabelFrame, Ngff, copy_image, read_segmentation
from napari_medseg.jobs import Progress


@dataclass(frozen=True)
class SegmentResult:
    """The labels, where they are stored, and how the run went."""

    segmentation: Segmentation
    path: Path
    report: SegmentReport


class Workers(Protocol):
    """Other processes that compute units, see `napari_medseg.inference.cluster`."""

    def compute(
        self,
        work: Work,
        units: Sequence[int],
        compute: Compute,
        store: Path,
        frame: LabelFrame,
        *,
        progress: Progress,
        finished: Finished,
        failed: Failed,
        said: Callable[[str], None] | None = None,
    ) -> None:
        """Have the units computed and stored; `finished` and `failed` are told of each, `said` of lack of memory."""


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
            reports.append(_Run(store, task, name, ngff, progress, workers).run(sha256))
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


class _Run:
    """One task in an unfinished store."""

    def __init__(
        self,
        store: UnfinishedStore,
        task: Task,
        name: str,
        ngff: Ngff,
        progress: Progress,
        workers: Workers | None,
    ) -> None:
        self.store, self.task, self.name, self.ngff, self.progress = store, task, name, ngff, progress
        self.workers = workers
        self.started = time.perf_counter()
        self.said: list[str] = []
        path = store.ledger_path(name)
        self.before: Ledger | None = Ledger.read(path) if store.resumed and path.is_file() else None
        recorded = self.before.header if self.before is not None else None
        device = resolve_device(task, None if recorded is None else recorded["compute"])
        self.compute = prepare(
            task,
            device,
            progress=progress,
            said=self._climbed,
            recorded=None if recorded is None else recorded["compute"],
        )
        self.layout = Layout.from_dict(recorded["layout"]) if recorded is not None else layout_for(task, self.compute)
        if not self.layout.fits:
            self.said.append(
                "The memory allowed is too little for this model and image; as little as possible is used."
            )
        self.work = work_for(task, self.layout)
        self.ledger: Ledger

    def run(self, sha256: Future[str | None]) -> SegmentReport:
        """Compute what is pending, settle it, and say what the labels are."""
        frame = self._frame()
        header = self._header()
        if self.before is not None:
            self.before.require_same(header)
            self.ledger = self.before
        else:
            self.store.forget(self.name)
        arrays = Arrays(self.store.root, self.store.folder, self.task, frame, resume=self.before is not None)
        if self.before is None:
            # readable by any program from the start
            arrays.labels.write_records(self.task.model.card.labels, Provenance(), {}, complete=False)
            self.ledger = Ledger.start(self.store.ledger_path(self.name), header)
        for words in self.said:
            self.ledger.climb(words)
        settler = self.work.settler(arrays)
        settling = Settling(settler, self.work.partition, self.ledger)
        self._check_what_is_there(settler)
        settling.advance()
        self._compute(arrays, frame, settling)
        if not settling.done:
            raise MedsegError("Some parts were computed and not settled; resume the run.")
        self.progress.begin(1, "finishing")
        tiles = self.ledger.require_complete(self.work.partition.tiles)
        seconds = time.perf_counter() - self.started
        history = Provenance(sha256.result()).with_step(Step.now("segment", **self._record(seconds, tiles)))
        arrays.labels.write_records(self.task.model.card.labels, history, settler.voxels, extra={"tiles": tiles})
        for group in arrays.maps:
            group.write_records()
        self._compare()
        self.progress.advance()
        return self._report(settler.voxels, seconds, tiles)

    def _frame(self) -> LabelFrame:
        task, image = self.task, self.task.image
        seen = self.layout.chunks
        lead = (1,) * (len(image.spatial_axes) - len(seen) + task.has_time)
        model = task.model
        return LabelFrame(
            image.geometry,
            name=self.name,
            axes=("t" if task.has_time else "") + image.spatial_axes,
            seconds_per_frame=image.seconds_per_frame,
            dtype=np.uint32 if model.instances else np.uint8 if model.out_channels < 256 else np.uint16,
            frames=image.frame_count if task.has_time else None,
            ngff=self.ngff,
            chunks=(*lead, *seen),
        )

    def _header(self) -> dict[str, Any]:
        return {
            **self.task.header(),
            "compute": self.compute.header(),
            "layout": self.layout.to_dict(),
            "ngff": self.ngff,
            "software": {"napari-medseg": __version__, "torch": torch.__version__},
        }

    def _climbed(self, words: str) -> None:
        if hasattr(self, "ledger"):
            self.ledger.climb(words)
        else:
            self.said.append(words)

    def _check_what_is_there(self, settler: Any) -> None:
        """Compute again what a resumed run finds changed or gone."""
        if not self.ledger.records:
            return
        self.store.worth_keeping = True
        self.progress.begin(len(self.ledger.records), "checking what is there")
        for number, record in list(self.ledger.records.items()):
            if not settler.is_there(self.work.partition.units[number], record):
                self.ledger.forget(number)
            self.progress.advance()

    def _compute(self, arrays: Arrays, frame: LabelFrame, settling: Settling) -> None:
        units = self.work.partition.units
        pending = [u.number for u in units if u.number not in self.ledger.records]
        before = sum(r.done + r.skipped for r in self.ledger.records.values())
        self.progress.begin(self.work.partition.tiles, "segmenting", before)

        def finished(unit: Unit, record: UnitRecord) -> None:
            self.ledger.add(unit.number, record)
            self.store.worth_keeping = True
            settling.advance()
            self.progress.advance(record.skipped)

        def failed(unit: Unit, start: tuple[int, ...], error: Exception) -> None:
            self.ledger.fail(unit.number, start, type(error).__name__)

        if self.workers is not None and pending:
            self.workers.compute(
                self.work,
                pending,
                self.compute,
                self.store.folder,
                frame,
                progress=self.progress,
                finished=finished,
                failed=failed,
                said=self._climbed,
            )
            return
        for run in self.work.partition.streams(pending):
            self.work.compute(run, self.compute, arrays, progress=self.progress, finished=finished, failed=failed)

    def _compare(self) -> None:
        """Reopen the labels and compare their grid with the image's.

        Raises
        ------
        MedsegError
            If they differ: the store must not get its name.
        """
        reopened = read_segmentation(self.store.folder / "labels" / self.name)
        if not reopened.geometry.is_close(self.task.image.geometry):
            raise MedsegError(f"{self.store.path.name}: the stored grid is not the image's grid; nothing was kept.")

    def _record(self, seconds: float, tiles: dict[str, int]) -> dict[str, Any]:
        """What the history says of this run."""
        import monai

        task, card = self.task, self.task.model.card
        mask = task.tissue(0)
        return {
            "model": {
                "id": card.id,
                "version": card.version,
                "weights_sha256": task.model.sha256,
                "licence": card.licence,
                "intended_use": card.intended_use,
            },
            "device": self.compute.device.name,
            "precision": self.compute.choice.precision,
            "backend": self.compute.choice.backend,
            "agreement_with_torch": self.compute.choice.agreement,
            "ladder": list(self.ledger.ladder),
            "tiles": {
                **tiles,
                "number": tiles["planned"],
                "shape": list(task.plan.tile),
                "overlap": task.plan.overlap,
                "margin": task.options.margin,
                "blending": task.options.blending,
                "mirror": task.options.mirror,
                "planes": task.options.planes,
                "pyramid_level": task.grid.level,
                "image_voxels_per_working_voxel": list(task.grid.factors),
                "layout": self.layout.to_dict(),
            },
            "tissue": None if mask is None else mask.to_dict(),
            "region": task.options.to_dict()["region"],
            "resumed": self.before is not None,
            "software": {"napari-medseg": __version__, "torch": torch.__version__, "monai": monai.__version__},
            "seconds": round(seconds, 3),
        }

    def _report(self, voxels: dict[int, int], seconds: float, tiles: dict[str, int]) -> SegmentReport:
        """What the caller is told of this run."""
        task = self.task
        objects = len(voxels) if task.model.instances else None
        found = {1: sum(voxels.values())} if task.model.instances else voxels
        amounts = [
            LabelAmount.of(label.id, label.name, found.get(label.id, 0), task.image.geometry, objects)
            for label in task.model.card.labels
        ]
        mask = task.tissue(0)
        return SegmentReport(
            model=task.model.card.id,
            labels=tuple(amounts),
            seconds=seconds,
            peak_rss=peak_rss(),
            peak_device_memory=peak_device_memory(self.compute.device.name),
            device=self.compute.device.name,
            device_reason=self.compute.device.reason,
            precision=self.compute.choice.precision,
            backend=self.compute.choice.backend,
            backend_reason=self.compute.choice.reason,
            agreement=self.compute.choice.agreement,
            tiles=tiles,
            ladder=tuple(self.ledger.ladder),
            tissue=None if mask is None else mask.to_dict(),
            warnings=(*task.image.warnings, *doubts(task.image, task.model)),
        )
