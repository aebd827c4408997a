"""Score nuclei of a slide: counting pairs of ids, AJI, AJI+, PQ and F1, from a lazily opened store.

    python benchmarks/metrics_objects.py [--side 20000] [--nuclei 100000] [--compare-side 1024] [--rounds 3] [--json]

Reference and candidate are generated: ellipses that touch, the candidate's moved and scaled, some of them missed,
split, merged or invented. Both are written to zarr under a temporary folder, in chunks of 1024 x 1024 and 512 x 512.

The second table holds the same metrics of a small piece in memory, in turns: ``scikit-image`` makes the table of pairs
with `skimage.metrics.contingency_table` and matches a dense matrix; ``masks`` follows the implementation that is
widely used with HoVer-Net, a mask an object. The piece has the same density of nuclei.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from fairness import Measure, machine, measured, ratios, rows_of, show, take_turns
from fairness import Outcome as Turn
from scipy.optimize import linear_sum_assignment
from skimage.metrics import contingency_table

from napari_medseg.evaluate.objects.scores import f1_at, object_scores
from napari_medseg.evaluate.pairs import count_pairs

Labels = npt.NDArray[np.int32]
Scores = dict[str, float]

_BAND = 1024
_MISSED, _INVENTED, _SPLIT, _MERGED = 0.05, 0.05, 0.04, 0.04
_KEYS = ("aji", "aji_plus", "pq", "object_f1")
_DIFFERENCE = 1e-9


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Ellipses: centres and semi-axes in pixels, angles in radians, the ids of their left and right halves."""

    centre: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]
    angle: npt.NDArray[np.float64]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]

    def part(self, where: npt.NDArray[np.bool_]) -> Nuclei:
        """Some of them."""
        return Nuclei(self.centre[where], self.axes[where], self.angle[where], self.left[where], self.right[where])

    def band(self, first: int, stop: int, width: int) -> Labels:
        """Rows `first` to `stop`; later nuclei lie on earlier ones."""
        labels = np.zeros((stop - first, width), np.int32)
        reach = self.axes.max(1)
        for k in np.flatnonzero((self.centre[:, 0] + reach >= first) & (self.centre[:, 0] - reach < stop)):
            (y, x), r = self.centre[k], reach[k]
            rows = slice(max(first, int(y - r)), min(stop, int(y + r) + 2))
            columns = slice(max(0, int(x - r)), min(width, int(x + r) + 2))
            dy, dx = np.ogrid[rows, columns]
            dy, dx = dy - y, dx - x
            cosine, sine = np.cos(self.angle[k]), np.sin(self.angle[k])
            along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
            inside = (along / self.axes[k, 0]) ** 2 + (across / self.axes[k, 1]) ** 2 <= 1
            piece = labels[rows.start - first : rows.stop - first, columns]
            piece[inside] = np.where(along < 0, self.left[k], self.right[k])[inside]
        return labels


def nuclei(side: int, count: int) -> tuple[Nuclei, Nuclei]:
    """Candidate and reference."""
    generator = np.random.default_rng(0)
    across = int(np.ceil(np.sqrt(count / (1 - _INVENTED))))
    pitch = side / across
    total = across * across
    grid = np.stack(np.divmod(np.arange(total), across), -1)
    centre = (grid + 0.5 + generator.uniform(-0.1, 0.1, (total, 2))) * pitch
    axes = generator.uniform(0.3, 0.52, (total, 2)) * pitch
    angle = generator.uniform(0, np.pi, total)
    ids = generator.permutation(total) + 1
    wanted = np.zeros(total, np.bool_)
    wanted[generator.permutation(total)[:count]] = True
    reference = Nuclei(centre, axes, angle, ids, ids).part(wanted)

    own = generator.permutation(total) + 1
    lot = generator.random(total)
    left = np.where((lot < _MERGED) & (grid[:, 1] > 0), np.roll(own, 1), own)
    right = np.where((lot >= _MERGED) & (lot < _MERGED + _SPLIT), own + total, left)
    moved = centre + generator.normal(0, 0.05, (total, 2)) * pitch
    scaled = axes * generator.uniform(0.85, 1.15, (total, 1))
    return Nuclei(moved, scaled, angle, left, right).part(lot < 1 - _MISSED), reference


def write(path: Path, objects: Nuclei, side: int, chunk: int) -> None:
    """Paint `objects` into a store, band by band."""
    array = zarr.create_array(path, shape=(side, side), dtype="int32", chunks=(min(side, chunk),) * 2)
    for first in range(0, side, _BAND):
        stop = min(side, first + _BAND)
        array[first:stop] = objects.band(first, stop, side)


def ours(candidate: Any, reference: Any) -> Scores:
    """The package."""
    return object_scores(count_pairs(candidate, reference))


def scikit_image(candidate: Labels, reference: Labels) -> Scores:
    """scikit-image's contingency table, then whole matrices."""
    table = contingency_table(reference.ravel(), candidate.ravel()).tocoo()
    rows, row = np.unique(table.row, return_inverse=True)
    columns, column = np.unique(table.col, return_inverse=True)
    dense = np.zeros((len(rows), len(columns)), np.int64)
    dense[row, column] = table.data
    sizes, others = dense.sum(1)[rows > 0, None], dense.sum(0)[None, columns > 0]
    shared = dense[rows > 0][:, columns > 0]
    return _scores_of(shared, sizes + others - shared, sizes[:, 0], others[0])


def masks(candidate: Labels, reference: Labels) -> Scores:
    """A mask for every object, and sums over the masks of every pair that shares pixels."""
    candidates = [candidate == k for k in np.unique(candidate) if k]
    position = {int(k): n for n, k in enumerate(k for k in np.unique(candidate) if k)}
    references = [reference == k for k in np.unique(reference) if k]
    shared = np.zeros((len(references), len(candidates)), np.int64)
    union = np.ones_like(shared)
    for n, mask in enumerate(references):
        for k in np.unique(candidate[mask]):
            if k:
                other = candidates[position[int(k)]]
                shared[n, position[int(k)]] = (mask & other).sum()
                union[n, position[int(k)]] = (mask | other).sum()
    return _scores_of(shared, union, np.array([m.sum() for m in references]), np.array([m.sum() for m in candidates]))


def _scores_of(shared: Any, union: Any, sizes: Any, others: Any) -> Scores:
    iou = shared / union
    best = iou.argmax(1)
    has = shared.any(1)
    unused = np.setdiff1d(np.arange(len(others)), best[has])
    every = np.arange(len(sizes))[has], best[has]
    aji = shared[every].sum() / (union[every].sum() + sizes[~has].sum() + others[unused].sum())
    rows, columns = linear_sum_assignment(iou, maximize=True)
    paired = iou[rows, columns] > 0
    pairs = rows[paired], columns[paired]
    alone = np.delete(sizes, pairs[0]).sum() + np.delete(others, pairs[1]).sum()
    matched = iou[iou > 0.5]
    objects = len(sizes) + len(others)
    return {
        "aji": float(aji),
        "aji_plus": float(shared[pairs].sum() / (union[pairs].sum() + alone)),
        "pq": float(2 * matched.sum() / objects),
        "object_f1": 2 * len(matched) / objects,
    }


def slide(side: int, count: int, folder: Path) -> dict[str, Any]:
    """Time and memory of the steps on the whole slide."""
    candidate, reference = nuclei(side, count)
    write(folder / "candidate.zarr", candidate, side, 1024)
    write(folder / "reference.zarr", reference, side, 512)
    del candidate, reference
    opened = [zarr.open_array(folder / f"{name}.zarr", mode="r") for name in ("candidate", "reference")]
    with measured() as counting:
        pairs = count_pairs(*opened)
    with measured() as scoring:
        scores = object_scores(pairs)
    with measured() as curve:
        f1_at(pairs)
    rows = [
        _step("count pairs", counting),
        _step("AJI, AJI+, PQ, F1, splits, merges", scoring),
        _step("F1 at 10 thresholds", curve),
    ]
    whole = Measure(
        sum(m.seconds for m in (counting, scoring, curve)),
        max(m.peak for m in (counting, scoring, curve)),
        counting.held,
    )
    return {
        "side": side,
        "pairs": len(pairs.voxels),
        **{key: round(value, 4) for key, value in scores.items()},
        "rows": [*rows, _step("all", whole)],
    }


def _step(name: str, measure: Measure) -> dict[str, Any]:
    gib = 1 << 30
    return {
        "system": name,
        "seconds": measure.seconds,
        "peak_gib": measure.peak / gib,
        "before_gib": measure.held / gib,
    }


def piece(side: int, count: int, rounds: int) -> dict[str, Any]:
    """All systems on a piece in memory; their values have to agree."""
    candidate, reference = (n.band(0, side, side) for n in nuclei(side, count))
    systems: dict[str, Callable[[Labels, Labels], Scores]] = {
        "ours": ours,
        "scikit-image": scikit_image,
        "masks": masks,
    }
    values: dict[str, Scores] = {}

    def run(name: str, _: int) -> Turn:
        with measured() as measure:
            values[name] = systems[name](candidate, reference)
        return Turn(seconds=measure.seconds)

    outcomes = take_turns(list(systems), rounds, run)
    rows = [{k: v for k, v in row.items() if k.startswith(("system", "seconds"))} for row in rows_of(outcomes)]
    for row in rows:
        row |= {key: values[row["system"]][key] for key in _KEYS}
    difference = max(abs(values["ours"][key] - v[key]) for v in values.values() for key in _KEYS)
    return {
        "side": side,
        "nuclei": count,
        "equal": bool(difference < _DIFFERENCE),
        "largest_difference": difference,
        "rows": rows,
        "ratios": ratios(rows, (("scikit-image", "ours"), ("masks", "ours"))),
    }


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--nuclei", type=int, default=100_000)
    parser.add_argument("--compare-side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    record: dict[str, Any] = {
        "machine": machine(),
        "input": {"side": arguments.side, "nuclei": arguments.nuclei, "rounds": arguments.rounds},
        "results": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        record["results"].append(slide(arguments.side, arguments.nuclei, Path(folder)))
    density = arguments.nuclei / arguments.side**2
    count = max(1, round(density * arguments.compare_side**2))
    record["results"].append(piece(arguments.compare_side, count, arguments.rounds))
    show(record, arguments.json)


if __name__ == "__main__":
    main()
