"""Whole slides through OpenSlide: Aperio, Hamamatsu, MIRAX, Leica, Ventana, DICOM and more, as lazy pyramids.

Photographs of the glass label and of the whole slide are never read: they may show a patient's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openslide

from napari_medseg.case import Geometry, InputError, MedicalImage, Modality, Source
from napari_medseg.io.content import refusal, require_file
from napari_medseg.io.lazy import AnyArray, LazyArray
from napari_medseg.io.shrunk import with_coarser_levels

_ACCEPTED = "a whole slide that OpenSlide opens (SVS, NDPI, MRXS, SCN, VMS, BIF, DICOM, tiled TIFF)"
_TILE = 512
_WHITE = (255, 255, 255)
# parts of property names under which scanners keep what is printed on the glass label
_IDENTIFYING = ("barcode", "patient", "accession", "slidelabel", "casenumber")


class SlideLevel(LazyArray):
    """One level of a slide as ``(y, x, c)`` RGB bytes; where nothing was scanned it shows the background colour.

    OpenSlide reads from several threads at once.
    """

    def __init__(self, slide: Any, level: int, where: str) -> None:
        self._slide, self._level, self._where = slide, level, where
        width, height = slide.level_dimensions[level]
        self._downsample = float(slide.level_downsamples[level])
        self._background = _colour(slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR))
        tile = slide.properties.get(f"openslide.level[{level}].tile-height")
        # a multiple of the stored tiles, so that none is decoded for two chunks
        side = int(tile) * max(1, _TILE // int(tile)) if tile and int(tile) <= 4 * _TILE else _TILE
        super().__init__((height, width, 3), np.uint8, (side, side, 3))

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        rows, columns, channels = region
        corner = round(columns.start * self._downsample), round(rows.start * self._downsample)
        size = columns.stop - columns.start, rows.stop - rows.start
        try:
            rgba = np.asarray(self._slide.read_region(corner, self._level, size))
        except (openslide.OpenSlideError, ValueError) as error:
            raise InputError(f"{self._where}: a stored tile is damaged or missing; copy the slide again.") from error
        opacity = rgba[..., 3:]
        if opacity.min() == np.iinfo(np.uint8).max:
            return np.ascontiguousarray(rgba[..., channels])
        share = opacity.astype(np.float32) / 255.0
        shown: AnyArray = np.rint(rgba[..., :3] * share + np.asarray(self._background, np.float32) * (1.0 - share))
        found: AnyArray = shown.astype(np.uint8)[..., channels]
        return found


def read(path: Path) -> list[MedicalImage]:
    """The slide, lazily, with the levels that the scanner stored.

    Raises
    ------
    InputError
        If OpenSlide does not know the file, or it is damaged or lacks the files beside it.
    """
    require_file(path, _ACCEPTED)
    try:
        slide = openslide.OpenSlide(path)
        levels = tuple(SlideLevel(slide, n, path.name) for n in range(slide.level_count))
        # OpenSlide opens a slide whose pixels are cut off: look at the last of them
        _ = levels[0][-1, -1]
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise refusal(path, _ACCEPTED) from error
    except openslide.OpenSlideError as error:
        raise InputError(
            f"{path.name}: the slide is damaged, cut short or lacks the files beside it; copy all of it again."
        ) from error
    properties = slide.properties
    geometry, warnings = _grid(levels[0].shape[:2], properties)
    return [
        MedicalImage(
            with_coarser_levels(levels, "yxc"),
            "yxc",
            geometry,
            modality=Modality.SM,
            intensity="stain RGB",
            name=path.stem,
            source=Source("whole slide", _files(path)),
            objective_power=_number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
            details={"format": "whole slide", "vendor": properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")},
            identifiers_present=_has_identifiers(slide),
            warnings=warnings,
        )
    ]


def _grid(shape: tuple[int, ...], properties: Any) -> tuple[Geometry, tuple[str, ...]]:
    step_x = _number(properties.get(openslide.PROPERTY_NAME_MPP_X))
    step_y = _number(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    if step_x is None or step_y is None:
        said = "The slide does not say its micrometres per pixel, so lengths and areas are in pixels."
        return Geometry.from_spacing(shape, None), (said,)
    geometry = Geometry.from_spacing(shape, (step_y, step_x), "um")
    if abs(step_x - step_y) > 0.01 * max(step_x, step_y):
        return geometry, (f"Its pixels are not square: {step_x:g} µm across and {step_y:g} µm down.",)
    return geometry, ()


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else 0.0
    except ValueError:
        return None
    return value if np.isfinite(value) and value > 0 else None


def _colour(text: str | None) -> tuple[int, int, int]:
    try:
        red, green, blue = bytes.fromhex(text or "")
    except ValueError:
        return _WHITE
    return red, green, blue


def _has_identifiers(slide: Any) -> bool:
    """Whether there is a photograph of the glass, or a property that repeats what is printed on it."""
    pictured = {name.lower() for name in slide.associated_images} & {"label", "macro"}
    named = [key for key, value in slide.properties.items() if value and _identifying(key)]
    return bool(pictured) or bool(named)


def _identifying(key: str) -> bool:
    plain = key.lower().replace("_", "").replace(" ", "")
    return any(word in plain for word in _IDENTIFYING)


def _files(path: Path) -> tuple[Path, ...]:
    """The file and, for MIRAX and Hamamatsu VMS, what lies beside it."""
    beside = path.with_suffix("")
    return (path, beside) if path.suffix.lower() == ".mrxs" and beside.is_dir() else (path,)
