"""One task in an unfinished store: computed, settled, compared, and told of."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from napari_medseg import __version__
from napari_medseg.case import MedsegError, Provenance, Step
from napari_medseg.inference.checks import doubts
from napari_medseg.inference.compute.prepare import Compute, prepare, resolve_device
from napari_medseg.inference.labels.settle import Settling
from napari_medseg.inference.ledger import Ledger, UnitRecord
from napari_medseg.inference.report import LabelAmount, SegmentReport, peak_device_memory, peak_rss
from napari_medseg.inference.task import Task
from napari_medseg.inference.tiles.layout import Layout
from napari_medseg.inference.tiles.memory import layout_for
from napari_medseg.inference.tiles.units import Unit
from napari_medseg.inference.unfinished import UnfinishedStore
from napari_medseg.inference.work import Arrays, Failed, Finished, Work, work_for
from napari_medseg.io.ome_zarr import LabelFrame, Ngff, read_segmentation
from napari_medseg.jobs import Progress


class Workers(Protocol):
    """Other processes that compute units, see `napari_medseg.inference.cluster.workers`."""

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


class Run:
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
            "peak_memory": peak_rss(),
            "peak_device_memory": peak_device_memory(self.compute.device.name),
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
            warnings=(*task.image.warnings, *task.unused, *doubts(task.image, task.model)),
        )
