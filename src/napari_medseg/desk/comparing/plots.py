"""Plots of a comparison, drawn into a matplotlib figure that somebody else shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_medseg.case import InputError
from napari_medseg.case.labels import palette_colour
from napari_medseg.evaluate.calibration.scores import Calibration, calibration
from napari_medseg.evaluate.compare import Comparison
from napari_medseg.evaluate.metric import Metric
from napari_medseg.jobs import Progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LABELS = 24
_HATCHES = ("", "//", "..", "xx", "\\\\", "oo")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_BAR_INCHES = 0.3


@dataclass(frozen=True)
class Look:
    """Colours of the window around, as ``#rrggbb``, and the size of its type in points."""

    background: str
    text: str
    points: float


def load_matplotlib(*, progress: Progress) -> None:
    """Import what draws, on the job's thread: that takes longer than the window may stand still."""
    progress.begin(1, "loading the plots")
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_qtagg
    import matplotlib.figure  # noqa: F401


def draw_bars(figure: Figure, comparison: Comparison, metric: Metric, heading: str, look: Look) -> float:
    """Bars of one metric for each label and candidate; the height in inches that they need.

    Raises
    ------
    InputError
        If no label has a value.
    """
    rows = [(name, found) for name, found in comparison.rows() if any(r and metric.key in r.values for r in found)]
    if not rows:
        raise InputError(f"{heading} is not given for single labels, so there are no bars; choose another column.")
    shown, count = rows[:_MOST_LABELS], len(comparison.candidates)
    axes = _axes(figure, look)
    thick = 0.8 / count
    infinite = False
    for k, candidate in enumerate(comparison.candidates):
        values = [row[k].values.get(metric.key, math.nan) if row[k] else math.nan for _, row in shown]  # type: ignore[union-attr]
        infinite = infinite or any(math.isinf(v) for v in values)
        lengths = [v if math.isfinite(v) else 0.0 for v in values]
        places = [n + (k - (count - 1) / 2) * thick for n in range(len(shown))]
        axes.barh(
            places, lengths, thick * 0.92, label=_plain(candidate.name), color=_colour(k), hatch=_HATCHES[k % 6],
            edgecolor=look.background, linewidth=0.5,
        )  # fmt: skip
        for place, value in zip(places, values, strict=True):
            if not math.isfinite(value):
                axes.text(0, place, " –" if math.isnan(value) else " ∞", va="center", color=look.text)
    axes.set_yticks(range(len(shown)), [_plain(name) for name, _ in shown])
    axes.invert_yaxis()
    if metric.quantity == "ratio" and metric.better in ("higher", "lower"):
        axes.set_xlim(0, 1)
    rest = f" (first {_MOST_LABELS} of {len(rows)} labels)" if len(rows) > _MOST_LABELS else ""
    axes.set_xlabel(f"{heading}{rest}{'; ∞: one side is empty' if infinite else ''}")
    _name_candidates(axes, comparison, look)
    return 1.2 + _BAR_INCHES * len(shown) * max(1.0, 0.7 * count) + 0.2 * count


def draw_volumes(figure: Figure, comparison: Comparison, look: Look) -> float:
    """Volume of the candidate against that of the reference, a mark for each label.

    Raises
    ------
    InputError
        If no label has a volume on either side.
    """
    axes = _axes(figure, look)
    top = 0.0
    for k, (_, marks) in enumerate(_volumes(comparison)):
        if marks:
            x, y = zip(*marks, strict=True)
            top = max(top, *x, *y)
            axes.plot(
                x, y, _MARKERS[k % 6], color=_colour(k), markersize=7, label=_plain(comparison.candidates[k].name)
            )
    if not top:
        raise InputError("No label holds a voxel on either side, so there are no volumes to plot.")
    axes.plot([0, 1.05 * top], [0, 1.05 * top], "--", color=look.text, linewidth=0.8)
    axes.set_xlim(0, 1.08 * top)
    axes.set_ylim(0, 1.08 * top)
    axes.set_aspect("equal")
    columns = {c.metric.key: c.heading for c in comparison.scores[0].columns()}
    axes.set_xlabel(columns.get("volume_reference", "Reference"))
    axes.set_ylabel(columns.get("volume_candidate", "Candidate"))
    _name_candidates(axes, comparison, look)
    return 3.4


def _volumes(comparison: Comparison) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    for candidate, scores in zip(comparison.candidates, comparison.scores, strict=True):
        pairs = [(r.values.get("volume_reference"), r.values.get("volume_candidate")) for r in scores.labels]
        yield candidate.name, [(a, b) for a, b in pairs if a is not None and b is not None]


def draw_reliability(figure: Figure, found: Calibration, name: str, look: Look) -> float:
    """How often what is given a probability is true."""
    axes = _axes(figure, look)
    curve = found.curve
    held = [(p, o) for p, o, n in zip(curve.predicted, curve.observed, curve.voxels, strict=True) if n]
    axes.plot([0, 1], [0, 1], "--", color=look.text, linewidth=0.8)
    axes.plot(*zip(*held, strict=True), "o-", color=_colour(0), markersize=5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel(f"Probability in {_plain(name)}")
    axes.set_ylabel("Share that is true")
    axes.set_title(f"ECE {curve.ece:.3f}, Brier {found.brier:.3f}", color=look.text, fontsize=look.points)
    return 3.4


def calibrate(probabilities: Any, reference: Any, label: int | None, *, progress: Progress) -> Calibration:
    """Calibration of a map of the foreground (or of one label) against the reference; see `calibration`.

    Raises
    ------
    InputError
        If the map holds values outside 0 to 1.
    """
    return calibration(probabilities, reference, ids=None if label is None else (label,), progress=progress)


def probability_layers(layers: Sequence[Any], shape: tuple[int, ...]) -> list[Any]:
    """Image layers that can hold probabilities: real numbers on the labels' grid, shown within 0 to 1."""
    found = []
    for layer in layers:
        data = layer.data[0] if layer.multiscale else layer.data
        low, high = layer.contrast_limits_range
        fits = np.dtype(data.dtype).kind == "f" and tuple(data.shape) == shape and not layer.rgb
        if fits and low >= 0 and high <= 1:
            found.append(layer)
    return found


def _axes(figure: Figure, look: Look) -> Axes:
    figure.clear()
    figure.set_facecolor(look.background)
    axes = figure.add_subplot()
    axes.set_facecolor(look.background)
    axes.tick_params(colors=look.text, labelsize=look.points)
    for side, spine in axes.spines.items():
        spine.set_color(look.text)
        spine.set_visible(side in ("left", "bottom"))
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(look.text)
        label.set_fontsize(look.points)
    return axes


def _name_candidates(axes: Axes, comparison: Comparison, look: Look) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=1, frameon=False, labelcolor=look.text, fontsize=look.points
    )


def _colour(k: int) -> tuple[float, float, float]:
    red, green, blue = palette_colour(k + 1)
    return red / 255, green / 255, blue / 255


def _plain(name: str) -> str:
    """A name with dollar signs is no formula, and one that begins with an underscore is still named."""
    return name.replace("$", r"\$") if not name.startswith("_") else f" {name}"
