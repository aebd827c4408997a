"""Maps of where layers differ, as the data of one more layer: lazy, on the same levels, at the same place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import Colormap, ensure_colormap

from napari_medseg.case import InputError, LabelTable, Segmentation
from napari_medseg.desk.label_colours import colormap_of, names_of
from napari_medseg.desk.layers import ImageRecord, LabelsRecord, layer_affine, layer_unit, record_of
from napari_medseg.desk.placement import geometry_of_affine
from napari_medseg.evaluate.errors import (
    ERROR_TABLE,
    BoundaryDistance,
    Disagreement,
    ErrorCategories,
    LabelsMap,
    LegendEntry,
    VoteEntropy,
    difference_table,
    legend,
    map_levels,
)
from napari_medseg.evaluate.pairs import count_pairs
from napari_medseg.jobs import Progress

MAP_KEY = "medseg_error_map"
"""In the metadata of layers that show a map: they are no candidates."""

_TOLERANCE = 1e-2
_SHOWN_STEPS = 10
# from too little (blue) over nothing (clear) to too much (orange): never red against green
_DIVERGING = (
    (0.00, (0.00, 0.22, 0.45, 1.0)),
    (0.25, (0.16, 0.50, 0.75, 1.0)),
    (0.495, (0.68, 0.87, 0.97, 1.0)),
    (0.497, (0.68, 0.87, 0.97, 0.0)),
    (0.503, (0.99, 0.87, 0.62, 0.0)),
    (0.505, (0.99, 0.87, 0.62, 1.0)),
    (0.75, (0.84, 0.49, 0.05, 1.0)),
    (1.00, (0.46, 0.22, 0.00, 1.0)),
)


class MapKind(StrEnum):
    """What a map can show."""

    ERRORS = "errors of a candidate"
    DISTANCE = "distance to the boundary"
    DISAGREEMENT = "disagreement of all"
    ENTROPY = "vote entropy of all"
    DIFFERENCE = "difference of two"

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with the reference."""
        return self in (MapKind.ERRORS, MapKind.DISTANCE)

    @property
    def of_several(self) -> bool:
        """Whether it looks at all candidates at once."""
        return self in (MapKind.DISAGREEMENT, MapKind.ENTROPY)


@dataclass(frozen=True, eq=False)
class MapOrder:
    """What to show.

    Parameters
    ----------
    kind
        The map.
    layers
        What it is made of: candidate and reference, two candidates, or all candidates.
    label
        One class; all when ``None``.
    label_name
        Its name.
    """

    kind: MapKind
    layers: tuple[Labels, ...]
    label: int | None = None
    label_name: str = ""

    @property
    def name(self) -> str:
        """Name of the map's layer."""
        of = f" ({self.label_name})" if self.label is not None else ""
        if self.kind is MapKind.ERRORS:
            return f"errors of {self.layers[0].name}{of}"
        if self.kind is MapKind.DISTANCE:
            return f"boundary distance of {self.layers[0].name}{of}"
        if self.kind is MapKind.DIFFERENCE:
            return f"{self.layers[0].name} against {self.layers[1].name}{of}"
        return "disagreement" if self.kind is MapKind.DISAGREEMENT else "vote entropy"

    @property
    def instances(self) -> bool:
        """Whether ids are objects of one class."""
        return any(table_of(layer).instances for layer in self.layers)

    @property
    def table(self) -> LabelTable:
        """Names and colours of a map of categories."""
        if self.kind is MapKind.DIFFERENCE:
            return difference_table(self.layers[0].name, self.layers[1].name)
        return ERROR_TABLE


def is_map(layer: Layer) -> bool:
    """Whether a layer shows a map of errors."""
    return MAP_KEY in layer.metadata


def table_of(layer: Labels) -> LabelTable:
    """Names of a layer's labels, where it remembers them."""
    record = record_of(layer)
    return record.segmentation.table if isinstance(record, LabelsRecord) else LabelTable()


def map_of(order: MapOrder) -> Layer:
    """The layer of a map, not yet in a viewer; nothing of it is computed.

    Raises
    ------
    InputError
        If layers lie on different grids, or there are too few.
    """
    levels = levels_of(order)
    first = order.layers[0]
    place = {
        key: getattr(first, key) for key in ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    }
    options: dict[str, Any] = {
        "name": order.name,
        "metadata": {MAP_KEY: order.kind.value},
        "multiscale": len(levels) > 1,
        **place,
    }
    data = levels if len(levels) > 1 else levels[0]
    if order.kind in (MapKind.ERRORS, MapKind.DIFFERENCE):
        shown = Labels(data, colormap=colormap_of(order.table), features=names_of(order.table), opacity=0.75, **options)
        shown.editable = False
        return shown
    colours = diverging() if order.kind is MapKind.DISTANCE else sequential()
    return Image(
        data,
        colormap=colours,
        contrast_limits=limits_of(order, levels[0]),
        interpolation2d="nearest",
        interpolation3d="nearest",
        blending="translucent",
        opacity=0.85,
        **options,
    )


def levels_of(order: MapOrder) -> list[LabelsMap]:
    """The maps of all levels, from fine to coarse.

    Raises
    ------
    InputError
        As `map_of`.
    """
    shown = [shown_labels(layer) for layer in order.layers]
    first = shown[0]
    for other in shown[1:]:
        if other.axes != first.axes or not other.geometry.is_close(first.geometry, _TOLERANCE):
            raise InputError(
                f"{other.name} lies on another grid than {first.name}, so there is no map of them. "
                "Press Compare, which says how they differ and offers to resample."
            )
    # a hundredth of a voxel is rounding
    shown = [replace(s, geometry=first.geometry) for s in shown]
    label, instances = order.label, order.instances

    def make(labels: tuple[Any, ...], spacing: tuple[float, ...] | None) -> LabelsMap:
        if order.kind is MapKind.DISTANCE:
            return BoundaryDistance(labels[0], labels[1], spacing, label=label, instances=instances, axes=first.axes)
        if order.kind is MapKind.DISAGREEMENT:
            return Disagreement(labels)
        if order.kind is MapKind.ENTROPY:
            return VoteEntropy(labels)
        return ErrorCategories(*labels, label=label, instances=instances)

    return map_levels(shown, make)


def shown_labels(layer: Labels) -> Segmentation:
    """The labels as the viewer shows them: the layer's own arrays and axes, so that an edit is seen at once."""
    levels: tuple[Any, ...] = tuple(layer.data) if layer.multiscale else (layer.data,)
    timed = _is_timed(layer)
    first = int(timed)
    shape = tuple(int(n) for n in levels[0].shape[first:])
    unit, factor = layer_unit(layer, len(shape))
    affine = layer_affine(layer)[first:, first:].copy()
    affine[:-1] *= factor
    geometry = geometry_of_affine(shape, affine, unit)
    axes = ("t" if timed else "") + geometry.axes
    return Segmentation(levels[0], geometry, table_of(layer), name=layer.name, axes=axes, coarser=levels[1:])


def _is_timed(layer: Labels) -> bool:
    record = record_of(layer)
    if isinstance(record, LabelsRecord):
        return record.segmentation.axes.startswith("t")
    if isinstance(record, ImageRecord):
        return record.image.axes.startswith("t")
    return bool(layer.ndim == 4 or (layer.ndim == 3 and str(layer.axis_labels[0]).lower().startswith("t")))


def limits_of(order: MapOrder, level: LabelsMap) -> tuple[float, float]:
    """Range of a map's colours: up to so many steps of the finest axis on either side, or 0 to 1."""
    if isinstance(level, BoundaryDistance):
        reach = min(level.reach, _SHOWN_STEPS * min(level.spacing))
        return -reach, reach
    if order.kind is MapKind.DISAGREEMENT:
        # of n candidates most agree at least with themselves
        return 0.0, 1.0 - 1.0 / len(order.layers)
    return 0.0, 1.0


def unit_of(order: MapOrder) -> str:
    """Unit of distances, as a person reads it."""
    unit = shown_labels(order.layers[0]).geometry.unit
    return {"mm": "mm", "um": "µm", None: "px"}[unit]


def diverging() -> Colormap:
    """Blue for too little, clear for nothing, orange for too much."""
    return Colormap(
        colors=np.array([c for _, c in _DIVERGING]), controls=np.array([at for at, _ in _DIVERGING]), name="errors"
    )


def sequential() -> Colormap:
    """Viridis (perceptually uniform) that is clear where all agree."""
    colours = np.array(ensure_colormap("viridis").colors)
    colours[0, 3] = 0.0
    at = np.linspace(0, 1, len(colours))
    return Colormap(
        colors=np.insert(colours, 1, [*colours[0, :3], 1.0], axis=0),
        controls=np.insert(at, 1, 1e-3),
        name="disagreement",
    )


def shares(order: MapOrder, *, progress: Progress) -> tuple[LegendEntry, ...]:
    """The legend of a map of categories, with the share of each over the whole image."""
    candidate, reference = (shown_labels(layer).data for layer in order.layers)
    counts = count_pairs(candidate, reference, progress=progress)
    return legend(counts, label=order.label, instances=order.instances, table=order.table)


def labels_in(layers: Sequence[Labels]) -> dict[int, str]:
    """Ids and names that the layers' tables list; empty where ids are objects."""
    tables = [table_of(layer) for layer in layers]
    if any(table.instances for table in tables):
        return {}
    return {label.id: label.name for table in reversed(tables) for label in table}
