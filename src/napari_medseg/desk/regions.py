"""Which part of an image a person means: all of it, what is in view, the slice shown, or a drawn shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer, Shapes

from napari_medseg.case import AxisMap, InputError, MedicalImage
from napari_medseg.desk.layers import ImageRecord, record_of

WHOLE = "Whole image"
VIEW = "Current view"
SLICE = "Current slice or frame"


@dataclass(frozen=True)
class Part:
    """A part of an image on its own grid: one slice per spatial axis (``None``: all), one frame (``None``: all)."""

    region: tuple[slice, ...] | None = None
    frame: int | None = None

    def frames_of(self, image: MedicalImage) -> MedicalImage:
        """The image reduced to the frame meant, still with its time axis."""
        if self.frame is None:
            return image
        return replace(image, levels=tuple(level[self.frame : self.frame + 1] for level in image.levels))


def part_of(kind: str, viewer: ViewerModel, layer: Image) -> Part:
    """The part of `layer`'s image that `kind` means: one of the names above, or the name of a Shapes layer.

    Raises
    ------
    InputError
        If nothing of the image lies in the part.
    """
    if kind == WHOLE:
        return Part()
    record = record_of(layer)
    timed = layer.ndim == 4 or (isinstance(record, ImageRecord) and record.image.axes.startswith("t"))
    axis_map = record.placement.axis_map if isinstance(record, ImageRecord) else None
    shape = tuple(int(n) for n in (layer.data[0] if layer.multiscale else layer.data).shape[: layer.ndim])
    frame: int | None = None
    if kind == VIEW:
        bounds = _view_bounds(layer)
    elif kind == SLICE:
        bounds, frame = _slice_bounds(viewer, layer, timed)
    else:
        shapes = viewer.layers[kind]
        assert isinstance(shapes, Shapes)
        bounds = _shape_bounds(shapes, layer)
    spatial = [
        slice(max(0, low), min(n, high)) for (low, high), n in list(zip(bounds, shape, strict=True))[int(timed) :]
    ]
    if any(s.start >= s.stop for s in spatial):
        raise InputError(f"{kind}: no part of {layer.name} lies there; choose another region.")
    return Part(_to_file_axes(spatial, shape[int(timed) :], axis_map), frame)


def _view_bounds(layer: Layer) -> list[tuple[int, int]]:
    corners = np.asarray(layer.corner_pixels, dtype=float)
    factors = np.ones(layer.ndim)
    if layer.multiscale:
        factors = np.asarray(layer.downsample_factors[layer.data_level])[: layer.ndim]
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    displayed = layer._slice_input.displayed
    return [
        (int(np.floor(corners[0, a] * factors[a])), int(np.ceil((corners[1, a] + 1) * factors[a])))
        if a in displayed
        else (0, int(shape[a]))
        for a in range(layer.ndim)
    ]


def _slice_bounds(viewer: ViewerModel, layer: Layer, timed: bool) -> tuple[list[tuple[int, int]], int | None]:
    point = np.asarray(viewer.dims.point)[-layer.ndim :]
    index = np.round(np.asarray(layer.world_to_data(point))).astype(int)
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    hidden = [a for a in range(layer.ndim) if a not in layer._slice_input.displayed]
    bounds = [(int(index[a]), int(index[a]) + 1) if a in hidden else (0, int(shape[a])) for a in range(layer.ndim)]
    frame = int(np.clip(index[0], 0, shape[0] - 1)) if timed and 0 in hidden else None
    return bounds, frame


def _shape_bounds(shapes: Shapes, layer: Layer) -> list[tuple[int, int]]:
    chosen = [shapes.data[k] for k in (shapes.selected_data or range(len(shapes.data)))]
    if not chosen:
        raise InputError(f"{shapes.name}: nothing is drawn in this layer; draw a rectangle or choose another region.")
    corners = np.concatenate([np.asarray(c) for c in chosen])
    world = np.stack([np.asarray(shapes.data_to_world(c)) for c in corners])
    # a shape drawn on fewer axes reaches through all slices
    common = min(shapes.ndim, layer.ndim)
    padded = np.zeros((len(world), layer.ndim))
    padded[:, -common:] = world[:, -common:]
    index = np.stack([np.asarray(layer.world_to_data(p)) for p in padded])
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    bounds: list[tuple[int, int]] = []
    for axis in range(layer.ndim):
        low, high = index[:, axis].min(), index[:, axis].max()
        flat = high - low < 1
        if axis < layer.ndim - common or flat:
            bounds.append((0, int(shape[axis])))
        else:
            bounds.append((int(np.floor(low + 0.5)), int(np.ceil(high + 0.5))))
    return bounds


def _to_file_axes(shown: Sequence[slice], shape: Sequence[int], axis_map: AxisMap | None) -> tuple[slice, ...]:
    if axis_map is None:
        return tuple(shown)
    own: list[slice] = [slice(0)] * len(shown)
    for part, n, source, flip in zip(shown, shape, axis_map.order, axis_map.flips, strict=True):
        own[source] = slice(n - part.stop, n - part.start) if flip else part
    return tuple(own)
