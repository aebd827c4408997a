"""A chart of the scores as an SVG that stands in the page."""

from __future__ import annotations

import io
import math

from napari_medseg.evaluate.compare import Comparison

_SHOWN = ("dice", "pq")
_LARGEST = 24
_HATCHES = ("", "//", "..", "xx", "\\\\", "oo")


def dice_chart(comparison: Comparison) -> tuple[str, str]:
    """Bars of the Dice (for objects the panoptic quality) of each label and candidate; SVG text and caption.

    Both are empty without scores. Bars differ by hatching too, not by colour alone.
    """
    metric = next((m for key in _SHOWN for m in comparison.metrics if m.key == key), None)
    if metric is None:
        return "", ""
    rows = [r for r in comparison.rows() if any(row is not None and row.id is not None for row in r[1])]
    if comparison.scores[0].objects:
        rows = list(comparison.rows())
    shown = rows[:_LARGEST]
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    from napari_medseg.case.labels import palette_colour

    figure = Figure(figsize=(8, 0.9 + 0.28 * len(shown) * max(1, len(comparison.candidates)) ** 0.8), dpi=100)
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    thick = 0.8 / len(comparison.candidates)
    for k, candidate in enumerate(comparison.candidates):
        values = [row[k].values.get(metric.key, math.nan) if row[k] else math.nan for _, row in shown]  # type: ignore[union-attr]
        places = [n + (k - (len(comparison.candidates) - 1) / 2) * thick for n in range(len(shown))]
        colour = tuple(v / 255 for v in palette_colour(k + 1))
        hatch = _HATCHES[k % len(_HATCHES)]
        # a name with dollar signs is no formula
        name = candidate.name.replace("$", r"\$")
        axes.barh(places, values, thick * 0.95, color=colour, edgecolor="black", linewidth=0.5, hatch=hatch, label=name)
    axes.set_yticks(range(len(shown)), [name.replace("$", r"\$") for name, _ in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(metric.name)
    if len(comparison.candidates) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize="small", frameon=False)
    figure.tight_layout()
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    rest = f" The first {_LARGEST} of {len(rows)} labels." if len(rows) > _LARGEST else ""
    return text[text.index("<svg") :], f"{metric.name} of each label; longer is better.{rest}"
