"""Labels into NRRD and MetaImage files, a slab at a time, with names and history in the header."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from napari_medseg.case import Geometry, InputError, Segmentation
from napari_medseg.io.itk.reading import read_segmentation
from napari_medseg.io.label_volumes import (
    RECORD_KEY,
    lps,
    record_of,
    slabs,
    stored_dtype,
    volume_geometry,
)
from napari_medseg.io.writing import staged, verify

_PACK_LEVEL = 4
# MetaIO reads a header line into a buffer of fixed size
_META_VALUE = 8000
_NRRD_TYPES = {"uint8": "unsigned char", "uint16": "unsigned short", "int32": "int"}
_META_TYPES = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT", "int32": "MET_INT"}


def write_segmentation(segmentation: Segmentation, path: Path, *, overwrite: bool) -> None:
    """Write labels as NRRD (.nrrd) or MetaImage (.mha), then reopen the file and compare.

    A NRRD also gets 3D Slicer's segment names and colours. 2-D labels become one slice; see
    `napari_medseg.io.label_volumes.volume_geometry` for where pictures are put.

    Raises
    ------
    InputError
        If the name asks for a header with a separate data file, the file exists and `overwrite` is false, or an
        id is negative or above 2147483647.
    MedsegError
        If what was written does not read back the same; nothing is kept then.
    """
    ending = path.suffix.lower()
    if ending in (".nhdr", ".mhd"):
        whole = {".nhdr": ".nrrd", ".mhd": ".mha"}[ending]
        raise InputError(f"{path.name}: labels are kept in one file, not header and data apart; use {whole}.")
    dtype = stored_dtype(segmentation, path.name)
    with staged(path, overwrite=overwrite) as temporary:
        with temporary.open("wb") as stream:
            if ending == ".nrrd":
                _write_nrrd(segmentation, dtype, stream)
            else:
                _write_meta(segmentation, dtype, stream)
        verify(segmentation, read_segmentation(temporary), path.name)


def _grid(segmentation: Segmentation) -> tuple[Geometry, tuple[int, ...]]:
    """The volume's grid and the sizes of all axes, fastest first."""
    grid = volume_geometry(segmentation.geometry)
    times = tuple(segmentation.data.shape[:1]) if segmentation.axes.startswith("t") else ()
    return grid, (*reversed(grid.shape), *times)


def _write_nrrd(segmentation: Segmentation, dtype: np.dtype[Any], stream: IO[bytes]) -> None:
    grid, sizes = _grid(segmentation)
    affine = lps(grid.xyz_affine)
    timed = len(sizes) == 4
    lines = [
        "NRRD0005",
        f"type: {_NRRD_TYPES[dtype.name]}",
        f"dimension: {len(sizes)}",
        f"sizes: {_words(sizes)}",
        f"kinds: domain domain domain{' list' if timed else ''}",
        "endian: little",
        "encoding: gzip",
    ]
    if grid.unit:
        directions = " ".join(_vector(affine[:3, k]) for k in range(3))
        lines[3:3] = ["space: left-posterior-superior"]
        lines += [
            f"space directions: {directions}{' none' if timed else ''}",
            f"space origin: {_vector(affine[:3, 3])}",
            'space units: "mm" "mm" "mm"',
        ]
    if timed and segmentation.seconds_per_frame:
        lines += [
            f"spacings: nan nan nan {segmentation.seconds_per_frame!r}",
            'units: "" "" "" "s"',
        ]
    lines += [f"{key}:={_escaped(value)}" for key, value in _segments(segmentation, sizes)]
    lines += [f"{RECORD_KEY}:={_escaped(record_of(segmentation))}", "", ""]
    stream.write("\n".join(lines).encode())
    with gzip.GzipFile("", "wb", compresslevel=_PACK_LEVEL, fileobj=stream, mtime=0) as packed:
        for slab in slabs(segmentation, dtype.newbyteorder("<")):
            packed.write(slab.data)


def _segments(segmentation: Segmentation, sizes: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """3D Slicer's entries; instances have no names of their own."""
    if segmentation.table.instances or len(sizes) != 3:
        return
    yield "Segmentation_ContainedRepresentationNames", "Binary labelmap|"
    yield "Segmentation_MasterRepresentation", "Binary labelmap"
    extent = " ".join(f"0 {n - 1}" for n in sizes)
    for k, label in enumerate(segmentation.table):
        yield f"Segment{k}_ID", f"Segment_{label.id}"
        yield f"Segment{k}_Name", label.name
        yield f"Segment{k}_LabelValue", str(label.id)
        yield f"Segment{k}_Layer", "0"
        yield f"Segment{k}_Color", " ".join(f"{v / 255:.6f}" for v in label.colour)
        yield f"Segment{k}_Extent", extent
        if label.terminology:
            scheme, code, meaning = label.terminology
            yield f"Segment{k}_Tags", f"TerminologyEntry:~^^~{scheme}^{code}^{meaning}~^^~~^^~^^|"


def _write_meta(segmentation: Segmentation, dtype: np.dtype[Any], stream: IO[bytes]) -> None:
    grid, sizes = _grid(segmentation)
    affine = lps(grid.xyz_affine)
    count = len(sizes)
    matrix, spacing, offset = np.eye(count), np.ones(count), np.zeros(count)
    spacing[:3] = np.linalg.norm(affine[:3, :3], axis=0)
    matrix[:3, :3] = (affine[:3, :3] / spacing[:3]).T
    offset[:3] = affine[:3, 3]
    if count == 4:
        spacing[3] = segmentation.seconds_per_frame or 1.0
    # readers trim values: a space at the end of a part would be lost
    record = record_of(segmentation).replace(" ", "\\u0020")
    lines = ["ObjectType = Image", f"NDims = {count}", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["CompressedData = True"]
    size_at = len("\n".join(lines).encode()) + 1
    # the size is known only afterwards: leave room for it
    lines += [f"CompressedDataSize = {0:020d}"]
    if grid.unit:
        lines += [
            f"TransformMatrix = {_words(matrix.ravel())}",
            f"Offset = {_words(offset)}",
            f"ElementSpacing = {_words(spacing)}",
        ]
    lines += [f"DimSize = {_words(sizes)}", f"ElementType = {_META_TYPES[dtype.name]}"]
    parts = [record[k : k + _META_VALUE] for k in range(0, len(record), _META_VALUE)]
    lines += [f"{RECORD_KEY}{k} = {part}" for k, part in enumerate(parts)]
    lines += ["ElementDataFile = LOCAL", ""]
    stream.write("\n".join(lines).encode())
    start = stream.tell()
    engine = zlib.compressobj(_PACK_LEVEL)
    for slab in slabs(segmentation, dtype.newbyteorder("<")):
        stream.write(engine.compress(slab.data))
    stream.write(engine.flush())
    stop = stream.tell()
    stream.seek(size_at)
    stream.write(f"CompressedDataSize = {stop - start:020d}".encode())
    stream.seek(stop)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _words(values: Any) -> str:
    return " ".join(repr(v.item() if hasattr(v, "item") else v) for v in values)


def _vector(values: Any) -> str:
    return "(" + ",".join(repr(float(v)) for v in values) + ")"
