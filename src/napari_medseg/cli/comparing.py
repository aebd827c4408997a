"""``napari-medseg compare``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_medseg.case import InputError
from napari_medseg.cli.arguments import labels_and_doubts, one_image, refuse_same, with_spacing
from napari_medseg.cli.choices import Json, Overwrite, Quiet, Series
from napari_medseg.cli.output import print_json

if TYPE_CHECKING:
    from napari_medseg.case import MedicalImage
    from napari_medseg.evaluate.compare import Candidate, Comparison
    from napari_medseg.jobs import Progress


class Worst(StrEnum):
    """Which error regions come first."""

    SIZE = "size"
    DISTANCE = "distance"


def compare(
    image: Annotated[Path, typer.Argument(help="Image, DICOM folder or OME-Zarr store.", readable=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for labels.zarr and the report.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Model id or bundle folder; may be repeated.")
    ] = None,
    labels: Annotated[
        list[Path] | None, typer.Option("--labels", help="Labels that are there already; may be repeated.")
    ] = None,
    reference: Annotated[Path | None, typer.Option(metavar="REF", help="Labels that count as right.")] = None,
    reference_name: Annotated[str | None, typer.Option(help="Which labels of REF, a store that holds several.")] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Bring labels and REF onto the image's grid if they lie on another.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Of the surface Dice, in mm, um or px; the longest edge of a voxel by default."),
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="How many error regions of each candidate are pictured.")] = 6,
    order: Annotated[Worst, typer.Option(help="Which error regions count as worst.")] = Worst.SIZE,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    spacing: Annotated[
        str | None, typer.Option(metavar="z,y,xUNIT", help="Spacing of an image that states none, e.g. 0.5,0.5um.")
    ] = None,
    series: Series = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run models on one image, score and rank them, and write a report with pictures of the worst errors."""
    from napari_medseg.evaluate.compare import Candidate
    from napari_medseg.evaluate.compare import compare as compare_candidates
    from napari_medseg.evaluate.report import make_report, write_report
    from napari_medseg.evaluate.scoring.score import ScoreOptions
    from napari_medseg.progress_display import shown_progress

    given, wanted = list(labels or ()), list(model or ())
    if not given and not wanted:
        raise typer.BadParameter("name at least one model (-m) or one file of labels (--labels)")
    if len(given) + len(wanted) < 2 and reference is None:
        raise InputError("There is nothing to compare: give a reference, or two models or files of labels.")
    for path in (image, *given, *([reference] if reference else [])):
        refuse_same(path, out)
    _require_place(out, overwrite)
    case = with_spacing(one_image(image, series), spacing)
    doubts: list[str] = []
    candidates = []
    for path in given:
        found, doubt = labels_and_doubts(path, None)
        doubts += doubt
        candidates.append(Candidate(_plain_name(path), found))
    right = None
    if reference is not None:
        right, doubt = labels_and_doubts(reference, reference_name)
        doubts += doubt
    with shown_progress(quiet) as progress:
        if resample:
            from napari_medseg.evaluate.grids import on_grid

            candidates = [Candidate(c.name, on_grid(c.segmentation, case.geometry), c.run) for c in candidates]
            right = None if right is None else on_grid(right, case.geometry)
        for name, there in (*((c.name, c.segmentation) for c in candidates), ("the reference", right)):
            if there is not None and not there.geometry.is_close(case.geometry, 1e-2):
                raise InputError(
                    f"{name}: does not lie on the grid of {case.name}, so voxels cannot be compared one by one; "
                    "--resample brings it there where both state where they lie."
                )
        if wanted:
            out.mkdir(exist_ok=True)
            candidates += _run(case, wanted, out / "labels.zarr", device, overwrite, progress, doubts)
        comparison = compare_candidates(candidates, right, ScoreOptions(tolerance=tolerance), progress=progress)
        report = make_report(comparison, case, right, worst=worst, order=order.value, progress=progress)
    page = write_report(report, out, overwrite=overwrite)
    if as_json:
        print_json({**report.record, "out": out.name, "report": page.name, "warnings": doubts})
        return
    for warning in dict.fromkeys(doubts):
        typer.echo(f"Warning: {warning}", err=True)
    _tell(comparison)
    if not quiet:
        typer.echo(f"Report: {page}")


def _require_place(out: Path, overwrite: bool) -> None:
    """Refuse, before anything is computed, a folder that cannot take the report."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out.name}: is a file; name a folder for the report.")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent.name}: there is no such folder to write {out.name} into.")
    there = [name for name in ("report.html", "report.json", "labels.zarr") if (out / name).exists()]
    if there and not overwrite:
        raise InputError(f"{out.name}: holds {there[0]} already; choose another folder or allow overwriting.")


def _plain_name(path: Path) -> str:
    """A file's name without its endings."""
    return path.name.partition(".")[0] or path.name


def _run(
    case: MedicalImage,
    wanted: Sequence[str],
    out: Path,
    device: str,
    overwrite: bool,
    progress: Progress,
    doubts: list[str],
) -> list[Candidate]:
    """Run the models and keep their labels; what they warn of goes into `doubts`."""
    from napari_medseg.bundles import load_model
    from napari_medseg.evaluate.compare import Candidate
    from napari_medseg.inference import SegmentOptions
    from napari_medseg.inference.compute.allocator import share_freed_memory
    from napari_medseg.inference.segment import segment_all

    share_freed_memory()
    loaded = [load_model(name) for name in wanted]
    results = segment_all(case, loaded, out, SegmentOptions(device=device), progress=progress, overwrite=overwrite)
    doubts += [warning for result in results for warning in result.report.warnings]
    return [Candidate(result.report.model, result.segmentation) for result in results]


def _tell(comparison: Comparison) -> None:
    order, by = comparison.ranking()
    names = [candidate.name for candidate in comparison.candidates]
    if order and len(names) > 1:
        typer.echo(f"From best to worst on this case ({by}): {', '.join(names[k] for k in order)}.")
    for candidate, scores in zip(comparison.candidates, comparison.scores, strict=False):
        row = scores.labels[0] if scores.objects else scores.mean
        if row is not None:
            columns = {c.metric.key: c.heading for c in scores.columns()}
            shown = [f"{columns[k]} {row.values[k]:.4g}" for k in ("dice", "pq", "hd95", "assd") if k in row.values]
            typer.echo(f"{candidate.name}: {', '.join(shown)} ({row.name})")
