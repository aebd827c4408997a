"""What stands in the report, in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from napari_medseg.case import LabelTable, MedicalImage
from napari_medseg.evaluate.compare import Comparison, RunFacts
from napari_medseg.evaluate.metric import Metric
from napari_medseg.evaluate.review import ErrorRegion, Order
from napari_medseg.evaluate.scoring.case_scores import Column, ScoreRow

_ORDER_WORDS = {
    "size": "the largest",
    "distance": "the farthest from the boundary",
    "uncertainty": "the most uncertain",
    "weight": "the weightiest",
}
_RUN_LINES: tuple[tuple[str, Callable[[RunFacts], str]], ...] = (
    ("model", lambda run: " ".join(v for v in (run.model, run.version) if v) or "not a model's labels"),
    ("weights, SHA-256", lambda run: f"{run.weights_sha256[:12]}…" if run.weights_sha256 else "–"),
    ("licence of the weights", lambda run: run.licence or "–"),
    ("time", lambda run: "–" if run.seconds is None else f"{run.seconds:.1f} s"),
    ("peak memory", lambda run: _bytes(run.peak_memory)),
    ("peak memory of the device", lambda run: _bytes(run.peak_device_memory)),
    ("computed by", lambda run: ", ".join(v for v in (run.device, run.backend, run.precision) if v) or "–"),
    ("changed since", lambda run: ", ".join(run.changes) or "no"),
)


def number_in_words(value: float, metric: Metric) -> str:
    """A score as it stands in a table: four significant digits; en dash where it is not defined."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if metric.quantity == "count":
        return f"{value:.0f}"
    return f"{value:.4f}" if metric.quantity == "ratio" else f"{value:.4g}"


def score_blocks(comparison: Comparison) -> list[dict[str, Any]]:
    """A block for each row of scores, with a line a metric and a cell a candidate."""
    columns: dict[str, Column] = {}
    for scores in comparison.scores:
        for column in scores.columns():
            columns.setdefault(column.metric.key, column)
    blocks = []
    for name, rows in comparison.rows():
        lines = []
        for column in columns.values():
            if not any(row and column.metric.key in row.values for row in rows):
                continue
            best = comparison.best(rows, column.metric)
            cells = [_cell(row, column.metric, k in best) for k, row in enumerate(rows)]
            lines.append({"heading": column.heading, "definition": column.metric.definition, "cells": cells})
        if lines:
            blocks.append({"name": name, "lines": lines})
    return blocks


def _cell(row: ScoreRow | None, metric: Metric, best: bool) -> dict[str, Any]:
    if row is None or metric.key not in row.values:
        return {"text": "", "best": False, "reason": ""}
    text = number_in_words(row.values[metric.key], metric)
    return {"text": text, "best": best, "reason": row.reasons.get(metric.key, "")}


def agreement_block(comparison: Comparison) -> dict[str, Any] | None:
    """The matrix of the candidates' agreement, if there is one."""
    found = comparison.agreement
    if found is None or not found.ids:
        return None
    objects = any(c.segmentation.table.instances for c in comparison.candidates)
    over = "all objects together" if objects else f"mean over {len(found.ids)} label{'s' * (len(found.ids) > 1)}"
    rows = [
        {"name": name, "texts": [f"{value:.4f}" for value in values]}
        for name, values in zip(found.names, found.mean, strict=True)
    ]
    return {"over": over, "rows": rows}


def run_lines(comparison: Comparison) -> list[dict[str, Any]]:
    """What is known of the runs that made the candidates; lines that say nothing of any are left out."""
    lines = [
        {"heading": heading, "texts": [words(c.run) for c in comparison.candidates]} for heading, words in _RUN_LINES
    ]
    return [line for line in lines if any(text != "–" for text in line["texts"])]


def _bytes(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**30:.2f} GiB"


def definitions(comparison: Comparison) -> list[dict[str, str]]:
    """Name, definition, rule for empty sides and source of every metric shown."""
    return [
        {"name": m.name, "definition": m.definition, "when_empty": m.when_empty, "source": m.source}
        for m in comparison.metrics
    ]


def settings(comparison: Comparison) -> str:
    """What the scores depend on, as one line."""
    if not comparison.scores:
        return ""
    return ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in comparison.scores[0].to_dict()["settings"].items()
    )


def notes(comparison: Comparison, image: MedicalImage) -> list[str]:
    """What a person should know first, each sentence once."""
    given = [note for scores in comparison.scores for note in scores.notes]
    unknown = [] if image.geometry.unit else ["The spacing is unknown: lengths, areas and volumes count pixels."]
    return list(dict.fromkeys([*unknown, *given, *image.warnings]))


def image_facts(image: MedicalImage) -> dict[str, str]:
    """Facts of the image that identify nobody."""
    geometry = image.geometry
    facts = {
        "modality": f"{image.modality.value} ({image.modality.description})",
        "size": " × ".join(str(n) for n in geometry.shape) + f" ({' '.join(geometry.axes)})",
        "spacing": "unknown"
        if geometry.spacing is None
        else " × ".join(f"{s:.4g}" for s in geometry.spacing) + f" {geometry.unit}",
    }
    if geometry.frame == "patient":
        facts["axes point to"] = " ".join(geometry.orientation)
    if image.frame_count > 1:
        facts["frames"] = str(image.frame_count)
    return facts


def region_in_words(region: ErrorRegion, candidate: LabelTable, reference: LabelTable, where: str) -> str:
    """One region as a caption."""
    mine, theirs = candidate.name(region.candidate_label), reference.name(region.reference_label)
    size = f"{region.size:.4g} {region.size_unit}" if region.size_unit != "px" else f"{region.voxels} px"
    words = [f"{region.id}: {region.error}", f"reference {theirs}, candidate {mine}", size]
    if region.distance is not None:
        words.append(f"up to {region.distance:.3g} {region.distance_unit} from the boundary")
    if region.uncertainty is not None:
        words.append(f"mean uncertainty {region.uncertainty:.2f}")
    return "; ".join([*words, *([where] if where else [])]) + "."


def counted(regions: Sequence[ErrorRegion], shown: int, order: Order) -> str:
    """How many regions there are and which are shown."""
    if not regions:
        return "They are equal everywhere."
    many = f"{len(regions)} region{'s' * (len(regions) > 1)}"
    return f"{many}." if shown == len(regions) else f"{many}; shown: {_ORDER_WORDS[order]} {shown}."
