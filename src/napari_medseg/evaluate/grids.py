"""Whether two label maps lie on one grid, and how one is brought onto the grid of the other.

Labels that lie on different grids are never compared voxel by voxel: either `check_same_grid` refuses and says what
differs, or `on_grid` moves one of them, without loss where the voxels are the same in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import AxisMap, Geometry, InputError, Segmentation, Step
from napari_medseg.case.geometry import FloatArray
from napari_medseg.io.lazy import AnyArray, LazyArray

# of a voxel, at the corner that is farthest off: headers keep single precision, and some programs five digits
_TOLERANCE = 1e-2
_RELATIVE_TIME = 1e-3
# a position this close below a half is a half: rounding must not make a pattern of ties
_TIE = 1e-6
# voxels of the source that one piece of the result may look at, so that a far finer source is not held as a whole
_PIECE_VOXELS = 1 << 24
_CHUNK_VOXELS = 1 << 20
_CHUNK_EDGE = 1024


class GridMismatch(InputError):  # noqa: N818 - says what it is, in the words of the dock
    """The labels of candidate and reference lie on different grids.

    Parameters
    ----------
    differences
        What differs and by how much, a phrase each.
    obstacle
        Why the candidate cannot be brought onto the reference's grid; empty where it can.
    lossless
        Whether both grids are the same voxels in another order, so that nothing is lost on the way.
    """

    def __init__(self, differences: tuple[str, ...], obstacle: str = "", lossless: bool = False) -> None:
        self.differences, self.obstacle, self.lossless = differences, obstacle, lossless
        if obstacle:
            end = f", and resampling cannot mend that: {obstacle}"
        elif lossless:
            end = ", but both hold the same voxels; resample the candidate (--resample), nothing is lost"
        else:
            end = ", so they are not compared; resample the candidate onto the reference's grid (--resample)"
        super().__init__(f"The candidate and the reference lie on different grids: {', '.join(differences)}{end}.")


def check_same_grid(candidate: Segmentation, reference: Segmentation) -> None:
    """Refuse two label maps whose voxels do not lie in the same places.

    Positions may be off by a hundredth of a voxel, which is what single precision and rounded headers make.

    Raises
    ------
    GridMismatch
        Which of shape, spacing, orientation, origin, unit, frame and time axis differ, and by how much; an
        `InputError`.
    """
    times = _time_differences(candidate, reference)
    own, wanted = candidate.geometry, reference.geometry
    if not times and own.is_close(wanted, _TOLERANCE):
        return
    space = () if own.is_close(wanted, _TOLERANCE) else _space_differences(own, wanted)
    obstacle = "frames are not resampled in time" if times else _obstacle(own, wanted)
    turned = not obstacle and turn_onto(own, wanted) is not None
    raise GridMismatch((*space, *times), obstacle, turned)


def on_grid(segmentation: Segmentation, geometry: Geometry) -> Segmentation:
    """The same labels on another grid, by nearest neighbour, lazily.

    A grid of the same voxels in another order (axes swapped or running backwards, another unit) is a lossless
    rearrangement: nothing is resampled. Otherwise every voxel of `geometry` takes the label of the voxel that its
    centre lies in; a centre on the border of two voxels takes the higher index, and one outside is background.
    No more than a piece of the labels is in memory at a time. Frames of a video stay as they are.

    Parameters
    ----------
    segmentation
        Labels with axes ``(z, y, x)`` or ``(y, x)``, with or without a leading ``t``.
    geometry
        The grid wanted, with the same number of spatial axes.

    Returns
    -------
    moved
        Labels with ``geometry``; the ids, names and type are those of `segmentation`.

    Raises
    ------
    InputError
        If the two grids have no known place relative to each other: another frame of reference or number of axes,
        an unknown spacing, or pictures that do not lie in one plane.
    """
    own = segmentation.geometry
    obstacle = _obstacle(own, geometry)
    if obstacle:
        raise InputError(f"{segmentation.name}: cannot be brought onto the other grid: {obstacle}.")
    leading = len(segmentation.axes) - own.ndim
    turn = turn_onto(own, geometry)
    if turn is not None and turn.is_identity:
        return replace(segmentation, geometry=geometry)
    if turn is not None:
        data, action = turn.apply(_sliceable(segmentation.data), first_axis=leading), "turn"
    else:
        data, action = _Resampled(segmentation.data, _in_unit_of(geometry, own), geometry, leading), "resample"
    history = segmentation.provenance.with_step(Step.now(action, onto=geometry.to_dict()))
    return replace(segmentation, data=data, geometry=geometry, provenance=history, coarser=())


def turn_onto(own: Geometry, wanted: Geometry) -> AxisMap | None:
    """The rearrangement of axes after which `own` is `wanted`; ``None`` if there is none."""
    if own.ndim != wanted.ndim or own.frame != wanted.frame or (own.unit is None) != (wanted.unit is None):
        return None
    own = _in_unit_of(wanted, own)
    for order in permutations(range(own.ndim)):
        if tuple(own.shape[k] for k in order) != wanted.shape:
            continue
        for flips in product((False, True), repeat=own.ndim):
            turn = AxisMap(order, flips)
            if own.rearranged(turn).is_close(wanted, _TOLERANCE):
                return turn
    return None


# -- what differs -------------------------------------------------------------------------------


def _time_differences(candidate: Segmentation, reference: Segmentation) -> tuple[str, ...]:
    counts = [int(s.data.shape[0]) if s.axes.startswith("t") else 0 for s in (candidate, reference)]
    if counts[0] != counts[1]:
        words = [f"{n} frame{'s' if n > 1 else ''}" if n else "none" for n in counts]
        return (f"time axis ({words[0]} against {words[1]})",)
    own, wanted = candidate.seconds_per_frame, reference.seconds_per_frame
    if counts[0] and own and wanted and abs(own - wanted) > _RELATIVE_TIME * wanted:
        return (f"time axis (a frame lasts {own:.4g} s against {wanted:.4g} s)",)
    return ()


def _space_differences(own: Geometry, wanted: Geometry) -> tuple[str, ...]:
    """A phrase for each property that differs, after the lossless part of the way has been gone."""
    if own.ndim != wanted.ndim:
        return (f"number of axes ({own.axes} {_times(own.shape)} against {wanted.axes} {_times(wanted.shape)})",)
    found = []
    if own.frame != wanted.frame:
        found.append(f"frame ({own.frame} against {wanted.frame})")
    if own.unit is not None and wanted.unit is not None and own.unit != wanted.unit:
        found.append(f"unit ({own.unit} against {wanted.unit})")
    turned, is_turned = _turned_alike(_in_unit_of(wanted, own), wanted)
    if is_turned:
        found.append(f"orientation ({' '.join(own.orientation)} against {' '.join(wanted.orientation)})")
    if turned.shape != wanted.shape:
        found.append(f"shape ({own.axes} {_times(own.shape)} against {_times(wanted.shape)})")
    if (own.unit is None) != (wanted.unit is None):
        found.append(f"spacing ({_spacing_in_words(own)} against {_spacing_in_words(wanted)})")
    if own.frame != wanted.frame or (own.unit is None) != (wanted.unit is None):
        # their positions are not measured in one world
        return tuple(found)
    unit = wanted.unit or "px"
    steps = np.array([turned.steps, wanted.steps])
    reach = np.maximum(1, np.array(wanted.shape) - 1)
    if (np.abs(steps[0] - steps[1]) * reach > _TOLERANCE * steps.min()).any():
        found.append(f"spacing ({_times(turned.steps)} against {_times(wanted.steps)} {unit})")
    angle = _angle(turned, wanted)
    if np.radians(angle) * float((reach * steps[1]).max()) > _TOLERANCE * steps.min():
        found.append(f"orientation (turned by {angle:.3g} degrees)")
    moved = float(np.linalg.norm(np.subtract(turned.origin, wanted.origin)))
    if moved > _TOLERANCE * steps.min() or not found:
        found.append(f"origin (moved by {moved:.4g} {unit})")
    return tuple(found)


def _turned_alike(own: Geometry, wanted: Geometry) -> tuple[Geometry, bool]:
    """`own` with its axes pointing as those of `wanted` where that is possible, and whether it had to be turned."""
    exact = turn_onto(own, wanted)
    if exact is not None:
        return own.rearranged(exact), not exact.is_identity
    if own.frame != wanted.frame or own.orientation == wanted.orientation:
        return own, own.orientation != wanted.orientation and own.frame == wanted.frame
    try:
        return own.rearranged(own.axis_map_to(wanted.orientation)), True
    except ValueError:
        # pictures in different planes
        return own, True


def _angle(own: Geometry, wanted: Geometry) -> float:
    """Largest angle in degrees between axes of the same number."""
    cosines = (own.directions * wanted.directions).sum(axis=0)
    sines = np.linalg.norm(own.directions - cosines * wanted.directions, axis=0)
    return float(np.degrees(np.arctan2(sines, cosines).max()))


def _obstacle(own: Geometry, wanted: Geometry) -> str:
    """Why no voxel of one grid can be found in the other; empty where it can."""
    if own.ndim != wanted.ndim:
        return "one is flat and the other a volume"
    if own.frame != wanted.frame:
        return "the place of a picture in the patient is not known"
    if (own.unit is None) != (wanted.unit is None):
        return "only one of them states its spacing; state the other's (--spacing)"
    if own.unit is None and turn_onto(own, wanted) is None:
        return "neither states its spacing, so how one lies on the other is not known; state it (--spacing)"
    if own.ndim == 2 and not _in_one_plane(_in_unit_of(wanted, own), wanted):
        return "they do not lie in one plane"
    return ""


def _in_one_plane(own: Geometry, wanted: Geometry) -> bool:
    normal = np.cross(own.matrix[:, 0], own.matrix[:, 1])
    corners = wanted.index_to_world([(y, x) for y in (0, wanted.shape[0] - 1) for x in (0, wanted.shape[1] - 1)])
    distances = (corners - np.asarray(own.origin)) @ (normal / np.linalg.norm(normal))
    return bool(np.abs(distances).max() <= 0.5 * min(own.steps))


def _in_unit_of(wanted: Geometry, own: Geometry) -> Geometry:
    """`own` with its world measured as that of `wanted`, where both are known."""
    return own if own.unit is None or wanted.unit is None else own.in_unit(wanted.unit)


def _spacing_in_words(geometry: Geometry) -> str:
    return "unknown" if geometry.spacing is None else f"{_times(geometry.spacing)} {geometry.unit}"


def _times(numbers: tuple[float, ...]) -> str:
    return "x".join(f"{n:.6g}" for n in numbers)


# -- moving labels ------------------------------------------------------------------------------


class _Resampled(LazyArray):
    """Labels `source` on the grid `own`, seen on the grid `wanted`; axes before the spatial ones stay."""

    def __init__(self, source: Any, own: Geometry, wanted: Geometry, leading: int) -> None:
        chunks = [min(n, _CHUNK_EDGE) for n in wanted.shape]
        chunks[0] = max(1, min(chunks[0], _CHUNK_VOXELS // int(np.prod(chunks[1:]))))
        super().__init__((*source.shape[:leading], *wanted.shape), source.dtype, (*(1,) * leading, *chunks))
        self._source, self._leading, self._ndim = source, leading, own.ndim
        first = 3 - own.ndim
        # index on the wanted grid to index on the own: through the world
        step = np.linalg.inv(own.affine) @ wanted.affine
        self._linear: FloatArray = step[first:3, first:3]
        self._offset: FloatArray = step[first:3, 3]

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        lead, space = region[: self._leading], region[self._leading :]
        found = np.zeros(tuple(s.stop - s.start for s in region), self.dtype)
        for piece in _pieces(space, self._box_voxels):
            at: list[Any] = [slice(p.start - s.start, p.stop - s.start) for p, s in zip(piece, space, strict=True)]
            self._fill(found[(..., *at)], lead, piece)
        return found

    def _fill(self, out: AnyArray, lead: tuple[slice, ...], piece: tuple[slice, ...]) -> None:
        """Write the labels of one piece of the wanted grid into `out`, frame by frame."""
        low, high = self._box(piece)
        if any(b <= a for a, b in zip(low, high, strict=True)):
            return
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        inside: Any = True
        index = []
        for axis in range(self._ndim):
            # an axis that only one index decides stays a line, and so does what follows from it
            position: Any = self._offset[axis]
            for other, part in enumerate(piece):
                if self._linear[axis, other] != 0:
                    line = np.arange(part.start, part.stop, dtype=np.float64) * self._linear[axis, other]
                    position = position + line.reshape([-1 if k == other else 1 for k in range(self._ndim)])
            nearest = np.floor(np.asarray(position) + 0.5 + _TIE).astype(np.int64)
            inside = inside & (nearest >= low[axis]) & (nearest < high[axis])
            index.append(np.clip(nearest, low[axis], high[axis] - 1) - low[axis])
        for frame in product(*(range(s.start, s.stop) for s in lead)):
            block = np.asarray(self._source[(*frame, *box)])
            target = out[tuple(k - s.start for k, s in zip(frame, lead, strict=True))]
            np.copyto(target, block[tuple(index)], where=inside)

    def _box(self, piece: tuple[slice, ...]) -> tuple[list[int], list[int]]:
        """The part of the source that a piece looks at: first index and end along each axis."""
        corners = np.array(list(product(*((p.start, p.stop - 1) for p in piece))), dtype=np.float64)
        positions = corners @ self._linear.T + self._offset
        shape = self._source.shape[self._leading :]
        low = np.floor(positions.min(axis=0) + 0.5 + _TIE).astype(int)
        high = np.floor(positions.max(axis=0) + 0.5 + _TIE).astype(int) + 1
        return (
            [int(np.clip(a, 0, n)) for a, n in zip(low, shape, strict=True)],
            [int(np.clip(b, 0, n)) for b, n in zip(high, shape, strict=True)],
        )

    def _box_voxels(self, piece: tuple[slice, ...]) -> int:
        low, high = self._box(piece)
        return int(np.prod([max(0, b - a) for a, b in zip(low, high, strict=True)], dtype=np.int64))


def _pieces(region: tuple[slice, ...], cost: Callable[[tuple[slice, ...]], int]) -> Iterator[tuple[slice, ...]]:
    """The region in pieces that are not too large themselves and do not look at too much, halved along the longest."""
    edges = [s.stop - s.start for s in region]
    size = int(np.prod(edges, dtype=np.int64))
    if size == 1 or (size <= _CHUNK_VOXELS and cost(region) <= _PIECE_VOXELS):
        yield region
        return
    axis = int(np.argmax(edges))
    middle = region[axis].start + edges[axis] // 2
    for half in (slice(region[axis].start, middle), slice(middle, region[axis].stop)):
        yield from _pieces((*region[:axis], half, *region[axis + 1 :]), cost)


def _sliceable(data: Any) -> npt.NDArray[Any] | Any:
    """`data` as something whose axes can be rearranged without reading it."""
    if hasattr(data, "transpose"):
        return data
    import dask.array

    return dask.array.from_array(data, chunks=data.chunks)
