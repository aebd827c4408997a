"""What the Segment dock asks for, as plain functions: one run after another, each giving a layer's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from napari_medseg.bundles import BundleEntry, Model
from napari_medseg.case import CancelledError, MedicalImage, MedsegError
from napari_medseg.desk.child import Run, RunResult, Worker
from napari_medseg.desk.layers import LayerData, labels_layer
from napari_medseg.desk.regions import Part
from napari_medseg.desk.workspace import new_store
from napari_medseg.jobs import Progress


@dataclass(frozen=True)
class Made:
    """One model's labels, ready to be shown, and how the run went."""

    layer: LayerData
    report: Mapping[str, Any]


def segment_with(
    worker: Worker,
    image: MedicalImage,
    models: Sequence[BundleEntry | Model],
    part: Part,
    device: str,
    *,
    progress: Progress,
) -> list[Made]:
    """Run `models` one after another over a part of `image`.

    A model that fails after others gave their labels becomes a warning of the last run, and ends the round.

    Raises
    ------
    MedsegError
        If the first model fails, or the round is cancelled.
    """
    seen = part.frames_of(image)
    # a file is read and hashed once for the history; a picture made here has none
    made: list[Made] = []
    for model in models:
        card = model.card
        assert card is not None
        run = Run(
            model=model.path if isinstance(model, BundleEntry) else model,
            options={"device": device, "region": part.region},
            out=new_store(),
            name=card.id,
        )
        try:
            result = worker.segment(seen, run, progress=progress)
        except CancelledError:
            raise
        except MedsegError as error:
            if not made:
                raise
            last = made[-1]
            warnings = [*last.report.get("warnings", ()), f"{card.name} gave no labels. {error}"]
            made[-1] = replace(last, report={**last.report, "warnings": warnings})
            break
        progress.begin(1, "reading the labels")
        made.append(Made(_shown(result, seen, part), result.report))
    return made


def _shown(result: RunResult, image: MedicalImage, part: Part) -> LayerData:
    counts = [entry["count"] for entry in result.report["labels"] if entry.get("count") is not None]
    labels = replace(result.segmentation, geometry=image.geometry)
    data, options, kind = labels_layer(labels, image, counts[0] if counts else None)
    if part.frame is not None:
        start = (options["scale"][0] * part.frame, *options["translate"][1:])
        options = {**options, "translate": start}
    return data, options, kind


def summary(report: Mapping[str, Any]) -> str:
    """One line on how a run went."""
    return f"{report['model']}: {report['seconds']:.1f} s on {report['device']} ({report['precision']})"


def amounts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was found, a row for each label: its name, and how much of it."""
    rows = []
    for entry in report["labels"]:
        said = []
        if entry.get("count") is not None:
            said.append(f"{entry['count']}")
        size = next((k for k in entry if k.startswith(("area_", "volume_"))), None)
        if size is not None:
            said.append(_size_in_words(entry[size], size.partition("_")[2]))
        else:
            said.append(f"{entry['voxels']} pixels")
        rows.append((entry["name"], ", ".join(said)))
    return rows


def _size_in_words(value: float, unit: str) -> str:
    base, power = unit[:-1], unit[-1]
    if base == "um" and value >= 1e5:
        value, base = value / 1000.0 ** int(power), "mm"
    if base == "mm" and power == "3" and value >= 1000:
        return f"{value / 1000:.4g} ml"
    return f"{value:.4g} {'µm' if base == 'um' else base}{'²' if power == '2' else '³'}"
