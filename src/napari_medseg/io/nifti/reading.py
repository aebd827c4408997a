"""NIfTI-1 and NIfTI-2 volumes (.nii, .nii.gz): images of up to five axes, and labels.

The array keeps the file's own grid (axes reversed: ``zyx``); the affine says where it lies. Where both the sform
and the qform are set the sform counts, as in nibabel; ITK may choose the other one, so a disagreement is a warning.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from napari_medseg.case import Geometry, InputError, MedicalImage, Segmentation, Source
from napari_medseg.case.geometry import FloatArray
from napari_medseg.io.label_volumes import labels_of, stem
from napari_medseg.io.lazy import AnyArray
from napari_medseg.io.nifti.names import record_and_names
from napari_medseg.io.stored import (
    Layout,
    PackedVolume,
    RawVolume,
    check_packed_length,
    check_raw_length,
    read_exactly,
    warning_of_missing_values,
)

_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
_MM_PER_UNIT = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
_SECONDS_PER_UNIT = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_SPECTRAL_UNITS = ("hz", "ppm", "rads")
_COLOURS = {128: 3, 2304: 4}
_DISAGREEMENT = 0.05


@dataclass(frozen=True)
class _Header:
    """What the header says, before any pixel is read."""

    fields: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    packed: bool


def read(path: Path) -> list[MedicalImage]:
    """The one image in a NIfTI file; pixels are read when they are looked at.

    Raises
    ------
    InputError
        If the file is not NIfTI, is cut short, holds complex numbers or more than five axes, or only NaN.
    """
    header = _read_header(path)
    axes, layout = _layout(header, path.name)
    if header.packed:
        volume: RawVolume | PackedVolume = PackedVolume(path, layout, _Unpack(path, header.offset, layout.nbytes))
        check_packed_length(path, header.offset + layout.nbytes, lambda: _open(path)[0])
    else:
        check_raw_length(path, header.offset, layout.nbytes)
        volume = RawVolume(path, layout, header.offset)
    colours = _COLOURS.get(int(header.fields["datatype"]))
    missing = None if colours else warning_of_missing_values(volume, path.name)
    spatial = tuple(volume.shape[axes.index(a)] for a in "zyx")
    geometry, warnings = _geometry(header.fields, spatial, path.name)
    time_warning, seconds = _time(header, axes)
    channels: tuple[str, ...] = ()
    if axes.endswith("c"):
        count = volume.shape[-1]
        channels = ("red", "green", "blue", "alpha")[:count] if colours else tuple(f"channel {k}" for k in range(count))
    return [
        MedicalImage(
            levels=(volume,),
            axes=axes,
            geometry=geometry,
            intensity="RGB" if colours else "arbitrary",
            name=stem(path),
            source=Source("NIfTI", (path,)),
            channels=channels,
            seconds_per_frame=seconds,
            details=_details(header),
            warnings=(*warnings, *(w for w in (time_warning, missing) if w)),
        )
    ]


def says_labels(path: Path) -> bool:
    """Whether the file itself says that its numbers are labels; no pixel is read."""
    record, names = record_and_names(_read_header(path).fields.extensions)
    return record is not None or bool(names)


def read_segmentation(path: Path) -> Segmentation:
    """The labels in a NIfTI file, with the names that our own header extension or a Caret label table keeps.

    Raises
    ------
    InputError
        As for `read`, or if the values are no labels.
    """
    header = _read_header(path)
    [image] = read(path)
    record, names = record_and_names(header.fields.extensions)
    return labels_of(image, names, record)


# -- the file -----------------------------------------------------------------------------------


def _open(path: Path) -> tuple[IO[bytes], bool]:
    """The file from its first byte, unpacked if its content (whatever its name) is gzip."""
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP_MAGIC
    if packed:
        unpacked: Any = gzip.GzipFile(path, "rb")
        return unpacked, True
    return path.open("rb"), False


def _read_header(path: Path) -> _Header:
    import zlib

    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        stream, packed = _open(path)
        with stream:
            size = int.from_bytes(stream.read(4), "little")
            swapped = int.from_bytes(size.to_bytes(4, "little"), "big")
            kind = _HEADER_SIZES.get(size) or _HEADER_SIZES.get(swapped)
            if kind is None:
                raise InputError(f"{path.name}: not a NIfTI file although its name says so; accepted is NIfTI-1 or -2.")
            stream.seek(0)
            fields = getattr(nib, kind).from_fileobj(stream)
            shape, dtype = tuple(int(n) for n in fields.get_data_shape()), fields.get_data_dtype()
            offset = int(fields.get_data_offset())
    except IsADirectoryError as error:
        raise InputError(f"{path.name}: is a folder; accepted is a .nii or .nii.gz file.") from error
    except FileNotFoundError as error:
        raise InputError(f"{path.name}: there is no such file.") from error
    except PermissionError as error:
        raise InputError(
            f"{path.name}: no permission to read it; ask its owner or copy it to a folder of yours."
        ) from error
    except (HeaderDataError, WrapStructError, ValueError, KeyError) as error:
        raise InputError(f"{path.name}: the NIfTI header is damaged or of an unknown kind; export it again.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path.name}: the file is cut short or damaged; copy or export it again.") from error
    if not shape or min(shape) < 1:
        raise InputError(f"{path.name}: the header gives the shape {shape}; accepted are sizes of 1 and more.")
    return _Header(fields, shape, dtype, offset, packed)


class _Unpack:
    """Unpacks the pixels of a compressed file; a class so that arrays can be sent to other processes."""

    def __init__(self, path: Path, offset: int, nbytes: int) -> None:
        self.path, self.offset, self.nbytes = path, offset, nbytes

    def __call__(self) -> AnyArray:
        try:
            stream, _ = _open(self.path)
        except OSError as error:
            raise InputError(f"{self.path.name}: can no longer be read; it was moved after it was opened.") from error
        with stream:
            read_exactly(stream, self.offset, self.path.name)
            return read_exactly(stream, self.nbytes, self.path.name, last=True)


# -- axes ---------------------------------------------------------------------------------------


def _layout(header: _Header, name: str) -> tuple[str, Layout]:
    """Names of the array axes, and how the numbers lie in the file."""
    x, y, z, t, c = (*header.shape, 1, 1, 1, 1, 1)[:5]
    if any(n > 1 for n in header.shape[5:]):
        raise InputError(
            f"{name}: has {len(header.shape)} axes {header.shape}; accepted are up to x, y, z, t, channel."
        )
    code = int(header.fields["datatype"])
    if header.dtype.kind == "c":
        raise InputError(f"{name}: holds complex numbers; accepted are real ones, such as the magnitude.")
    if code in _COLOURS:
        if c > 1:
            raise InputError(f"{name}: holds several colour images per voxel; accepted is one.")
        stored = (*((t,) if t > 1 else ()), z, y, x, _COLOURS[code])
        return "tzyxc"[-len(stored) :], Layout(stored, np.dtype(np.uint8), tuple(range(len(stored))))
    if t > 1 and c == 1 and _units(header.fields)[1] in _SPECTRAL_UNITS:
        t, c = 1, t
    sizes = {"c": c, "t": t, "z": z, "y": y, "x": x}
    kept = [a for a in "ctzyx" if a in "zyx" or sizes[a] > 1]
    axes = "".join(a for a in "tzyxc" if a in kept)
    slope, intercept = float(header.fields["scl_slope"]), float(header.fields["scl_inter"])
    scaled = np.isfinite(slope) and slope != 0 and (slope, intercept) != (1.0, 0.0)
    if scaled and not np.isfinite(intercept):
        raise InputError(f"{name}: the header's intercept is not a number; accepted are a finite slope and intercept.")
    return axes, Layout(
        tuple(sizes[a] for a in kept),
        header.dtype,
        tuple(kept.index(a) for a in axes),
        slope if scaled else None,
        intercept if scaled else 0.0,
    )


def _units(fields: Any) -> tuple[str, str]:
    try:
        space, time = fields.get_xyzt_units()
    except KeyError:
        return "unknown", "unknown"
    return str(space), str(time)


def _time(header: _Header, axes: str) -> tuple[str | None, float | None]:
    if "t" not in axes:
        return None, None
    unit = _units(header.fields)[1]
    step = float(header.fields["pixdim"][4])
    if unit not in _SECONDS_PER_UNIT or step <= 0:
        return "The fourth axis has no time unit; it is read as time, but may hold echoes or contrasts.", None
    return None, step * _SECONDS_PER_UNIT[unit]


# -- place --------------------------------------------------------------------------------------


def _geometry(fields: Any, shape: tuple[int, ...], name: str) -> tuple[Geometry, list[str]]:
    """The grid in RAS+ millimetres, or of unknown spacing, and what a person should know about it."""
    warnings: list[str] = []
    unit = _units(fields)[0]
    affine, placed = _placed_affine(fields, shape, warnings)
    pixdim = np.abs(np.asarray(fields["pixdim"][1:4], dtype=np.float64))
    if affine is None:
        if unit == "unknown" and np.isin(pixdim, (0.0, 1.0)).all():
            warnings.append("The file records neither spacing nor orientation; sizes are in voxels.")
            return Geometry.from_xyz_affine(shape, fields.get_base_affine(), None), warnings
        warnings.append("The file records no orientation; left and right may be swapped.")
        affine = np.asarray(fields.get_base_affine(), dtype=np.float64)
    if unit not in _MM_PER_UNIT:
        warnings.append("The unit of the spacing is not recorded; millimetres are assumed.")
    affine[:3] *= _MM_PER_UNIT.get(unit, 1.0)
    if placed and np.array_equal(np.abs(affine), np.eye(4)):
        warnings.append("The spacing is exactly 1 mm from the origin, as programs write it when they do not know it.")
    try:
        return Geometry.from_xyz_affine(shape, affine), warnings
    except ValueError as error:
        raise InputError(
            f"{name}: the header's spacing or orientation is not usable; accepted is a regular grid."
        ) from error


def _placed_affine(fields: Any, shape: tuple[int, ...], warnings: list[str]) -> tuple[FloatArray | None, bool]:
    """The sform, else the qform, else ``None``; a sentence if both are set and differ."""
    from nibabel.spatialimages import HeaderDataError

    sform = fields.get_sform(coded=True)[0]
    try:
        qform = fields.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError, np.linalg.LinAlgError):
        qform = None
        warnings.append("The qform is damaged and was not used.")
    if sform is not None and not _is_regular(sform):
        sform = None
        warnings.append("The sform is damaged and was not used.")
    if sform is not None and qform is not None:
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in reversed(shape)], (1,), indexing="ij"), -1).reshape(-1, 4)
        apart = float(np.linalg.norm(corners @ (sform - qform).T, axis=1).max())
        if apart > _DISAGREEMENT * float(np.linalg.norm(sform[:3, :3], axis=0).min()):
            warnings.append(
                f"The file gives two places (sform and qform) up to {apart:.3g} units apart; the sform is used, "
                "other programs may use the qform."
            )
    chosen = sform if sform is not None else qform
    return (None if chosen is None else np.array(chosen, dtype=np.float64)), chosen is not None


def _is_regular(affine: FloatArray) -> bool:
    linear = np.asarray(affine, dtype=np.float64)[:3, :3]
    return bool(np.isfinite(affine).all() and abs(np.linalg.det(linear)) > 1e-18)


def _details(header: _Header) -> dict[str, Any]:
    details: dict[str, Any] = {
        "stored_type": str(header.dtype.newbyteorder("=")) if header.dtype.names is None else "colour",
        "stored_shape": list(header.shape),
        "compressed": header.packed,
        "sform_code": int(header.fields["sform_code"]),
        "qform_code": int(header.fields["qform_code"]),
    }
    slope, intercept = float(header.fields["scl_slope"]), float(header.fields["scl_inter"])
    if np.isfinite(slope) and slope != 0:
        details |= {"rescale_slope": slope, "rescale_intercept": intercept}
    return details
