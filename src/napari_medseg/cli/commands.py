"""The commands that run no model: demo, doctor, info, models, add, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_medseg.cli.arguments import refuse_same
from napari_medseg.cli.choices import Json, Ngff, Overwrite, Quiet
from napari_medseg.cli.output import in_words, print_json

if TYPE_CHECKING:
    from napari_medseg.case import Segmentation


def demo(
    headless: Annotated[
        Path | None,
        typer.Option("--headless", metavar="DIR", help="Run off screen; leave labels, screenshot and summary in DIR."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Open napari with a built-in histology image and segment its nuclei."""
    from napari_medseg.desk.demo import run_demo

    summary = run_demo(headless)
    if summary is None:
        return
    if as_json:
        print_json(summary)
    else:
        typer.echo(f"The labels, a screenshot and a summary are in {headless}.")


def doctor(as_json: Json = False) -> None:
    """Check this machine: versions, devices, codecs, slides, OpenGL, model folders."""
    from napari_medseg.doctor import examine

    report = examine()
    if as_json:
        print_json(report.to_dict())
    else:
        for line in report.lines():
            typer.echo(line)
    if not report.ok:
        raise typer.Exit(1)


def info(path: Annotated[Path, typer.Argument(help="File or folder.", readable=False)], as_json: Json = False) -> None:
    """Say what a file or folder holds, without patient identifiers."""
    from napari_medseg.describe import describe_image, describe_labels
    from napari_medseg.io import open_images, open_segmentation
    from napari_medseg.io.formats import format_of, says_labels

    if format_of(path.expanduser()).module == "ome_zarr":
        from napari_medseg.io.ome_zarr import has_image, label_names

        names = label_names(path.expanduser())
        labels_only = bool(names) and not has_image(path.expanduser())
        records = [] if labels_only else [describe_image(i) for i in open_images(path)]
        records += [describe_labels(open_segmentation(path, name=name)) for name in names]
    elif says_labels(path):
        records = [describe_labels(open_segmentation(path))]
    else:
        records = [describe_image(i) for i in open_images(path)]
    if as_json:
        print_json({**records[0], "holds": records})
        return
    for number, record in enumerate(records, start=1):
        if len(records) > 1:
            typer.echo(f"-- {record['kind']} {number} of {len(records)}")
        for key, value in record.items():
            typer.echo(f"{key.replace('_', ' '):<20} {in_words(value)}")


def models(as_json: Json = False) -> None:
    """List the models that can be used here."""
    from napari_medseg.bundles import list_bundles
    from napari_medseg.describe import describe_model

    entries = [describe_model(entry) for entry in list_bundles()]
    if as_json:
        print_json({"models": entries})
        return
    wide = max((len(entry["id"]) for entry in entries), default=0)
    for entry in entries:
        if entry["problem"]:
            typer.echo(f"{entry['id']:<{wide}} cannot be used by this id: {entry['problem']}")
            continue
        size = "no weights" if entry["learned_nothing"] else f"{entry['size'] / 1e6:.1f} MB"
        modality = ",".join(entry["modality"])
        names = ", ".join(label["name"] for label in entry["labels"])
        typer.echo(f"{entry['id']:<{wide}} {modality}  {size}  {names}  ({entry['licence']}; {entry['source']})")
        scores = in_words(entry["reference_scores"]) if entry["reference_scores"] else "not scored"
        typer.echo(f"{'':<{wide}} {scores}")


def add(
    path: Annotated[
        Path,
        typer.Argument(help="A MONAI bundle, or a results folder of nnU-Net v2 (or one of its folds).", readable=False),
    ],
    fold: Annotated[str | None, typer.Option(help="Which fold of a results folder with several.")] = None,
    orientation: Annotated[
        str | None,
        typer.Option(
            metavar="SPL",
            help="Where the axes (z, y, x) of nnU-Net's training files pointed; it does not write that down.",
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of nnU-Net's weights.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Put a model among your own, so that it is listed and used by its id."""
    from napari_medseg.bundles.add import add_model

    model = add_model(path, fold=fold, orientation=orientation, licence=licence, overwrite=overwrite)
    if as_json:
        print_json({"id": model.card.id, "path": str(model.path), "sha256": model.sha256, "size": model.size})
    else:
        typer.echo(
            f"{model.card.id} is among your models now: napari-medseg segment IMAGE -m {model.card.id} -o OUT.zarr"
        )


def export(
    labels: Annotated[Path, typer.Argument(help="OME-Zarr store or label file.", readable=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The format follows from the name.")],
    name: Annotated[str | None, typer.Option(help="Which labels of a store that holds several.")] = None,
    like: Annotated[
        Path | None, typer.Option(metavar="DICOM_DIR", help="The series that a DICOM segmentation refers to.")
    ] = None,
    ngff: Annotated[Ngff, typer.Option(help="OME-Zarr version.")] = Ngff.V05,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write labels in another format, reopen the file and compare."""
    from dataclasses import replace

    from napari_medseg.case import Step
    from napari_medseg.io import open_segmentation, write_segmentation
    from napari_medseg.io.formats import format_of, label_format, says_labels

    refuse_same(labels, out)
    form = label_format(out)
    segmentation = open_segmentation(labels, name=name)
    stated = format_of(labels.expanduser()).module == "ome_zarr" or says_labels(labels)
    doubts = (
        [] if stated else [f"{labels.name}: does not say that it holds labels; its whole numbers were taken as ids."]
    )
    if not segmentation.complete:
        doubts.append(f"{labels.name}: the run that makes these labels has not finished; what is missing is 0.")
    history = segmentation.provenance.with_step(Step.now("export", format=form.name))
    segmentation = replace(segmentation, provenance=history)
    write_segmentation(segmentation, out, overwrite=overwrite, ngff=ngff.value, like=like)
    amounts = _amounts(segmentation)
    if as_json:
        shape = [int(n) for n in segmentation.data.shape]
        told = {"out": out.name, "format": form.name, "shape": shape, "labels": amounts, "verified": True}
        print_json({**told, "warnings": doubts})
        return
    for doubt in doubts:
        typer.echo(f"Warning: {doubt}", err=True)
    if not quiet:
        typer.echo(f"{len(amounts)} labels written to {out} as {form.name}, reopened and compared.")


def _amounts(segmentation: Segmentation) -> list[dict[str, Any]]:
    table = segmentation.table
    return [{"id": k, "name": table.name(k), "voxels": e.voxels} for k, e in segmentation.extents().items()]
