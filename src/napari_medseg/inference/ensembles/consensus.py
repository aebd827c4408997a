"""What all models of a run say together, as one more label image of its store.

Everything is read back from the unfinished store once the models are through it, a chunk at a time; only STAPLE
needs the labels as a whole. The result is written anew whenever a run is resumed.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from napari_medseg import __version__
from napari_medseg.bundles.model import Model
from napari_medseg.case import InputError, MedsegError, Provenance, Step
from napari_medseg.inference.ensembles.staple import Consensus, require_possible, staple
from napari_medseg.inference.ensembles.votes import (
    LabelArray,
    Method,
    label_ids,
    majority_vote,
    mean_probabilities,
    require_combinable,
)
from napari_medseg.inference.labels.decide import decide
from napari_medseg.inference.report import LabelAmount, SegmentReport, peak_rss
from napari_medseg.inference.task import Task
from napari_medseg.inference.unfinished import UnfinishedStore
from napari_medseg.io.ome_zarr import LabelFrame, LabelGroup, Ngff, metadata, read_segmentation
from napari_medseg.io.ome_zarr.labels import Region, chunk_regions, count_ids
from napari_medseg.jobs import Progress

NAME = "ensemble"
"""Name of the consensus in the store: ``labels/ensemble``."""

_BASIS = {"mean": "fp16 probabilities", "vote": "labels", "staple": "labels"}


def check_ensemble(tasks: Sequence[Task], method: str, names: Sequence[str] | None = None) -> None:
    """Refuse an ensemble that cannot be made or would mean nothing.

    Parameters
    ----------
    tasks
        The models, all on one image and with the same options.
    method
        ``"mean"``, ``"vote"`` or ``"staple"``.
    names
        Names of the models' labels in the store; the models' ids when ``None``.

    Raises
    ------
    InputError
        If the method is unknown, there are too few models for it, one of them finds objects, their labels differ,
        a name is taken, or there is more than `staple` takes; for the mean also if the models do not give
        probabilities of one kind.
    """
    models = [task.model for task in tasks]
    require_combinable(models, method)
    if NAME in (names if names is not None else [m.card.id for m in models]):
        raise InputError(f"A model's labels are named {NAME} already; name them otherwise, or leave the ensemble out.")
    if method == "staple":
        require_possible(math.prod(r.stop - r.start for r in _part(tasks[0])), len(label_ids(models[0])), len(models))


def tasks_for(tasks: Sequence[Task], method: str) -> list[Task]:
    """The tasks to run: for the mean those that store probabilities, otherwise the same."""
    if method != "mean":
        return list(tasks)
    return [Task(t.image, t.model, replace(t.options, probabilities=True)) for t in tasks]


def write_consensus(
    store: UnfinishedStore,
    tasks: Sequence[Task],
    names: Sequence[str],
    method: str,
    ngff: Ngff,
    *,
    image_sha256: str | None,
    progress: Progress,
) -> SegmentReport:
    """Store what the models say together as ``labels/ensemble``; what a killed run left of it is written anew.

    The mean is taken of the stored probabilities, which are rounded to float16, and decided on as a model's own. Only
    the region that was asked for is combined.

    Parameters
    ----------
    store
        Holds the finished labels of every model, and for the mean their probabilities.
    tasks, names
        The models, as for `check_ensemble`.
    method
        ``"mean"``, ``"vote"`` or ``"staple"``.
    image_sha256
        Hash of the image, for the history.

    Raises
    ------
    MedsegError
        If probabilities are missing, the store does not hold what was written to it, or STAPLE finds no consensus.
    CancelledError
        Within one chunk, or one iteration of STAPLE.
    """
    started = time.perf_counter()
    image, model = tasks[0].image, tasks[0].model
    sources = [store.root["labels"][name]["0"] for name in names]
    frame = LabelFrame(
        image.geometry,
        name=NAME,
        axes=("t" if tasks[0].has_time else "") + image.spatial_axes,
        seconds_per_frame=image.seconds_per_frame,
        dtype=np.result_type(*(source.dtype for source in sources)),
        frames=image.frame_count if tasks[0].has_time else None,
        ngff=ngff,
        chunks=tuple(sources[0].chunks),
    )
    store.forget(NAME)
    labels = LabelGroup(store.root, frame)
    labels.write_records(model.card.labels, Provenance(), {}, complete=False)
    part = _part(tasks[0])
    weighed: Consensus | None = None
    if method == "staple":
        weighed = _weigh(sources, part, label_ids(model), progress)
        found = _Placed(weighed.labels, part)
        voxels = _fill(labels, part, found.block, progress)
    elif method == "vote":
        voxels = _fill(labels, part, lambda region: majority_vote([np.asarray(s[region]) for s in sources]), progress)
    else:
        mean = _Mean(store.root, names, model, tasks[0].has_time, progress)
        voxels = _fill(labels, part, mean.block, progress)
    seconds = time.perf_counter() - started
    history = Provenance(image_sha256).with_step(
        Step.now("ensemble", **_record(tasks, names, cast(Method, method), weighed, seconds))
    )
    labels.write_records(model.card.labels, history, voxels)
    if not read_segmentation(store.folder / "labels" / NAME).geometry.is_close(image.geometry):
        raise MedsegError(f"{store.path.name}: the stored grid is not the image's grid; nothing was kept.")
    return SegmentReport(
        model=NAME,
        labels=tuple(
            LabelAmount.of(e.id, e.name, voxels.get(e.id, 0), image.geometry, None) for e in model.card.labels
        ),
        seconds=seconds,
        peak_rss=peak_rss(),
        peak_device_memory=None,
        device="cpu",
        device_reason="Stored results are combined where they lie.",
        precision=_BASIS[method],
        backend=method,
        tiles={"planned": 0, "done": 0, "failed": 0, "skipped": 0},
        warnings=_warnings(len(tasks), method, weighed),
    )


def drop_maps(store: UnfinishedStore, tasks: Sequence[Task], names: Sequence[str]) -> None:
    """Remove the probabilities that nobody asked for, as the last thing before the store gets its name.

    The ledgers of their models go first: a run that is killed in between must not take maps that are gone for maps
    that are done when it is resumed.

    Parameters
    ----------
    tasks, names
        The models with the options that were asked for, and the names of their labels.
    """
    maps = store.folder / "maps"
    for task, name in zip(tasks, names, strict=True):
        folder = maps / name / "probabilities"
        if task.options.probabilities or not folder.is_dir():
            continue
        store.ledger_path(name).unlink(missing_ok=True)
        shutil.rmtree(folder)
        if not task.options.uncertainty:
            shutil.rmtree(maps / name)
    if maps.is_dir() and not any(entry.is_dir() for entry in maps.iterdir()):
        shutil.rmtree(maps)


def forget_consensus(store: UnfinishedStore, names: Sequence[str]) -> None:
    """Remove what an earlier run left of an ensemble; `names` are those of the models' labels."""
    if NAME in names or not (store.folder / "labels" / NAME).is_dir():
        return
    for group, entry in ((store.root["labels"], NAME), (store.root, f"labels/{NAME}")):
        public, private = metadata.split_attributes(group.attrs.asdict())
        if entry in (listed := public.get("labels", [])):
            ngff: Ngff = "0.5" if "ome" in group.attrs else "0.4"
            public["labels"] = [name for name in listed if name != entry]
            group.attrs.update(metadata.attributes(public, private or None, ngff))
    store.forget(NAME)


class _Mean:
    """Decides on the mean of the stored probabilities, a few rows at a time."""

    def __init__(self, root: Any, names: Sequence[str], model: Model, has_time: bool, progress: Progress) -> None:
        self._names, self._model, self._lead, self._progress = names, model, int(has_time), progress
        self._labels = [root["labels"][name]["0"] for name in names]
        self._maps = [root["maps"][name]["probabilities"]["0"] for name in names]

    def block(self, region: Region) -> LabelArray:
        """Labels of a region, decided as the engine decides."""
        lead = self._lead
        rows, part = int(self._maps[0].chunks[lead + 1]), region[lead]
        pieces = []
        for first in range(part.start // rows * rows, part.stop, rows):
            self._progress.check()
            piece = slice(max(first, part.start), min(first + rows, part.stop))
            place = (*region[:lead], piece, *region[lead + 1 :])
            mean = mean_probabilities([self._read(k, place) for k in range(len(self._maps))])
            pieces.append(decide(torch.from_numpy(mean), self._model.threshold))
        return np.concatenate(pieces, lead)

    def _read(self, number: int, place: Region) -> LabelArray:
        """Probabilities ``(c, ...)`` of one model."""
        stored = np.asarray(self._maps[number][(*place[: self._lead], slice(None), *place[self._lead :])])
        probabilities: LabelArray = np.moveaxis(stored, self._lead, 0)
        nothing = ~probabilities.any(0)
        # where nothing was stored a map reads as 0: impossible after a softmax, and for a label that was found
        if nothing.any() and (
            self._model.activation == "softmax" or np.asarray(self._labels[number][place])[nothing].any()
        ):
            raise MedsegError(
                f"Probabilities of model {self._names[number]} are missing in the store; start the run anew with "
                f"--overwrite, or take the vote."
            )
        return probabilities


class _Placed:
    """Labels of a part of the image, taken by regions of the whole."""

    def __init__(self, labels: LabelArray, part: Region) -> None:
        self._labels, self._part = labels, part

    def block(self, region: Region) -> LabelArray:
        """Labels of a region."""
        found: LabelArray = self._labels[
            tuple(slice(r.start - p.start, r.stop - p.start) for r, p in zip(region, self._part, strict=True))
        ]
        return found


def _weigh(sources: Sequence[Any], part: Region, ids: Sequence[int], progress: Progress) -> Consensus:
    progress.begin(len(sources), "reading labels")
    blocks = []
    for source in sources:
        blocks.append(np.asarray(source[part]))
        progress.advance()
    return staple(blocks, ids, progress=progress)


def _fill(
    labels: LabelGroup, part: Region, block_of: Callable[[Region], LabelArray], progress: Progress
) -> dict[int, int]:
    """Write a part of a label image chunk by chunk, all levels; voxels of every id except 0."""
    chunks = list(chunk_regions(labels.array.shape, labels.array.chunks))
    progress.begin(len(chunks), "combining the models")
    voxels: dict[int, int] = {}
    for chunk in chunks:
        region = tuple(slice(max(c.start, p.start), min(c.stop, p.stop)) for c, p in zip(chunk, part, strict=True))
        if all(r.start < r.stop for r in region):
            block = block_of(region).astype(labels.array.dtype, copy=False)
            labels.array[region] = block
            if not np.array_equal(np.asarray(labels.array[region]), block):
                raise MedsegError("The stored labels differ from those decided; check the disk, then resume the run.")
            count_ids(block, voxels)
            labels.shrink(region, block)
        progress.advance()
    return dict(sorted(voxels.items()))


def _part(task: Task) -> Region:
    """The part of the label image that is wanted, along all its axes."""
    space = task.region or tuple(slice(0, n) for n in task.image.geometry.shape)
    return (*((slice(0, task.image.frame_count),) if task.has_time else ()), *space)


def _record(
    tasks: Sequence[Task], names: Sequence[str], method: Method, weighed: Consensus | None, seconds: float
) -> dict[str, Any]:
    """What the history says of the consensus."""
    cards = [task.model.card for task in tasks]
    models: list[dict[str, Any]] = [
        {
            "labels": name,
            "id": task.model.card.id,
            "version": task.model.card.version,
            "weights_sha256": task.model.sha256,
            "licence": task.model.card.licence,
            "intended_use": task.model.card.intended_use,
        }
        for task, name in zip(tasks, names, strict=True)
    ]
    record: dict[str, Any] = {
        "method": method,
        # what exports name as the maker of the labels
        "model": {
            "id": f"{method} of {', '.join(c.id for c in cards)}",
            "version": ", ".join(c.version for c in cards),
            "licence": ", ".join(dict.fromkeys(c.licence for c in cards)),
        },
        "models": models,
        "region": tasks[0].options.to_dict()["region"],
        "software": {"napari-medseg": __version__, "torch": torch.__version__},
        "seconds": round(seconds, 3),
    }
    if method == "mean":
        record["probabilities"] = "float16"
    if weighed is not None:
        import SimpleITK as sitk

        record["software"]["SimpleITK"] = sitk.Version.VersionString()
        record["staple"] = {"iterations": weighed.iterations, "converged": weighed.converged}
        for entry, right, background in zip(models, weighed.sensitivity, weighed.specificity, strict=True):
            entry["sensitivity"] = {str(i): _number(p) for i, p in zip(weighed.ids[1:], right, strict=True)}
            entry["specificity"] = _number(background)
    return record


def _number(value: float) -> float | None:
    """A number that JSON knows; ``None`` for what STAPLE could not estimate."""
    return round(float(value), 6) if math.isfinite(value) else None


def _warnings(count: int, method: str, weighed: Consensus | None) -> tuple[str, ...]:
    warnings = []
    if method == "vote" and count == 2:
        warnings.append("Of two models the first wins every tie, so that the vote is what the first says; add a third.")
    if weighed is not None and not weighed.converged:
        warnings.append(f"STAPLE was stopped after {weighed.iterations} iterations and had not come to rest.")
    return tuple(warnings)
