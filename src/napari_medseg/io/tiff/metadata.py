"""Spacing, time and names that TIFF files keep in OME, ImageJ, Aperio and resolution records."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from napari_medseg.case import Geometry, InputError

PRIVATE = "medseg"
"""Namespace of our annotation in the OME record."""

_MILLIMETRES = {
    "nm": 1e-6,
    "µm": 1e-3,
    "μm": 1e-3,
    "um": 1e-3,
    "\\u00b5m": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "micrometer": 1e-3,
    "mm": 1.0,
    "millimeter": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "inch": 25.4,
    "in": 25.4,
}
_SECONDS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}

# resolutions up to this are settings of printers, screens and office scanners, not sizes of what is shown
_OFFICE_DPI = 1300.0
_UNITS_PER_INCH = {2: 1.0, 3: 2.54}


@dataclass(frozen=True)
class Placement:
    """Where the pixels lie and what else the records say about them."""

    geometry: Geometry
    flavour: str
    seconds_per_frame: float | None = None
    channels: tuple[str, ...] = ()
    objective_power: float | None = None
    warnings: tuple[str, ...] = ()


def placement(file: Any, index: int, axes: str, shape: tuple[int, ...], where: str) -> Placement:
    """The grid of image `index` with our `axes` and `shape`: from the richest record that the file has."""
    sizes = dict(zip(axes, shape, strict=True))
    grid = tuple(sizes[a] for a in axes if a in "zyx")
    private = private_record(file, where)
    if private:
        return _from_private(private, grid, where)
    if file.is_ome:
        return _from_ome(file, index, grid, where)
    if file.is_imagej:
        return _from_imagej(file, grid)
    aperio = _aperio(file)
    if aperio is not None:
        step, power = aperio
        known = Geometry.from_spacing(grid, (step,) * len(grid), "um") if step else Geometry.from_spacing(grid, None)
        return Placement(known, "Aperio TIFF", objective_power=power)
    return Placement(_from_resolution(file, grid), "TIFF")


def private_record(file: Any, where: str) -> dict[str, Any]:
    """Our own annotation in the OME record; empty if there is none."""
    if not file.is_ome or PRIVATE not in (file.ome_metadata or ""):
        return {}
    for annotation in _ome(file, where).iter():
        if _tag(annotation) == "MapAnnotation" and annotation.get("Namespace") == PRIVATE:
            for entry in annotation.iter():
                if _tag(entry) == "M" and entry.get("K") == PRIVATE:
                    try:
                        return dict(json.loads(entry.text or ""))
                    except (TypeError, ValueError) as error:
                        raise InputError(f"{where}: its {PRIVATE} annotation is damaged; export it again.") from error
    return {}


def _from_private(private: dict[str, Any], grid: tuple[int, ...], where: str) -> Placement:
    try:
        geometry = Geometry.from_dict(private["geometry"])
        seconds = private.get("seconds_per_frame")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: its {PRIVATE} annotation holds no valid grid; export it again.") from error
    if geometry.shape != grid:
        raise InputError(f"{where}: its pixels {grid} do not fit its recorded grid {geometry.shape}; export it again.")
    return Placement(geometry, "OME-TIFF", float(seconds) if seconds is not None else None)


# -- OME ---------------------------------------------------------------------------------------------


def _ome(file: Any, where: str) -> ET.Element:
    try:
        # expat does not fetch anything; entities are refused because they can grow without bound
        if "<!ENTITY" in file.ome_metadata:
            raise InputError(f"{where}: its OME record defines entities, which is not accepted.")
        return ET.fromstring(file.ome_metadata)  # noqa: S314
    except ET.ParseError as error:
        raise InputError(f"{where}: its OME record is damaged; export it again.") from error


def _tag(element: ET.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _from_ome(file: Any, index: int, grid: tuple[int, ...], where: str) -> Placement:
    pixels = [e for e in _ome(file, where).iter() if _tag(e) == "Pixels"]
    if index >= len(pixels):
        return Placement(Geometry.from_spacing(grid, None), "OME-TIFF")
    own = pixels[index]
    names = tuple(e.get("Name") or f"channel {k + 1}" for k, e in enumerate(c for c in own if _tag(c) == "Channel"))
    seconds = _number(own.get("TimeIncrement"))
    if seconds is not None:
        seconds *= _SECONDS.get(own.get("TimeIncrementUnit", "s"), 1.0)
    lengths = {}
    for axis in "ZYX"[-len(grid) :]:
        step, unit = _number(own.get(f"PhysicalSize{axis}")), own.get(f"PhysicalSize{axis}Unit", "µm")
        if step is not None and unit in _MILLIMETRES:
            lengths[axis] = step * _MILLIMETRES[unit] * 1000.0
    unit_kind: Literal["mm", "um"] = "mm" if own.get("PhysicalSizeXUnit") == "mm" else "um"
    geometry, said = _known(grid, lengths, unit_kind)
    return Placement(geometry, "OME-TIFF", seconds, names, warnings=said)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else 0.0
    except ValueError:
        return None
    return value if np.isfinite(value) and value > 0 else None


def _known(
    grid: tuple[int, ...], micrometres: dict[str, float], unit: Literal["mm", "um"]
) -> tuple[Geometry, tuple[str, ...]]:
    """A grid with the steps by axis; unknown, with a word about it, when only some of them are known."""
    axes = "ZYX"[-len(grid) :]
    if set(axes) <= set(micrometres):
        steps = tuple(micrometres[a] for a in axes)
        return Geometry.from_spacing(grid, steps, "um").in_unit(unit), ()
    said = "Only some of its axes have a spacing, so the spacing is taken as unknown." if micrometres else ""
    return Geometry.from_spacing(grid, None), (said,) if said else ()


# -- ImageJ, Aperio, resolution tags -----------------------------------------------------------------


def _from_imagej(file: Any, grid: tuple[int, ...]) -> Placement:
    record = file.imagej_metadata or {}
    factor = _MILLIMETRES.get(str(record.get("unit", "")).strip().lower())
    seconds = _number(str(record.get("finterval")))
    lengths: dict[str, float] = {}
    tags = file.pages[0].tags
    if factor is not None:
        for axis, tag in (("X", "XResolution"), ("Y", "YResolution")):
            if tag in tags and (per_unit := _ratio(tags[tag].value)) > 0:
                lengths[axis] = factor * 1000.0 / per_unit
        thickness = _number(str(record.get("spacing")))
        if thickness is not None:
            lengths["Z"] = thickness * factor * 1000.0
    geometry, said = _known(grid, lengths, "mm" if factor is not None and factor >= 1.0 else "um")
    return Placement(geometry, "ImageJ TIFF", seconds, warnings=said)


def _aperio(file: Any) -> tuple[float | None, float | None] | None:
    """Micrometres a pixel and magnification of an Aperio description; ``None`` if it is none."""
    text = file.pages[0].description or ""
    if not text.startswith("Aperio"):
        return None
    values = dict(re.findall(r"\|\s*(MPP|AppMag)\s*=\s*([0-9.]+)", text))
    return _number(values.get("MPP")), _number(values.get("AppMag"))


def _from_resolution(file: Any, grid: tuple[int, ...]) -> Geometry:
    """Micrometres a pixel from the resolution tags, where they can be more than a print setting."""
    unknown = Geometry.from_spacing(grid, None)
    tags = file.pages[0].tags
    unit = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 0
    if unit not in _UNITS_PER_INCH or len(grid) != 2 or not {"XResolution", "YResolution"} <= {t.name for t in tags}:
        return unknown
    dpi = [_ratio(tags[t].value) * _UNITS_PER_INCH[unit] for t in ("YResolution", "XResolution")]
    if min(dpi) <= _OFFICE_DPI:
        return unknown
    return Geometry.from_spacing(grid, (25400.0 / dpi[0], 25400.0 / dpi[1]), "um")


def _ratio(value: Any) -> float:
    numerator, denominator = value if isinstance(value, tuple) else (value, 1)
    return float(numerator) / float(denominator) if denominator else 0.0
