"""Which frames make one volume, in what order, and where it lies.

Frames are ordered by their position along the normal of the slices, never by their number. What is not one even
stack becomes several images with a sentence that names the positions concerned; nothing is filled in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from napari_medseg.case import Geometry, InputError
from napari_medseg.case.geometry import FloatArray
from napari_medseg.io.dicom.planes import CONTRASTS, TIMES, Plane
from napari_medseg.io.label_volumes import lps

_SAME_PLACE_MM = 0.01
_SAME_DIRECTION = 1e-3
_EVEN = 0.02
# positions that were rounded when they were written; a missing slice is half a step off or more
_ROUNDED = 0.1
_LISTED = 8


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames that make one image.

    ``planes[t][z]``: one inner tuple for each time point, its slices in the order of the array.
    """

    planes: tuple[tuple[Plane, ...], ...]
    geometry: Geometry
    suffix: str = ""
    seconds_per_frame: float | None = None
    warnings: tuple[str, ...] = ()


def stacks_of(planes: Sequence[Plane], name: str) -> list[Stack]:
    """The even stacks in the frames (all with a position) of one series.

    Raises
    ------
    InputError
        If the slices are so unevenly spaced that they make no volume.
    """
    unique, warnings = _without_copies(planes)
    groups = _alike(unique)
    if len(groups) > 1 and sum(not g[0].localizer for g in groups) > 1:
        warnings.append(f"The series mixes {len(groups)} orientations, sizes or spacings; each is an image of its own.")
    stacks: list[Stack] = []
    for number, group in enumerate(groups, start=1):
        part = f"stack {number}" if len(groups) > 1 else ""
        stacks += [_prefixed(stack, part, warnings) for stack in _told_apart(group, name)]
    return stacks


def _prefixed(stack: Stack, part: str, warnings: Iterable[str]) -> Stack:
    suffix = ", ".join(s for s in (part, stack.suffix) if s)
    return replace(stack, suffix=suffix, warnings=(*warnings, *stack.warnings))


def _without_copies(planes: Sequence[Plane]) -> tuple[list[Plane], list[str]]:
    seen: dict[tuple[Any, ...], Plane] = {}
    for plane in planes:
        seen.setdefault((plane.uid or str(plane.path), plane.frame), plane)
    extra = len(planes) - len(seen)
    return list(seen.values()), [f"{extra} files are copies of others and were left out."] if extra else []


def _alike(planes: Iterable[Plane]) -> list[list[Plane]]:
    """Frames with the same size, spacing and direction."""
    groups: list[list[Plane]] = []
    for plane in planes:
        home = next((g for g in groups if _fits(g[0], plane)), None)
        if home is None:
            groups.append([plane])
        else:
            home.append(plane)
    return groups


def _fits(one: Plane, other: Plane) -> bool:
    assert one.directions is not None and other.directions is not None
    return (
        one.shape == other.shape
        and one.localizer == other.localizer
        and (one.spacing is None) == (other.spacing is None)
        and np.allclose(one.spacing or 0, other.spacing or 0, rtol=1e-4)
        and bool(np.abs(one.directions - other.directions).max() < _SAME_DIRECTION)
    )


# -- several frames at one place ----------------------------------------------------------------


def _told_apart(planes: list[Plane], name: str) -> list[Stack]:
    """Volumes from frames of one grid, told apart by contrast or time where several lie at one place."""
    if not _crowded(planes):
        return _even_stacks([planes], name)
    marks = [m for m in (*CONTRASTS, *TIMES) if len({p.marks.get(m) for p in planes}) > 1]
    for wanted in ((m,) for m in marks):
        if not any(_crowded(g) for g in _grouped(planes, wanted).values()):
            return _by_marks(planes, wanted, name)
    for pair in combinations(marks, 2):
        if not any(_crowded(g) for g in _grouped(planes, pair).values()):
            return _by_marks(planes, pair, name)
    kept: list[Plane] = []
    doubled: list[float] = []
    for plane in sorted(planes, key=lambda p: (p.instance, p.frame)):
        if any(_same_height(plane, other) for other in kept):
            doubled.append(_height(plane))
        else:
            kept.append(plane)
    warning = f"Several slices lie in one plane, at {_listed(doubled)}; the first by number was taken."
    return [replace(s, warnings=(warning, *s.warnings)) for s in _even_stacks([kept], name)]


def _by_marks(planes: list[Plane], wanted: tuple[str, ...], name: str) -> list[Stack]:
    contrasts = tuple(m for m in wanted if m in CONTRASTS)
    times = tuple(m for m in wanted if m in TIMES)
    stacks: list[Stack] = []
    for values, group in _grouped(planes, contrasts).items():
        suffix = ", ".join(f"{m} {v}" for m, v in zip(contrasts, values, strict=True))
        moments = _grouped(group, times)
        ordered = [_sorted(moments[k]) for k in sorted(moments, key=lambda k: tuple(_as_number(v) for v in k))]
        if _same_places(ordered):
            seconds = _step_seconds(times, sorted(moments, key=lambda k: tuple(_as_number(v) for v in k)))
            found = _even_stacks(ordered, name, seconds)
        else:
            found = [
                _prefixed(stack, f"time {k}", ())
                for k, moment in enumerate(ordered, start=1)
                for stack in _even_stacks([moment], name)
            ]
        stacks += [_prefixed(stack, suffix, ()) for stack in found]
    return stacks


def _grouped(planes: Iterable[Plane], marks: tuple[str, ...]) -> dict[tuple[str, ...], list[Plane]]:
    groups: dict[tuple[str, ...], list[Plane]] = defaultdict(list)
    for plane in planes:
        groups[tuple(plane.marks.get(m, "") for m in marks)].append(plane)
    return dict(groups)


def _as_number(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return 0.0, value


def _step_seconds(marks: tuple[str, ...], values: list[tuple[str, ...]]) -> float | None:
    """Seconds between time points if the header gives even times."""
    if marks == ("trigger time",):
        moments = np.array([_as_number(v[0])[0] / 1000 for v in values])
    elif marks in (("acquisition time",), ("content time",)):
        clock = [v[0].ljust(6, "0") for v in values]
        moments = np.array(
            [_as_number(c[:2])[0] * 3600 + _as_number(c[2:4])[0] * 60 + _as_number(c[4:])[0] for c in clock]
        )
    else:
        return None
    steps = np.diff(moments)
    if not len(steps) or steps.min() <= 0 or steps.max() - steps.min() > 0.05 * steps.mean():
        return None
    return float(steps.mean())


def _crowded(planes: Sequence[Plane]) -> bool:
    ordered = _sorted(planes)
    return any(_same_height(a, b) for a, b in pairwise(ordered))


def _same_height(one: Plane, other: Plane) -> bool:
    """Whether two slices of one direction lie in one plane, where a stack can hold only one of them."""
    return abs(_height(one) - _height(other)) < _SAME_PLACE_MM


def _same_place(one: Plane, other: Plane) -> bool:
    assert one.position is not None and other.position is not None
    return float(np.abs(one.position - other.position).max()) < _SAME_PLACE_MM


def _same_places(moments: list[list[Plane]]) -> bool:
    first = moments[0]
    return all(
        len(m) == len(first) and all(_same_place(a, b) for a, b in zip(first, m, strict=True)) for m in moments[1:]
    )


def _sorted(planes: Iterable[Plane]) -> list[Plane]:
    return sorted(planes, key=lambda p: (round(_height(p), 4), tuple(p.position if p.position is not None else ())))


def _height(plane: Plane) -> float:
    """Millimetres along the normal of the slice."""
    assert plane.position is not None
    return float(plane.position @ plane.normal)


# -- evenness -----------------------------------------------------------------------------------


def _even_stacks(moments: list[list[Plane]], name: str, seconds: float | None = None) -> list[Stack]:
    """The stacks of even spacing in slices that all lie at different places; the same for every time point."""
    moments = [_sorted(m) for m in moments]
    heights = np.array([_height(p) for p in moments[0]])
    runs = _even_runs(heights)
    if len(runs) > max(3, len(heights) // 3):
        raise InputError(
            f"{name}: the slices are unevenly spaced, at {_listed(heights)}, and make no volume; "
            "open single files, or export the series again."
        )
    warnings: list[str] = []
    if len(runs) > 1:
        gaps = ", ".join(f"{heights[a[-1]]:.1f} to {heights[b[0]]:.1f}" for a, b in pairwise(runs))
        warnings.append(
            f"Slices are missing or unevenly spaced (from {gaps} mm along the normal); each even part is an image "
            "of its own."
        )
    stacks = []
    for k, run in enumerate(runs, start=1):
        parts = tuple(tuple(m[i] for i in run) for m in moments)
        geometry, own = _geometry(parts[0])
        suffix = f"part {k} of {len(runs)}" if len(runs) > 1 else ""
        stacks.append(Stack(parts, geometry, suffix, seconds if len(moments) > 1 else None, (*warnings, *own)))
    return stacks


def _unevenness(heights: FloatArray) -> float:
    """How far the slices are from even spacing at most, as a part of the mean step."""
    even = np.linspace(heights[0], heights[-1], len(heights))
    return float(np.abs(heights - even).max() / ((heights[-1] - heights[0]) / max(1, len(heights) - 1)))


def _even_runs(heights: FloatArray) -> list[list[int]]:
    """Indices of slices in runs of even spacing, longest runs first served, returned in order."""
    count = len(heights)
    if count < 3:
        return [list(range(count))]
    if _unevenness(heights) <= _ROUNDED:
        return [list(range(count))]
    gaps = np.diff(heights)
    allowed = _EVEN * float(np.median(gaps)) + _SAME_PLACE_MM
    spans, start = [], 0
    for k in range(1, count):
        if k == count - 1 or abs(gaps[k] - gaps[start:k].mean()) > allowed:
            spans.append((start, k))
            start = k
    free = set(range(count))
    runs: list[list[int]] = []
    for first, last in sorted(spans, key=lambda s: s[0] - s[1]):
        run = [k for k in range(first, last + 1) if k in free]
        if len(run) > 1:
            runs.append(run)
            free -= set(run)
    return sorted([*runs, *([k] for k in free)])


def _geometry(planes: Sequence[Plane]) -> tuple[Geometry, list[str]]:
    """The grid of sorted, evenly spaced slices; sheared if the slices shift sideways as with a tilted gantry."""
    first, last = planes[0], planes[-1]
    assert first.directions is not None and first.position is not None and last.position is not None
    warnings: list[str] = []
    spacing = first.spacing or (1.0, 1.0)
    if first.spacing is None:
        warnings.append("The spacing of the pixels is not recorded; sizes are in voxels.")
    if len(planes) > 1:
        step = (last.position - first.position) / (len(planes) - 1)
        heights = np.array([_height(p) for p in planes])
        if (uneven := _unevenness(heights)) > _EVEN:
            away = uneven * float(np.linalg.norm(step))
            warnings.append(f"The positions of the slices are up to {away:.2g} mm away from even spacing.")
        warnings += _sideways(planes, step)
        if first.spacing is None:
            step = step / np.linalg.norm(step)
    else:
        thickness = first.thickness if first.thickness and first.thickness > 0 else None
        if thickness is None and first.spacing is not None:
            warnings.append(
                "The thickness of this single slice is not recorded; it is shown as thick as a pixel is wide."
            )
        step = first.normal * ((thickness or min(spacing)) if first.spacing is not None else 1.0)
    affine = np.eye(4)
    affine[:3, 0] = first.directions[:, 0] * spacing[1]
    affine[:3, 1] = first.directions[:, 1] * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    unit: Any = None if first.spacing is None else "mm"
    try:
        return Geometry.from_xyz_affine((len(planes), *first.shape), lps(affine), unit), warnings
    except ValueError as error:
        raise InputError(
            f"{first.path.name}: the spacing or positions are not usable; accepted is a regular grid."
        ) from error


def _sideways(planes: Sequence[Plane], step: FloatArray) -> list[str]:
    """Sentences about slices that do not lie straight above each other."""
    warnings = []
    normal = planes[0].normal
    along = float(step @ normal)
    shift = float(np.linalg.norm(step - along * normal))
    pixel = min(planes[0].spacing or (1.0, 1.0))
    if shift * (len(planes) - 1) > 0.5 * pixel:
        warnings.append(
            f"The slices shift sideways by {np.degrees(np.arctan2(shift, along)):.1f} degrees (a tilted gantry); "
            "the voxels are sheared, positions are right, shapes in array axes are not."
        )
    places = np.array([p.position for p in planes])
    line = places[0] + np.arange(len(planes))[:, None] * step
    off = np.linalg.norm(places - line, axis=1)
    far = off > max(0.5 * pixel, 0.1 * along)
    if far.any():
        at = _listed([_height(p) for p, f in zip(planes, far, strict=True) if f])
        warnings.append(f"Slices at {at} lie up to {off.max():.2f} mm off the straight stack they are shown in.")
    return warnings


def _listed(heights: Iterable[float]) -> str:
    """Positions along the normal, the first few of them."""
    found = sorted({round(float(h), 1) for h in heights})
    words = ", ".join(f"{h:g}" for h in found[:_LISTED])
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"{words}{more} mm"
