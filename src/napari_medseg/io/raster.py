"""PNG, JPEG and BMP pictures in; labels out as PNG. Their dots per inch are print settings, so spacing is unknown."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from napari_medseg.case import (
    Geometry,
    InputError,
    LabelTable,
    MedicalImage,
    Modality,
    Provenance,
    Segmentation,
    Source,
)
from napari_medseg.case.image import Intensity
from napari_medseg.io.content import refusal, require_file
from napari_medseg.io.writing import staged, verify

_ACCEPTED = "PNG, JPEG or BMP"
_FORMATS = ("PNG", "JPEG", "BMP")
_PRIVATE = "medseg"
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
# Pillow reads no more text than this from a PNG
_MOST_TEXT = 1_000_000

AnyArray = npt.NDArray[Any]


def read(path: Path) -> list[MedicalImage]:
    """The picture, turned upright as its EXIF record asks, as grey or RGB numbers.

    Raises
    ------
    InputError
        If the file is no PNG, JPEG or BMP, is damaged, or is too large to be read in one piece.
    """
    picture = _open(path)
    pixels, said = _wide_png(path) if _is_wide_colour_png(path) else _pixels(picture)
    warnings = list(said)
    if getattr(picture, "n_frames", 1) > 1:
        warnings.append(f"It holds {getattr(picture, 'n_frames', 1)} pictures; only the first is shown.")
    intensity: Intensity = "RGB" if pixels.ndim == 3 else "arbitrary"
    return [
        MedicalImage(
            (pixels,),
            "yxc" if pixels.ndim == 3 else "yx",
            Geometry.from_spacing(pixels.shape[:2], None),
            modality=Modality.OT,
            intensity=intensity,
            name=path.stem,
            source=Source(picture.format or "picture", (path,)),
            details={"format": picture.format or "", "size": f"{pixels.shape[1]} x {pixels.shape[0]} px"},
            warnings=tuple(warnings),
        )
    ]


def says_labels(path: Path) -> bool:
    """Whether the file itself says that its numbers are labels."""
    return bool(_private_record(_open(path), path))


def read_segmentation(path: Path) -> Segmentation:
    """The labels in a grey, one-bit or palette picture (the palette's index is the id).

    Raises
    ------
    InputError
        If the picture holds colours, or is a JPEG, which does not keep ids.
    """
    picture = _open(path)
    if picture.format in ("JPEG", "MPO"):
        raise InputError(
            f"{path.name}: JPEG changes label ids; accepted are PNG, BMP, TIFF, NIfTI and OME-Zarr labels."
        )
    if picture.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise InputError(f"{path.name}: holds colours ({picture.mode}); labels are one integer for each pixel.")
    labels = np.asarray(ImageOps.exif_transpose(picture))
    labels = labels.astype(np.uint8 if labels.dtype == bool else labels.dtype.newbyteorder("="))
    record = _private_record(picture, path)
    try:
        geometry = Geometry.from_dict(record["geometry"]) if record else Geometry.from_spacing(labels.shape, None)
        table = LabelTable.from_dict(record["table"]) if record else LabelTable()
        history = Provenance.from_dict(record["provenance"]) if record else Provenance()
        return Segmentation(labels, geometry, table, history, str(record.get("name") or path.stem))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path.name}: its {_PRIVATE} record cannot be understood: {error}.") from error


def write_segmentation(segmentation: Segmentation, path: Path, *, overwrite: bool = False) -> None:
    """Write flat labels as an 8- or 16-bit grey PNG with grid, names and history in a text chunk; compare.

    Raises
    ------
    InputError
        If the name does not end in ``.png``, the labels are not flat, or an id is not within 0 to 65535.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"{path.name}: of pictures only PNG keeps label ids; choose a name that ends in .png.")
    if segmentation.axes != "yx":
        raise InputError(f"{path.name}: PNG holds one flat picture, not axes {segmentation.axes}; use .tif or .zarr.")
    labels = np.asarray(segmentation.data)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise InputError(f"{path.name}: label {high if low >= 0 else low} is not within 0 to 65535; use .tif or .zarr.")
    record = {
        "geometry": segmentation.geometry.to_dict(),
        "table": segmentation.table.to_dict(),
        "provenance": segmentation.provenance.to_dict(),
        "name": segmentation.name,
    }
    text = json.dumps(record)
    if len(text) > _MOST_TEXT:
        raise InputError(f"{path.name}: the names and history are too long for a PNG; use .tif or .zarr.")
    chunk = PngImagePlugin.PngInfo()
    chunk.add_itxt(_PRIVATE, text, zip=True)
    with staged(path, overwrite=overwrite) as temporary:
        picture = Image.fromarray(labels.astype(np.uint8 if high < 256 else np.uint16))
        picture.save(temporary, format="PNG", pnginfo=chunk)
        verify(segmentation, read_segmentation(temporary), path.name)


def _open(path: Path) -> Image.Image:
    """The picture with its pixels in memory."""
    require_file(path, f"a {_ACCEPTED} file")
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            picture.load()
            return picture
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path.name}: too large to be read in one piece; convert it to a pyramidal TIFF or OME-Zarr."
        ) from error
    except UnidentifiedImageError as error:
        raise refusal(path, _ACCEPTED) from error
    except _UNREADABLE as error:
        raise InputError(f"{path.name}: the picture is damaged or cut short; copy or export it again.") from error


def _private_record(picture: Image.Image, path: Path) -> dict[str, Any]:
    text = getattr(picture, "text", {}).get(_PRIVATE)
    if text is None:
        return {}
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path.name}: its {_PRIVATE} record is damaged; export it again.") from error


def _pixels(picture: Image.Image) -> tuple[AnyArray, tuple[str, ...]]:
    """Grey ``(y, x)`` or RGB ``(y, x, 3)`` numbers, and what was done to get them."""
    # a palette or transparency entry is kept by the turn
    upright = ImageOps.exif_transpose(picture)
    mode, said = upright.mode, []
    if "transparency" in upright.info or mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        said.append("Its transparency (alpha) is ignored.")
    if mode in ("CMYK", "LAB", "HSV"):
        said.append(f"Its {mode} colours were converted to RGB without a colour profile.")
    if mode in ("1", "L", "I", "F", "I;16", "I;16B"):
        pixels = np.asarray(upright)
        return pixels.astype(np.uint8 if mode == "1" else pixels.dtype.newbyteorder("=")), tuple(said)
    if mode in ("LA", "La"):
        return np.asarray(upright)[..., 0].copy(), tuple(said)
    if mode in ("RGBA", "RGBa"):
        # the colours as they are stored, also where they are transparent
        return np.asarray(upright)[..., :3].copy(), tuple(said)
    return np.asarray(upright.convert("RGB")), tuple(said)


def _is_wide_colour_png(path: Path) -> bool:
    """Whether the file is a PNG with 16 bits for each of several channels, which Pillow would cut to 8."""
    with path.open("rb") as stream:
        head = stream.read(26)
    return head[:8] == b"\x89PNG\r\n\x1a\n" and head[24] == 16 and head[25] in (2, 4, 6)


def _wide_png(path: Path) -> tuple[AnyArray, tuple[str, ...]]:
    try:
        pixels: AnyArray = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path.name}: the picture is damaged or cut short; copy or export it again.") from error
    if pixels.shape[-1] in (2, 4):
        colours = pixels[..., :-1]
        return (colours[..., 0] if colours.shape[-1] == 1 else colours).copy(), (
            "Its transparency (alpha) is ignored.",
        )
    return pixels, ()
