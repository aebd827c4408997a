"""Segment one image with one model into an OME-Zarr label store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_medseg import __version__
from napari_medseg.bundles.model import Model
from napari_medseg.case import InputError, MedicalImage, MedsegError, Provenance, Segmentation, Step
from napari_medseg.inference.blend import Blending
from napari_medseg.inference.checks import channels_for, checked_region, doubts
from napari_medseg.inference.decide import ClassDecision, InstanceDecision, LabelArray
from napari_medseg.inference.devices import Device, choose_device
from napari_medseg.inference.engine import Forward, TileSource, stream
from napari_medseg.inference.grid import TileReader, WorkGrid
from napari_medseg.inference.label_rows import label_rows
from napari_medseg.inference.plan import TilePlan
from napari_medseg.inference.report import LabelAmount, SegmentReport, peak_device_memory, peak_rss
from napari_medseg.io.ome_zarr import LabelStoreWriter, Ngff, copy_image, label_names, move_labels, read_segmentation
from napari_medseg.io.writing import staged
from napari_medseg.jobs import Progress

_STATISTICS_VOXELS = 1 << 25


@dataclass(frozen=True)
class SegmentOptions:
    """How to run; the defaults are what the model card asks for on the best device here.

    Parameters
    ----------
    device, precision
        See `napari_medseg.inference.devices.choose_device`.
    overlap
        Share of a tile that neighbours have in common; the model's own when ``None``.
    batch_size
        Tiles per forward pass; 4 in 2-D and 1 in 3-D when ``None``.
    region
        One slice for each spatial axis of the image; labels outside stay 0.
    mirror
        Average the maps over all mirror images of each tile (test-time augmentation).
    blending
        How overlapping tiles are weighted.
    """

    device: str = "auto"
    precision: str = "auto"
    overlap: float | None = None
    batch_size: int | None = None
    region: tuple[slice, ...] | None = None
    mirror: bool = False
    blending: Blending = "gaussian"


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
    ngff: Ngff = "0.5",
    with_image: bool = False,
) -> SegmentResult:
    """Run `model` over `image` and store the labels on the image's own grid.

    Parameters
    ----------
    image
        Video is segmented frame by frame; a volume plane by plane by a two-dimensional model.
    out
        The OME-Zarr store to write; it appears only when complete.
    name
        Name of the labels in the store; the model's id when ``None``.
    overwrite
        Whether a store of that name may be replaced.
    ngff
        OME-Zarr version, ``"0.5"`` or ``"0.4"``.
    with_image
        Whether the image is copied into the store.

    Raises
    ------
    InputError
        If the model cannot read this image.
    CancelledError
        Within one batch of tiles after `Progress.cancel`; nothing is left behind.
    """
    options = options or SegmentOptions()
    progress = progress or Progress()
    device = choose_device(options.device, options.precision)
    started = time.perf_counter()
    run = _Run(image, model, options, device, progress)
    with (
        ThreadPoolExecutor(1) as hashing,
        LabelStoreWriter.create(
            out,
            image.geometry,
            name=name or model.card.id,
            axes=("t" if image.axes.startswith("t") else "") + image.spatial_axes,
            seconds_per_frame=image.seconds_per_frame,
            frames=image.frame_count if image.axes.startswith("t") else None,
            dtype=np.uint32 if model.instances else np.uint8 if model.out_channels < 256 else np.uint16,
            overwrite=overwrite,
            ngff=ngff,
        ) as store,
    ):
        sha256 = hashing.submit(image.source.sha256)
        run.write_labels(store.array)
        if with_image:
            progress.begin(1, "copying the image")
            # a file's name may be a patient's
            copy_image(replace(image, name=image.modality.value), store.root, ngff)
        progress.begin(1, "finishing")
        seconds = time.perf_counter() - started
        history = Provenance(sha256.result()).with_step(Step.now("segment", **run.record(seconds)))
        store.finish(model.card.labels, history, check=run.compare)
        progress.advance()
    labels = read_segmentation(out / "labels" / (name or model.card.id))
    return SegmentResult(labels, out, run.report(seconds))


def segment_all(
    image: MedicalImage,
    models: Sequence[Model],
    out: Path,
    options: SegmentOptions | None = None,
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
    ngff: Ngff = "0.5",
    with_image: bool = False,
) -> list[SegmentResult]:
    """Run several models one after the other into one store, each under its own id.

    The store appears only when all are done. Parameters and errors are those of `segment`.
    """
    names = [m.card.id for m in models]
    if len(set(names)) < len(names):
        raise InputError(f"Two of the models share the id {max(names, key=names.count)}; name each model once.")
    with staged(out, overwrite=overwrite) as store:
        reports = []
        for number, model in enumerate(models):
            part = store if number == 0 else store.with_name(f".{number}-{store.name.lstrip('.')}")
            result = segment(
                image, model, part, options, progress=progress, ngff=ngff, with_image=with_image and number == 0
            )
            reports.append(result.report)
            if number:
                move_labels(part, store, ngff)
    return [
        SegmentResult(read_segmentation(out / "labels" / name), out, report)
        for name, report in zip(names, reports, strict=True)
    ]


class _Run:
    """One model on one image: what is worked out once, and what is counted on the way."""

    def __init__(
        self, image: MedicalImage, model: Model, options: SegmentOptions, device: Device, progress: Progress
    ) -> None:
        self.image, self.model, self.options, self.device, self.progress = image, model, options, device, progress
        self.channels = channels_for(image, model)
        self.grid = WorkGrid.plan(image, model)
        self.shape = image.geometry.shape[-model.spatial_dims :]
        self.region = checked_region(image, options.region)
        self.plan = self._tile_plan()
        self.planes = self._planes()
        self.batch_size = options.batch_size or (4 if model.spatial_dims == 2 else 1)
        self.voxels: Counter[int] = Counter()
        self.objects = 0

    def _tile_plan(self) -> TilePlan:
        tile = tuple(self.model.tile[k] for k in self.grid.to_network.inverse().order)
        overlap = self.model.overlap if self.options.overlap is None else self.options.overlap
        if not 0 <= overlap < 1:
            raise InputError(f"An overlap of {overlap:g} cannot be used; accepted are 0 up to but not including 1.")
        window = None
        if self.region is not None:
            part = self.region[-self.model.spatial_dims :]
            window = tuple(
                slice(max(0, int(np.floor(r.start / f - 1))), min(n, int(np.ceil(r.stop / f + 1))))
                for r, f, n in zip(part, self.grid.factors, self.grid.shape, strict=True)
            )
        return TilePlan(self.grid.shape, tile, overlap, window, self.grid.to_network.inverse().flips)

    def _planes(self) -> list[tuple[int, int | None]]:
        """Every frame, and every plane of it for a two-dimensional model on a volume."""
        planes: list[int | None] = [None]
        if self.image.geometry.ndim > self.model.spatial_dims:
            part = self.region[0] if self.region else slice(0, self.image.geometry.shape[0])
            planes = list(range(part.start, part.stop))
        return [(frame, plane) for frame in range(self.image.frame_count) for plane in planes]

    def write_labels(self, array: Any) -> None:
        """Fill `array`, which has the image's frames and spatial axes, with labels."""
        self.progress.begin(1, "loading the model")
        forward = Forward(
            self.model.network().to(self.device.name), self.device, self.grid.to_network, self._mirrored()
        )
        if self.device.name.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device.name)
        self.progress.begin(len(self.plan) * len(self.planes), "segmenting")
        with ThreadPoolExecutor(1, thread_name_prefix="medseg-decide") as pool:
            for frame, plane in self.planes:
                self._write_plane(array, forward, frame, plane, pool)

    def _mirrored(self) -> tuple[tuple[int, ...], ...]:
        axes = range(self.model.spatial_dims) if self.options.mirror else ()
        return tuple(chain.from_iterable(combinations(axes, k) for k in range(len(axes) + 1)))

    def _write_plane(
        self, array: Any, forward: Forward, frame: int, plane: int | None, pool: ThreadPoolExecutor
    ) -> None:
        reader = TileReader(self.image, self.grid, frame, plane, self.channels)
        source = TileSource(reader, self.model, _statistics(reader, self.model), self.plan.tile)
        with label_rows(array, self._prefix(frame, plane), self.shape, self._count, self.region) as write:
            decision: ClassDecision | InstanceDecision
            if self.model.instances:
                decision = InstanceDecision(self.model, self.grid, self.shape, write, first_id=self.objects + 1)
            else:
                decision = ClassDecision(self.model, self.grid, self.shape, write)
            rows = stream(
                source,
                forward,
                self.plan,
                batch_size=self.batch_size,
                blending=self.options.blending,
                progress=self.progress,
            )
            # deciding and storing go on behind the forward passes, one slab at a time
            pending: Future[None] | None = None
            for first, maps in rows:
                if pending is not None:
                    pending.result()
                pending = pool.submit(decision.add, first, maps)
            if pending is not None:
                pending.result()
            decision.close()
            if isinstance(decision, InstanceDecision):
                self.objects = decision.next_id - 1

    def _prefix(self, frame: int, plane: int | None) -> tuple[int, ...]:
        time = (frame,) if self.image.axes.startswith("t") else ()
        return (*time, *(() if plane is None else (plane,)))

    def _count(self, labels: LabelArray) -> None:
        if self.model.instances:
            self.voxels[1] += int(np.count_nonzero(labels))
        else:
            for label, number in enumerate(np.bincount(labels.ravel()).tolist()):
                if label and number:
                    self.voxels[label] += number

    def compare(self, store: Path, stored: dict[int, int]) -> None:
        """Reopen the store and compare its grid and voxel counts with what was decided.

        Raises
        ------
        MedsegError
            If they differ: the store must not be kept.
        """
        (name,) = label_names(store)
        reopened = read_segmentation(store / "labels" / name)
        if not reopened.geometry.is_close(self.image.geometry):
            raise MedsegError(f"{store.name}: the stored grid is not the image's grid; nothing was kept.")
        meant = self.voxels.total() if self.model.instances else self.voxels
        found = sum(stored.values()) if self.model.instances else stored
        if meant != found or (self.model.instances and len(stored) != self.objects):
            raise MedsegError(f"{store.name}: the stored labels differ from those decided; nothing was kept.")

    def record(self, seconds: float) -> dict[str, Any]:
        """What the history says of this run."""
        import monai

        card = self.model.card
        return {
            "model": {
                "id": card.id,
                "version": card.version,
                "weights_sha256": self.model.sha256,
                "licence": card.licence,
                "intended_use": card.intended_use,
            },
            "device": self.device.name,
            "precision": self.device.precision,
            "backend": "torch",
            "tiles": {
                "number": len(self.plan) * len(self.planes),
                "shape": list(self.plan.tile),
                "overlap": self.plan.overlap,
                "blending": self.options.blending,
                "mirror": self.options.mirror,
                "pyramid_level": self.grid.level,
                "image_voxels_per_working_voxel": list(self.grid.factors),
            },
            "region": None if self.region is None else [[r.start, r.stop] for r in self.region],
            "software": {"napari-medseg": __version__, "torch": torch.__version__, "monai": monai.__version__},
            "seconds": round(seconds, 3),
        }

    def report(self, seconds: float) -> SegmentReport:
        """What the caller is told of this run."""
        geometry, table = self.image.geometry, self.model.card.labels
        amounts = [
            LabelAmount.of(
                label.id,
                label.name,
                self.voxels[label.id],
                geometry,
                self.objects if self.model.instances else None,
            )
            for label in table
        ]
        planned = len(self.plan) * len(self.planes)
        return SegmentReport(
            model=self.model.card.id,
            labels=tuple(amounts),
            seconds=seconds,
            peak_rss=peak_rss(),
            peak_device_memory=peak_device_memory(self.device.name),
            device=self.device.name,
            device_reason=self.device.reason,
            precision=self.device.precision,
            backend="torch",
            tiles={"planned": planned, "done": planned, "failed": 0, "skipped": 0},
            warnings=(*self.image.warnings, *doubts(self.image, self.model)),
        )


def _statistics(reader: TileReader, model: Model) -> Any:
    """What the intensity steps need, from the whole working grid or an even sample of its rows."""
    if not model.intensity.needs_statistics:
        return None
    shape = reader.grid.shape
    if int(np.prod(shape)) * len(reader.channels) <= _STATISTICS_VOXELS:
        return model.intensity.statistics(reader.read_all())
    per_row = int(np.prod(shape[1:])) * len(reader.channels)
    number = max(1, _STATISTICS_VOXELS // per_row)
    rows = np.unique(np.linspace(0, shape[0] - 1, number).astype(int))
    sample = [reader.read((int(row), *(0,) * (len(shape) - 1)), (1, *shape[1:])) for row in rows]
    return model.intensity.statistics(np.concatenate(sample, axis=1))
