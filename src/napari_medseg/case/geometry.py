"""Where voxels lie: the one place that knows about axes, orientation, spacing and units.

Conventions, used everywhere in the package
-------------------------------------------
Index
    A position in the array, in the order of its spatial axes: ``(z, y, x)`` or ``(y, x)``.
    Integers are voxel *centres*; voxel ``i`` covers ``[i - 0.5, i + 0.5]``.
World
    A point ``(x, y, z)``. In the ``"patient"`` frame that is right-anterior-superior (RAS+);
    in the ``"image"`` frame (slides, photographs, video) x runs right and y runs *down* the picture.
Affine
    A 4x4 matrix from the homogeneous index ``(z, y, x, 1)`` to the homogeneous world point
    ``(x, y, z, 1)``. Two-dimensional images have ``z = 0``.
Unit
    ``"mm"``, ``"um"`` or ``None``. ``None`` means the spacing is unknown: world positions then
    count pixels, and `Geometry.spacing` is ``None``, never silently 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Frame = Literal["patient", "image"]
Unit = Literal["mm", "um"] | None
FloatArray = npt.NDArray[np.float64]

_PATIENT_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
_IMAGE_CODES = (("left", "right"), ("up", "down"), ("out", "in"))
_EQUALLY_CLOSE = 1e-9
_UNITS_PER_MM: dict[str, float] = {"mm": 1.0, "um": 1000.0}


@dataclass(frozen=True)
class AxisMap:
    """A lossless rearrangement of spatial axes: transpose, then flip.

    Parameters
    ----------
    order
        ``order[k]`` is the axis of the input that becomes axis ``k`` of the output.
    flips
        ``flips[k]`` tells whether output axis ``k`` runs backwards.
    """

    order: tuple[int, ...]
    flips: tuple[bool, ...]

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))) or len(self.flips) != len(self.order):
            raise ValueError(f"order {self.order} with flips {self.flips} is not a rearrangement of axes")

    @classmethod
    def identity(cls, ndim: int) -> AxisMap:
        """The rearrangement of `ndim` axes that changes nothing."""
        return cls(tuple(range(ndim)), (False,) * ndim)

    @property
    def is_identity(self) -> bool:
        """Whether applying this map returns the array as it was."""
        return self == AxisMap.identity(len(self.order))

    def apply(self, array: Any, first_axis: int = 0) -> Any:
        """Rearrange the spatial axes of `array`, which start at `first_axis`; a view where possible."""
        n = len(self.order)
        lead = tuple(range(first_axis))
        tail = tuple(range(first_axis + n, array.ndim))
        turned = array.transpose((*lead, *(first_axis + k for k in self.order), *tail))
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return turned[(slice(None),) * first_axis + steps]

    def inverse(self) -> AxisMap:
        """The map that undoes this one."""
        order = tuple(int(k) for k in np.argsort(self.order))
        return AxisMap(order, tuple(self.flips[k] for k in order))

    def then(self, following: AxisMap) -> AxisMap:
        """The single map that does this one and then `following`."""
        order = tuple(self.order[k] for k in following.order)
        flips = tuple(self.flips[k] != f for k, f in zip(following.order, following.flips, strict=True))
        return AxisMap(order, flips)


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of an image or a segmentation and its place in the world.

    Parameters
    ----------
    shape
        Number of voxels along ``(z, y, x)`` or ``(y, x)``.
    affine
        4x4, index ``(z, y, x, 1)`` to world ``(x, y, z, 1)``; see the module's conventions.
    unit
        Unit of the world axes; ``None`` when the spacing is unknown.
    frame
        ``"patient"`` (RAS+) or ``"image"`` (x right, y down).

    Raises
    ------
    ValueError
        If the shape is not 2-D or 3-D, the affine is not an invertible, finite 4x4, or the unit or frame is unknown.
    """

    shape: tuple[int, ...]
    affine: FloatArray
    unit: Unit = None
    frame: Frame = "image"

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ValueError(f"shape {shape} is not two or three positive numbers")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError("the affine must be a finite 4x4 matrix")
        if not np.allclose(affine[3], (0, 0, 0, 1)) or abs(np.linalg.det(affine[:3, :3])) < 1e-18:
            raise ValueError("the affine must be invertible and end in the row 0 0 0 1")
        if self.unit not in ("mm", "um", None):
            raise ValueError(f"the unit {self.unit!r} is not one of mm, um or None")
        if self.frame not in ("patient", "image"):
            raise ValueError(f"the frame {self.frame!r} is not one of patient or image")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    # -- making one -----------------------------------------------------------------------------

    @classmethod
    def from_spacing(
        cls,
        shape: tuple[int, ...],
        spacing: tuple[float, ...] | None,
        unit: Unit = None,
        frame: Frame = "image",
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Geometry:
        """An axis-aligned grid.

        `spacing` is per array axis, ``(z, y, x)`` or ``(y, x)``; ``None`` for unknown, in which case
        `unit` must be ``None`` too. `origin` is the world position ``(x, y, z)`` of the first voxel's centre.
        """
        if (spacing is None) != (unit is None):
            raise ValueError("spacing and unit are either both known or both unknown")
        steps = (1.0,) * len(shape) if spacing is None else tuple(float(s) for s in spacing)
        if len(steps) != len(shape) or min(steps) <= 0:
            raise ValueError(f"spacing {steps} needs one positive number for each axis of shape {shape}")
        dz, dy, dx = steps if len(steps) == 3 else (1.0, *steps)
        affine = np.array(
            [[0, 0, dx, origin[0]], [0, dy, 0, origin[1]], [dz, 0, 0, origin[2]], [0, 0, 0, 1]], dtype=np.float64
        )
        return cls(shape, affine, unit, frame)

    @classmethod
    def from_xyz_affine(
        cls, shape: tuple[int, ...], affine: npt.ArrayLike, unit: Unit = "mm", frame: Frame = "patient"
    ) -> Geometry:
        """From the affine used by nibabel: index ``(x, y, z, 1)`` to RAS+ world; `shape` stays ``(z, y, x)``."""
        return cls(shape, np.asarray(affine, dtype=np.float64)[:, [2, 1, 0, 3]], unit, frame)

    # -- reading it -----------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def axes(self) -> str:
        """Names of the spatial axes, ``"zyx"`` or ``"yx"``."""
        return "zyx"[-self.ndim :]

    @property
    def xyz_affine(self) -> FloatArray:
        """The same affine for an index in the order ``(x, y, z, 1)``, as nibabel and ITK count."""
        return self.affine[:, [2, 1, 0, 3]].copy()

    @property
    def matrix(self) -> FloatArray:
        """The linear part, 3x``ndim``: one column of world displacement for a step along each array axis."""
        return np.array(self.affine[:3, 3 - self.ndim : 3])

    @property
    def origin(self) -> tuple[float, float, float]:
        """World position ``(x, y, z)`` of the first voxel's centre."""
        x, y, z = (float(v) for v in self.affine[:3, 3])
        return x, y, z

    @property
    def steps(self) -> tuple[float, ...]:
        """Length of one step along each array axis in `unit`, or in pixels when the unit is unknown."""
        return tuple(float(v) for v in np.linalg.norm(self.matrix, axis=0))

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Distance between voxel centres along each array axis in `unit`; ``None`` when unknown."""
        return None if self.unit is None else self.steps

    @property
    def directions(self) -> FloatArray:
        """Unit vectors in the world along each array axis, 3x``ndim``."""
        return np.asarray(self.matrix / np.asarray(self.steps))

    @property
    def orientation(self) -> tuple[str, ...]:
        """Where each array axis points, e.g. ``("S", "P", "L")``; the closest letter for oblique grids."""
        codes = _PATIENT_CODES if self.frame == "patient" else _IMAGE_CODES
        directions = self.directions
        return tuple(codes[row][int(directions[row, k] > 0)] for k, row in enumerate(_closest_rows(directions)))

    @property
    def obliquity_degrees(self) -> float:
        """Largest angle between an array axis and its closest world axis."""
        directions = self.directions
        cosines = [abs(directions[row, k]) for k, row in enumerate(_closest_rows(directions))]
        return float(np.degrees(np.arccos(np.clip(min(cosines), -1.0, 1.0))))

    @property
    def voxel_volume(self) -> float | None:
        """Area or volume of one voxel in ``unit`` squared or cubed; ``None`` when the spacing is unknown."""
        if self.unit is None:
            return None
        matrix = self.matrix
        return float(np.sqrt(np.linalg.det(matrix.T @ matrix)))

    def index_to_world(self, index: npt.ArrayLike) -> FloatArray:
        """World points ``(..., 3)`` as ``(x, y, z)`` of indices ``(..., ndim)`` in array-axis order."""
        points = np.asarray(index, dtype=np.float64)
        return np.asarray(points @ self.matrix.T + self.affine[:3, 3])

    def world_to_index(self, world: npt.ArrayLike) -> FloatArray:
        """Fractional indices ``(..., ndim)`` in array-axis order of world points ``(..., 3)``."""
        points = np.asarray(world, dtype=np.float64) - self.affine[:3, 3]
        inverse = np.linalg.inv(self.affine[:3, :3])
        return np.asarray((points @ inverse.T)[..., 3 - self.ndim :])

    # -- changing it ----------------------------------------------------------------------------

    def crop(self, region: tuple[slice, ...]) -> Geometry:
        """The grid of ``array[region]``: one slice with a step of 1 for each spatial axis."""
        starts, shape = [], []
        for part, size in zip(region, self.shape, strict=True):
            start, stop, step = part.indices(size)
            if step != 1 or stop <= start:
                raise ValueError(f"region {part} of an axis of {size} is empty or has a step other than 1")
            starts.append(start)
            shape.append(stop - start)
        return self._moved(tuple(shape), np.eye(self.ndim), np.asarray(starts, dtype=np.float64))

    def rearranged(self, axis_map: AxisMap) -> Geometry:
        """The grid of ``axis_map.apply(array)``: same voxels, same world positions, other array axes.

        For a 2-D grid the world stays put too: only the two in-plane axes change places.
        """
        n = self.ndim
        linear = np.zeros((n, n))
        offset = np.zeros(n)
        for k, (source, flip) in enumerate(zip(axis_map.order, axis_map.flips, strict=True)):
            linear[source, k] = -1.0 if flip else 1.0
            offset[source] = self.shape[source] - 1 if flip else 0.0
        return self._moved(tuple(self.shape[k] for k in axis_map.order), linear, offset)

    def axis_map_to(self, orientation: tuple[str, ...]) -> AxisMap:
        """The rearrangement after which the axes point to `orientation`, e.g. ``("S", "P", "L")``.

        Raises
        ------
        ValueError
            If `orientation` does not name each world axis of this frame once.
        """
        codes = _PATIENT_CODES if self.frame == "patient" else _IMAGE_CODES
        own = self.orientation
        order, flips = [], []
        for letter in orientation:
            pair = next((p for p in codes if letter in p), None)
            source = next((k for k, c in enumerate(own) if pair and c in pair), None)
            if source is None:
                raise ValueError(f"orientation {orientation} does not fit axes that point to {own}")
            order.append(source)
            flips.append(own[source] != letter)
        return AxisMap(tuple(order), tuple(flips))

    def scaled(self, factors: tuple[float, ...], shape: tuple[int, ...] | None = None) -> Geometry:
        """A coarser (factor > 1) or finer (factor < 1) grid that covers the same extent.

        The outer *edge* of the first voxel stays where it is, so centres move by the half-pixel rule:
        ``old_index = (new_index + 0.5) * factor - 0.5``. `shape` defaults to ``round(shape / factor)``.
        """
        scale = np.asarray(factors, dtype=np.float64)
        if scale.shape != (self.ndim,) or (scale <= 0).any():
            raise ValueError(f"factors {factors} need one positive number for each of {self.ndim} axes")
        if shape is None:
            shape = tuple(max(1, round(n / f)) for n, f in zip(self.shape, scale, strict=True))
        return self._moved(shape, np.diag(scale), 0.5 * scale - 0.5)

    def resampled(self, spacing: tuple[float, ...]) -> Geometry:
        """The grid with `spacing` (per array axis, in `unit`) over the same extent."""
        if self.unit is None:
            raise ValueError("a grid of unknown spacing cannot be resampled to a given spacing")
        return self.scaled(tuple(s / own for s, own in zip(spacing, self.steps, strict=True)))

    def in_unit(self, unit: Literal["mm", "um"]) -> Geometry:
        """The same grid with its world measured in `unit`."""
        if self.unit is None:
            raise ValueError("a grid of unknown spacing has no unit to convert from")
        factor = _UNITS_PER_MM[unit] / _UNITS_PER_MM[self.unit]
        affine = self.affine.copy()
        affine[:3] *= factor
        if self.ndim == 2:
            affine[:3, 0] /= factor
        return replace(self, affine=affine, unit=unit)

    def with_spacing(self, spacing: tuple[float, ...], unit: Literal["mm", "um"]) -> Geometry:
        """The same grid once its spacing became known: directions stay, positions follow the new steps.

        `spacing` is per array axis, in `unit`. The origin keeps its place in voxels.
        """
        if len(spacing) != self.ndim or min(spacing) <= 0:
            raise ValueError(f"spacing {spacing} needs one positive number for each of {self.ndim} axes")
        factors = np.asarray(spacing) / np.asarray(self.steps)
        affine = self.affine.copy()
        first = 3 - self.ndim
        origin = self.world_to_index(np.zeros(3))
        affine[:3, first:3] *= factors
        affine[:3, 3] = -(affine[:3, first:3] @ origin)
        return replace(self, affine=affine, unit=unit)

    def is_close(self, other: Geometry, tolerance: float = 1e-3) -> bool:
        """Whether both grids put every voxel in the same place, to `tolerance` of a voxel."""
        if (self.shape, self.unit, self.frame) != (other.shape, other.unit, other.frame):
            return False
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"), -1)
        distance = np.linalg.norm(self.index_to_world(corners) - other.index_to_world(corners), axis=-1)
        return bool(distance.max() <= tolerance * min(self.steps))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            "shape": list(self.shape),
            "affine_zyx_to_xyz": self.affine.tolist(),
            "unit": self.unit,
            "frame": self.frame,
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Geometry:
        """The reverse of `to_dict`."""
        return cls(tuple(record["shape"]), np.array(record["affine_zyx_to_xyz"]), record["unit"], record["frame"])

    def _moved(self, shape: tuple[int, ...], linear: FloatArray, offset: FloatArray) -> Geometry:
        """The grid whose index ``i`` sits at this grid's index ``linear @ i + offset``."""
        step = np.eye(4)
        first = 3 - self.ndim
        step[first:3, first:3] = linear
        step[first:3, 3] = offset
        return replace(self, shape=shape, affine=self.affine @ step)


def _closest_rows(directions: FloatArray) -> tuple[int, ...]:
    """For each array axis the world axis it follows most closely, each world axis used once.

    Of axes that follow equally closely, to rounding, the first counts, so that the last digit decides nothing.
    """
    weight = np.abs(directions)
    rows = [-1] * weight.shape[1]
    for _ in rows:
        row, column = np.unravel_index(int(np.argmax(weight >= weight.max() - _EQUALLY_CLOSE)), weight.shape)
        rows[int(column)] = int(row)
        weight[row, :] = -1.0
        weight[:, column] = -1.0
    return tuple(rows)
