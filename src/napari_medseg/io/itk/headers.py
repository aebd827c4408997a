"""The text headers of NRRD and MetaImage files, as one plain record."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.case import InputError
from napari_medseg.case.geometry import FloatArray, Unit

_HEADER_BYTES = 1 << 24
_MM = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "microns": 1e-3}
_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6}

_NRRD_TYPES = {
    "int8": "signed char, int8, int8_t",
    "uint8": "uchar, unsigned char, uint8, uint8_t",
    "int16": "short, short int, signed short, signed short int, int16, int16_t",
    "uint16": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "int32": "int, signed int, int32, int32_t",
    "uint32": "uint, unsigned int, uint32, uint32_t",
    "int64": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "uint64": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "float32": "float",
    "float64": "double",
}
_NRRD_DTYPES = {word: np.dtype(name) for name, words in _NRRD_TYPES.items() for word in words.split(", ")}
_NRRD_ENCODINGS = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2", "ascii": "text", "text": "text",
    "txt": "text",
}  # fmt: skip
_NRRD_SPACES = {
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
}  # fmt: skip
_COLOUR_KINDS = ("rgb-color", "rgba-color", "3-color", "4-color")
_META_DTYPES = {
    "MET_CHAR": "int8", "MET_UCHAR": "uint8", "MET_SHORT": "int16", "MET_USHORT": "uint16", "MET_INT": "int32",
    "MET_UINT": "uint32", "MET_LONG": "int32", "MET_ULONG": "uint32", "MET_LONG_LONG": "int64",
    "MET_ULONG_LONG": "uint64", "MET_FLOAT": "float32", "MET_DOUBLE": "float64",
}  # fmt: skip


@dataclass
class Grid:
    """What a header says.

    Parameters
    ----------
    format
        Name for people.
    sizes, roles
        Size and role (``x y z t c``) of each axis, fastest first.
    dtype
        Type in the file, byte order included.
    affine
        4x4, index ``(x, y, z, 1)`` to LPS millimetres; pixels where `unit` is ``None``.
    unit
        ``"mm"`` or ``None`` when the file records no spacing.
    lifted
        Whether a two-axis image lies in three-dimensional space.
    encoding
        ``raw``, ``gzip``, ``bzip2``, ``zlib`` or ``text``.
    files, offset
        Where the pixels are; an offset of -1 counts from the end.
    keys
        Free entries of the header.
    """

    format: str
    sizes: tuple[int, ...]
    roles: str
    dtype: np.dtype[Any]
    affine: FloatArray
    unit: Unit
    lifted: bool
    encoding: str
    files: tuple[Path, ...]
    offset: int
    colours: bool = False
    seconds_per_frame: float | None = None
    keys: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_header(path: Path) -> Grid:
    """The header of a NRRD or MetaImage file, by content.

    Raises
    ------
    InputError
        If it is neither, incomplete, or asks for what is not supported.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEADER_BYTES)
    except IsADirectoryError as error:
        raise InputError(f"{path.name}: is a folder; accepted is a NRRD or MetaImage file.") from error
    except FileNotFoundError as error:
        raise InputError(f"{path.name}: there is no such file.") from error
    except PermissionError as error:
        message = f"{path.name}: no permission to read it; ask its owner or copy it to a folder of yours."
        raise InputError(message) from error
    try:
        return _nrrd(path, head) if head.startswith(b"NRRD000") else _meta(path, head)
    except (ValueError, IndexError) as error:
        raise InputError(f"{path.name}: a number in the header cannot be read; export the image again.") from error
    except KeyError as error:
        raise InputError(f"{path.name}: the header has no field {error}, or the file is cut short.") from error


# -- NRRD ---------------------------------------------------------------------------------------


def _nrrd(path: Path, head: bytes) -> Grid:
    fields, keys, end = _nrrd_fields(head)
    sizes = _integers(fields["sizes"])
    if len(sizes) != int(fields["dimension"]) or min(sizes) < 1:
        raise InputError(
            f"{path.name}: the header gives the sizes {sizes}; accepted is one of 1 or more for each axis."
        )
    dtype = _NRRD_DTYPES.get(fields["type"].lower())
    encoding = _NRRD_ENCODINGS.get(fields["encoding"].lower())
    if dtype is None or encoding is None:
        what = fields["type"] if dtype is None else f"the encoding {fields['encoding']}"
        raise InputError(f"{path.name}: holds {what}; accepted are integers and floats, raw, gzip, bzip2 or text.")
    if encoding != "text" and dtype.itemsize > 1:
        dtype = dtype.newbyteorder(">" if fields["endian"].lower() == "big" else "<")
    vectors = _vectors(fields["space directions"]) if "space directions" in fields else None
    spacings = [float(v) for v in fields["spacings"].split()] if "spacings" in fields else None
    kinds = re.findall(r'"[^"]*"|\S+', fields.get("kinds", "")) or ["???"] * len(sizes)
    kinds = [k.lower().strip('"') for k in kinds]
    roles, warnings = _nrrd_roles(sizes, vectors, spacings, kinds)
    spatial = [k for k, role in enumerate(roles) if role in "xyz"]
    affine, unit, lifted = _nrrd_place(fields, spatial, vectors, spacings, warnings)
    files: tuple[Path, ...] = (path,)
    offset = end
    if "data file" in fields:
        files, offset = _data_files(path, fields["data file"], head[end:]), 0
    offset = _after_lines(files[0], offset, int(fields.get("line skip", 0)))
    skip = int(fields.get("byte skip", 0))
    seconds = None
    units = re.findall(r'"([^"]*)"', fields.get("units", ""))
    if "t" in roles and spacings and len(units) == len(sizes):
        at = roles.index("t")
        seconds = spacings[at] * _SECONDS[units[at]] if units[at] in _SECONDS and spacings[at] > 0 else None
    return Grid(
        "NRRD", sizes, roles, dtype, affine, unit, lifted, encoding, files, -1 if skip == -1 else offset + skip,
        any(k in _COLOUR_KINDS or (k == "vector" and n in (3, 4)) for k, n in zip(kinds, sizes, strict=True)),
        seconds, keys, tuple(warnings),
    )  # fmt: skip


def _nrrd_fields(head: bytes) -> tuple[dict[str, str], dict[str, str], int]:
    """Fields, free key-value pairs, and where the header ends."""
    # a list of data files follows its field at once, without the empty line that otherwise ends a header
    end = re.search(rb"(?m)^data ?file:\s*LIST.*\n", head) or re.search(rb"\r?\n\r?\n", head)
    text = (head[: end.end()] if end else head).decode("utf-8", "replace")
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    for line in text.replace("\r", "").split("\n")[1:]:
        if line.startswith("#"):
            continue
        if match := re.match(r"([^:]+?):=(.*)", line):
            keys[match[1]] = re.sub(r"\\([n\\])", lambda m: "\n" if m[1] == "n" else "\\", match[2])
        elif match := re.match(r"([^:]+?):\s*(.*)", line):
            name = match[1].strip().lower()
            name = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}.get(name, name)
            fields[name] = match[2].strip()
    return fields, keys, end.end() if end else len(head)


def _nrrd_roles(
    sizes: tuple[int, ...], vectors: list[Any] | None, spacings: list[float] | None, kinds: list[str]
) -> tuple[str, list[str]]:
    """The role of each axis."""
    count = len(sizes)
    if vectors is not None:
        spatial = [vector is not None for vector in vectors]
    elif any(k in ("domain", "space") for k in kinds):
        spatial = [k in ("domain", "space") for k in kinds]
    else:
        spatial = [
            k == "???" and (spacings is None or s == s) for k, s in zip(kinds, spacings or [1.0] * count, strict=True)
        ]
    warnings = []
    if sum(spatial) > 3:
        extra = 0 if sizes[0] <= 4 else count - 1
        spatial[extra] = False
        kinds[extra] = "vector" if extra == 0 else "time"
        warnings.append(f"The header does not say what the axis of {sizes[extra]} is; read as {kinds[extra]}.")
    roles, names = "", iter("xyz")
    for k in range(count):
        if spatial[k]:
            roles += next(names)
        elif kinds[k] == "time" or (kinds[k] == "list" and k == count - 1):
            roles += "t"
        else:
            roles += "c"
    return roles, warnings


def _nrrd_place(
    fields: dict[str, str],
    spatial: list[int],
    vectors: list[Any] | None,
    spacings: list[float] | None,
    warnings: list[str],
) -> tuple[FloatArray, Unit, bool]:
    """Affine to LPS, unit, and whether a flat image lies in 3-D space."""
    affine = np.eye(4)
    known = False
    space = fields.get("space", "").lower()
    signs = _NRRD_SPACES.get(space)
    if vectors is not None:
        columns = [np.asarray(vectors[k]) for k in spatial]
        known = True
        for k, column in enumerate(columns):
            affine[: len(column), k] = column
            if len(column) == 3 and k == 1 and len(columns) == 2:
                normal = np.cross(columns[0], columns[1])
                affine[:3, 2] = normal / np.linalg.norm(normal) * min(np.linalg.norm(c) for c in columns)
        if "space origin" in fields:
            [origin] = _vectors(fields["space origin"])
            affine[: len(origin), 3] = origin
        if signs is None and len(columns) == 3:
            warnings.append("The file does not say where left and right are; left-posterior-superior is assumed.")
    elif spacings is not None and all(np.isfinite(spacings[k]) for k in spatial):
        for k, at in enumerate(spatial):
            affine[k, k] = spacings[at]
        known = True
        if len(spatial) == 3:
            warnings.append("The file records no orientation; left and right may be swapped.")
    else:
        warnings.append("The file records neither spacing nor orientation; sizes are in voxels.")
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "")))
    if known and len(units) == 1 and (factor := _MM.get(units.pop().lower())) is not None:
        affine[:3] *= factor
        if len(spatial) == 2 and not (vectors and len(vectors[spatial[0]]) == 3):
            affine[2, 2] = 1.0
    if signs is not None:
        affine = np.diag((*signs, 1)) @ affine
    lifted = len(spatial) == 2 and vectors is not None and len(vectors[spatial[0]]) == 3
    return affine, "mm" if known else None, lifted


def _vectors(text: str) -> list[Any]:
    """``(1,0,0) none (0,1,0)`` as lists of numbers and ``None``."""
    parts = re.findall(r"\(([^)]*)\)|(none)", text, re.IGNORECASE)
    return [None if none else [float(v) for v in inner.split(",")] for inner, none in parts]


def _after_lines(file: Path, offset: int, lines: int) -> int:
    if lines == 0 or not file.is_file():
        return offset
    with file.open("rb") as stream:
        stream.seek(offset)
        for _ in range(lines):
            stream.readline()
        return stream.tell()


# -- MetaImage ----------------------------------------------------------------------------------


def _meta(path: Path, head: bytes) -> Grid:
    fields, end = _meta_fields(path, head)
    count = int(fields["NDims"])
    sizes = _integers(fields["DimSize"])
    if len(sizes) != count or min(sizes) < 1 or not 2 <= count <= 4:
        raise InputError(f"{path.name}: the header gives the sizes {sizes}; accepted are two to four of 1 or more.")
    kind = fields["ElementType"].removesuffix("_ARRAY")
    if kind not in _META_DTYPES:
        raise InputError(f"{path.name}: holds {kind}; accepted are integers and floats.")
    big = _first(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") or "False"
    dtype = np.dtype(_META_DTYPES[kind]).newbyteorder(">" if big.lower() in ("true", "1") else "<")
    warnings: list[str] = []
    affine, unit = _meta_place(fields, count, warnings)
    files = _data_files(path, fields["ElementDataFile"], head[end:])
    offset = end if files == (path,) else int(fields.get("HeaderSize", 0))
    if fields.get("BinaryData", "True").lower() in ("false", "0"):
        encoding = "text"
    else:
        encoding = "zlib" if fields.get("CompressedData", "False").lower() in ("true", "1") else "raw"
    channels = int(fields.get("ElementNumberOfChannels", 1))
    return Grid(
        "MetaImage", (channels, *sizes), "c" + "xyzt"[:count], dtype, affine, unit, False, encoding, files, offset,
        channels in (3, 4), None,
        {k: v for k, v in fields.items() if k.startswith(("medseg", "Segment"))}, tuple(warnings),
    )  # fmt: skip


def _meta_fields(path: Path, head: bytes) -> tuple[dict[str, str], int]:
    """The fields of a header and where it ends; ITK adds any keys it likes, such as ``dim[0]``."""
    fields: dict[str, str] = {}
    known = {"ObjectType", "NDims"}
    at = 0
    while at < len(head):
        stop = head.find(b"\n", at)
        stop = len(head) if stop < 0 else stop
        key, found, value = head[at:stop].decode("utf-8", "replace").partition("=")
        at = stop + 1
        if not found:
            if not known & fields.keys():
                break
            continue
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return fields, at
    if not known & fields.keys():
        raise InputError(
            f"{path.name}: not a NRRD or MetaImage file although its name says so; accepted is one of the two."
        )
    raise KeyError("ElementDataFile")


def _meta_place(fields: dict[str, str], count: int, warnings: list[str]) -> tuple[FloatArray, Unit]:
    """Affine to LPS and unit."""
    n = min(3, count)
    spacing = _first(fields, "ElementSpacing", "ElementSize")
    matrix = _first(fields, "TransformMatrix", "Rotation", "Orientation")
    offset = _first(fields, "Offset", "Position", "Origin")
    affine = np.eye(4)
    if matrix is not None:
        # each row is the direction of one axis
        affine[:n, :n] = np.array([float(v) for v in matrix.split()]).reshape(count, count)[:n, :n].T
    if offset is not None:
        affine[:n, 3] = [float(v) for v in offset.split()[:n]]
    if spacing is None:
        warnings.append("The file records no spacing; sizes are in voxels.")
        return affine, None
    affine[:n, :n] *= np.array([float(v) for v in spacing.split()[:n]])
    factor = _MM.get(fields.get("DistanceUnits", "mm").lower(), 1.0)
    affine[:n] *= factor
    return affine, "mm"


# -- shared -------------------------------------------------------------------------------------


def _data_files(path: Path, named: str, after: bytes) -> tuple[Path, ...]:
    """The files that hold the pixels, slowest axis last; only ones below the header's own folder."""
    if named.upper() == "LOCAL":
        return (path,)
    words = named.split()
    if words[0].upper().startswith("LIST"):
        names = [line.strip() for line in after.decode("utf-8", "replace").splitlines() if line.strip()]
    elif "%" in named and len(words) >= 4:
        first, last, step = (int(w) for w in words[1:4])
        if step == 0 or not re.fullmatch(r"[^%]*%0?\d*d[^%]*", words[0]):
            raise ValueError(named)
        names = [words[0] % k for k in range(first, last + (1 if step > 0 else -1), step)]
    else:
        names = [named]
    folder = path.parent.resolve()
    files = tuple(path.parent / name for name in names)
    if not files or any(not f.resolve().is_relative_to(folder) for f in files):
        raise InputError(f"{path.name}: names a data file outside its own folder; put header and data in one folder.")
    return files


def _first(fields: dict[str, str], *names: str) -> str | None:
    return next((fields[n] for n in names if n in fields), None)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(v) for v in text.split())
