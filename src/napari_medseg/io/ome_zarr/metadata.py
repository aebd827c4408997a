"""NGFF attributes to and from what lies on the desk: axes, transforms, label tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from napari_medseg.case import Geometry, InputError, Label, LabelTable
from napari_medseg.case.geometry import Unit

Ngff = Literal["0.4", "0.5"]

PRIVATE = "medseg"
"""Attribute under which our own records lie, beside the NGFF ones."""

LISTED_IDS = 10_000
"""Instance ids listed one by one in ``image-label``; stores with more list their class only."""

_NGFF_ORDER = "tczyx"
_UNIT_NAMES = {"mm": "millimeter", "um": "micrometer"}
# every NGFF length we meet, in millimetres
_MILLIMETRES = {
    "angstrom": 1e-7,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "decimeter": 100.0,
    "meter": 1000.0,
    "inch": 25.4,
}
_SECONDS = {"nanosecond": 1e-9, "microsecond": 1e-6, "millisecond": 1e-3, "second": 1.0, "minute": 60.0, "hour": 3600.0}
# lengths below this many millimetres a pixel are said in micrometres
_MICROSCOPIC = 0.02


# -- writing -----------------------------------------------------------------------------------------


def stored_axes(axes: str) -> str:
    """Our axis names in the order NGFF demands: time, channel, space."""
    return "".join(a for a in _NGFF_ORDER if a in axes)


def multiscales(
    geometry: Geometry,
    axes: str,
    factors: Sequence[tuple[float, ...]],
    *,
    name: str,
    seconds_per_frame: float | None,
    ngff: Ngff,
) -> dict[str, Any]:
    """One ``multiscales`` record.

    NGFF knows a scale and a translation for each array axis and no directions. The scale is the grid's
    step; the translation is the world origin measured along that array axis, so that the record places the
    grid exactly in a world that is turned to the array's own axes. Level n, coarser by `factors[n]` for each
    spatial axis, starts half a coarse voxel after the outer edge of the grid.
    """
    stored = stored_axes(axes)
    steps = np.asarray(geometry.steps)
    origin = np.asarray(geometry.origin) @ geometry.directions
    datasets = []
    for level, factor in enumerate(factors):
        scale = dict(zip(geometry.axes, steps * factor, strict=True))
        shift = dict(zip(geometry.axes, origin + 0.5 * (np.asarray(factor) - 1) * steps, strict=True))
        scale["t"] = seconds_per_frame or 1.0
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [float(scale.get(a, 1.0)) for a in stored]},
                    {"type": "translation", "translation": [float(shift.get(a, 0.0)) for a in stored]},
                ],
            }
        )
    record: dict[str, Any] = {"name": name, "axes": [_axis(a, geometry.unit, seconds_per_frame) for a in stored]}
    record["datasets"] = datasets
    return record | ({"version": ngff} if ngff == "0.4" else {})


def _axis(name: str, unit: Unit, seconds_per_frame: float | None) -> dict[str, str]:
    if name == "c":
        return {"name": "c", "type": "channel"}
    if name == "t":
        return {"name": "t", "type": "time"} | ({"unit": "second"} if seconds_per_frame else {})
    return {"name": name, "type": "space"} | ({"unit": _UNIT_NAMES[unit]} if unit else {})


def image_label(table: LabelTable, voxels: Mapping[int, int], ngff: Ngff) -> dict[str, Any]:
    """The ``image-label`` record: a colour and the properties of every class, or of every instance.

    Viewers hide ids that a colour list leaves out, so more than `LISTED_IDS` instances are listed not at all.
    """
    ids = sorted(voxels) if table.instances else sorted({label.id for label in table} | set(voxels))
    if len(ids) > LISTED_IDS:
        ids = []
    colours = [{"label-value": i, "rgba": [*table.colour(i), 255]} for i in ids]
    properties = []
    for i in ids:
        entry: dict[str, Any] = {"label-value": i, "name": table.name(i)}
        label = table.labels[0] if table.instances else next((e for e in table if e.id == i), None)
        entry["class"] = label.name if label else table.name(i)
        if label is not None and label.terminology is not None:
            entry["terminology"] = list(label.terminology)
        properties.append(entry | {"voxels": int(voxels.get(i, 0))})
    record: dict[str, Any] = {"version": ngff, "source": {"image": "../../"}}
    return record | ({"colors": colours, "properties": properties} if ids else {})


def attributes(ngff_part: Mapping[str, Any], private: Mapping[str, Any] | None, ngff: Ngff) -> dict[str, Any]:
    """Group attributes: NGFF 0.5 keeps its own under ``ome``, 0.4 at the top."""
    own = {PRIVATE: dict(private)} if private is not None else {}
    return ({"ome": {"version": "0.5", **ngff_part}} if ngff == "0.5" else dict(ngff_part)) | own


# -- reading -----------------------------------------------------------------------------------------


def split_attributes(found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The NGFF part and our private part of a group's attributes."""
    ngff_part = found.get("ome", found)
    private = found.get(PRIVATE, {})
    return (dict(ngff_part) if isinstance(ngff_part, Mapping) else {}), (
        dict(private) if isinstance(private, Mapping) else {}
    )


@dataclass(frozen=True)
class Multiscale:
    """What a ``multiscales`` record says, with axes in the stored order."""

    axes: str
    paths: tuple[str, ...]
    name: str
    geometry_unit: Unit
    scale: dict[str, float]
    translation: dict[str, float]
    seconds_per_frame: float | None

    def geometry(self, shape: tuple[int, ...]) -> Geometry:
        """The grid of the finest level, axis-aligned; `shape` is along its spatial axes."""
        axes = "zyx"[-len(shape) :]
        steps = np.asarray([self.scale[a] for a in axes])
        shift = np.asarray([self.translation[a] if a in axes else 0.0 for a in "xyz"])
        if self.geometry_unit is None:
            # without a unit only proportions mean anything: count in the smallest pixel
            shift, steps = shift / steps.min(), steps / steps.min()
        grid = Geometry.from_spacing(shape, tuple(steps), "mm", "image", (shift[0], shift[1], shift[2]))
        return Geometry(grid.shape, grid.affine, self.geometry_unit, "image")


def parse_multiscale(record: Mapping[str, Any], ndim: int, where: str) -> Multiscale:
    """Read one ``multiscales`` record of NGFF 0.1 to 0.5 for arrays of `ndim` axes.

    Raises
    ------
    InputError
        If axes or transforms are missing, contradictory or not of NGFF.
    """
    listed = record.get("axes") or list(_NGFF_ORDER[-ndim:])
    entries = [{"name": a} if isinstance(a, str) else dict(a) for a in listed]
    axes = "".join(str(e.get("name")) for e in entries)
    if len(axes) != ndim or len(set(axes)) != ndim or not set(axes) <= set(_NGFF_ORDER) or "yx" not in axes:
        raise InputError(
            f"{where}: its axes {axes!r} do not describe an array of {ndim} axes; accepted are {_NGFF_ORDER}."
        )
    datasets = record.get("datasets") or []
    paths = tuple(str(d.get("path")) for d in datasets if isinstance(d, Mapping))
    if not paths:
        raise InputError(f"{where}: its multiscales attribute lists no dataset; export the store again.")
    scale, shift = np.ones(ndim), np.zeros(ndim)
    for steps in (datasets[0].get("coordinateTransformations"), record.get("coordinateTransformations")):
        for step in steps or []:
            scale, shift = _then(step, scale, shift, where)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all() and (scale > 0).all()):
        raise InputError(
            f"{where}: its scale {scale.tolist()} is not made of positive numbers; export the store again."
        )
    units = {e["name"]: str(e.get("unit", "")) for e in entries}
    by_scale = dict(zip(axes, (float(v) for v in scale), strict=True))
    by_shift = dict(zip(axes, (float(v) for v in shift), strict=True))
    unit = _in_one_unit(units, by_scale, by_shift)
    seconds = by_scale["t"] * _SECONDS[units["t"]] if units.get("t") in _SECONDS else None
    return Multiscale(axes, paths, str(record.get("name") or ""), unit, by_scale, by_shift, seconds)


def _then(step: Any, scale: Any, shift: Any, where: str) -> tuple[Any, Any]:
    kind = step.get("type") if isinstance(step, Mapping) else None
    values = step.get(kind) if kind in ("scale", "translation") else None
    if kind == "identity":
        return scale, shift
    if not isinstance(values, list) or len(values) != len(scale):
        raise InputError(
            f"{where}: its coordinate transformation {kind!r} is not understood; accepted: scale, translation."
        )
    numbers = np.asarray(values, dtype=np.float64)
    return (scale * numbers, shift * numbers) if kind == "scale" else (scale, shift + numbers)


def _in_one_unit(units: Mapping[str, str], scale: dict[str, float], shift: dict[str, float]) -> Unit:
    """Bring the spatial axes to one unit of ours, in place; ``None`` unless every one has a known unit."""
    space = [a for a in scale if a in "zyx"]
    if any(units.get(a) not in _MILLIMETRES for a in space):
        return None
    lengths = {a: _MILLIMETRES[units[a]] for a in space}
    named = {units[a] for a in space}
    if len(named) == 1 and next(iter(named)) in _UNIT_NAMES.values():
        return "mm" if named == {"millimeter"} else "um"
    unit: Unit = "um" if scale["x"] * lengths["x"] < _MICROSCOPIC else "mm"
    for axis in space:
        factor = lengths[axis] * (1000.0 if unit == "um" else 1.0)
        scale[axis] *= factor
        shift[axis] *= factor
    return unit


def table_of(record: Mapping[str, Any]) -> LabelTable:
    """The label table that an ``image-label`` record of any program describes."""
    colours: dict[int, tuple[int, int, int]] = {}
    for entry in record.get("colors") or []:
        rgba = entry.get("rgba") if isinstance(entry, Mapping) else None
        if rgba and len(rgba) >= 3:
            colours[int(entry["label-value"])] = (int(rgba[0]), int(rgba[1]), int(rgba[2]))
    names: dict[int, str] = {}
    for entry in record.get("properties") or []:
        text = next((str(entry[k]) for k in ("name", "class", "label") if entry.get(k)), "")
        if text:
            names[int(entry["label-value"])] = text
    ids = sorted(i for i in {*colours, *names} if i > 0)
    return LabelTable(tuple(Label(i, names.get(i, f"label {i}"), colours.get(i, (-1, -1, -1))) for i in ids))
