"""Many cases with the same models, one after the other or on the workers of a cluster; one store a case."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from napari_medseg.bundles.model import Model
from napari_medseg.case import CancelledError, InputError, MedicalImage, MedsegError
from napari_medseg.inference.cluster.job import Watch, taking_turns
from napari_medseg.inference.cluster.reopen import ModelFiles
from napari_medseg.inference.cluster.workers import DaskWorkers
from napari_medseg.inference.options import SegmentOptions
from napari_medseg.inference.segment import segment_all
from napari_medseg.io.ome_zarr import Ngff, label_names, read_segmentation
from napari_medseg.io.writing import partial_path
from napari_medseg.jobs import Progress


@dataclass(frozen=True)
class Case:
    """One image to segment.

    Parameters
    ----------
    name
        Name of its store, without ``.zarr``.
    path
        The file or folder.
    series
        Which image of a file or folder that holds several, from 1.
    spacing, unit
        Spacing of an image that states none, one number a spatial axis, in ``"mm"`` or ``"um"``.
    """

    name: str
    path: Path
    series: int | None = None
    spacing: tuple[float, ...] | None = None
    unit: Literal["mm", "um"] | None = None

    def open(self) -> MedicalImage:
        """The image.

        Raises
        ------
        InputError
            If it cannot be opened, there are several and none is chosen, or the spacing does not fit.
        """
        from napari_medseg.io import open_images

        images = open_images(self.path)
        if self.series is None and len(images) > 1:
            raise InputError(f"{self.path.name}: holds {len(images)} images; say which one, from 1.")
        number = self.series or 1
        if not 1 <= number <= len(images):
            raise InputError(f"{self.path.name}: there is no series {number}; it holds {len(images)}.")
        image = images[number - 1]
        if self.spacing is None:
            return image
        if image.geometry.unit is not None:
            raise InputError(f"{self.path.name}: states its spacing itself; a spacing is for images that do not.")
        try:
            return replace(image, geometry=image.geometry.with_spacing(self.spacing, self.unit or "mm"))
        except ValueError as error:
            raise InputError(f"{self.path.name}: a spacing of {self.spacing} does not fit: {error}.") from error


@dataclass(frozen=True)
class CaseRecord:
    """What became of a case.

    Parameters
    ----------
    name, out
        The case and its store.
    seconds
        From opening the image to the finished store; on a worker, without waiting for its turn.
    reports
        One `SegmentReport` as a dictionary for each model; empty where there is an error.
    error
        What went wrong, one sentence; ``None`` when the store is finished.
    skipped
        Whether the store had been finished before.
    """

    name: str
    out: Path
    seconds: float = 0.0
    reports: tuple[dict[str, Any], ...] = ()
    error: str | None = None
    skipped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values without paths, for JSON."""
        return {
            "name": self.name,
            "out": self.out.name,
            "seconds": round(self.seconds, 3),
            "models": list(self.reports),
            "error": self.error,
            "skipped": self.skipped,
        }


@dataclass(frozen=True)
class _Run:
    """How every case is segmented; plain, so that it can be sent to workers."""

    options: SegmentOptions
    ngff: Ngff
    with_image: bool
    overwrite: bool
    resume: bool


def cases_of(paths: Sequence[Path]) -> list[Case]:
    """One case a path, named after it; after the folders it lies in, too, where names would be the same."""
    stems = [_stem(p) for p in paths]
    if len(set(stems)) == len(stems):
        return [Case(s, p) for s, p in zip(stems, paths, strict=True)]
    whole = [Path(os.path.abspath(p)) for p in paths]  # noqa: PTH100 - links must stay links
    common = Path(os.path.commonpath([p.parent for p in whole]))
    return [
        Case("_".join((*p.relative_to(common).parts[:-1], s)), q) for p, s, q in zip(whole, stems, paths, strict=True)
    ]


def segment_cases(
    cases: Sequence[Case],
    models: Sequence[Model],
    out_dir: Path,
    options: SegmentOptions | None = None,
    *,
    workers: DaskWorkers | None = None,
    progress: Progress | None = None,
    finished: Callable[[CaseRecord], None] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    ngff: Ngff = "0.5",
    with_image: bool = False,
) -> list[CaseRecord]:
    """Segment every case into ``out_dir/<name>.zarr``. A case that fails does not stop the others.

    Parameters
    ----------
    models
        Each store gets the labels of all of them.
    workers
        Who computes, a case at a time each; this process, one case after the other, when ``None``.
    progress
        Counts cases.
    finished
        Told of every case as it ends.
    overwrite
        Whether stores that are there may be replaced.
    resume
        Whether to skip stores that are finished and go on with unfinished ones.
    ngff, with_image
        As for `segment`.

    Returns
    -------
    records
        One a case, in the order of `cases`.

    Raises
    ------
    InputError
        If two cases have one name, there is no such folder, or workers cannot load a model.
    CancelledError
        Once everything has stopped; unfinished stores can be resumed.
    MedsegError
        If the cluster is lost.
    """
    twice = [name for name, number in Counter(case.name for case in cases).items() if number > 1]
    if twice:
        raise InputError(f"Several cases are named {twice[0]}; give each a name of its own.")
    odd = [case.name for case in cases if not case.name or Path(case.name).name != case.name or "\\" in case.name]
    if odd:
        raise InputError(f"{odd[0]!r} is no name for a case, which names its store; use letters, digits, - and _.")
    if not out_dir.is_dir():
        raise InputError(f"{out_dir.name}: there is no such folder to write the stores into.")
    progress = progress or Progress()
    run = _Run(options or SegmentOptions(), ngff, with_image, overwrite, resume)
    records: dict[int, CaseRecord] = {}
    progress.begin(len(cases), "segmenting cases")

    def take(index: int, record: CaseRecord) -> None:
        records[index] = record
        if finished is not None:
            finished(record)
        progress.advance()

    outs = [out_dir.absolute() / f"{case.name}.zarr" for case in cases]
    if workers is None:
        for index, (case, out) in enumerate(zip(cases, outs, strict=True)):
            take(index, _segment_case(case, models, out, run, _Within(progress)))
    else:
        _on_workers(workers, cases, models, outs, run, take, progress)
    return [records[index] for index in range(len(cases))]


def _on_workers(
    workers: DaskWorkers,
    cases: Sequence[Case],
    models: Sequence[Model],
    outs: Sequence[Path],
    run: _Run,
    take: Callable[[int, CaseRecord], None],
    progress: Progress,
) -> None:
    files = tuple(ModelFiles.of(model) for model in models)
    sent: list[int] = []
    jobs = []
    for index, (case, out) in enumerate(zip(cases, outs, strict=True)):
        there = next((p for p in (out, partial_path(out)) if p.exists()), None)
        if there is not None and not (run.resume or run.overwrite):
            how = "go on with --resume, or start anew with --overwrite"
            take(index, CaseRecord(case.name, out, error=f"{there.name}: is there already; {how}."))
            continue
        # a case whose worker died is begun again by another one, which finds what the first one left
        again = run if run.overwrite else replace(run, resume=True)
        sent.append(index)
        jobs.append((replace(case, path=Path(os.path.abspath(case.path.expanduser()))), files, out, again))  # noqa: PTH100

    def adopt(number: int, record: CaseRecord | None, error: Exception | None) -> None:
        index = sent[number]
        if record is not None:
            take(index, record)
        elif error is not None:
            take(index, CaseRecord(cases[index].name, outs[index], error=_sentence(error)))
        # what ended early because it was asked to has no record

    workers.run(segment_on_worker, jobs, adopt, progress=progress)


def segment_on_worker(
    case: Case, files: Sequence[ModelFiles], out: Path, run: _Run, *, stop: str, threads: int | None
) -> CaseRecord | None:
    """Segment a case on a worker of a cluster; ``None`` if it was asked to stop."""
    with taking_turns(threads):
        try:
            models = [f.load() for f in files]
            return _segment_case(case, models, out, run, Watch(stop))
        except CancelledError:
            return None
        except MedsegError as error:
            return CaseRecord(case.name, out, error=str(error))


def _segment_case(case: Case, models: Sequence[Model], out: Path, run: _Run, progress: Progress) -> CaseRecord:
    started = time.perf_counter()
    try:
        progress.check()
        if run.resume and not run.overwrite and out.exists():
            _require_same(out, models)
            return CaseRecord(case.name, out, skipped=True)
        results = segment_all(
            case.open(),
            models,
            out,
            run.options,
            progress=progress,
            overwrite=run.overwrite,
            resume=run.resume,
            ngff=run.ngff,
            with_image=run.with_image,
        )
    except CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - a case that fails does not stop the others
        return CaseRecord(case.name, out, time.perf_counter() - started, error=_sentence(error))
    reports = tuple(result.report.to_dict() for result in results)
    return CaseRecord(case.name, out, time.perf_counter() - started, reports)


class _Within(Progress):
    """Progress of one case, cancelled with the whole."""

    def __init__(self, whole: Progress) -> None:
        super().__init__()
        self._whole = whole

    def check(self) -> None:
        """Raise `CancelledError` when somebody asked the whole to stop."""
        self._whole.check()


def _require_same(out: Path, models: Sequence[Model]) -> None:
    """Raise `InputError` if a finished store was made with other models than these."""
    there = label_names(out)
    for model in models:
        steps = read_segmentation(out / "labels" / model.card.id).provenance.steps if model.card.id in there else ()
        made = next((s for s in steps if s.action == "segment"), None)
        if made is None or made.details.get("model", {}).get("weights_sha256") != model.sha256:
            raise InputError(f"{out.name}: is finished and holds no labels of this {model.card.id}; allow overwriting.")


def _stem(path: Path) -> str:
    for ending in (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr"):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.name if path.is_dir() and path.suffix != ".zarr" else path.stem


def _sentence(error: Exception) -> str:
    if isinstance(error, MedsegError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"The system refused: {error.strerror}. Free space or choose another place, then run again."
    return f"Unexpected {type(error).__name__}: {error}."
