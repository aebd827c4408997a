"""``napari-medseg segment``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_medseg.case import CancelledError, InputError
from napari_medseg.cli.arguments import one_image, parsed_bytes, parsed_region, refuse_same, with_spacing
from napari_medseg.cli.choices import Backend, Ensemble, Json, Ngff, Overwrite, Planes, Precision, Quiet, Series, Tissue
from napari_medseg.cli.output import in_words, print_json

if TYPE_CHECKING:
    from napari_medseg.inference.cases import CaseRecord


def segment(
    image: Annotated[
        list[Path],
        typer.Argument(help="Image, DICOM folder or OME-Zarr store, or several.", readable=False),
    ],
    model: Annotated[list[str], typer.Option("--model", "-m", help="Model id or bundle folder; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.zarr", help="The store; a folder for several.")],
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Number format.")] = Precision.AUTO,
    backend: Annotated[Backend, typer.Option(help="What runs the network.")] = Backend.AUTO,
    overlap: Annotated[float | None, typer.Option(help="Share of a tile common to neighbours, 0 to below 1.")] = None,
    margin: Annotated[int, typer.Option(min=0, help="Voxels at the rim of a tile that are not used.")] = 0,
    tta: Annotated[bool, typer.Option("--tta", help="Average over mirror images of each tile.")] = False,
    region: Annotated[
        str | None, typer.Option(metavar="z0:z1,y0:y1,x0:x1", help="Part of the image, in voxels; y and x in 2-D.")
    ] = None,
    tissue: Annotated[Tissue, typer.Option(help="Leave out the tiles of a slide that hold only glass.")] = Tissue.AUTO,
    planes: Annotated[
        Planes, typer.Option(help="How a 2-D model reads a volume: slice by slice, or all slices as one mosaic.")
    ] = Planes.SLICES,
    ensemble: Annotated[
        Ensemble | None, typer.Option(help="Also store what all models together say, as the labels 'ensemble'.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also store the probability of every class.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also store the entropy of the probabilities, 0 sure to 1 no idea.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was cancelled or killed; else start one.")
    ] = False,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory to stay below, e.g. 2G or 800M; costs some time.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Compute in this many processes of this machine.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://…", help="Compute on the Dask cluster with this scheduler.")
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(metavar="z,y,xUNIT", help="Spacing of an image that states none, e.g. 0.5,0.5um.")
    ] = None,
    series: Series = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Remember these exact bundles as trusted although they name foreign code.")
    ] = False,
    with_image: Annotated[bool, typer.Option("--with-image", help="Copy the image into the store.")] = False,
    ngff: Annotated[Ngff, typer.Option(help="OME-Zarr version.")] = Ngff.V05,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Segment an image with one or more models into OME-Zarr labels; many images into a folder of stores."""
    from napari_medseg.bundles import bundle_sha256, load_model, trust_bundle
    from napari_medseg.bundles.find import find_bundle
    from napari_medseg.inference import SegmentOptions
    from napari_medseg.inference.cases import cases_of, segment_cases
    from napari_medseg.inference.compute.allocator import share_freed_memory
    from napari_medseg.inference.segment import segment_all
    from napari_medseg.progress_display import shown_progress

    share_freed_memory()

    several = len(image) > 1
    for each in image:
        refuse_same(each, out)
    if several and not all(wanted is None for wanted in (series, spacing, ensemble)):
        raise typer.BadParameter("--series, --spacing and --ensemble are for one image at a time")
    if not several and out.suffix != ".zarr":
        raise InputError(f"{out.name}: labels are written as OME-Zarr; accepted is a name that ends in .zarr.")
    options = SegmentOptions(
        device=device,
        precision=precision.value,
        backend=backend.value,
        overlap=overlap,
        margin=margin,
        mirror=tta,
        region=None if region is None else parsed_region(region),
        tissue=tissue.value,
        planes=planes.value,
        max_memory=None if max_memory is None else parsed_bytes(max_memory),
        probabilities=probabilities,
        uncertainty=uncertainty,
    )
    if trust:
        for wanted in model:
            trust_bundle(bundle_sha256(find_bundle(wanted)[0]))
    loaded = [load_model(wanted) for wanted in model]
    if several:
        with _stopped_by_hand(), _workers(workers, scheduler) as helpers, shown_progress(quiet) as progress:
            records = segment_cases(
                cases_of(image),
                loaded,
                out,
                options,
                workers=helpers,
                progress=progress,
                overwrite=overwrite,
                resume=resume,
                ngff=ngff.value,
                with_image=with_image,
            )
        _tell_cases(records, as_json)
        return
    case = with_spacing(one_image(image[0], series), spacing)
    with _stopped_by_hand(), _workers(workers, scheduler) as helpers, shown_progress(quiet) as progress:
        results = segment_all(
            case,
            loaded,
            out,
            options,
            progress=progress,
            overwrite=overwrite,
            resume=resume,
            ngff=ngff.value,
            with_image=with_image,
            workers=helpers,
            ensemble=None if ensemble is None else ensemble.value,
        )
    reports = [r.report.to_dict() for r in results]
    if as_json:
        print_json({**reports[0], "out": out.name, "models": reports})
        return
    for report in reports:
        for warning in report["warnings"]:
            typer.echo(f"Warning: {warning}", err=True)
        for words in report["ladder"]:
            typer.echo(f"Memory: {words}", err=True)
        how = f"{report['device']} ({report['backend']}, {report['precision']})"
        skipped = report["tiles"]["skipped"]
        glass = f"; {skipped} of {report['tiles']['planned']} tiles are glass" if skipped else ""
        typer.echo(f"{report['model']}: {report['seconds']:.1f} s on {how}{glass}")
        for label in report["labels"]:
            typer.echo("  " + "  ".join(f"{k} {in_words(v)}" for k, v in label.items()))
    typer.echo(f"Labels are in {out}.")


def _tell_cases(records: Sequence[CaseRecord], as_json: bool) -> None:
    """Say what became of each image; leave with 1 if one of them failed."""
    if as_json:
        print_json({"cases": [record.to_dict() for record in records]})
    for record in records:
        if record.error is not None:
            typer.echo(f"{record.name}: {record.error}", err=True)
        elif not as_json:
            typer.echo(f"{record.name}: {'was finished before' if record.skipped else f'{record.seconds:.1f} s'}")
    if any(record.error is not None for record in records):
        raise typer.Exit(1)


@contextmanager
def _stopped_by_hand() -> Iterator[None]:
    """Ctrl-C as the cancellation it is, with what stays of the work."""
    try:
        yield
    except KeyboardInterrupt as error:
        cancelled = CancelledError("Cancelled.")
        for note in getattr(error, "__notes__", ()):
            cancelled.add_note(note)
        raise cancelled from error


def _workers(count: int, scheduler: str | None) -> Any:
    """The processes that compute, as a context; ``None`` in it for this process."""
    from contextlib import nullcontext

    if count and scheduler is not None:
        raise typer.BadParameter("--workers starts processes here and --scheduler uses a cluster; give one of them")
    if not count and scheduler is None:
        return nullcontext()
    from napari_medseg.inference.cluster.workers import DaskWorkers

    return DaskWorkers.local(count) if scheduler is None else DaskWorkers.connect(scheduler)
