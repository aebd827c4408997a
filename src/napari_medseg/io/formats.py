"""Which module reads or writes which file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from napari_medseg.case import InputError, MedicalImage, Segmentation


@dataclass(frozen=True)
class Format:
    """A family of files and the module of this room that knows it.

    A module may offer ``read(path) -> list[MedicalImage]``, ``read_segmentation(path) -> Segmentation`` and
    ``write_segmentation(segmentation, path, *, overwrite) -> None``.
    """

    name: str
    module: str
    extensions: tuple[str, ...]
    reads_images: bool = True
    reads_labels: bool = False
    writes_labels: bool = False
    write_options: tuple[str, ...] = ()

    def matches(self, path: Path) -> bool:
        """Whether the name of `path` ends in one of the extensions."""
        return path.name.lower().endswith(self.extensions)


FORMATS: tuple[Format, ...] = (
    Format("OME-Zarr", "ome_zarr", (".zarr",), reads_labels=True, writes_labels=True, write_options=("ngff", "image")),
    Format("NIfTI", "nifti", (".nii", ".nii.gz"), reads_labels=True, writes_labels=True),
    Format("NRRD or MetaImage", "itk", (".nrrd", ".nhdr", ".mha", ".mhd"), reads_labels=True, writes_labels=True),
    Format("DICOM", "dicom", (".dcm", ".dicom", ".ima")),
    Format(
        "DICOM segmentation",
        "dicom_seg",
        (".dcm",),
        reads_images=False,
        reads_labels=True,
        writes_labels=True,
        write_options=("like",),
    ),
    Format("whole slide", "wsi", (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide")),
    Format("TIFF", "tiff", (".tif", ".tiff", ".ome.tif", ".ome.tiff"), reads_labels=True, writes_labels=True),
    Format("PNG, JPEG or BMP", "raster", (".png", ".jpg", ".jpeg", ".bmp"), reads_labels=True, writes_labels=True),
    Format("GeoJSON", "geojson", (".geojson",), reads_labels=True, writes_labels=True, reads_images=False),
    Format("video", "video", (".mp4", ".avi", ".mov", ".mkv", ".m4v")),
)

_ZARR_MARKERS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
_DICOM_PREAMBLE = 128


def format_of(path: Path) -> Format:
    """The format of an existing file or folder, by its name; by content for DICOM and zarr without an ending.

    Raises
    ------
    InputError
        If the path is missing, unreadable, empty, or of no known format.
    """
    if not path.exists():
        raise InputError(f"{path.name}: there is no such file or folder.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path.name}: no permission to read it; ask its owner or copy it to a folder of yours.")
    if path.is_dir():
        return _format_of_folder(path)
    if path.stat().st_size == 0:
        raise InputError(f"{path.name}: the file is empty (0 bytes); copy or export it again.")
    for candidate in FORMATS:
        if candidate.module != "ome_zarr" and candidate.matches(path):
            return _dicom_kind(path) if candidate.module == "dicom" else candidate
    with path.open("rb") as stream:
        stream.seek(_DICOM_PREAMBLE)
        if stream.read(4) == b"DICM":
            return _dicom_kind(path)
    raise InputError(f"{path.name}: not a known kind of image; accepted are {accepted_names()}.")


def _format_of_folder(path: Path) -> Format:
    if any((path / marker).exists() for marker in _ZARR_MARKERS) or path.name.lower().endswith(".zarr"):
        return _named("ome_zarr")
    if not any(path.iterdir()):
        raise InputError(f"{path.name}: the folder is empty; accepted are a DICOM folder or an OME-Zarr store.")
    return _named("dicom")


def _dicom_kind(path: Path) -> Format:
    from napari_medseg.io.dicom.header import is_segmentation

    return _named("dicom_seg" if is_segmentation(path) else "dicom")


def _named(module: str) -> Format:
    return next(f for f in FORMATS if f.module == module)


def accepted_names() -> str:
    """All extensions in one phrase, for messages."""
    return ", ".join(f"{f.name} ({' '.join(f.extensions)})" for f in FORMATS) + " and folders of DICOM files"


def _module(form: Format) -> Any:
    return import_module(f"napari_medseg.io.{form.module}")


def open_images(path: str | os.PathLike[str]) -> list[MedicalImage]:
    """Every image that a file or folder holds, lazily where the format allows.

    Raises
    ------
    InputError
        One sentence: which file, what is wrong, what would be accepted.
    """
    file = Path(path).expanduser()
    form = format_of(file)
    if form.module == "dicom_seg":
        # its sentence names what else than an image a DICOM file may be
        form = _named("dicom")
    if not form.reads_images:
        raise InputError(f"{file.name}: {form.name} files hold labels, not an image; open the image they belong to.")
    read: Callable[[Path], list[MedicalImage]] = _module(form).read
    return read(file)


def open_segmentation(path: str | os.PathLike[str], *, name: str | None = None) -> Segmentation:
    """The labels in a file or store, with names, colours and history where the format keeps them.

    `name` chooses among the label images of an OME-Zarr store.

    Raises
    ------
    InputError
        If the file holds no integer labels, its format cannot hold labels, or `name` is not there.
    """
    file = Path(path).expanduser()
    form = format_of(file)
    if not form.reads_labels:
        raise InputError(
            f"{file.name}: labels are not read from {form.name} files; accepted endings: {_endings('reads_labels')}."
        )
    if name is not None:
        if form.module != "ome_zarr":
            raise InputError(f"{file.name}: only OME-Zarr stores hold labels by name; leave the name out.")
        names = _module(form).label_names(file)
        if name not in names:
            raise InputError(f"{file.name}: holds no labels named {name}; it holds {', '.join(names) or 'none'}.")
        file = file / "labels" / name
    read: Callable[[Path], Segmentation] = _module(form).read_segmentation
    return read(file)


def says_labels(path: str | os.PathLike[str]) -> bool:
    """Whether a file of images says of itself that it holds labels: it was written by us or names its segments.

    Raises
    ------
    InputError
        As for `open_images`.
    """
    file = Path(path).expanduser()
    form = format_of(file)
    if not (form.reads_images and form.reads_labels):
        return not form.reads_images
    asked: Callable[[Path], bool] | None = getattr(_module(form), "says_labels", None)
    return asked is not None and asked(file)


def label_format(path: str | os.PathLike[str]) -> Format:
    """The format in which labels are written to a file of this name.

    Raises
    ------
    InputError
        If the name asks for no format that can hold labels.
    """
    file = Path(path)
    form = next((f for f in FORMATS if f.writes_labels and f.matches(file)), None)
    if form is None:
        raise InputError(
            f"{file.name}: labels cannot be written to a file of this name; "
            f"accepted endings: {_endings('writes_labels')}."
        )
    return form


def write_segmentation(
    segmentation: Segmentation, path: str | os.PathLike[str], *, overwrite: bool = False, **options: Any
) -> None:
    """Write labels in the format that the name asks for, then reopen the file and compare.

    Parameters
    ----------
    segmentation, path
        What to write and where.
    overwrite
        Whether an existing file may be replaced.
    options
        Passed to formats that know them: ``ngff`` and ``image`` (OME-Zarr), ``like`` (DICOM).

    Raises
    ------
    InputError
        If the name asks for no format that can hold labels, the file exists and `overwrite` is false,
        or the format cannot hold these labels (too many ids, wrong number of axes).
    """
    file = Path(path).expanduser()
    form = label_format(file)
    write: Callable[..., None] = _module(form).write_segmentation
    write(segmentation, file, overwrite=overwrite, **{k: v for k, v in options.items() if k in form.write_options})


def _endings(ability: str) -> str:
    return ", ".join(" ".join(f.extensions) for f in FORMATS if getattr(f, ability))
