"""Score the boundaries of two labels: ours against MONAI, surface-distance and medpy; time, memory and equal values.

    python benchmarks/metrics_surfaces.py [--edges 256,512] [--wobble 1,4] [--rounds 3] [--json]
        [--systems ours,ours-surfels,monai,surface-distance,medpy]

The labels are generated: two smooth bodies in a cube, and candidate and reference are that cube with the surfaces moved
in and out by `wobble` voxels (standard deviation before interpolation). Spacing 1.5 x 0.7 x 0.7, tolerance 1.

Every run has a process of its own with the labels in memory and the libraries imported before the clock starts, and
the systems take turns. What each does while it runs, for both labels:

- ours: ``boundary_scores`` (HD, HD95, ASSD, surface Dice) and, by ``count_pairs``, Dice; from integer labels.
- ours-surfels: the same with DeepMind's surface elements.
- monai: its three calls, for HD95, ASSD and surface Dice; no HD and no Dice. The one-hot masks are made before.
- surface-distance: its distances once a label, then the four scores and Dice. It asks for names that numpy and scipy
  have dropped; they are put back before.
- medpy: HD, HD95, ASSD and Dice; it has no surface Dice. It does not crop, so it is given each label's box.

``differs`` is the largest relative difference between a system's scores and ours by the same definition: elements with
area for surface-distance, the pooled percentile for medpy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fairness import GIB, Outcome, in_child, machine, measured, numbers, ratios, show, take_turns, workplace

from napari_medseg.evaluate.pairs import count_pairs
from napari_medseg.evaluate.scoring.overlap import overlap_scores
from napari_medseg.evaluate.surfaces import boundary_scores

_LABELS = (1, 2)
_SPACING = (1.5, 0.7, 0.7)
_TOLERANCE = 1.0
_PERCENTILE = 95.0
_KEYS = ("hd", "hd95", "assd", "surface_dice", "dice")
_MODULES = {"monai": "monai", "surface-distance": "surface_distance", "medpy": "medpy"}
# voxels over which the wobble of a surface changes
_RIPPLE = 12
# centre and radius of the bodies, in edges of the cube, and how far they are from balls
_BODIES = (((0.5, 0.35, 0.35), 0.22), ((0.5, 0.7, 0.7), 0.18))
_LUMP, _LUMPS = 0.04, 6

Scores = npt.NDArray[np.float64]


def bodies(edge: int, wobble: float, seed: int) -> npt.NDArray[np.uint8]:
    """Labels ``(edge, edge, edge)`` of two bodies; the seed decides only how their surfaces wobble."""
    noise = wobble * _smooth_noise(edge, max(2, edge // _RIPPLE), seed)
    labels = np.zeros((edge,) * 3, np.uint8)
    axes = np.ogrid[:edge, :edge, :edge]
    for label, (centre, radius) in enumerate(_BODIES, start=1):
        away = sum(((k - c * edge) ** 2).astype(np.float32) for k, c in zip(axes, centre, strict=True))
        level = np.sqrt(away) - radius * edge + _LUMP * edge * _smooth_noise(edge, _LUMPS, 100 + label) + noise
        labels[level < 0] = label
    return labels


def _smooth_noise(edge: int, knots: int, seed: int) -> npt.NDArray[np.float32]:
    import torch

    coarse = torch.randn((1, 1, *(knots,) * 3), generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (edge,) * 3, mode="trilinear", align_corners=True)
    values: npt.NDArray[np.float32] = fine[0, 0].numpy()
    return values


# -- the systems --------------------------------------------------------------------------------


def ours(candidate: npt.NDArray[Any], reference: npt.NDArray[Any], **options: Any) -> Scores:
    """Rows of labels, columns of `_KEYS`."""
    found = boundary_scores(
        candidate, reference, _LABELS, _SPACING, tolerance=_TOLERANCE, percentile=_PERCENTILE, **options
    )
    pairs = count_pairs(candidate, reference)
    shares = {label: overlap_scores(pairs.confusion(label)) for label in _LABELS}
    return np.array([[(found[label] | shares[label])[key] for key in _KEYS] for label in _LABELS])


def _prepare_ours(candidate: npt.NDArray[Any], reference: npt.NDArray[Any], **options: Any) -> Callable[[], Scores]:
    # near and far elements: whatever is imported on the way is then there
    apart = np.zeros((2, 40, 40, 40), np.uint8)
    apart[0, 1, 1, 1] = apart[1, 1, 1, 1] = apart[1, 38, 38, 38] = 1
    ours(*apart, **options)
    return partial(ours, candidate, reference, **options)


def _prepare_monai(candidate: npt.NDArray[Any], reference: npt.NDArray[Any]) -> Callable[[], Scores]:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    warnings.simplefilter("ignore")
    masks = [torch.from_numpy(np.stack([side == k for k in _LABELS])[None]) for side in (candidate, reference)]
    shared: dict[str, Any] = {"include_background": True, "spacing": _SPACING}

    def run() -> Scores:
        hd95 = compute_hausdorff_distance(*masks, percentile=_PERCENTILE, **shared)[0]
        assd = compute_average_surface_distance(*masks, symmetric=True, **shared)[0]
        surface_dice = compute_surface_dice(*masks, [_TOLERANCE] * len(_LABELS), **shared)[0]
        unknown = np.full(len(_LABELS), np.nan)
        return np.stack([unknown, hd95.numpy(), assd.numpy(), surface_dice.numpy(), unknown], axis=1)

    return run


def _prepare_surface_distance(candidate: npt.NDArray[Any], reference: npt.NDArray[Any]) -> Callable[[], Scores]:
    from scipy import ndimage

    for name in ("Inf", "NaN"):
        if not hasattr(np, name):
            setattr(np, name, getattr(np, name.lower()))
    for name in ("filters", "morphology"):
        setattr(ndimage, name, ndimage)
    import surface_distance as theirs

    def run() -> Scores:
        rows = []
        for label in _LABELS:
            one, other = candidate == label, reference == label
            found = theirs.compute_surface_distances(other, one, _SPACING)
            sums = [
                (found[f"distances_{way}"] @ found[f"surfel_areas_{side}"], found[f"surfel_areas_{side}"].sum())
                for way, side in (("gt_to_pred", "gt"), ("pred_to_gt", "pred"))
            ]
            rows.append(
                [
                    theirs.compute_robust_hausdorff(found, 100),
                    theirs.compute_robust_hausdorff(found, _PERCENTILE),
                    (sums[0][0] + sums[1][0]) / (sums[0][1] + sums[1][1]),
                    theirs.compute_surface_dice_at_tolerance(found, _TOLERANCE),
                    theirs.compute_dice_coefficient(other, one),
                ]
            )
        return np.array(rows)

    return run


def _prepare_medpy(candidate: npt.NDArray[Any], reference: npt.NDArray[Any]) -> Callable[[], Scores]:
    from medpy.metric import binary
    from scipy import ndimage

    boxes = ndimage.find_objects(np.maximum(candidate, reference))

    def run() -> Scores:
        rows = []
        for label, box in zip(_LABELS, boxes, strict=True):
            # the bodies do not touch, so the box of the larger label holds both sides
            one, other = candidate[box] == label, reference[box] == label
            rows.append(
                [
                    binary.hd(one, other, _SPACING),
                    binary.hd95(one, other, _SPACING),
                    binary.assd(one, other, _SPACING),
                    np.nan,
                    binary.dc(one, other),
                ]
            )
        return np.array(rows)

    return run


_PREPARE: dict[str, Callable[..., Callable[[], Scores]]] = {
    "ours": _prepare_ours,
    "ours-surfels": partial(_prepare_ours, elements="surfels"),
    "monai": _prepare_monai,
    "surface-distance": _prepare_surface_distance,
    "medpy": _prepare_medpy,
}
_SAME_DEFINITION: dict[str, dict[str, Any]] = {"surface-distance": {"elements": "surfels"}, "medpy": {"pooled": True}}
_PAIRS = (
    ("monai", "ours"),
    ("surface-distance", "ours-surfels"),
    ("surface-distance", "ours"),
    ("medpy", "ours"),
)


def score(system: str, folder: Path) -> Outcome:
    """Run a system on the labels in `folder`; its scores are in ``labels`` of the outcome."""
    run = _PREPARE[system](np.load(folder / "candidate.npy"), np.load(folder / "reference.npy"))
    with measured() as measure:
        found = run()
    return Outcome(measure.seconds, peak=measure.peak, held=measure.held, labels=found)


def rows_of(
    outcomes: Mapping[str, Sequence[Outcome]], candidate: npt.NDArray[Any], reference: npt.NDArray[Any]
) -> list[dict[str, Any]]:
    """Medians of each system, its scores, and how far they are from ours by the same definition."""
    rows = []
    for system, runs in outcomes.items():
        if runs[-1].failed:
            rows.append({"system": system, "failed": runs[-1].failed})
            continue
        row: dict[str, Any] = {
            "system": system,
            "seconds": statistics.median(r.seconds for r in runs),
            "seconds_each": [round(r.seconds, 3) for r in runs],
            "peak_gib": statistics.median(r.peak for r in runs) / GIB,
            "before_gib": statistics.median(r.held for r in runs) / GIB,
        }
        found = runs[0].labels
        assert found is not None
        if system in _MODULES:
            same = ours(candidate, reference, **_SAME_DEFINITION.get(system, {}))
            row["differs"] = f"{np.nanmax(np.abs(found - same) / np.maximum(same, 1e-12)):.1e}"
        rows.append(row | {key: [round(float(v), 5) for v in found[:, k]] for k, key in enumerate(_KEYS)})
    return rows


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=numbers(int), default=(256, 512))
    parser.add_argument("--wobble", type=numbers(float), default=(1.0, 4.0))
    parser.add_argument("--systems", type=numbers(str), default=tuple(_PREPARE))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # torch's threads otherwise spin while another program has a core, and MONAI takes twice as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    systems = [s for s in arguments.systems if s not in _MODULES or find_spec(_MODULES[s])]
    record: dict[str, Any] = {
        "machine": machine(),
        "input": {
            "generated": True,
            "labels": list(_LABELS),
            "spacing": list(_SPACING),
            "tolerance": _TOLERANCE,
            "percentile": _PERCENTILE,
            "rounds": arguments.rounds,
        },
        "results": [],
    }
    for edge in arguments.edges:
        for wobble in arguments.wobble:
            candidate, reference = bodies(edge, wobble, 1), bodies(edge, wobble, 2)
            with workplace() as folder:
                np.save(folder / "candidate.npy", candidate)
                np.save(folder / "reference.npy", reference)
                outcomes = take_turns(systems, arguments.rounds, lambda name, _, at=folder: in_child(score, name, at))
            rows = rows_of(outcomes, candidate, reference)
            result = {"shape": [edge] * 3, "wobble": wobble, "rows": rows, "ratios": ratios(rows, _PAIRS)}
            record["results"].append(result)
    show(record, arguments.json)


if __name__ == "__main__":
    main()
