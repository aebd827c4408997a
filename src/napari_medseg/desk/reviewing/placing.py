"""Where the viewer draws the voxels of a layer, and how the view is moved to some of them.

Of a layer that lies askew, napari shows the slice whose index it finds along the hidden axes alone, and places it by
the displayed axes alone. The same is done here, so that what is looked for is what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Layer

from napari_medseg.case.geometry import FloatArray
from napari_medseg.desk.layers import layer_affine
from napari_medseg.desk.linked.following import camera_of

_SHARE_OF_VIEW = 1 / 3
# a single voxel is shown with some of its neighbours
_SMALLEST_EXTENT = 8


@dataclass(frozen=True, eq=False)
class Drawing:
    """How a layer is drawn now.

    Parameters
    ----------
    affine
        Index of the layer to the viewer's world along the layer's axes, ``(n + 1, n + 1)``.
    displayed, hidden
        Axes of the layer that are displayed, in the order of the viewer, and those that are not.
    first
        The viewer's axis that the layer's first axis lies on.
    """

    affine: FloatArray
    displayed: tuple[int, ...]
    hidden: tuple[int, ...]
    first: int

    @classmethod
    def of(cls, layer: Layer, viewer: Any) -> Drawing:
        """How `layer` is drawn in `viewer`; its whole transform and its units count."""
        affine = layer_affine(layer)
        first = viewer.dims.ndim - layer.ndim
        units = getattr(viewer.dims, "units", None)
        if units is not None:
            for axis, (own, shared) in enumerate(zip(layer.units, units[first:], strict=True)):
                if own != shared:
                    affine[axis] *= float((1 * own).to(shared).magnitude)
        shown = tuple(int(axis) - first for axis in viewer.dims.displayed if axis >= first)
        return cls(affine, shown, tuple(axis for axis in range(layer.ndim) if axis not in shown), first)

    @property
    def steps(self) -> FloatArray:
        """Distance in the world between neighbours along each axis of the layer."""
        steps: FloatArray = np.linalg.norm(self.affine[:-1, :-1], axis=0)
        return steps

    def place(self, points: npt.NDArray[Any]) -> FloatArray:
        """Where indices ``(n, displayed axes)`` are drawn, in the world along the displayed axes."""
        shown = list(self.displayed)
        drawn: FloatArray = points @ self.affine[np.ix_(shown, shown)].T + self.affine[shown, -1]
        return drawn

    def point_of(self, index: Sequence[float]) -> dict[int, float]:
        """The viewer's point, by the viewer's axis, at which the slices with `index` are shown."""
        hidden = list(self.hidden)
        if not hidden:
            return {}
        back = np.linalg.inv(self.affine)
        wanted = np.asarray(index, dtype=float)[hidden] - back[hidden, -1]
        point = np.linalg.solve(back[np.ix_(hidden, hidden)], wanted)
        return {axis + self.first: float(p) for axis, p in zip(hidden, point, strict=True)}

    def slices_at(self, point: Sequence[float]) -> dict[int, int]:
        """Index along each hidden axis of what is shown at the viewer's `point`."""
        hidden = list(self.hidden)
        back = np.linalg.inv(self.affine)
        own = np.asarray(point, dtype=float)[[axis + self.first for axis in hidden]]
        index = back[np.ix_(hidden, hidden)] @ own + back[hidden, -1]
        return {axis: int(i) for axis, i in zip(hidden, np.round(index), strict=True)}


def look_at(viewer: Any, layer: Layer, box: Sequence[tuple[int, int]], centre: Sequence[int]) -> None:
    """Move the view so that a box of voxels fills about a third of it.

    Parameters
    ----------
    viewer
        The viewer.
    layer
        Whose voxels they are.
    box
        First index and the one after the last along each axis of the layer.
    centre
        The voxel through which slices go.
    """
    drawing = Drawing.of(layer, viewer)
    point = drawing.point_of(centre)
    if point:
        viewer.dims.set_point(list(point), list(point.values()))
    corners = np.array(list(product(*(_widened(box[axis]) for axis in drawing.displayed))))
    exact = np.array(list(product(*((box[axis][0] - 0.5, box[axis][1] - 0.5) for axis in drawing.displayed))))
    drawn = drawing.place(corners)
    extent = np.ptp(drawn, axis=0)
    middle = (drawing.place(exact).min(0) + drawing.place(exact).max(0)) / 2
    camera = camera_of(viewer)
    camera.center = (*(0.0 for _ in range(3 - len(middle))), *(float(m) for m in middle))
    height, width = _canvas_size(viewer)
    if viewer.dims.ndisplay == 2:
        room = np.array([height, width], dtype=float)[-len(extent) :]
        camera.zoom = float((_SHARE_OF_VIEW * room / extent).min())
    else:
        # from whatever side it is looked at
        camera.zoom = float(_SHARE_OF_VIEW * min(height, width) / extent.max())


def _widened(bounds: tuple[int, int]) -> tuple[float, float]:
    """The outer edges of the voxels of one axis, with neighbours if they are few."""
    low, high = bounds[0] - 0.5, bounds[1] - 0.5
    short = max(0.0, _SMALLEST_EXTENT - (high - low)) / 2
    return low - short, high + short


def _canvas_size(viewer: Any) -> tuple[int, int]:
    """Height and width of the canvas in pixels."""
    canvas = getattr(viewer, "canvas", None)
    size = canvas.size if canvas is not None else viewer._canvas_size
    return int(size[0]), int(size[1])
