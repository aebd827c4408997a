"""TIFF: plain, stacks, ImageJ, OME-TIFF and tiled pyramids in; labels out as OME-TIFF.

Labels are written so that other programs see their spacing in the OME record; what OME cannot say (a turned
patient grid, names, colours, history) lies in a map annotation of our own within it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from napari_medseg.case import (
    InputError,
    LabelTable,
    MedicalImage,
    Modality,
    Provenance,
    Segmentation,
    Source,
)
from napari_medseg.io.content import check_finite, refusal, require_file
from napari_medseg.io.lazy import ZarrArray
from napari_medseg.io.shrunk import with_coarser_levels
from napari_medseg.io.tiff.colour import to_display
from napari_medseg.io.tiff.metadata import placement, private_record

TILE = 512
_ACCEPTED = "TIFF"
# what tifffile raises for damaged tags, here and there
_UNREADABLE = (
    tifffile.TiffFileError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)

# below this step in micrometres a colour pyramid is taken for a stained slide
_SLIDE_STEP_UM = 5.0
_CHECKED_PAGES = 4000
# OME knows no 64-bit integers


# -- reading -----------------------------------------------------------------------------------------


def read(path: Path) -> list[MedicalImage]:
    """Every image series of a TIFF file, lazily and with its pyramid.

    Raises
    ------
    InputError
        If the file is no TIFF, is damaged or cut short, or holds pixels or axes that mean nothing known.
    """
    try:
        return _images(path)
    except _UNREADABLE as error:
        raise refusal(path, _ACCEPTED) from error


def _images(path: Path) -> list[MedicalImage]:
    file = _open(path)
    series = _series(file, path)
    return [_image(file, s, path, k if len(series) > 1 else None) for k, s in enumerate(series)]


def says_labels(path: Path) -> bool:
    """Whether the file itself says that its numbers are labels; no pixel is read."""
    try:
        return bool(private_record(_open(path), path.name))
    except _UNREADABLE as error:
        raise refusal(path, _ACCEPTED) from error


def read_segmentation(path: Path) -> Segmentation:
    """The labels in a TIFF file of integers; names, colours and history if we wrote it.

    Raises
    ------
    InputError
        If the file holds several images, colours or numbers that are no integers.
    """
    try:
        return _segmentation(path)
    except _UNREADABLE as error:
        raise refusal(path, _ACCEPTED) from error


def _segmentation(path: Path) -> Segmentation:
    file = _open(path)
    series = _series(file, path)
    if len(series) != 1:
        raise InputError(f"{path.name}: holds {len(series)} images; accepted is a TIFF file with one label image.")
    stored, axes, _ = _axes(series[0], path)
    if "c" in axes or series[0].dtype.kind not in "uib":
        kind = "channels or colours" if "c" in axes else f"{series[0].dtype} numbers"
        raise InputError(f"{path.name}: holds {kind}; labels are integers, one for each pixel.")
    data = ZarrArray(_zarr(series[0], 0, path), stored, axes, path.name, keep=file)
    place = placement(file, 0, axes, data.shape, path.name)
    private = private_record(file, path.name)
    try:
        table = LabelTable.from_dict(private["table"]) if private else LabelTable()
        history = Provenance.from_dict(private["provenance"]) if private else Provenance()
        name = str(private["name"]) if private else path.name.split(".")[0]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path.name}: its label table or history cannot be understood: {error}.") from error
    return Segmentation(data, place.geometry, table, history, name, axes, place.seconds_per_frame)


def _open(path: Path) -> tifffile.TiffFile:
    require_file(path, _ACCEPTED)
    return tifffile.TiffFile(path)


def _series(file: tifffile.TiffFile, path: Path) -> list[tifffile.TiffPageSeries]:
    found = [s for s in file.series if s.size and "Y" in s.axes and "X" in s.axes]
    found = [s for s in found if not s.keyframe.is_reduced] or found
    if not found:
        raise refusal(path, _ACCEPTED)
    return found


def _axes(series: tifffile.TiffPageSeries, path: Path) -> tuple[str, str, tuple[str, ...]]:
    """The stored axes by our names (``-`` for those of length 1 that we drop), ours in order, and warnings."""
    names, warnings = [], []
    sizes = dict(zip(series.axes, series.shape, strict=True))
    for axis, size in zip(series.axes, series.shape, strict=True):
        if axis in "YX":
            names.append(axis.lower())
        elif size == 1:
            names.append("-")
        elif axis in "CS":
            names.append("c")
        elif axis in "TZ":
            names.append(axis.lower())
        elif axis in "IQ" and "Z" not in sizes and "z" not in names:
            names.append("z")
            warnings.append("Its pages are taken as the slices of a stack.")
        else:
            names.append("?")
    stored = "".join(names)
    kept = stored.replace("-", "")
    if "?" in stored or len(set(kept)) != len(kept):
        raise InputError(
            f"{path.name}: its axes {series.axes} of {series.shape} are not understood; accepted are "
            "time, depth, height, width and one channel axis."
        )
    return stored, "".join(a for a in "tzyxc" if a in kept), tuple(warnings)


def _zarr(series: tifffile.TiffPageSeries, level: int, path: Path) -> Any:
    part = series.levels[level]
    if part.dtype is None or part.dtype.kind not in "uifb":
        raise InputError(f"{path.name}: holds {part.dtype} pixels; accepted are integers and floats.")
    _require_complete(part, path)
    return _mapped(part) or zarr.open(series.aszarr(level=level), mode="r")


class _Mapped:
    """Pixels that lie in the file as they are: mapped, because one strip may hold the whole picture."""

    def __init__(self, pixels: np.memmap[Any, Any], chunks: tuple[int, ...]) -> None:
        self._pixels, self.shape, self.dtype, self.ndim, self.chunks = (
            pixels,
            pixels.shape,
            pixels.dtype,
            pixels.ndim,
            chunks,
        )

    def __getitem__(self, index: Any) -> np.ndarray[Any, Any]:
        return np.array(self._pixels[index])


def _mapped(part: tifffile.TiffPageSeries) -> _Mapped | None:
    pages = [page for page in part.pages if page is not None]
    if part.dataoffset is None or not pages[0].is_memmappable or len({id(page.parent) for page in pages}) > 1:
        return None
    file = pages[0].parent
    pixels = np.memmap(
        file.filehandle.path, part.dtype.newbyteorder(file.byteorder), "r", int(part.dataoffset), tuple(part.shape)
    )
    flat = [
        TILE if axis in "YX" else size if axis == "S" else 1 for axis, size in zip(part.axes, part.shape, strict=True)
    ]
    return _Mapped(pixels, tuple(flat))


def _require_complete(part: Any, path: Path) -> None:
    """Refuse a file that ends before its pixels do: tifffile would fill in zeros without a word."""
    for page in part.pages[:_CHECKED_PAGES]:
        if page is None:
            raise InputError(f"{path.name}: some of its pages are missing; keep all files of the set together.")
        pieces = int(np.prod(page.chunked))
        if len(page.dataoffsets) < (1 if page.is_final else pieces):
            raise InputError(
                f"{path.name}: lists {len(page.dataoffsets)} of {pieces} pieces of its pixels; copy or export it again."
            )
        ends = np.asarray(page.dataoffsets, np.int64) + np.asarray(page.databytecounts, np.int64)
        if len(ends) and int(ends.max()) > page.parent.filehandle.size:
            raise InputError(f"{path.name}: the file is cut short, its last pixels are missing; copy it again.")


def _image(file: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path, index: int | None) -> MedicalImage:
    stored, axes, warnings = _axes(series, path)
    where = path.name if index is None else f"{path.name} image {index + 1}"
    plain = [
        ZarrArray(_zarr(series, n, path), stored, axes, where, keep=file)
        for n, part in enumerate(series.levels)
        if len(part.shape) == len(stored)
    ]
    shown = to_display(plain, axes, series.keyframe, where)
    place = placement(file, index or 0, axes, plain[0].shape, where)
    modality, intensity = Modality.OT, shown.intensity
    fine = place.geometry.unit == "um" and place.geometry.steps[-1] <= _SLIDE_STEP_UM
    if intensity == "RGB" and fine and shown.levels[0].ndim == 3 and (len(plain) > 1 or series.keyframe.is_tiled):
        modality, intensity = Modality.SM, "stain RGB"
    count = shown.levels[0].shape[-1] if shown.axes.endswith("c") else 1
    return MedicalImage(
        with_coarser_levels(shown.levels, shown.axes),
        shown.axes,
        place.geometry,
        modality=modality,
        intensity=intensity,
        name=path.name.split(".")[0] + ("" if index is None else f" {index + 1}"),
        source=Source("TIFF", (path,)),
        channels=place.channels if len(place.channels) == count and shown.axes.endswith("c") else (),
        seconds_per_frame=place.seconds_per_frame if "t" in axes else None,
        objective_power=place.objective_power,
        details={"format": place.flavour},
        warnings=(*warnings, *shown.warnings, *place.warnings, *check_finite(shown.levels, where)),
    )
