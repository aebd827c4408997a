"""The outline of the region under review: a Shapes layer that follows the slice that is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Labels, Shapes

from napari_medseg.case.geometry import FloatArray
from napari_medseg.desk.reviewing.pair import Box
from napari_medseg.desk.reviewing.placing import Drawing

NAME = "region under review"
_COLOUR = "#F0E442"
# corners of an outline that are drawn at most, so that the window stays free
_MOST_EDGES = 4000
_WIDTH_SHARE = 1 / 90


class Outline:
    """Draws the outline of some voxels of a layer; removes its layer in the end.

    Parameters
    ----------
    viewer
        The viewer.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self.layer: Shapes | None = None

    def show(self, layer: Labels, box: Box, points: npt.NDArray[Any] | None) -> None:
        """Outline voxels in the slice that is shown; in three dimensions, their box, and nothing of a flat picture.

        Parameters
        ----------
        layer
            The labels that they belong to.
        box
            First index and the one after the last along each axis of the layer.
        points
            Their indices ``(n, axes)``; the box is outlined when they are not known.
        """
        drawing = Drawing.of(layer, self._viewer)
        if int(self._viewer.dims.ndisplay) > int(self._viewer.dims.ndim):
            # napari cannot add shapes to a flat picture that is shown in three dimensions
            self.remove()
            return
        if len(drawing.displayed) == 3:
            lines = _edges_of_box(box, drawing)
        else:
            lines = [drawing.place(loop) for loop in self._loops(drawing, box, points)]
        self._draw(lines, drawing, layer, box)

    def remove(self) -> None:
        """Take the layer out of the viewer."""
        if self.layer is not None and self.layer in self._viewer.layers:
            self._viewer.layers.remove(self.layer)
        self.layer = None

    def _loops(self, drawing: Drawing, box: Box, points: npt.NDArray[Any] | None) -> list[FloatArray]:
        if len(drawing.displayed) != 2:
            return []
        shown = drawing.slices_at(self._viewer.dims.point)
        if any(not box[axis][0] <= index < box[axis][1] for axis, index in shown.items()):
            return []
        low = np.array([box[axis][0] for axis in drawing.displayed])
        size = [box[axis][1] - box[axis][0] for axis in drawing.displayed]
        if points is None:
            return [low + loop for loop in outline_of(np.ones((1, 1), np.bool_), np.array(size))]
        here = np.ones(len(points), np.bool_)
        for axis, index in shown.items():
            here &= points[:, axis] == index
        return [low + loop for loop in _bounded_outline(points[here][:, list(drawing.displayed)] - low, size)]

    def _draw(self, lines: list[FloatArray], drawing: Drawing, layer: Labels, box: Box) -> None:
        """Lines are drawn in the world, so that they are equally wide in all directions."""
        ndim = int(self._viewer.dims.ndim)
        # no slider gets finer by this layer
        step = float(max(drawing.steps.max(), 1e-9))
        point = np.asarray(self._viewer.dims.point, dtype=float) / step
        data = []
        for line in lines:
            corners = np.tile(point, (len(line), 1))
            corners[:, [axis + drawing.first for axis in drawing.displayed]] = line / step
            data.append(corners)
        extent = max(
            float(np.ptp(drawing.place(np.array([[0] * len(drawing.displayed), sizes])), axis=0).max())
            for sizes in [[max(box[axis][1] - box[axis][0], 8) for axis in drawing.displayed]]
        )
        shapes = self._shapes(ndim, step, layer)
        if len(shapes.data):
            shapes.data = []
        if data:
            shapes.add(
                data, shape_type="path", edge_width=extent / step * _WIDTH_SHARE, edge_color=_COLOUR, face_color=[0] * 4
            )

    def _shapes(self, ndim: int, step: float, layer: Labels) -> Shapes:
        shapes = self.layer
        if shapes is not None and (shapes not in self._viewer.layers or shapes.ndim != ndim):
            self.remove()
            shapes = None
        if shapes is None:
            first = ndim - layer.ndim
            shared = getattr(self._viewer.dims, "units", None)
            units = tuple(str(u) for u in (shared or ("pixel",) * first + tuple(layer.units)))
            # no depth: it is seen through what a volume hides
            shapes = Shapes(
                name=NAME, ndim=ndim, scale=(step,) * ndim, units=units, opacity=1, blending="translucent_no_depth"
            )
            # the labels stay selected, so that painting goes on; nobody hears of the moment in between
            selection = self._viewer.layers.selection
            chosen = set(selection)
            with selection.events.blocker_all():
                self._viewer.layers.append(shapes)
                selection.clear()
                selection.update(chosen)
            self.layer = shapes
        elif not np.allclose(shapes.scale, step):
            shapes.scale = (step,) * ndim
        return shapes


def outline_of(mask: npt.NDArray[np.bool_], pixel: npt.NDArray[Any]) -> list[FloatArray]:
    """Closed lines along the edges of pixels, around what is set and around holes in it.

    Parameters
    ----------
    mask
        Any boolean picture ``(rows, columns)``.
    pixel
        Rows and columns that one pixel of `mask` stands for; its first pixel begins at -0.5.

    Returns
    -------
    loops
        Corners ``(n, 2)`` of each line, row and column; the last is the first again.
    """
    padded = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    inside = padded[1:-1, 1:-1]
    # with the set pixel on the right: the upper edge runs to the right, the right one down, and so on
    sides = (
        (~padded[:-2, 1:-1], (0, 0), (0, 1)),
        (~padded[1:-1, 2:], (0, 1), (1, 1)),
        (~padded[2:, 1:-1], (1, 1), (1, 0)),
        (~padded[1:-1, :-2], (1, 0), (0, 0)),
    )
    for outside, start, end in sides:
        for r, c in np.argwhere(inside & outside).tolist():
            following.setdefault((r + start[0], c + start[1]), []).append((r + end[0], c + end[1]))
    loops = []
    while following:
        first = next(iter(following))
        corners, here = [first], first
        while True:
            ends = following[here]
            # where two pixels touch at a corner, either way closes in the end
            there = ends.pop()
            if not ends:
                del following[here]
            if len(corners) > 1 and _straight(corners[-2], corners[-1], there):
                corners[-1] = there
            else:
                corners.append(there)
            here = there
            if here == first:
                break
        loops.append(np.array(corners, dtype=float) * pixel - 0.5)
    return loops


def _straight(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return (a[0] == b[0] == c[0]) or (a[1] == b[1] == c[1])


def _bounded_outline(places: npt.NDArray[Any], size: list[int]) -> list[FloatArray]:
    """The outline of pixels at `places`, coarser where it would have too many corners to draw at once."""
    if not len(places):
        return []
    stride = max(1, max(size) // 1024)
    while True:
        mask = np.zeros([-(-n // stride) for n in size], np.bool_)
        mask[tuple((places // stride).T)] = True
        edges = sum(int(np.count_nonzero(np.diff(np.pad(mask, 1).astype(np.int8), axis=axis))) for axis in (0, 1))
        if edges <= _MOST_EDGES or stride >= max(size):
            return outline_of(mask, np.array([stride, stride]))
        stride *= 2


def _edges_of_box(box: Box, drawing: Drawing) -> list[FloatArray]:
    low, high = (np.array([box[axis][k] - 0.5 for axis in drawing.displayed]) for k in (0, 1))
    lines = []
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            ends = np.tile(low, (2, 1))
            ends[1, axis] = high[axis]
            for other, side in zip(others, corner, strict=True):
                ends[:, other] = (low, high)[side][other]
            lines.append(drawing.place(ends))
    return lines
