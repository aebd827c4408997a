"""DICOM pixels as a lazy array: a frame is decoded when it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.case import InputError
from napari_medseg.io.dicom.codecs import decoded_frame
from napari_medseg.io.dicom.header import DEFLATED, Header, damage, items, quietly
from napari_medseg.io.dicom.planes import Plane
from napari_medseg.io.lazy import AnyArray, LazyArray


class FrameArray(LazyArray):
    """Frames on a grid: ``planes[t][z]`` become an array with the axes `axes`.

    Parameters
    ----------
    planes
        One inner sequence for each time point.
    axes
        Some of ``t z y x c``; an axis that is not named has one index only.
    header
        A file of the series: how its pixels are coded.
    dtype
        Type of the values.
    """

    def __init__(self, planes: Sequence[Sequence[Plane]], axes: str, header: Header, dtype: np.dtype[Any]) -> None:
        rows, columns = planes[0][0].shape
        sizes = {"t": len(planes), "z": len(planes[0]), "y": rows, "x": columns, "c": 3}
        super().__init__([sizes[a] for a in axes], dtype, [1 if a in "tz" else sizes[a] for a in axes])
        self.planes = tuple(tuple(moment) for moment in planes)
        self.axes = axes
        self.colour = "c" in axes
        self.lookup = header.photometric == "PALETTE COLOR" or bool(items(header.data, "ModalityLUTSequence"))

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        at = dict(zip(self.axes, region, strict=True))
        times = range(at["t"].start, at["t"].stop) if "t" in at else range(1)
        heights = range(at["z"].start, at["z"].stop) if "z" in at else range(1)
        inner = tuple(at[a] for a in self.axes if a in "yxc")
        found = np.empty((len(times), len(heights), *(s.stop - s.start for s in inner)), self.dtype)
        for (i, t), (j, z) in product(enumerate(times), enumerate(heights)):
            found[i, j] = self.frame(self.planes[t][z])[inner]
        return found.reshape([s.stop - s.start for s in region])

    def frame(self, plane: Plane) -> AnyArray:
        """The values of one frame, shape ``(y, x)`` or ``(y, x, c)``.

        Raises
        ------
        InputError
            If the frame cannot be decoded.
        """
        pixels = decode(plane.path, plane.frame, plane.transfer_syntax, self.lookup)
        expected = (*plane.shape, 3) if self.colour else plane.shape
        if pixels.shape != expected:
            raise InputError(
                f"{plane.path.name}: frame {plane.frame + 1} decodes to {pixels.shape} pixels, not {expected}; "
                "export the file again."
            )
        if self.colour or (plane.slope in (None, 1.0) and plane.intercept in (None, 0.0)):
            return pixels.astype(self.dtype, copy=False)
        slope, intercept = plane.slope if plane.slope is not None else 1.0, plane.intercept or 0.0
        wide = np.dtype(np.int64) if self.dtype.kind in "ui" else self.dtype
        return (pixels.astype(wide) * wide.type(slope) + wide.type(intercept)).astype(self.dtype)


def decode(path: Path, frame: int, transfer_syntax: str, lookup: bool) -> AnyArray:
    """The stored numbers of one frame, colours as RGB.

    Raises
    ------
    InputError
        If the file is gone or damaged, or its coding is not known.
    """
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    try:
        if transfer_syntax == DEFLATED:
            with quietly():
                pixels = pixel_array(dcmread(path, force=True), index=frame)
        else:
            pixels = decoded_frame(path, frame, transfer_syntax)
        if lookup:
            with quietly():
                head = dcmread(path, stop_before_pixels=True, force=True)
            if head.PhotometricInterpretation == "PALETTE COLOR":
                pixels = _eight_bits(apply_color_lut(pixels, head))
            else:
                pixels = apply_modality_lut(pixels, head)
    except (RuntimeError, MemoryError, *damage()) as error:
        raise InputError(
            f"{path.name}: the pixels of frame {frame + 1} cannot be decoded, the file is damaged or its compression "
            "not what the header says; export it again, best uncompressed."
        ) from error
    found: AnyArray = pixels
    return found


def _eight_bits(colours: AnyArray) -> AnyArray:
    """Colours of a palette with 16 bits as 8 bits; some palettes hold 8-bit colours in 16-bit words."""
    if colours.dtype.itemsize == 1:
        return colours
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)


def value_dtype(header: Header, planes: Sequence[Sequence[Plane]]) -> np.dtype[Any]:
    """The smallest type that holds every value the header allows, integers where scaling allows."""
    flat = [plane for moment in planes for plane in moment]
    native = np.result_type(*{plane.stored_dtype for plane in flat})
    if header.is_colour:
        return np.dtype(np.uint8) if header.photometric == "PALETTE COLOR" else native
    if items(header.data, "ModalityLUTSequence"):
        return np.dtype(np.float32)
    scales = {(p.slope, p.intercept, p.stored_range) for p in flat}
    if native.kind == "f" or all(slope in (None, 1.0) and not intercept for slope, intercept, _ in scales):
        return native
    values = [(1.0 if slope is None else slope, intercept or 0.0, ends) for slope, intercept, ends in scales]
    if any(not slope.is_integer() or not intercept.is_integer() for slope, intercept, _ in values):
        return np.dtype(np.float32 if max(high for _, _, (_, high) in values) < 2**16 else np.float64)
    ends = [int(slope * v + intercept) for slope, intercept, limits in values for v in limits]
    for name in ("u1", "i2", "u2", "i4", "i8"):
        if np.iinfo(name).min <= min(ends) and max(ends) <= np.iinfo(name).max:
            return np.dtype(name)
    return np.dtype(np.float64)
