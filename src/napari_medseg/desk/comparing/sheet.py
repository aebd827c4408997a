"""The table of a comparison as plain words and numbers: a row for each label and candidate."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from napari_medseg.evaluate.compare import Comparison, RunFacts
from napari_medseg.evaluate.metric import Metric
from napari_medseg.evaluate.report.tables import number_in_words
from napari_medseg.evaluate.scoring.case_scores import CaseScores, Column, ScoreRow

BEST = "★"

_FIRST_SHOWN = {"dice", "sensitivity", "precision", "hd95", "assd", "surface_dice"}
_FIRST_SHOWN_OF_OBJECTS = {"dice", "pq", "aji", "object_f1", "missed_objects", "spurious_objects"}
_BETTER = {
    "higher": "Higher is better.",
    "lower": "Lower is better.",
    "zero": "Nearer to 0 is better.",
    "neither": "",
}
_UNKNOWN = "The history of these labels does not say."


@dataclass(frozen=True)
class SheetColumn:
    """A column: `key` in files (with its unit), heading, tooltip (rich text), and whether it is shown at first."""

    key: str
    heading: str
    tip: str
    shown: bool
    metric: Metric | None = None


@dataclass(frozen=True)
class Cell:
    """One value.

    Parameters
    ----------
    text
        As a person reads it: rounded, ``–`` where it is not defined, empty where it is not measured.
    value
        What is sorted and saved: a number (``nan`` where there is none) or a word.
    tip
        What to know of it (rich text).
    best
        Whether it is the best of the candidates in its row of the comparison.
    """

    text: str
    value: float | str
    tip: str = ""
    best: bool = False

    @property
    def marked(self) -> str:
        """The text with a star where it is best."""
        return f"{BEST} {self.text}" if self.best else self.text


@dataclass(frozen=True)
class SheetRow:
    """A label (or a summary of several) of one candidate."""

    id: int | None
    label: str
    candidate: str
    cells: tuple[Cell, ...]
    reasons: str = ""


@dataclass(frozen=True)
class Sheet:
    """The whole table."""

    columns: tuple[SheetColumn, ...]
    rows: tuple[SheetRow, ...]

    def to_csv(self) -> str:
        """All columns with all digits; ``nan`` and ``inf`` as such with their reasons in the last column."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "label", "candidate", *(c.key for c in self.columns), "reasons"])
        for row in self.rows:
            values = ["" if not c.text else repr(c.value) if isinstance(c.value, float) else c.value for c in row.cells]
            identity = "" if row.id is None else str(row.id)
            words = (row.label, row.candidate, *values)
            writer.writerow([identity, *map(_as_text, words), row.reasons])
        return text.getvalue()


def sheet_of(comparison: Comparison) -> Sheet:
    """Scores against the reference; without one, how far the candidates agree with each other."""
    return _scores(comparison) if comparison.scores else _agreement(comparison)


# -- against a reference ------------------------------------------------------------------------


def _scores(comparison: Comparison) -> Sheet:
    columns: dict[str, Column] = {}
    for scores in comparison.scores:
        accuracy = [scores.column_of(m) for m in scores.metrics if m.key in scores.accuracy]
        for column in (*scores.columns(), *accuracy):
            columns.setdefault(column.metric.key, column)
    objects = any(scores.objects for scores in comparison.scores)
    shown = _FIRST_SHOWN_OF_OBJECTS if objects else _FIRST_SHOWN
    heads = [SheetColumn(c.key, c.heading, _definition(c), c.metric.key in shown, c.metric) for c in columns.values()]
    rows = []
    for name, found in comparison.rows():
        whole = [_with_accuracy(row, scores) for row, scores in zip(found, comparison.scores, strict=True)]
        best = {key: comparison.best(whole, column.metric) for key, column in columns.items()}
        for k, row in enumerate(whole):
            if row is None:
                continue
            cells = [_cell(row, column, k in best[key]) for key, column in columns.items()]
            reasons = "; ".join(f"{columns[key].key}: {why}" for key, why in row.reasons.items() if key in columns)
            candidate = comparison.candidates[k]
            rows.append(SheetRow(row.id, name, candidate.name, (*cells, *_run_cells(candidate.run)), reasons))
    return Sheet((*heads, *_run_columns()), tuple(rows))


def _with_accuracy(row: ScoreRow | None, scores: CaseScores) -> ScoreRow | None:
    """Accuracy is that of all labels together, so it stands in their row."""
    if row is None or row is not scores.any_label:
        return row
    return replace(row, values={**row.values, **scores.accuracy})


def _definition(column: Column) -> str:
    metric = column.metric
    lines = [
        f"<b>{escape(column.heading)}</b>",
        escape(metric.definition),
        f"Empty masks: {escape(metric.when_empty)}" if metric.when_empty else "",
        _BETTER[metric.better],
        f"<i>{escape(metric.source)}</i>" if metric.source else "",
    ]
    return "<br>".join(line for line in lines if line)


def _cell(row: ScoreRow, column: Column, best: bool) -> Cell:
    metric = column.metric
    if metric.key not in row.values:
        return Cell("", math.nan, "Not measured for this row.")
    value = float(row.values[metric.key])
    lines = [f"<b>{escape(column.heading)}</b>: {value:.10g}"]
    if best:
        lines.append("Best of the candidates.")
    if metric.key in row.reasons:
        lines.append(escape(row.reasons[metric.key]))
    return Cell(number_in_words(value, metric), value, "<br>".join(lines), best)


# -- how the labels were made -------------------------------------------------------------------


_RUN: tuple[tuple[SheetColumn, Callable[[RunFacts], float | str | None]], ...] = (
    (SheetColumn("time_s", "Time [s]", "How long the model ran on this image.", True), lambda run: run.seconds),
    (
        SheetColumn("peak_memory_mb", "Peak memory [MB]", "Most memory that the process which computed held.", True),
        lambda run: None if run.peak_memory is None else run.peak_memory / 1e6,
    ),
    (
        SheetColumn("device_memory_mb", "Peak memory of the device [MB]", "Most memory held on the device.", False),
        lambda run: None if run.peak_device_memory is None else run.peak_device_memory / 1e6,
    ),
    (
        SheetColumn("device", "Computed by", "Device, backend and precision of the run.", True),
        lambda run: ", ".join(v for v in (run.device, run.backend, run.precision) if v) or None,
    ),
    (
        SheetColumn("changed_since", "Changed since", "What was done to the labels after the model ran.", False),
        lambda run: ", ".join(run.changes) or ("no" if run.model else None),
    ),
)


def _run_columns() -> tuple[SheetColumn, ...]:
    return tuple(column for column, _ in _RUN)


def _run_cells(run: RunFacts) -> tuple[Cell, ...]:
    cells = []
    for _, fact in _RUN:
        value = fact(run)
        if value is None:
            cells.append(Cell("–", math.nan, _UNKNOWN))
        elif isinstance(value, str):
            cells.append(Cell(value, value, escape(value)))
        else:
            cells.append(Cell(f"{value:.3g}" if value < 100 else f"{value:.0f}", float(value)))
    return tuple(cells)


# -- without a reference ------------------------------------------------------------------------


def _agreement(comparison: Comparison) -> Sheet:
    agreement = comparison.agreement
    assert agreement is not None
    tables = [candidate.segmentation.table for candidate in comparison.candidates]
    objects = any(table.instances for table in tables)
    tip = "2 |A and B| / (|A| + |B|) of two candidates; 1 where both hold nothing, 0 where one does."
    heads = [
        SheetColumn(f"dice_with_{name}", f"Dice with {name}", f"<b>Dice with {escape(name)}</b><br>{tip}", True)
        for name in agreement.names
    ]
    heads.append(
        SheetColumn(
            "mean_dice_with_others",
            "Mean with others",
            f"<b>Mean Dice with all other candidates</b><br>{tip}<br>The lowest is the odd one out. "
            "Agreement is no proof of being right.",
            len(agreement.names) > 2,
        )
    )
    named: list[tuple[int | None, str, Sequence[Sequence[float]]]] = []
    for label, matrix in zip(agreement.ids, agreement.matrices, strict=True):
        name = next((t.name(label) for t in tables if label in t), f"label {label}")
        named.append((label, "all objects" if objects else name, matrix))
    if len(agreement.ids) != 1:
        named.append((None, f"mean of {len(agreement.ids)} labels", agreement.mean.tolist()))
    rows = []
    for identity, name, values in named:
        for k, candidate in enumerate(comparison.candidates):
            others = [v for n, v in enumerate(values[k]) if n != k]
            cells = [_dice(v) if n != k else Cell("", math.nan, "Itself.") for n, v in enumerate(values[k])]
            cells.append(_dice(math.fsum(others) / len(others)))
            rows.append(SheetRow(identity, name, candidate.name, (*cells, *_run_cells(candidate.run))))
    return Sheet((*heads, *_run_columns()), tuple(rows))


def _dice(value: float) -> Cell:
    if math.isnan(value):
        return Cell("–", value, "Not defined: no candidate holds a label.")
    return Cell(f"{value:.4f}", value, f"{value:.10g}")


def _as_text(word: str) -> str:
    """A word that a spreadsheet takes for text and not for a formula; numbers stay as they are."""
    if word[:1] not in tuple("=+-@"):
        return word
    try:
        float(word)
    except ValueError:
        return f"'{word}"
    return word
