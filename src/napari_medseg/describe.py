"""What a file, a model or this machine is, as plain values for tables and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_medseg.case import MedicalImage, Segmentation

if TYPE_CHECKING:
    from napari_medseg.bundles import BundleEntry


def describe_image(image: MedicalImage) -> dict[str, Any]:
    """The facts of an image, without patient identifiers.

    Spacing is keyed by its unit (``spacing_mm`` or ``spacing_um``) along the spatial axes in order;
    without such a key it is unknown.
    """
    geometry = image.geometry
    record: dict[str, Any] = {
        "kind": "image",
        "name": image.name,
        "format": image.source.format,
        "modality": image.modality.value,
        "intensity": image.intensity,
        "axes": image.axes,
        "shape": list(image.shape),
        "dtype": str(image.dtype),
        "levels": [list(image.spatial_shape(k)) for k in range(len(image.levels))],
        "spatial_axes": image.spatial_axes,
        "frame": geometry.frame,
        "orientation": list(geometry.orientation),
        "unit": geometry.unit,
        "channels": list(image.channels),
        "identifiers_present": image.identifiers_present,
        "warnings": list(image.warnings),
        "details": {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in image.details.items()},
    }
    if geometry.spacing is not None:
        record[f"spacing_{geometry.unit}"] = list(geometry.spacing)
        record[f"origin_{geometry.unit}"] = list(geometry.origin)
    if image.axes.startswith("t"):
        record["frames"] = image.frame_count
        record["seconds_per_frame"] = image.seconds_per_frame
    if image.objective_power is not None:
        record["objective_power"] = image.objective_power
    return record


def describe_labels(segmentation: Segmentation) -> dict[str, Any]:
    """The facts of labels: grid, names and history; nothing is counted."""
    geometry = segmentation.geometry
    record: dict[str, Any] = {
        "kind": "labels",
        "name": segmentation.name,
        "axes": segmentation.axes,
        "shape": [int(n) for n in segmentation.data.shape],
        "dtype": str(segmentation.data.dtype),
        "orientation": list(geometry.orientation),
        "unit": geometry.unit,
        "instances": segmentation.table.instances,
        "labels": [{"id": e.id, "name": e.name} for e in segmentation.table],
        "complete": segmentation.complete,
        "history": [f"{s.action} {s.at}" for s in segmentation.provenance.steps],
    }
    if geometry.spacing is not None:
        record[f"spacing_{geometry.unit}"] = list(geometry.spacing)
    return record


def describe_model(entry: BundleEntry) -> dict[str, Any]:
    """The facts of a model that was found; ``problem`` says why it cannot be used, if so."""
    record: dict[str, Any] = {
        "id": entry.id,
        "sha256": entry.sha256,
        "size": entry.size,
        "learned_nothing": entry.learned_nothing,
        "source": entry.source,
        "problem": entry.warning,
    }
    card = entry.card
    if card is None:
        return record
    return record | {
        "name": card.name,
        "version": card.version,
        "description": card.description,
        "task": card.task,
        "kind": card.kind,
        "modality": list(card.modality),
        "labels": [{"id": e.id, "name": e.name} for e in card.labels],
        "channels": list(card.channels),
        "licence": card.licence,
        "training_data": [dict(d) for d in card.training_data],
        "reference_scores": dict(card.reference_scores),
        "intended_use": card.intended_use,
    }
