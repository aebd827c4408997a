"""Show error maps slice by slice and view by view, find the error regions of a CT, and bring them up to date.

    python benchmarks/error_maps.py [--slices 40] [--views 40] [--side 16384] [--json]

Labels are generated: a CT of 300 slices of 512 x 512 with six organs, whose boundaries the candidate has shifted, with
five hundred invented spots and five hundred holes; nuclei on a slide, of which the candidate misses one in ten, invents
one in twenty and shifts the rest. Each map is sliced where nothing was looked at before (``first``) and one slice or
half a view further (``next``), in memory and from an OME-Zarr store of this package. What counts is the time until the
numbers are there, drawing is napari's. ``cpu`` is the processor time of the process, which other work on the machine
does not lengthen.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fairness import GIB, machine, measured, show, workplace

from napari_medseg.case import Geometry, LabelTable, Segmentation
from napari_medseg.evaluate.errors import BoundaryDistance, Disagreement, ErrorCategories, LabelsMap, VoteEntropy
from napari_medseg.evaluate.review import RegionRules, ReviewQueue, error_regions, ranked, update_review
from napari_medseg.io import open_segmentation, write_segmentation

_CT = (300, 512, 512)
_SPACING = (1.5, 0.8, 0.8)
_ORGANS = (
    # centre and half axes as shares of the volume
    ((0.45, 0.45, 0.32), (0.25, 0.18, 0.17)),
    ((0.40, 0.42, 0.72), (0.12, 0.09, 0.08)),
    ((0.62, 0.60, 0.36), (0.14, 0.06, 0.05)),
    ((0.62, 0.60, 0.66), (0.14, 0.06, 0.05)),
    ((0.52, 0.50, 0.52), (0.05, 0.03, 0.10)),
    ((0.85, 0.45, 0.50), (0.08, 0.09, 0.09)),
)
_SPOTS = 500
_VIEW = 1024


def ct_labels(shift: int) -> np.ndarray:
    """Six ellipsoids with wavy boundaries, moved by `shift` voxels along the rows."""
    labels = np.zeros(_CT, np.uint8)
    z, y, x = np.ogrid[: _CT[0], : _CT[1], : _CT[2]]
    waves = 0.05 * (np.sin(y / 9) + np.sin(x / 11)).astype(np.float32)
    for number, (centre, half) in enumerate(_ORGANS, 1):
        middle = [c * n for c, n in zip(centre, _CT, strict=True)]
        middle[2] += shift
        radius = sum(
            ((axis - m) / (h * n)).astype(np.float32) ** 2
            for axis, m, h, n in zip((z, y, x), middle, half, _CT, strict=True)
        )
        labels[radius + waves < 1] = number
    return labels


def ct() -> tuple[np.ndarray, np.ndarray]:
    """A candidate and its reference."""
    rng = np.random.default_rng(0)
    reference, candidate = ct_labels(0), ct_labels(2)
    inside = np.argwhere(reference[8:-8:4, 8:-8:4, 8:-8:4] > 0) * 4 + 8
    for k in range(2 * _SPOTS):
        place = rng.integers(8, np.array(_CT) - 8) if k < _SPOTS else inside[rng.integers(len(inside))]
        edges = rng.integers(1, 7, 3)
        box = tuple(slice(int(p - e), int(p + e)) for p, e in zip(place, edges, strict=True))
        candidate[box] = 1 + k % 6 if k < _SPOTS else 0
    return candidate, reference


def slide(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Round nuclei of two classes, one in each square of 40 pixels, most of them found a little aside."""
    rng = np.random.default_rng(0)
    candidate, reference = np.zeros((2, side, side), np.uint8)
    y, x = np.ogrid[-12:13, -12:13]
    for row in range(0, side - 40, 40):
        for column in range(0, side - 40, 40):
            radius, luck = rng.integers(6, 12), rng.random()
            nucleus = (y**2 + x**2 <= radius**2).astype(np.uint8) * np.uint8(rng.integers(1, 3))
            if luck > 0.05:
                reference[row + 4 : row + 29, column + 4 : column + 29] |= nucleus
            if luck < 0.9:
                down, right = rng.integers(0, 6, 2)
                candidate[row + down : row + down + 25, column + right : column + right + 25] |= nucleus
    return candidate, reference


def stored(folder: Path, name: str, labels: np.ndarray, spacing: tuple[float, ...], unit: Any) -> Any:
    """The labels as they come back from a store."""
    grid = Geometry.from_spacing(labels.shape, spacing, unit)
    table = LabelTable.from_names([f"class {k}" for k in range(1, 7)])
    path = folder / f"{name}.zarr"
    write_segmentation(Segmentation(labels, grid, table), path)
    return open_segmentation(path).data


def maps(spacing: tuple[float, ...]) -> dict[str, Callable[[Any, Any], LabelsMap]]:
    """Every map by name; three candidates where several are compared."""
    return {
        "categories": ErrorCategories,
        "categories of class 1": lambda c, r: ErrorCategories(c, r, label=1),
        "boundary distance": lambda c, r: BoundaryDistance(c, r, spacing),
        "boundary distance of class 1": lambda c, r: BoundaryDistance(c, r, spacing, label=1),
        "disagreement of 3": lambda c, r: Disagreement([c, r, c]),
        "vote entropy of 3": lambda c, r: VoteEntropy([c, r, c]),
    }


def timed(make: Callable[[], LabelsMap], places: Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]) -> dict[str, Any]:
    """Milliseconds of places looked at first and of the places next to them."""
    wall: dict[str, list[float]] = {"first": [], "next": []}
    cpu: dict[str, list[float]] = {"first": [], "next": []}
    for first, following in places:
        # a new map each time, so that nothing of it was looked at before
        shown = make()
        for when, key in (("first", first), ("next", following)):
            began, busy = time.perf_counter(), time.process_time()
            shown[key]
            wall[when].append(1000 * (time.perf_counter() - began))
            cpu[when].append(1000 * (time.process_time() - busy))
    row: dict[str, Any] = {}
    for when in wall:
        row[f"{when}_ms"] = statistics.median(wall[when])
        row[f"{when}_worst_ms"] = max(wall[when])
        row[f"{when}_cpu_ms"] = statistics.median(cpu[when])
        row[f"{when}_worst_cpu_ms"] = max(cpu[when])
    return row


def show_maps(pairs: dict[str, tuple[Any, Any]], spacing: tuple[float, ...], places: Callable[[], Any]) -> list[Any]:
    """One row a map and a source."""
    rows = []
    for source, (candidate, reference) in pairs.items():
        for name, make in maps(spacing).items():
            row = timed(lambda make=make, c=candidate, r=reference: make(c, r), places())  # type: ignore[misc]
            rows.append({"map": f"{name}, {source}", **row})
    return rows


def regions_of(candidate: np.ndarray, reference: np.ndarray, source: str, arrays: tuple[Any, Any]) -> list[Any]:
    """Finding, ranking and updating the regions of the CT."""
    rows = []
    with measured() as whole:
        busy = time.process_time()
        found = error_regions(*arrays, _SPACING)
        busy = time.process_time() - busy
    rows.append(
        {
            "step": f"error_regions, {source}",
            "seconds": whole.seconds,
            "cpu_seconds": busy,
            "more_gib": (whole.peak - whole.held) / GIB,
            "note": f"{len(found)} regions",
        }
    )
    if source != "memory":
        return rows
    with measured() as ranking:
        ranked(found, "distance")
    rows.append({"step": "ranked", "seconds": ranking.seconds})
    with measured() as start:
        queue = ReviewQueue.start(candidate, reference, RegionRules.of(3, _SPACING))
    rows.append({"step": "ReviewQueue.start", "seconds": start.seconds})
    order = queue.ranked()
    for name, item in (("median", order[len(order) // 2]), ("largest", order[0])):
        edited = candidate.copy()
        box = tuple(slice(max(0, c - 3), c + 4) for c in item.region.centre)
        edited[box] = reference[box]
        with measured() as update:
            update_review(queue, edited, reference, box)
        note = f"{item.region.voxels} voxels"
        rows.append({"step": f"update_review, {name} region", "seconds": update.seconds, "note": note})
    return rows


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--views", type=int, default=40)
    parser.add_argument("--side", type=int, default=16384, help="of the slide")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    rng = np.random.default_rng(1)
    slices = rng.integers(20, _CT[0] - 20, arguments.slices).tolist()
    corners = rng.integers(0, arguments.side - 2 * _VIEW, (arguments.views, 2)).tolist()
    record: dict[str, Any] = {
        "machine": machine(),
        "input": {"ct": _CT, "slide": (arguments.side, arguments.side), "view": _VIEW},
        "results": [],
    }

    def view(y: int, x: int) -> tuple[slice, slice]:
        return slice(y, y + _VIEW), slice(x, x + _VIEW)

    with workplace() as folder:
        candidate, reference = ct()
        kept = tuple(
            stored(folder, n, a, _SPACING, "mm") for n, a in (("candidate", candidate), ("reference", reference))
        )
        pairs: dict[str, tuple[Any, Any]] = {"memory": (candidate, reference), "store": (kept[0], kept[1])}
        rows = show_maps(pairs, _SPACING, lambda: (((z,), (z + 1,)) for z in slices))
        record["results"].append({"what": "slices of the CT", "rows": rows})
        rows = [row for source, arrays in pairs.items() for row in regions_of(candidate, reference, source, arrays)]
        record["results"].append({"what": "regions of the CT", "rows": rows})
        mine, theirs = slide(arguments.side)
        kept = tuple(stored(folder, n, a, (0.25, 0.25), "um") for n, a in (("mine", mine), ("theirs", theirs)))
        pairs = {"memory": (mine, theirs), "store": (kept[0], kept[1])}
        rows = show_maps(pairs, (0.25, 0.25), lambda: ((view(y, x), view(y, x + _VIEW // 2)) for y, x in corners))
        record["results"].append({"what": "views of the slide", "rows": rows})
    show(record, arguments.json)


if __name__ == "__main__":
    main()
