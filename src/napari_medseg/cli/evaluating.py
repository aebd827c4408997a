"""``napari-medseg evaluate``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_medseg.case import InputError, Segmentation
from napari_medseg.cli.arguments import labels_and_doubts, refuse_same, with_spacing
from napari_medseg.cli.choices import Json, Overwrite, Quiet
from napari_medseg.cli.output import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from napari_medseg.evaluate.scoring.case_scores import CaseScores, Column, ScoreRow
    from napari_medseg.jobs import Progress

_NARROWEST = 100
_LABEL_WIDTH = 24
_REGIONS_LISTED = 1000
_REGIONS_PRINTED = 10


def evaluate(
    candidate: Annotated[Path, typer.Argument(metavar="PRED", help="Labels to score.", readable=False)],
    reference: Annotated[Path, typer.Argument(metavar="REF", help="Labels that count as right.", readable=False)],
    name: Annotated[str | None, typer.Option(help="Which labels of PRED, a store that holds several.")] = None,
    reference_name: Annotated[str | None, typer.Option(help="Which labels of REF, a store that holds several.")] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="1,2,…", help="Ids to score; all by default. Others count as background.")
    ] = None,
    by_name: Annotated[
        bool, typer.Option("--by-name", help="Labels of one name belong together, whatever their ids.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Of the surface Dice, in mm, um or px; the longest edge of a voxel by default."),
    ] = None,
    boundary: Annotated[bool, typer.Option(help="Distances between boundaries.")] = True,
    lesions: Annotated[bool, typer.Option("--lesions", help="Also score connected pieces as lesions.")] = False,
    minimum_volume: Annotated[
        float, typer.Option(min=0, help="Lesions below this volume or area (in mm3, um2, …) do not count.")
    ] = 0.0,
    minimum_overlap: Annotated[
        float, typer.Option(min=0, help="Share of a lesion that must be passed for it to be found, below 1.")
    ] = 0.0,
    objects: Annotated[
        bool | None,
        typer.Option("--objects/--classes", help="What ids are; what the files say by default."),
    ] = None,
    object_threshold: Annotated[
        float, typer.Option(min=0, help="IoU that two objects must exceed to be the same, below 1.")
    ] = 0.5,
    resample: Annotated[
        bool, typer.Option("--resample", help="Bring PRED onto the grid of REF if it lies on another.")
    ] = False,
    spacing: Annotated[
        str | None, typer.Option(metavar="z,y,xUNIT", help="Spacing of labels that state none, e.g. 0.5,0.5um.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the table to a file.")] = None,
    errors: Annotated[
        Path | None, typer.Option(metavar="OUT.zarr", help="Also write where the two differ, and list the regions.")
    ] = None,
    definitions: Annotated[bool, typer.Option("--definitions", help="Say what the numbers mean.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score labels against a reference: overlap, boundaries, lesions or objects."""
    import time

    from napari_medseg.evaluate.scoring.score import ScoreOptions, score
    from napari_medseg.progress_display import shown_progress

    for out in (csv, errors):
        if out is not None:
            _refuse_place(out, (candidate, reference), overwrite)
    if errors is not None and errors.suffix != ".zarr":
        raise InputError(f"{errors.name}: the map of errors is OME-Zarr; accepted is a name that ends in .zarr.")
    if errors is not None and (labels is not None or by_name):
        raise typer.BadParameter("--errors shows all labels, matched by id; leave out --labels and --by-name")
    options = ScoreOptions(
        labels=None if labels is None else _parsed_ids(labels),
        by_name=by_name,
        boundary=boundary,
        tolerance=tolerance,
        lesions=lesions,
        minimum_volume=minimum_volume,
        minimum_overlap=minimum_overlap,
        objects=objects,
        object_threshold=object_threshold,
    )
    mine, doubts = labels_and_doubts(candidate, name)
    theirs, more = labels_and_doubts(reference, reference_name)
    mine, theirs = _with_stated_spacing(mine, theirs, spacing)
    started = time.perf_counter()
    mine, moved = _on_one_grid(mine, theirs) if resample else (mine, None)
    with shown_progress(quiet) as progress:
        scores = score(mine, theirs, options, progress=progress)
    seconds = time.perf_counter() - started
    warnings = [*doubts, *more, *([moved] if moved else [])]
    if csv is not None:
        _write_text(csv, scores.to_csv())
    found: dict[str, Any] = {}
    if errors is not None:
        with shown_progress(quiet) as progress:
            found = _write_errors(mine, theirs, scores, errors, overwrite, progress)
    if as_json:
        files = {key: path.name for key, path in (("csv", csv), ("errors", errors)) if path is not None}
        told = scores.to_dict() | {"candidate": candidate.name, "reference": reference.name}
        print_json({**told, "seconds": round(seconds, 3), **files, **found, "warnings": warnings})
        return
    for warning in warnings:
        typer.echo(f"Warning: {warning}", err=True)
    _print_scores(scores, candidate.name, reference.name, definitions)
    if found:
        regions, total = found["error_regions"], found["error_regions_total"]
        typer.echo(f"The largest of {total} error regions:" if total else "There is no error.")
        for region in regions[:_REGIONS_PRINTED]:
            place = ", ".join(map(str, region["centre"]))
            typer.echo(f"  {region['error']} at {place}: {region['size']:.4g} {region['size_unit']}")
    for path in (csv, errors):
        if path is not None and not quiet:
            typer.echo(f"Written: {path}")


# -- what goes in -------------------------------------------------------------------------------


def _parsed_ids(text: str) -> tuple[int, ...]:
    try:
        ids = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of label ids; e.g. 1,2,5") from error
    if min(ids) < 1:
        raise typer.BadParameter(f"{text!r} holds an id below 1; 0 is background")
    return ids


def _with_stated_spacing(
    mine: Segmentation, theirs: Segmentation, text: str | None
) -> tuple[Segmentation, Segmentation]:
    """Both sides, with the stated spacing where one states none."""
    unknown = [side.geometry.unit is None for side in (mine, theirs)]
    if text is None or not any(unknown):
        return with_spacing(mine, text), theirs
    return with_spacing(mine, text if unknown[0] else None), with_spacing(theirs, text if unknown[1] else None)


def _on_one_grid(mine: Segmentation, theirs: Segmentation) -> tuple[Segmentation, str | None]:
    """The candidate on the grid of the reference, and a sentence if it was moved."""
    from napari_medseg.evaluate.grids import GridMismatch, check_same_grid, on_grid

    try:
        check_same_grid(mine, theirs)
    except GridMismatch as mismatch:
        if mismatch.obstacle:
            raise
        how = "turned without loss" if mismatch.lossless else "resampled (nearest neighbour)"
        differing = ", ".join(mismatch.differences)
        return on_grid(mine, theirs.geometry), f"The candidate was {how} onto the reference's grid: {differing}."
    return mine, None


# -- what comes out -----------------------------------------------------------------------------


def _refuse_place(out: Path, read: tuple[Path, Path], overwrite: bool) -> None:
    for source in read:
        refuse_same(source, out)
    if out.exists() and not overwrite:
        raise InputError(f"{out.name}: already exists; choose another name or add --overwrite.")


def _write_text(path: Path, text: str) -> None:
    """Write beside the name and rename, so that a file of that name is always whole."""
    beside = path.with_name(f".{path.name}.writing")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _write_errors(
    mine: Segmentation, theirs: Segmentation, scores: CaseScores, out: Path, overwrite: bool, progress: Progress
) -> dict[str, Any]:
    """Write the map of errors of all labels; returns the share of each category and the largest regions, for JSON."""
    from napari_medseg.case import Provenance, Step
    from napari_medseg.evaluate.errors import ERROR_TABLE, ErrorCategories, legend
    from napari_medseg.evaluate.pairs import count_pairs
    from napari_medseg.evaluate.review import error_regions, ranked
    from napari_medseg.io import write_segmentation

    grid = theirs.geometry
    regions = error_regions(
        mine.data,
        theirs.data,
        grid.spacing,
        unit=grid.unit,
        axes=theirs.axes,
        instances=scores.objects,
        progress=progress,
    )
    entries = legend(count_pairs(mine.data, theirs.data), instances=scores.objects)
    history = Provenance().with_step(Step.now("evaluate", candidate=mine.name, reference=theirs.name))
    data = ErrorCategories(mine.data, theirs.data, instances=scores.objects)
    labels = Segmentation(data, grid, ERROR_TABLE, history, "errors", theirs.axes, theirs.seconds_per_frame)
    write_segmentation(labels, out, overwrite=overwrite)
    return {
        "error_shares": {entry.name: None if math.isnan(entry.share) else entry.share for entry in entries},
        "error_regions_total": len(regions),
        "error_regions": [region.to_dict() for region in ranked(regions)[:_REGIONS_LISTED]],
    }


def _print_scores(scores: CaseScores, candidate: str, reference: str, definitions: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if console.width < _NARROWEST and not console.is_terminal:
        console.width = _NARROWEST
    spaced = "unknown" if scores.spacing is None else f"{'x'.join(f'{s:.4g}' for s in scores.spacing)} {scores.unit}"
    console.print(
        f"{candidate} against {reference}: {'x'.join(map(str, scores.shape))} {scores.axes}, spacing {spaced}"
    )
    for group in scores.groups:
        for part in _side_by_side(scores.columns(group), console.width):
            console.print(_table(Table(title=group, title_justify="left"), scores.rows, part))
    accuracies = [m for m in scores.metrics if m.key in scores.accuracy]
    if accuracies:
        console.print(", ".join(f"{m.name} {_in_words(scores.accuracy[m.key])}" for m in accuracies))
    for line in (*_reasons(scores), *scores.notes):
        console.print(line)
    if definitions:
        for column in (*scores.columns(), *(scores.column_of(m) for m in accuracies)):
            source = f" ({column.metric.source})" if column.metric.source else ""
            meaning = f"{column.metric.definition.rstrip('.')}{source}. Empty masks: {column.metric.when_empty}"
            console.print(f"{column.heading}: {meaning}")


def _side_by_side(columns: tuple[Column, ...], width: int) -> Iterator[tuple[Column, ...]]:
    """The columns in as many tables as it takes for the headings to be read."""
    part: tuple[Column, ...] = ()
    used = _LABEL_WIDTH
    for column in columns:
        # a border and two blanks beside each
        needed = _longest_word(column.heading) + 3
        if part and used + needed > width:
            yield part
            part, used = (), _LABEL_WIDTH
        part, used = (*part, column), used + needed
    if part:
        yield part


def _longest_word(heading: str) -> int:
    return max(map(len, heading.split()))


def _table(table: Table, rows: tuple[ScoreRow, ...], columns: tuple[Column, ...]) -> Table:
    table.add_column("label", overflow="fold")
    for column in columns:
        table.add_column(column.heading, justify="right", min_width=_longest_word(column.heading))
    # rows that only other groups fill would be empty here
    for row in (r for r in rows if any(c.metric.key in r.values for c in columns)):
        cells = [_in_words(row.values[c.metric.key]) if c.metric.key in row.values else "" for c in columns]
        named = row.id is not None and row.name != f"label {row.id}"
        table.add_row(f"{row.id} {row.name}" if named else row.name, *cells)
    return table


def _reasons(scores: CaseScores) -> list[str]:
    """Why numbers are missing, one line for each label and reason."""
    lines = []
    for row in scores.rows:
        by_reason: dict[str, list[str]] = {}
        for column in scores.columns():
            if column.metric.key in row.reasons:
                by_reason.setdefault(row.reasons[column.metric.key], []).append(column.metric.name)
        lines += [f"{row.name}: {', '.join(names)}: {reason}." for reason, names in by_reason.items()]
    return lines


def _in_words(value: float) -> str:
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf"
    return f"{value:.4f}" if abs(value) <= 1 and value != int(value) else f"{value:.6g}"
