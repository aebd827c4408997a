"""Images and segmentations as napari layers, and back."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer

from napari_medseg.case import (
    AxisMap,
    Geometry,
    InputError,
    LabelTable,
    MedicalImage,
    Provenance,
    Segmentation,
    Source,
    Step,
)
from napari_medseg.case.contrast import first_window
from napari_medseg.case.geometry import FloatArray, Unit
from napari_medseg.desk.label_colours import colormap_of, names_of
from napari_medseg.desk.placement import Placement, geometry_of_affine

LayerData = tuple[Any, dict[str, Any], str]

METADATA_KEY = "medseg"
# labels up to this size are held in memory, where they can be painted on
IN_MEMORY_BYTES = 256 * 1024 * 1024
_UNIT_WORDS: dict[Unit, str] = {"mm": "millimeter", "um": "micrometer", None: "pixel"}
_METRES = {"mm": 1e-3, "um": 1e-6}


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """What an image layer remembers of its case."""

    image: MedicalImage
    placement: Placement
    levels: tuple[Any, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> ImageRecord:
        # duplicating a layer must not read and copy the file
        return self


@dataclass(frozen=True, eq=False)
class LabelsRecord:
    """What a labels layer remembers of its segmentation; `checksum` tells later whether somebody painted."""

    segmentation: Segmentation
    placement: Placement
    checksum: int | None
    source: Source | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> LabelsRecord:
        return self


# -- from the case to the viewer ---------------------------------------------------------------------


def image_layers(image: MedicalImage) -> list[LayerData]:
    """The layer tuple of an image: lazy, turned to the viewer's axes, with its whole place in the world.

    Channels that are no colours become one layer each.
    """
    placement = Placement(image.geometry)
    first = image.axes.index(image.spatial_axes[0])
    levels = tuple(_turned(level, placement.axis_map, first) for level in image.levels)
    options: dict[str, Any] = {
        "name": image.name,
        "metadata": {METADATA_KEY: ImageRecord(image, placement, levels)},
        **_transform(image.axes, placement, image.seconds_per_frame),
        "multiscale": len(levels) > 1,
    }
    if image.axes.endswith("c"):
        if image.is_rgb:
            options["rgb"] = True
        else:
            options["channel_axis"] = len(image.axes) - 1
            options["name"] = [f"{image.name} {c}" for c in image.channels] or image.name
    if not image.is_rgb:
        options["contrast_limits"] = first_window(image)
        if "channel_axis" not in options:
            options["colormap"] = "gray"
    return [(list(levels) if len(levels) > 1 else levels[0], options, "image")]


def labels_layer(segmentation: Segmentation, like: MedicalImage | None = None, count: int | None = None) -> LayerData:
    """The layer tuple of a segmentation, with names, colours and place.

    Small labels are read into memory, where they can be painted on: call this outside the window's thread.

    Parameters
    ----------
    like
        The image it was made on, whose file the labels then remember.
    count
        Number of objects of an instance segmentation, when known.
    """
    placement = Placement(segmentation.geometry)
    data = segmentation.data
    small = int(np.prod(data.shape)) * np.dtype(data.dtype).itemsize <= IN_MEMORY_BYTES
    if small:
        data = np.array(data)
    checksum = checksum_of(data) if small else None
    first = segmentation.axes.index(segmentation.geometry.axes[0])
    shown = _turned(data, placement.axis_map, first)
    if not small and segmentation.coarser:
        # napari draws a whole plane of a single level, however large
        shown = [shown, *(_turned(level, placement.axis_map, first) for level in segmentation.coarser)]
    if segmentation.table.instances and count is None and small:
        count = int(data.max(initial=0))
    record = LabelsRecord(replace(segmentation, data=data), placement, checksum, like.source if like else None)
    return (
        shown,
        {
            "name": segmentation.name if segmentation.complete else f"{segmentation.name} (unfinished)",
            "metadata": {METADATA_KEY: record},
            "colormap": colormap_of(segmentation.table),
            "features": names_of(segmentation.table, count or 0),
            "opacity": 0.6,
            "multiscale": isinstance(shown, list),
            **_transform(segmentation.axes, placement, segmentation.seconds_per_frame),
        },
        "labels",
    )


def _transform(axes: str, placement: Placement, seconds_per_frame: float | None) -> dict[str, Any]:
    unit = _UNIT_WORDS[placement.geometry.unit]
    timed = axes.startswith("t")
    time = (seconds_per_frame or 1.0,) if timed else ()
    return {
        "scale": (*time, *placement.scale),
        "translate": (*(0.0 for _ in time), *placement.translate),
        "units": (*("second" if seconds_per_frame else "pixel" for _ in time), *(unit,) * placement.geometry.ndim),
        "axis_labels": (*("t" for _ in time), *placement.geometry.axes),
    }


def _turned(array: Any, axis_map: AxisMap, first_axis: int) -> Any:
    if axis_map.is_identity:
        return array
    if not isinstance(array, np.ndarray):
        import dask.array

        if hasattr(array, "to_dask"):
            array = array.to_dask()
        elif not isinstance(array, dask.array.Array):
            array = dask.array.from_array(array)
    return axis_map.apply(array, first_axis)


# -- from the viewer to the case ---------------------------------------------------------------------


def record_of(layer: Layer) -> ImageRecord | LabelsRecord | None:
    """What the layer remembers of its case; ``None`` for layers made elsewhere."""
    record = layer.metadata.get(METADATA_KEY)
    return record if isinstance(record, ImageRecord | LabelsRecord) else None


def layer_affine(layer: Layer) -> FloatArray:
    """The layer's complete transform (scale, rotation, shear, translation *and* affine), index to viewer world."""
    n = layer.ndim
    corner = np.asarray(layer.data_to_world(np.zeros(n)))
    matrix = np.eye(n + 1)
    matrix[:n, n] = corner
    for axis in range(n):
        matrix[:n, axis] = np.asarray(layer.data_to_world(np.eye(n)[axis])) - corner
    return matrix


def layer_unit(layer: Layer, axes: int) -> tuple[Unit, float]:
    """The unit of the last `axes` axes as the case knows it, and the factor that takes the layer's numbers there."""
    units = layer.units[-axes:]
    if any(u != units[0] for u in units) or units[0].dimensionality != {"[length]": 1}:
        return None, 1.0
    metres = float((1 * units[0]).to("meter").magnitude)
    # millimetres down to a tenth of one, micrometres below
    unit: Unit = "mm" if metres >= 1e-4 else "um"
    return unit, metres / _METRES[str(unit)]


def medical_image(layer: Image) -> MedicalImage:
    """The image that a layer shows, at the place where the layer shows it.

    A layer that was moved, scaled or given units since it was opened counts as it is now.

    Raises
    ------
    InputError
        If the layer has more axes than time and three of space, or shears time into space.
    """
    record = record_of(layer)
    levels = tuple(layer.data) if layer.multiscale else (layer.data,)
    if isinstance(record, ImageRecord) and _same_arrays(levels, record.levels):
        timed = record.image.axes.startswith("t")
        geometry = _current_geometry(layer, record.placement, timed)
        return record.image if geometry is record.image.geometry else replace(record.image, geometry=geometry)
    axes, spatial = _axes_of(layer, rgb=layer.rgb)
    return MedicalImage(
        levels=levels,
        axes=axes,
        geometry=_geometry_of(layer, spatial, timed=axes.startswith("t")),
        intensity="RGB" if layer.rgb else "arbitrary",
        name=layer.name,
        channels=("red", "green", "blue", "alpha")[: levels[0].shape[-1]] if layer.rgb else (),
    )


def segmentation(layer: Labels, images: Iterable[Layer] = ()) -> Segmentation:
    """The segmentation that a labels layer holds, on the grid of the file it belongs to.

    Labels drawn by hand over one of our images (same shape and transform) lie on that image's grid. If the
    labels changed since they were made, the history gets a step ``"edit"``. Reads labels that are in memory
    once: call it in a job.

    Parameters
    ----------
    images
        Layers among which the image under hand-drawn labels may be.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    record = record_of(layer)
    if isinstance(record, LabelsRecord):
        made = record.segmentation
        timed = made.axes.startswith("t")
        if tuple(record.placement.axis_map.apply(made.data, int(timed)).shape) == tuple(data.shape):
            own = _turned(data, record.placement.axis_map.inverse(), int(timed))
            geometry = _current_geometry(layer, record.placement, timed)
            edited = record.checksum is not None and checksum_of(own) != record.checksum
            history = made.provenance.with_step(Step.now("edit", by="hand")) if edited else made.provenance
            return replace(made, data=own, geometry=geometry, provenance=history, name=layer.name)
    # napari's own conversion from image to labels keeps the image's record
    like = record if isinstance(record, ImageRecord) else _image_under(layer, images)
    if like is not None and tuple(like.levels[0].shape)[: layer.ndim] == tuple(data.shape):
        placement, image = like.placement, like.image
        timed = image.axes.startswith("t")
        own = _turned(data, placement.axis_map.inverse(), int(timed))
        geometry = _current_geometry(layer, placement, timed)
        return Segmentation(
            own, geometry, _table_of(layer), _drawn(), layer.name, seconds_per_frame=image.seconds_per_frame
        )
    axes, spatial = _axes_of(layer, rgb=False)
    return Segmentation(
        data, _geometry_of(layer, spatial, axes.startswith("t")), _table_of(layer), _drawn(), layer.name, axes
    )


def source_of(layer: Labels, images: Iterable[Layer] = ()) -> MedicalImage | None:
    """The image among `images` that the labels belong to, if it is open."""
    record = record_of(layer)
    known = [r for r in map(record_of, images) if isinstance(r, ImageRecord)]
    if isinstance(record, LabelsRecord):
        for other in known:
            same_file = other.image.source is record.source or record.source is None
            if same_file and other.image.geometry.is_close(record.segmentation.geometry):
                return other.image
    under = _image_under(layer, images)
    return under.image if under else None


def checksum_of(array: Any) -> int:
    """A checksum of labels in memory, independent of how the array is laid out."""
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)


def _drawn() -> Provenance:
    return Provenance().with_step(Step.now("edit", by="hand"))


def _same_arrays(now: tuple[Any, ...], then: tuple[Any, ...]) -> bool:
    # a layer of one channel of several holds a slice of the array: its shape lacks the last axis
    if len(now) != len(then):
        return False
    return all(a is b or tuple(a.shape) == tuple(b.shape)[:-1] for a, b in zip(now, then, strict=True))


def _current_geometry(layer: Layer, placement: Placement, timed: bool) -> Geometry:
    affine, unit = _spatial_affine(layer, placement.geometry.ndim, timed)
    return placement.moved(affine, unit)


def _spatial_affine(layer: Layer, ndim: int, timed: bool) -> tuple[FloatArray, Unit]:
    affine = layer_affine(layer)
    if timed:
        if np.abs(affine[0, 1:-1]).max(initial=0) > 1e-9 or np.abs(affine[1:-1, 0]).max(initial=0) > 1e-9:
            raise InputError(f"Layer {layer.name}: its transform mixes time with space; reset the transform.")
        affine = affine[1:, 1:]
    unit, factor = layer_unit(layer, ndim)
    scaled = affine.copy()
    scaled[:-1] *= factor
    return scaled, unit


def _axes_of(layer: Layer, rgb: bool) -> tuple[str, int]:
    """Axes of a layer from elsewhere and the number of spatial ones."""
    n = layer.ndim
    if n == 1 or n > 4:
        raise InputError(f"Layer {layer.name} has {n} axes; accepted are (t) (z) y x. Split the layer first.")
    timed = n == 4 or (n == 3 and str(layer.axis_labels[0]).lower().startswith("t"))
    spatial = n - int(timed)
    return ("t" if timed else "") + "zyx"[-spatial:] + ("c" if rgb else ""), spatial


def _geometry_of(layer: Layer, ndim: int, timed: bool) -> Geometry:
    affine, unit = _spatial_affine(layer, ndim, timed)
    data = layer.data[0] if layer.multiscale else layer.data
    first = int(timed)
    return geometry_of_affine(tuple(int(s) for s in data.shape[first : first + ndim]), affine, unit)


def _image_under(layer: Layer, images: Iterable[Layer]) -> ImageRecord | None:
    shape = tuple(layer.data[0].shape if layer.multiscale else layer.data.shape)
    for other in images:
        record = record_of(other)
        if not isinstance(record, ImageRecord) or other.ndim != layer.ndim:
            continue
        shown = tuple(record.levels[0].shape)[: len(shape)]
        if shown == shape and np.allclose(layer_affine(layer), layer_affine(other), rtol=1e-6, atol=1e-6):
            return record
    return None


def _table_of(layer: Labels) -> LabelTable:
    """Names from the layer's features where it has them (columns ``index`` and a column of words)."""
    features = layer.features
    words = [c for c in features.columns if c != "index" and features[c].map(lambda v: isinstance(v, str)).all()]
    if "index" in features.columns and words and len(features):
        rows = zip(features["index"], features[words[0]], strict=True)
        return LabelTable.from_names({int(i): str(name) for i, name in rows if int(i) > 0})
    return LabelTable()
