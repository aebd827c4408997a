"""Where a grid lies in the viewer, and back.

The viewer draws its last axis to the right, the one before it downwards and, in three dimensions, the one before
that towards the person. The patient frame therefore becomes ``(I, P, L)``, that is ``(-S, -A, -R)``: axial and
coronal slices have the patient's right on the left of the picture as radiologists look at them, the head is up
in coronal and sagittal ones, and the body in three dimensions is no mirror image. The image frame becomes
``(z, y, x)``. Grids are turned to those axes as views, so that a layer needs no more than a positive scale and a
translation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from napari_medseg.case import AxisMap, Geometry
from napari_medseg.case.geometry import FloatArray, Frame, Unit

# rows: viewer world (z, y, x); columns: the frame's world (x, y, z)
_VIEWER_OF_FRAME: dict[str, FloatArray] = {
    "patient": np.array([[0.0, 0, -1], [0, -1, 0], [-1, 0, 0]]),
    "image": np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]),
}
_SHOWN_ORIENTATION: dict[str, tuple[tuple[str, str], ...]] = {
    "patient": (("I", "S"), ("P", "A"), ("L", "R")),
    "image": (("in", "out"), ("down", "up"), ("right", "left")),
}
_OBLIQUE_DEGREES = 0.5


@dataclass(frozen=True, eq=False)
class Placement:
    """How a grid of the case is shown as a layer.

    Parameters
    ----------
    geometry
        The file's own grid.
    """

    geometry: Geometry

    @cached_property
    def _shown_axes(self) -> tuple[int, ...]:
        """Which viewer world axis (0 z, 1 y, 2 x) each shown array axis follows."""
        pairs = _SHOWN_ORIENTATION[self.geometry.frame]
        own = self.geometry.orientation
        return tuple(k for k, pair in enumerate(pairs) if any(letter in pair for letter in own))

    @cached_property
    def axis_map(self) -> AxisMap:
        """From the file's axes to the axes shown."""
        pairs = _SHOWN_ORIENTATION[self.geometry.frame]
        return self.geometry.axis_map_to(tuple(pairs[k][0] for k in self._shown_axes))

    @cached_property
    def shown(self) -> Geometry:
        """The grid of the array as shown."""
        return self.geometry.rearranged(self.axis_map)

    @property
    def is_oblique(self) -> bool:
        """Whether the axes run askew, which the viewer cannot show: it then shows the array's own axes."""
        return self.geometry.obliquity_degrees > _OBLIQUE_DEGREES

    @property
    def scale(self) -> tuple[float, ...]:
        """Layer scale along the shown axes."""
        return self.shown.steps

    @property
    def translate(self) -> tuple[float, ...]:
        """Layer translation: viewer world position of the first shown voxel's centre."""
        position = _VIEWER_OF_FRAME[self.geometry.frame] @ np.asarray(self.shown.origin)
        return tuple(float(position[k]) for k in self._shown_axes)

    @property
    def affine(self) -> FloatArray:
        """Shown index to viewer world, ``(n + 1, n + 1)``."""
        matrix = np.diag((*self.scale, 1.0))
        matrix[:-1, -1] = self.translate
        return matrix

    def moved(self, affine: FloatArray, unit: Unit) -> Geometry:
        """The file's grid after its layer's transform was changed to `affine` and its unit to `unit`."""
        if unit == self.geometry.unit and np.allclose(affine, self.affine, rtol=1e-6, atol=1e-9):
            return self.geometry
        change = affine @ np.linalg.inv(self.affine)
        where = [*self._shown_axes, 3]
        viewer = np.eye(4)
        viewer[np.ix_(where, where)] = change
        to_viewer = np.eye(4)
        to_viewer[:3, :3] = _VIEWER_OF_FRAME[self.geometry.frame]
        moved = np.linalg.inv(to_viewer) @ viewer @ to_viewer @ self.geometry.affine
        return replace(self.geometry, affine=moved, unit=unit)


def geometry_of_affine(shape: tuple[int, ...], affine: FloatArray, unit: Unit, frame: Frame = "image") -> Geometry:
    """The grid of a layer that did not come from us.

    Parameters
    ----------
    shape
        Spatial shape of the layer, 2 or 3 axes.
    affine
        Index to viewer world, ``(n + 1, n + 1)``: the layer's complete transform.
    """
    n = len(shape)
    to_frame = np.linalg.inv(_VIEWER_OF_FRAME[frame])
    matrix = np.eye(4)
    index_to_viewer = np.eye(4)
    index_to_viewer[3 - n :, 3 - n :] = affine
    matrix[:3, :3] = to_frame
    return Geometry(shape, matrix @ index_to_viewer, unit, frame)


def viewer_affine(geometry: Geometry) -> FloatArray:
    """Index (of the grid's own axes) to viewer world, ``(4, n + 1)``, with rotation: the truth to test against."""
    to_viewer = np.eye(4)
    to_viewer[:3, :3] = _VIEWER_OF_FRAME[geometry.frame]
    columns: Any = slice(3 - geometry.ndim, 4)
    return np.asarray((to_viewer @ geometry.affine)[:, columns])
