"""What a worker of a Dask cluster does: open the run's files, compute units, report."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_medseg import __version__
from napari_medseg.case import CancelledError, InputError, MedsegError
from napari_medseg.inference.cluster.reopen import ImageFiles, ModelFiles
from napari_medseg.inference.cluster.turns import Runs, distributed
from napari_medseg.inference.compute.allocator import share_freed_memory
from napari_medseg.inference.compute.prepare import Compute, prepare, resolve_device
from napari_medseg.inference.ledger import UnitRecord
from napari_medseg.inference.options import SegmentOptions
from napari_medseg.inference.task import Task
from napari_medseg.inference.tiles.engine import Start
from napari_medseg.inference.tiles.layout import Layout
from napari_medseg.inference.tiles.units import Unit
from napari_medseg.inference.work import Arrays, Work, work_for
from napari_medseg.io.ome_zarr import LabelFrame, open_root
from napari_medseg.jobs import Progress

_SECONDS_BETWEEN_LOOKS = 0.25

_HEADER_WORDS = {"image": "another image", "model": "another model", "options": "other options"}

# a worker may have several threads; a network and its tiles are for one job at a time
_turn = threading.Lock()
_ready: dict[str, _Ready] = {}


@dataclass(frozen=True, eq=False)
class Spec:
    """What a worker needs to know to compute units of a run.

    Parameters
    ----------
    token
        Tells this run from others, so that a worker prepares once.
    image, model
        How to open them.
    options
        What was asked for.
    header
        What decides the labels, as JSON: the worker's own must be the same.
    compute, layout
        Device, precision and backend, and how the run is cut.
    store, frame
        The unfinished store, and the label image in it.
    tiles
        Tiles of all units.
    software
        Versions that must be the same everywhere.
    """

    token: str
    image: ImageFiles
    model: ModelFiles
    options: SegmentOptions
    header: str
    compute: dict[str, Any]
    layout: dict[str, Any]
    store: Path
    frame: LabelFrame
    tiles: int
    software: dict[str, str]

    @classmethod
    def of(cls, work: Work, compute: Compute, store: Path, frame: LabelFrame) -> Spec:
        """The specification of a run that was planned here.

        Raises
        ------
        InputError
            If image or model are not in files that other processes can open.
        """
        task = work.task
        return cls(
            token=uuid.uuid4().hex,
            image=ImageFiles.of(task.image),
            model=ModelFiles.of(task.model),
            options=task.options,
            header=json.dumps(task.header(), sort_keys=True),
            compute=compute.header(),
            layout=work.layout.to_dict(),
            store=store.absolute(),
            frame=frame,
            tiles=work.partition.tiles,
            software=software(),
        )


def software() -> dict[str, str]:
    """Versions of what decides the labels."""
    return {"napari-medseg": __version__, "torch": torch.__version__}


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Parameters
    ----------
    records
        Units whose labels lie in the store, with their numbers.
    said
        What was done when memory ran out.
    failed
        Unit and tile that could not be computed.
    error
        Why the job ended early; ``None`` also where it was asked to stop.
    """

    records: tuple[tuple[int, UnitRecord], ...]
    said: tuple[str, ...] = ()
    failed: tuple[int, Start] | None = None
    error: Exception | None = None


class Watch(Progress):
    """Progress of a job on a worker: cancelled when its event is set, or nobody waits for it any more.

    Parameters
    ----------
    stop
        Name of the event.
    """

    def __init__(self, stop: str) -> None:
        super().__init__()
        self._worker = distributed().get_worker()
        self._key = self._worker.get_current_task()
        self._stop = distributed().Event(stop)
        self._looked = float("-inf")

    def check(self) -> None:
        """Raise `CancelledError` when somebody asked to stop."""
        if not self.cancelled and time.monotonic() >= self._looked + _SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            if self._is_forgotten() or self._stop.is_set():
                self.cancel()
        super().check()

    def _is_forgotten(self) -> bool:
        """Whether the process that gave this job is gone."""
        task = self._worker.state.tasks.get(self._key)
        return task is None or task.state == "cancelled"


@contextmanager
def taking_turns(threads: int | None) -> Iterator[None]:
    """One job at a time in this process, with `threads` threads; with as many as Dask gave it when ``None``."""
    number = threads or distributed().get_worker().state.nthreads
    with _turn:
        torch.set_num_threads(number)
        yield


@dataclass(frozen=True, eq=False)
class _Ready:
    """A run as this worker knows it."""

    work: Work
    compute: Compute
    arrays: Arrays
    said: list[str]

    @classmethod
    def of(cls, spec: Spec, progress: Progress) -> _Ready:
        """Open everything; once a process.

        Raises
        ------
        InputError
            If anything is not what it is where the run was started.
        """
        if spec.token in _ready:
            return _ready[spec.token]
        _ready.clear()
        share_freed_memory()
        if spec.software != software():
            raise InputError(
                f"This worker has {_versions(software())}, and the run was started with {_versions(spec.software)}; "
                "install the same on all of them."
            )
        task = Task(spec.image.open(), spec.model.load(), spec.options)
        _require_same(json.loads(spec.header), json.loads(json.dumps(task.header())))
        device = resolve_device(task, spec.compute)
        said: list[str] = []
        compute = prepare(task, device, progress=progress, said=said.append, recorded=spec.compute)
        if compute.header() != spec.compute:
            raise InputError(
                f"This worker computes with {_versions(compute.header())}, and the run was started with "
                f"{_versions(spec.compute)}; choose device, precision and backend that all of them have."
            )
        work = work_for(task, Layout.from_dict(spec.layout))
        if work.partition.tiles != spec.tiles:
            raise MedsegError("A worker planned other tiles than where the run was started.")
        if not spec.store.is_dir():
            raise InputError(
                f"{spec.store.name}: a worker does not find the store under its path; write it to a folder that all "
                "workers share."
            )
        root = open_root(spec.store, spec.frame.ngff, resume=True)
        arrays = Arrays(root, spec.store, task, spec.frame, resume=True)
        _ready[spec.token] = cls(work, compute, arrays, said)
        return _ready[spec.token]


def compute_units(spec: Spec, runs: Runs, *, stop: str, threads: int | None) -> Outcome:
    """Compute and store runs of units; what became of them.

    Errors are returned, so that the records of what was stored before are not lost.
    """
    records: list[tuple[int, UnitRecord]] = []
    failed: list[tuple[int, Start]] = []
    error: Exception | None = None
    said: tuple[str, ...] = ()

    def finish(unit: Unit, record: UnitRecord) -> None:
        records.append((unit.number, record))

    with taking_turns(threads):
        progress = Watch(stop)
        try:
            progress.check()
            ready = _Ready.of(spec, progress)
            units = ready.work.partition.units
            for run in runs:
                ready.work.compute(
                    [units[number] for number in run],
                    ready.compute,
                    ready.arrays,
                    progress=progress,
                    finished=finish,
                    failed=lambda unit, start, _: failed.append((unit.number, start)),
                )
        except CancelledError:
            pass
        except Exception as problem:  # noqa: BLE001 - the process that was started raises it
            error = plain(problem)
        if spec.token in _ready:
            said = tuple(_ready[spec.token].said)
            _ready[spec.token].said.clear()
    return Outcome(tuple(records), said, failed[0] if failed else None, error)


def plain(error: Exception) -> Exception:
    """An error that can be sent to another process."""
    if isinstance(error, MedsegError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    return MedsegError(f"A worker failed with {type(error).__name__}: {error}.")


def _require_same(wanted: dict[str, Any], found: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if found.get(key) != value:
            raise InputError(
                f"A worker finds {_HEADER_WORDS.get(key, key)} under the same path than where the run was started; "
                "let all workers see the same files."
            )


def _versions(record: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in record.items())
