"""The scores of one case: a row for each label, their mean, all labels together, and what every number means."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from napari_medseg.evaluate.metric import Metric

LengthUnit = Literal["mm", "um", "px"]

_SURFACE_DICE = "surface_dice"


@dataclass(frozen=True)
class ScoreRow:
    """The scores of one label, of all objects of an instance table, or of several labels together.

    Parameters
    ----------
    id
        Label id; ``None`` for a row that is not about one id.
    name
        What a person reads.
    candidate_voxels, reference_voxels
        Voxels on either side, over all frames of a video.
    values
        By `Metric.key`: shares from 0 to 1, lengths and volumes in the unit of `CaseScores`; ``nan`` where a metric is
        not defined and ``inf`` where one side has no boundary to measure to. A metric that is not given for this row
        is not in it.
    reasons
        Why a value is ``nan`` or ``inf``, or what it leaves out, by `Metric.key`.
    """

    id: int | None
    name: str
    candidate_voxels: int
    reference_voxels: int
    values: Mapping[str, float]
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """A column of a table of scores: its key with the unit (``"hd95_mm"``), its heading and what it means."""

    key: str
    heading: str
    metric: Metric


@dataclass(frozen=True, eq=False)
class CaseScores:
    """How a candidate compares with a reference on one case.

    Parameters
    ----------
    candidate, reference
        What the two are called.
    axes, shape
        Of the label arrays, e.g. ``"zyx"``.
    spacing
        Along the spatial axes, in `unit`; ``None`` when unknown.
    unit
        Of all lengths; ``"px"`` when the spacing is unknown: lengths then count pixels, and volumes count voxels.
    labels
        A row for each label; one row for all objects of an instance table.
    mean
        Mean of the labels that one side at least holds; ``None`` with fewer than one such label, and for objects.
    any_label
        Overlap of everything that is not background, whatever its id.
    accuracy
        Global and class accuracy, by `Metric.key`; empty for objects, whose ids mean nothing.
    objects
        Whether ids are objects of one class and not classes.
    settings
        What the scores depend on: how labels were matched, tolerance, percentile, cut-offs.
    groups
        What is given: the metrics of each group (``"Overlap"``, ``"Boundary"``, ...), in the order of the columns.
    notes
        What a person should know before trusting the numbers, one sentence each.
    """

    candidate: str
    reference: str
    axes: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    unit: LengthUnit
    labels: tuple[ScoreRow, ...]
    mean: ScoreRow | None
    any_label: ScoreRow
    accuracy: Mapping[str, float]
    objects: bool
    settings: Mapping[str, Any]
    groups: Mapping[str, tuple[Metric, ...]]
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The definitions of everything that is given."""
        return tuple(metric for group in self.groups.values() for metric in group)

    @property
    def rows(self) -> tuple[ScoreRow, ...]:
        """All rows of the table: labels, their mean, all labels together."""
        if self.objects:
            return self.labels
        return (*self.labels, *([self.mean] if self.mean else []), self.any_label)

    def columns(self, group: str | None = None) -> tuple[Column, ...]:
        """The columns of the table, or of one group of it: every metric that some row has."""
        given = {key for row in self.rows for key in row.values}
        metrics = self.metrics if group is None else self.groups[group]
        return tuple(self.column_of(m) for m in metrics if m.key in given)

    def column_of(self, metric: Metric) -> Column:
        """Key and heading of a metric here: with its unit, and with areas for volumes in pictures."""
        key, name = metric.key, metric.name
        if "z" not in self.axes:
            key, name = key.replace("volume", "area"), name.replace("volume", "area").replace("Volume", "Area")
        if key == _SURFACE_DICE and self.settings.get("tolerance") is not None:
            name = f"{name} at {self.settings['tolerance']:.4g} {self.unit}"
        unit = self.unit_of(metric)
        return Column(f"{key}_{unit}" if unit else key, f"{name} [{unit}]" if unit else name, metric)

    def unit_of(self, metric: Metric) -> str:
        """Unit of a metric's values, e.g. ``"mm3"``; empty for shares and counts."""
        if metric.quantity == "length":
            return self.unit
        if metric.quantity == "volume":
            return self._volume_unit
        return ""

    @property
    def _volume_unit(self) -> str:
        return self.unit if self.unit == "px" else f"{self.unit}{3 if 'z' in self.axes else 2}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Lengths and volumes have their unit in the key; ``nan`` and ``inf`` are ``None`` with a reason."""
        return {
            "candidate": self.candidate,
            "reference": self.reference,
            "axes": self.axes,
            "shape": list(self.shape),
            "unit": self.unit,
            **({} if self.spacing is None else {f"spacing_{self.unit}": list(self.spacing)}),
            "objects": self.objects,
            "labels": [self._record(row) for row in self.labels],
            "overall": {
                "mean": None if self.mean is None else self._record(self.mean),
                "any_label": self._record(self.any_label),
                **{key: _number(value) for key, value in self.accuracy.items()},
            },
            "settings": {self._setting(key): value for key, value in self.settings.items()},
            "definitions": [self._definition(metric) for metric in self.metrics],
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """The table as comma-separated text: a heading, then a line a row; ``nan`` and ``inf`` as such.

        The last column holds the reasons for ``nan`` and ``inf``.
        """
        columns = self.columns()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "name", "candidate_voxels", "reference_voxels", *(c.key for c in columns), "reasons"])
        for row in self.rows:
            values = [repr(row.values[c.metric.key]) if c.metric.key in row.values else "" for c in columns]
            reasons = "; ".join(f"{c.key}: {row.reasons[c.metric.key]}" for c in columns if c.metric.key in row.reasons)
            identity = "" if row.id is None else row.id
            writer.writerow(
                [identity, _as_text(row.name), row.candidate_voxels, row.reference_voxels, *values, reasons]
            )
        return text.getvalue()

    def _setting(self, key: str) -> str:
        """The key of a setting with its unit."""
        if key == "tolerance":
            return f"{key}_{self.unit}"
        return f"{key}_{self._volume_unit}" if key == "minimum_volume" else key

    def _record(self, row: ScoreRow) -> dict[str, Any]:
        keys = {m.key: self.column_of(m).key for m in self.metrics}
        return {
            "id": row.id,
            "name": row.name,
            "candidate_voxels": row.candidate_voxels,
            "reference_voxels": row.reference_voxels,
            "metrics": {keys[key]: _number(value) for key, value in row.values.items()},
            "reasons": {keys[key]: reason for key, reason in row.reasons.items()},
        }

    def _definition(self, metric: Metric) -> dict[str, Any]:
        column = self.column_of(metric)
        return {
            "key": column.key,
            "name": column.heading,
            "definition": metric.definition,
            "when_empty": metric.when_empty,
            "better": metric.better,
            "source": metric.source,
        }


def reasons_for(
    values: Mapping[str, float], metrics: Sequence[Metric], candidate_voxels: int, reference_voxels: int
) -> dict[str, str]:
    """Why each ``nan`` or ``inf`` among `values` is one: which side is empty, or else the metric's own rule."""
    rules = {metric.key: metric.when_empty for metric in metrics}
    empty = {
        (False, False): "both sides are empty",
        (False, True): "the candidate is empty",
        (True, False): "the reference is empty",
    }.get((candidate_voxels > 0, reference_voxels > 0))
    found = {}
    for key, value in values.items():
        if not math.isfinite(value):
            word = "not defined" if math.isnan(value) else "infinite"
            found[key] = f"{word}: {empty or rules[key]}"
    return found


def mean_row(rows: Sequence[ScoreRow], metrics: Sequence[Metric]) -> ScoreRow | None:
    """The mean of the labels that one side at least holds; ``None`` if there is none.

    Means are taken of shares and lengths of which more or less is better, of volumes and signed differences not.
    Labels for which a metric is not defined (``nan``) do not count for it; an infinite distance makes the mean
    infinite, because a label that was missed altogether must not vanish from it.
    """
    there = [row for row in rows if row.candidate_voxels or row.reference_voxels]
    if not there:
        return None
    values, reasons = {}, {}
    for metric in metrics:
        if metric.quantity not in ("ratio", "length") or metric.better not in ("higher", "lower"):
            continue
        given = [(row.name, row.values[metric.key]) for row in there if metric.key in row.values]
        if not given:
            continue
        defined = [v for _, v in given if not math.isnan(v)]
        values[metric.key] = sum(defined) / len(defined) if defined else math.nan
        infinite = [name for name, v in given if math.isinf(v)]
        if infinite:
            reasons[metric.key] = f"infinite for {', '.join(infinite)}"
        elif not defined:
            reasons[metric.key] = "not defined for any of these labels"
        elif len(defined) < len(given):
            reasons[metric.key] = f"mean of the {len(defined)} labels for which it is defined"
    name = f"mean of {len(there)} label{'s' if len(there) > 1 else ''}"
    sizes = (sum(r.candidate_voxels for r in there), sum(r.reference_voxels for r in there))
    return ScoreRow(None, name, *sizes, values, reasons)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _as_text(name: str) -> str:
    """A name that a spreadsheet takes for text and not for a formula."""
    return f"'{name}" if name[:1] in "=+-@" and name else name
