"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) volumes: images of up to five axes, and labels.

Both keep positions as left-posterior-superior (LPS) unless a NRRD says otherwise; the array keeps the file's own
grid. The headers are read here rather than by ITK because ITK fills in a spacing of 1 where there is none.
"""

from __future__ import annotations

import bz2
import gzip
import io
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.case import Geometry, InputError, Label, MedicalImage, Segmentation, Source
from napari_medseg.io.itk.headers import Grid, read_header
from napari_medseg.io.label_volumes import RECORD_KEY, labels_of, lps, parse_record, stem
from napari_medseg.io.lazy import AnyArray
from napari_medseg.io.stored import (
    Layout,
    PackedVolume,
    RawVolume,
    check_packed_length,
    check_raw_length,
    read_exactly,
    warning_of_missing_values,
)

_EAGER_BYTES = 1 << 26
# context, category, then the type of the segment: scheme, code, meaning
_TERMINOLOGY = re.compile(r"TerminologyEntry:[^~|]*~[^~|]*~([^~^|]+)\^([^~^|]+)\^([^~^|]*)")
_RECORD = re.compile(rf"{RECORD_KEY}\d*")
_SEGMENT = re.compile(r"Segment(\d+)_(\w+)")


def read(path: Path) -> list[MedicalImage]:
    """The one image in a NRRD or MetaImage file; raw pixels are read when they are looked at.

    Raises
    ------
    InputError
        If the header is damaged, names a data file that is missing or elsewhere, or the pixels are cut short,
        of an unknown kind, or all NaN.
    """
    grid = read_header(path)
    axes, layout = _layout(grid, path.name)
    volume = _volume(path, grid, layout)
    colours = grid.colours and volume.dtype == np.uint8 and volume.shape[-1] in (3, 4)
    missing = None if colours else warning_of_missing_values(volume, path.name)
    channels: tuple[str, ...] = ()
    if axes.endswith("c"):
        count = volume.shape[-1]
        channels = ("red", "green", "blue", "alpha")[:count] if colours else tuple(f"channel {k}" for k in range(count))
    return [
        MedicalImage(
            levels=(volume,),
            axes=axes,
            geometry=_geometry(grid, tuple(volume.shape[axes.index(a)] for a in axes if a in "zyx"), path.name),
            intensity="RGB" if colours else "arbitrary",
            name=stem(path),
            source=Source(grid.format, (path, *(f for f in grid.files if f != path))),
            channels=channels,
            seconds_per_frame=grid.seconds_per_frame if "t" in axes else None,
            details={"stored_type": str(layout.dtype.newbyteorder("=")), "encoding": grid.encoding},
            warnings=(*grid.warnings, *((missing,) if missing else ())),
        )
    ]


def says_labels(path: Path) -> bool:
    """Whether the file itself says that its numbers are labels; no pixel is read."""
    return any(_SEGMENT.match(key) or _RECORD.fullmatch(key) for key in read_header(path).keys)


def read_segmentation(path: Path) -> Segmentation:
    """The labels in a NRRD or MetaImage file, with names and colours of ours or of 3D Slicer where the file has them.

    Raises
    ------
    InputError
        As for `read`, or if the values are no labels, or segments overlap in several layers.
    """
    grid = read_header(path)
    if "c" in grid.roles and any(_SEGMENT.match(key) for key in grid.keys):
        raise InputError(
            f"{path.name}: its segments overlap and lie in several layers; accepted is one layer "
            "(in 3D Slicer: export to a labelmap)."
        )
    [image] = read(path)
    parts = sorted((k for k in grid.keys if _RECORD.fullmatch(k)), key=lambda k: (len(k), k))
    record = parse_record("".join(grid.keys[k] for k in parts))
    return labels_of(image, _segment_names(grid.keys), record)


def _segment_names(keys: dict[str, str]) -> dict[int, Label]:
    """3D Slicer's segment names and colours by label value."""
    segments: dict[str, dict[str, str]] = {}
    for key, value in keys.items():
        if match := _SEGMENT.fullmatch(key):
            segments.setdefault(match[1], {})[match[2]] = value
    names: dict[int, Label] = {}
    for number, segment in segments.items():
        value = segment.get("LabelValue", str(int(number) + 1)).strip()
        if not value.isdigit() or int(value) == 0 or not segment.get("Name", "").strip():
            continue
        code = _TERMINOLOGY.search(segment.get("Tags", ""))
        terminology = (code[1], code[2], code[3]) if code else None
        try:
            red, green, blue = (round(255 * min(1.0, max(0.0, float(v)))) for v in segment.get("Color", "").split())
            names[int(value)] = Label(int(value), segment["Name"].strip(), (red, green, blue), terminology)
        except ValueError:
            names[int(value)] = Label(int(value), segment["Name"].strip(), terminology=terminology)
    return names


def _layout(grid: Grid, name: str) -> tuple[str, Layout]:
    """Names of the array axes and how the numbers lie; axes of size 1 that are not spatial are dropped."""
    kept = [(role, n) for role, n in zip(grid.roles, grid.sizes, strict=True) if role in "zyx" or n > 1]
    roles = [role for role, _ in reversed(kept)]
    shape = tuple(n for _, n in reversed(kept))
    if len(set(roles)) != len(roles) or "x" not in roles or "y" not in roles:
        raise InputError(f"{name}: has the axes {grid.sizes}; accepted are x, y, z, one time and one channel axis.")
    if grid.lifted and "z" not in roles:
        at = roles.index("y")
        roles.insert(at, "z")
        shape = (*shape[:at], 1, *shape[at:])
    axes = "".join(a for a in "tzyxc" if a in roles)
    return axes, Layout(shape, grid.dtype, tuple(roles.index(a) for a in axes))


def _geometry(grid: Grid, shape: tuple[int, ...], name: str) -> Geometry:
    affine = lps(grid.affine) if len(shape) == 3 else grid.affine
    try:
        return Geometry.from_xyz_affine(shape, affine, grid.unit, "patient" if len(shape) == 3 else "image")
    except ValueError as error:
        raise InputError(f"{name}: the spacing or directions are not usable; accepted is a regular grid.") from error


# -- pixels -------------------------------------------------------------------------------------


def _volume(path: Path, grid: Grid, layout: Layout) -> RawVolume | PackedVolume:
    for file in grid.files:
        if not file.is_file():
            raise InputError(f"{path.name}: its data file {file.name} is missing; put it beside the header.")
    if grid.encoding == "raw" and len(grid.files) == 1:
        [file] = grid.files
        offset = grid.offset if grid.offset >= 0 else file.stat().st_size - layout.nbytes
        check_raw_length(file, max(0, offset), layout.nbytes)
        return RawVolume(file, layout, offset)
    unpack = _Unpack(path.name, grid, layout)
    volume = PackedVolume(grid.files[0], layout, unpack)
    if grid.encoding == "gzip" and len(grid.files) == 1:
        check_packed_length(grid.files[0], layout.nbytes, unpack.open)
    elif layout.nbytes <= _EAGER_BYTES:
        # nothing in these files tells their length: look now rather than fail at the first slice
        volume[(0,) * volume.ndim]
    return volume


class _Unpack:
    """Unpacks the pixels of one or several data files; a class so that arrays can be sent to other processes."""

    def __init__(self, name: str, grid: Grid, layout: Layout) -> None:
        self.name, self.grid, self.layout = name, grid, layout

    def open(self, file: Path | None = None) -> Any:
        """A stream of unpacked bytes."""
        stream = (file or self.grid.files[0]).open("rb")
        stream.seek(max(0, self.grid.offset))
        if self.grid.encoding == "gzip":
            return gzip.GzipFile(fileobj=stream)
        if self.grid.encoding == "bzip2":
            return bz2.BZ2File(stream)
        return io.BufferedReader(_Inflated(stream)) if self.grid.encoding == "zlib" else stream

    def __call__(self) -> AnyArray:
        try:
            if self.grid.encoding == "text":
                return self._text()
            each = self.layout.nbytes // len(self.grid.files)
            parts = []
            for file in self.grid.files:
                with self.open(file) as stream:
                    parts.append(read_exactly(stream, each, file.name, last=True))
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        except OSError as error:
            raise InputError(f"{self.name}: can no longer be read; it was moved after it was opened.") from error

    def _text(self) -> AnyArray:
        words = b""
        for file in self.grid.files:
            with self.open(file) as stream:
                words += b" " + stream.read()
        count = self.layout.nbytes // self.layout.dtype.itemsize
        numbers = words.split()
        if len(numbers) < count:
            raise InputError(f"{self.name}: the file is cut short, {len(numbers)} of {count} numbers are there.")
        try:
            return np.array([float(n) for n in numbers[:count]]).astype(self.layout.dtype).view(np.uint8)
        except ValueError as error:
            raise InputError(f"{self.name}: holds text where numbers were promised; export it again.") from error


class _Inflated(io.RawIOBase):
    """A zlib (or gzip) stream as MetaImage keeps it, unpacked as it is read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._engine = zlib.decompressobj(47)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer)
        while not self._engine.eof:
            waiting = self._engine.unconsumed_tail or self._stream.read(1 << 20)
            if not waiting:
                raise EOFError("the compressed data ends early")
            if found := self._engine.decompress(waiting, wanted):
                buffer[: len(found)] = found
                return len(found)
        return 0

    def close(self) -> None:
        self._stream.close()
        super().close()
