"""What the Segment dock asks for, as plain functions: one run after another, each giving a layer's data."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_medseg.bundles import BundleEntry, Model
from napari_medseg.case import CancelledError, MedicalImage, MedsegError, OtherRunError
from napari_medseg.desk.child import Run, RunResult, Worker
from napari_medseg.desk.layers import LayerData, labels_layer
from napari_medseg.desk.regions import Part
from napari_medseg.desk.workspace import new_store
from napari_medseg.io.writing import partial_path
from napari_medseg.jobs import Progress


class Unfinished:
    """Stores of runs that were cancelled, by what was being computed: the next such run goes on with them."""

    def __init__(self) -> None:
        self._stores: dict[Hashable, Path] = {}

    def take(self, key: Hashable) -> tuple[Path, bool]:
        """A store to write to, and whether a run began there already."""
        store = self._stores.pop(key, None)
        if store is not None and partial_path(store).is_dir():
            return store, True
        return new_store(), False

    def keep(self, key: Hashable, store: Path) -> bool:
        """Remember the store of a run that was cancelled; whether anything in it is worth going on with."""
        if not partial_path(store).is_dir():
            return False
        self._stores[key] = store
        return True


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
    unfinished: Unfinished,
    *,
    progress: Progress,
) -> list[Made]:
    """Run `models` one after another over a part of `image`.

    A model that fails after others gave their labels becomes a warning of the last run, and ends the round. A
    model that was cancelled before goes on where it stopped, if nothing has changed since.

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
        key = (image.name, image.shape, card.id, str(part), device)
        store, resume = unfinished.take(key)
        run = Run(
            model=model.path if isinstance(model, BundleEntry) else model,
            options={"device": device, "region": part.region},
            out=store,
            name=card.id,
            resume=resume,
        )
        try:
            result = _resumed_or_anew(worker, seen, run, progress)
        except CancelledError as error:
            if unfinished.keep(key, store):
                raise CancelledError("Cancelled. Press Run to go on where it stopped.") from error
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


def _resumed_or_anew(worker: Worker, image: MedicalImage, run: Run, progress: Progress) -> RunResult:
    try:
        return worker.segment(image, run, progress=progress)
    except OtherRunError:
        # the picture was changed since the run was cancelled: nothing of it can be used
        return worker.segment(image, replace(run, resume=False), progress=progress)


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
    how = ", ".join([report["device"], *([report["backend"]] if report.get("backend") else []), report["precision"]])
    tiles = report.get("tiles", {})
    skipped = tiles.get("skipped", 0)
    glass = f", {skipped} of {tiles['planned']} tiles left out as glass" if skipped else ""
    return f"{report['model']}: {report['seconds']:.1f} s ({how}){glass}"


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
