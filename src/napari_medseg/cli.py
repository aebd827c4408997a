"""The same work without a window.

Exit codes: 0 done, 1 the work failed (one sentence on standard error), 2 wrong usage, 3 refused for
safety, 130 cancelled. With ``--json`` standard output holds exactly one JSON object.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from napari_medseg import __version__
from napari_medseg.case import CancelledError, InputError, MedsegError

if TYPE_CHECKING:
    from napari_medseg.case import MedicalImage, Segmentation

app = typer.Typer(
    name="napari-medseg",
    help="Segment medical images, see where models are wrong, put labels right. Research use, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


# typer brings click along in some versions and uses the installed one in others; its base of all usage errors:
_UsageProblem: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class Precision(StrEnum):
    """Number formats a model can run in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Backend(StrEnum):
    """What runs the network."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"
    ONNX = "onnx"


class Tissue(StrEnum):
    """Whether tiles of a slide that hold only glass are left out."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Planes(StrEnum):
    """How a two-dimensional model reads a volume."""

    SLICES = "slices"
    MOSAIC = "mosaic"


class Ensemble(StrEnum):
    """How the labels of several models become one more."""

    MEAN = "mean"
    VOTE = "vote"
    STAPLE = "staple"


class Ngff(StrEnum):
    """Versions of OME-Zarr that are written."""

    V04 = "0.4"
    V05 = "0.5"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already there.")]
Series = Annotated[
    int | None, typer.Option("--series", min=1, help="Which image of a file or folder that holds several, from 1.")
]


@app.command()
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
        _print_json(summary)
    else:
        typer.echo(f"The labels, a screenshot and a summary are in {headless}.")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine: versions, devices, codecs, slides, OpenGL, model folders."""
    from napari_medseg.doctor import examine

    report = examine()
    if as_json:
        _print_json(report.to_dict())
    else:
        for line in report.lines():
            typer.echo(line)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
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
        _print_json({**records[0], "holds": records})
        return
    for number, record in enumerate(records, start=1):
        if len(records) > 1:
            typer.echo(f"-- {record['kind']} {number} of {len(records)}")
        for key, value in record.items():
            typer.echo(f"{key.replace('_', ' '):<20} {_in_words(value)}")


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that can be used here."""
    from napari_medseg.bundles import list_bundles
    from napari_medseg.describe import describe_model

    entries = [describe_model(entry) for entry in list_bundles()]
    if as_json:
        _print_json({"models": entries})
        return
    for entry in entries:
        if entry["problem"]:
            typer.echo(f"{entry['id']:<18} cannot be used by this id: {entry['problem']}")
            continue
        size = f"{entry['size'] / 1e6:.1f} MB"
        modality = ",".join(entry["modality"])
        names = ", ".join(label["name"] for label in entry["labels"])
        typer.echo(f"{entry['id']:<18} {modality:<6} {size:>8}  {names}  ({entry['licence']}; {entry['source']})")
        typer.echo(f"{'':<18} {_in_words(entry['reference_scores'])}")


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="File, DICOM folder or OME-Zarr store.", readable=False)],
    model: Annotated[list[str], typer.Option("--model", "-m", help="Model id or bundle folder; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.zarr", help="The OME-Zarr store to write.")],
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
    """Segment an image with one or more models into OME-Zarr labels."""
    from napari_medseg.bundles import bundle_sha256, load_model, trust_bundle
    from napari_medseg.bundles.find import find_bundle
    from napari_medseg.inference import SegmentOptions
    from napari_medseg.inference.segment import segment_all
    from napari_medseg.progress_display import shown_progress

    _refuse_same(image, out)
    if out.suffix != ".zarr":
        raise InputError(f"{out.name}: labels are written as OME-Zarr; accepted is a name that ends in .zarr.")
    case = _with_spacing(_one_image(image, series), spacing)
    options = SegmentOptions(
        device=device,
        precision=precision.value,
        backend=backend.value,
        overlap=overlap,
        margin=margin,
        mirror=tta,
        region=None if region is None else _region(region),
        tissue=tissue.value,
        planes=planes.value,
        max_memory=None if max_memory is None else _bytes(max_memory),
        probabilities=probabilities,
        uncertainty=uncertainty,
    )
    if trust:
        for wanted in model:
            trust_bundle(bundle_sha256(find_bundle(wanted)[0]))
    loaded = [load_model(wanted) for wanted in model]
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
        _print_json({**reports[0], "out": out.name, "models": reports})
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
            typer.echo("  " + "  ".join(f"{k} {_in_words(v)}" for k, v in label.items()))
    typer.echo(f"Labels are in {out}.")


@app.command()
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

    _refuse_same(labels, out)
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
        _print_json({**told, "warnings": doubts})
        return
    for doubt in doubts:
        typer.echo(f"Warning: {doubt}", err=True)
    if not quiet:
        typer.echo(f"{len(amounts)} labels written to {out} as {form.name}, reopened and compared.")


def _amounts(segmentation: Segmentation) -> list[dict[str, Any]]:
    table = segmentation.table
    return [{"id": k, "name": table.name(k), "voxels": e.voxels} for k, e in segmentation.extents().items()]


def _refuse_same(source: Path, out: Path) -> None:
    read, written = source.expanduser().resolve(), out.expanduser().resolve()
    if read == written or written in read.parents or read in written.parents:
        raise InputError(f"{out.name}: is what is read, or holds it; choose another place for what is written.")


def _one_image(path: Path, series: int | None) -> MedicalImage:
    from napari_medseg.io import open_images

    images = open_images(path)
    if len(images) == 1 and series in (None, 1):
        return images[0]
    if series is None:
        listed = "; ".join(f"{k}: {i.name} {'x'.join(map(str, i.shape))}" for k, i in enumerate(images, start=1))
        raise InputError(f"{path.name}: holds {len(images)} images; choose one with --series ({listed}).")
    if series > len(images):
        raise InputError(f"{path.name}: there is no series {series}; it holds {len(images)}.")
    return images[series - 1]


def _region(text: str) -> tuple[slice, ...]:
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return tuple(slice(int(low), int(high)) for low, high in pairs)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not of the form z0:z1,y0:y1,x0:x1") from error


def _bytes(text: str) -> int:
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    shift = units.get(number[-1:], 0)
    try:
        size = int(float(number[:-1] if shift else number) * (1 << shift))
        if size < 1:
            raise ValueError(text)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is no size of memory; e.g. 2G, 800M") from error
    return size


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
    from napari_medseg.inference.cluster import DaskWorkers

    return DaskWorkers.local(count) if scheduler is None else DaskWorkers.connect(scheduler)


def _with_spacing(image: MedicalImage, text: str | None) -> MedicalImage:
    from dataclasses import replace

    if text is None:
        return image
    unit = text[-2:]
    try:
        steps = tuple(float(part) for part in text[:-2].split(","))
        if unit not in ("mm", "um"):
            raise ValueError(unit)
        geometry = image.geometry.with_spacing(steps, "mm" if unit == "mm" else "um")
    except ValueError as error:
        axes = ",".join(image.spatial_axes)
        raise typer.BadParameter(f"{text!r} is not of the form {axes} followed by mm or um, e.g. 0.5,0.5um") from error
    if image.geometry.unit is not None:
        raise InputError(f"{image.name}: states its spacing itself; --spacing is for images that do not.")
    return replace(image, geometry=geometry)


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_in_words(v)}" for k, v in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return " ".join(_in_words(v) for v in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "unknown" if value is None else str(value)


def _print_json(record: dict[str, Any]) -> None:
    typer.echo(json.dumps(record, ensure_ascii=False, default=str))


def _version(show: bool) -> None:
    if show:
        typer.echo(f"napari-medseg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options of every command."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    # processors that wait for each other by spinning starve whatever else runs here; read when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    # --debug is understood anywhere, so that it can simply be added to a command that failed
    debug = "--debug" in given
    given = [a for a in given if a != "--debug"]
    if not debug:
        warnings.simplefilter("ignore")
    for name in ("SIGTERM", "SIGHUP"):
        if threading.current_thread() is threading.main_thread() and hasattr(signal, name):
            # schedulers and closed terminals end work so; it then cleans up as after Ctrl-C
            signal.signal(getattr(signal, name), signal.default_int_handler)
    sys.exit(_run(given, debug))


def _run(arguments: list[str], debug: bool) -> int:
    try:
        code = app(arguments, prog_name="napari-medseg", standalone_mode=False)
    except _UsageProblem as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = CancelledError.exit_code
    except Exception as error:
        if debug:
            raise
        typer.echo(_sentence(error), err=True)
        for note in getattr(error, "__notes__", ()):
            typer.echo(note, err=True)
        return error.exit_code if isinstance(error, MedsegError) else 1
    if code == CancelledError.exit_code:
        typer.echo("Cancelled.", err=True)
    return int(code or 0)


def _sentence(error: Exception) -> str:
    if isinstance(error, MedsegError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        name = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
        return f"The system refused: {error.strerror}{name}. Free space or choose another place, then run again."
    return f"Unexpected {type(error).__name__}: {error}. Run again with --debug for the details."
