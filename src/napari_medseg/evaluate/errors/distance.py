"""How far errors reach: distances to the boundary of the reference, exact and only where they are asked for.

The distance of a voxel is that of its centre to the nearest centre of a voxel that carries another label in the
reference, so it is never 0: an error one voxel deep is one step from the boundary. What lies outside the image has
no label. Distances are three-dimensional in volumes, whatever plane is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.evaluate.errors.maps import LabelsMap
from napari_medseg.io.lazy import AnyArray

Mask = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float64]

REACH_STEPS = 64
"""Distances are measured up to this many steps of the finest axis unless said otherwise."""

_FIRST_STEPS = 8
# a transform of the whole window takes about as long as looking up this share of its voxels one by one
_LOOKED_UP_SHARE = 0.06
# a distance equal to the radius must not be lost to the last digit
_ROUNDING = 1e-5
_TILE_3D = (16, 128, 128)
_TILE_2D = (256, 256)


class BoundaryDistance(LabelsMap):
    """Signed distance to the reference's boundary where candidate and reference differ, 0 elsewhere; float32.

    Positive outside the reference (the candidate has too much), negative inside (too little). With several classes a
    voxel that only the candidate labels is measured to the nearest foreground of the reference; any other that
    differs, to the nearest voxel of another label of the reference. Values of `reach` mean that much or more.

    The result does not depend on how it is sliced: a window around the errors is widened until the distances found
    lie inside it.

    Parameters
    ----------
    candidate, reference
        Integer arrays of one shape.
    spacing
        Step along each spatial axis, ``(z, y, x)`` or ``(y, x)``; ``None`` when unknown, and then distances count
        pixels.
    label, instances
        As for `ErrorCategories`.
    axes
        Names of the array's axes; ``"yx"``, ``"zyx"`` or ``"tzyx"`` by their number when empty. There is no distance
        along ``t``.
    in_plane
        Measure within each plane ``(y, x)`` of a volume, as if it were a picture.
    reach
        Largest distance that is measured, in the unit of `spacing`; `REACH_STEPS` of the finest axis when ``None``.

    Raises
    ------
    InputError
        If arrays do not fit, or the spacing is not one positive number for each spatial axis.
    """

    def __init__(
        self,
        candidate: Any,
        reference: Any,
        spacing: Sequence[float] | None,
        *,
        label: int | None = None,
        instances: bool = False,
        axes: str = "",
        in_plane: bool = False,
        reach: float | None = None,
    ) -> None:
        super().__init__((candidate, reference), np.float32)
        self.label, self.instances = label, instances
        steps = spatial_steps(spacing, len(self.shape), axes)
        self.spacing = steps[-2:] if in_plane else steps
        self.reach = default_reach(self.spacing) if reach is None else float(reach)

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        found = np.zeros(tuple(r.stop - r.start for r in region), self.dtype)
        for tile in _tiles(region, len(self.spacing)):
            inside = tuple(slice(t.start - r.start, t.stop - r.start) for t, r in zip(tile, region, strict=True))
            self._fill(found[inside], tile)
        return found

    def _fill(self, target: AnyArray, tile: tuple[slice, ...]) -> None:
        candidate, reference = (self._classes(np.asarray(array[tile])) for array in self.labels)
        where = np.nonzero(candidate != reference)
        if not len(where[0]):
            return
        own = reference[where]
        lead = target.ndim - len(self.spacing)
        before = tuple(part.start for part in tile[:lead])
        # most distances are found in here: it is read once
        margins = [_margin(_FIRST_STEPS * min(self.spacing), s) for s in self.spacing]
        near = tuple(
            slice(max(0, t.start - m), min(n, t.stop + m))
            for t, m, n in zip(tile[lead:], margins, self.shape[lead:], strict=True)
        )
        block = self._classes(np.asarray(self.labels[1][(*before, *near)]))
        points = np.stack([axis + part.start for axis, part in zip(where[lead:], tile[lead:], strict=True)], -1)
        distances = np.empty(len(own))
        for label in np.unique(own):
            these = own == label
            distances[these] = nearest_distances(
                partial(self._other, before, near, block, label),
                self.shape[lead:],
                points[these],
                self.spacing,
                self.reach,
            )
        target[where] = np.where(own == 0, distances, -distances)

    def _other(
        self, before: tuple[int, ...], near: tuple[slice, ...], block: AnyArray, label: Any, window: tuple[slice, ...]
    ) -> Mask:
        """Where the reference carries another label than `label`; `block` holds its labels in `near`."""
        if all(n.start <= w.start and w.stop <= n.stop for n, w in zip(near, window, strict=True)):
            labels = block[tuple(slice(w.start - n.start, w.stop - n.start) for n, w in zip(near, window, strict=True))]
        else:
            labels = self._classes(np.asarray(self.labels[1][(*before, *window)]))
        other: Mask = labels != label
        return other

    def _classes(self, labels: AnyArray) -> AnyArray:
        if self.label is not None:
            return np.asarray(labels == self.label)
        return np.asarray(labels > 0) if self.instances else labels


def spatial_steps(spacing: Sequence[float] | None, ndim: int, axes: str = "") -> tuple[float, ...]:
    """The step along each spatial axis of an array of `ndim` axes; 1 pixel when the spacing is unknown.

    Raises
    ------
    InputError
        If the axes are not some of ``tzyx``, or the spacing is not one positive number for each spatial axis.
    """
    names = axes or "tzyx"[-ndim:]
    if len(names) != ndim or names not in ("yx", "zyx", "tyx", "tzyx"):
        raise InputError(f"Axes {names!r} do not name the {ndim} axes of the labels; accepted are yx, zyx, tyx, tzyx.")
    spatial = len(names.removeprefix("t"))
    steps = (1.0,) * spatial if spacing is None else tuple(float(s) for s in spacing)
    if len(steps) != spatial or not all(0 < s < float("inf") for s in steps):
        raise InputError(f"The spacing {steps} is not one positive number for each of {names.removeprefix('t')}.")
    return steps


def default_reach(steps: Sequence[float]) -> float:
    """`REACH_STEPS` of the finest axis."""
    return REACH_STEPS * min(steps)


def nearest_distances(
    read: Callable[[tuple[slice, ...]], Mask],
    shape: Sequence[int],
    points: npt.NDArray[np.int64],
    steps: Sequence[float],
    reach: float,
) -> Distances:
    """Distance of voxels to the nearest voxel of a mask that is too large to look at as a whole.

    Parameters
    ----------
    read
        The mask in a window, one slice for each axis.
    shape
        Shape of the whole mask.
    points
        Indices ``(n, axes)`` of voxels outside the mask.
    steps
        Distance between voxel centres along each axis.
    reach
        No voxel further away is looked for.

    Returns
    -------
    distances
        ``(n,)`` in the unit of `steps`; `reach` where the nearest is that far away or further, or there is none.
    """
    found = np.full(len(points), np.inf)
    pending = np.arange(len(points))
    radius = min(reach, _FIRST_STEPS * min(steps))
    while len(pending):
        here = points[pending]
        margin = [_margin(radius, s) for s in steps]
        low = [max(0, int(a) - m) for a, m in zip(here.min(0), margin, strict=True)]
        high = [min(int(n), int(b) + 1 + m) for n, b, m in zip(shape, here.max(0), margin, strict=True)]
        mask = read(tuple(slice(a, b) for a, b in zip(low, high, strict=True)))
        whole = not any(low) and high == [int(n) for n in shape]
        # what is found further away than the window is wide may not be the nearest
        distances = _in_window(mask, here - low, steps, reach if whole else radius)
        settled = np.isfinite(distances) | (whole or radius >= reach)
        found[pending[settled]] = distances[settled]
        pending = pending[~settled]
        radius = min(reach, 2 * radius)
    return np.asarray(np.minimum(found, reach))


def _margin(radius: float, step: float) -> int:
    """Voxels along an axis beyond which nothing is within `radius`."""
    return int(np.ceil(radius * (1 + _ROUNDING) / step))


def _in_window(mask: Mask, points: npt.NDArray[np.int64], steps: Sequence[float], radius: float) -> Distances:
    """Distances in a window; ``inf`` where nothing of the mask is within `radius`."""
    if not mask.any():
        return np.full(len(points), np.inf)
    distances: Distances
    if len(points) > _LOOKED_UP_SHARE * mask.size:
        import edt  # type: ignore[import-not-found]

        field = edt.edt(np.ascontiguousarray(~mask), anisotropy=tuple(steps), parallel=1)
        distances = np.asarray(field[tuple(points.T)], np.float64)
        distances[distances > radius * (1 + _ROUNDING)] = np.inf
    else:
        from scipy.spatial import cKDTree

        scale = np.asarray(steps)
        # the nearest voxel of the mask always has a face at the boundary
        tree = cKDTree(np.argwhere(_rim(mask)) * scale, compact_nodes=False, balanced_tree=False)
        distances = np.asarray(tree.query(points * scale, distance_upper_bound=radius * (1 + _ROUNDING))[0])
    return distances


def _rim(mask: Mask) -> Mask:
    """Voxels of the mask with a face towards a voxel that is not in it."""
    rim = np.zeros_like(mask)
    for axis in range(mask.ndim):
        ahead, behind = (
            tuple(part if k == axis else slice(None) for k in range(mask.ndim))
            for part in (slice(1, None), slice(None, -1))
        )
        change = mask[ahead] != mask[behind]
        rim[ahead] |= change
        rim[behind] |= change
    rim &= mask
    return rim


def _tiles(region: tuple[slice, ...], spatial: int) -> Iterator[tuple[slice, ...]]:
    edges = (*(1 for _ in region[spatial:]), *(_TILE_2D if spatial == 2 else _TILE_3D))
    starts = [range(r.start, r.stop, e) for r, e in zip(region, edges, strict=True)]
    for corner in product(*starts):
        yield tuple(slice(c, min(c + e, r.stop)) for c, e, r in zip(corner, edges, region, strict=True))
