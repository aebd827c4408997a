"""Read a bundle's ``metadata.json`` into a model card; ours and those of MONAI's model zoo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_medseg.bundles.model import Kind, ModelCard
from napari_medseg.case import InputError, Label, LabelTable

_MODALITIES = {
    "ct": "CT",
    "mr": "MR",
    "mri": "MR",
    "sm": "SM",
    "pathology": "SM",
    "histopathology": "SM",
    "wsi": "SM",
    "es": "ES",
    "endoscopy": "ES",
    "us": "US",
    "ultrasound": "US",
    "op": "OP",
    "fundus": "OP",
    "xc": "XC",
    "fl": "FL",
}


def read_card(metadata: Mapping[str, Any], folder_name: str) -> ModelCard:
    """Make the card of a bundle.

    Parameters
    ----------
    metadata
        Content of ``metadata.json``. The key ``medseg`` holds what MONAI's schema has no place for; without it the
        card says what is not stated.
    folder_name
        The id where ``medseg`` gives none.

    Raises
    ------
    InputError
        The metadata lacks what a card needs.
    """
    ours = _mapping(metadata.get("medseg", {}), "medseg", folder_name)
    try:
        given = metadata["network_data_format"]["inputs"]["image"]
        made = metadata["network_data_format"]["outputs"]["pred"]
        in_channels = int(given["num_channels"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder_name}: metadata.json does not say what the network reads and gives; "
            "network_data_format with inputs.image.num_channels and outputs.pred is expected"
        ) from error
    try:
        return _card(metadata, ours, given, made, in_channels, folder_name)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder_name}: metadata.json cannot be read as a model's metadata: {error}") from error


def _card(
    metadata: Mapping[str, Any],
    ours: Mapping[str, Any],
    given: Mapping[str, Any],
    made: Mapping[str, Any],
    in_channels: int,
    folder_name: str,
) -> ModelCard:
    kind: Kind = "instance" if ours.get("kind") == "instance" else "semantic"
    return ModelCard(
        id=str(ours.get("id", folder_name)),
        name=str(metadata.get("name", folder_name)),
        version=str(metadata.get("version", "not stated")),
        description=str(metadata.get("description", "")),
        task=_task(metadata, ours),
        kind=kind,
        modality=_modality(given, ours, folder_name),
        labels=_labels(made, ours, kind, folder_name),
        in_channels=in_channels,
        channels=_channels(given, in_channels),
        licence=str(ours.get("licence", metadata.get("license", "not stated"))),
        training_data=_training_data(metadata, ours),
        recipe=str(ours.get("recipe", "not stated")),
        validation=str(ours.get("validation", "not stated")),
        reference_scores=dict(ours.get("reference_scores", metadata.get("eval_metrics") or {})),
        intended_use=str(ours.get("intended_use", metadata.get("intended_use", "not stated"))),
        references=tuple(str(r) for r in metadata.get("references", ())),
    )


def _mapping(value: Any, key: str, folder_name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{folder_name}: {key} in metadata.json is a {type(value).__name__}; a mapping is expected")
    return value


def _task(metadata: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    stated = str(ours.get("task", metadata.get("task", "segmentation")))
    return "segmentation" if "segmentation" in stated.lower() else stated


def _modality(given: Mapping[str, Any], ours: Mapping[str, Any], folder_name: str) -> tuple[str, ...]:
    stated = ours.get("modality", given.get("modality", ()))
    codes = []
    for word in [stated] if isinstance(stated, str) else list(stated):
        code = _MODALITIES.get(str(word).lower())
        if code is None and "modality" in ours:
            known = ", ".join(sorted(set(_MODALITIES.values())))
            raise InputError(f"{folder_name}: modality {word!r} is not known; accepted are {known}")
        if code is not None and code not in codes:
            codes.append(code)
    return tuple(codes)


def _labels(made: Mapping[str, Any], ours: Mapping[str, Any], kind: Kind, folder_name: str) -> LabelTable:
    try:
        if "labels" in ours:
            table = LabelTable(tuple(_label(entry) for entry in ours["labels"]), instances=kind == "instance")
        else:
            names = {int(k): str(v) for k, v in made.get("channel_def", {}).items()}
            background = names.get(0, "").lower() == "background"
            table = LabelTable.from_names(names if background else {k + 1: v for k, v in names.items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder_name}: the labels in metadata.json cannot be read: {error}") from error
    if not len(table):
        raise InputError(f"{folder_name}: metadata.json names no label; outputs.pred.channel_def is expected")
    return table


def _label(entry: Mapping[str, Any]) -> Label:
    number, name = int(entry["id"]), str(entry["name"])
    code = entry.get("terminology")
    terminology = (str(code[0]), str(code[1]), str(code[2])) if code else None
    if "colour" not in entry:
        return Label(number, name, terminology=terminology)
    red, green, blue = (int(v) for v in entry["colour"])
    return Label(number, name, (red, green, blue), terminology)


def _channels(given: Mapping[str, Any], count: int) -> tuple[str, ...]:
    names = given.get("channel_def", {})
    return tuple(str(names.get(str(i), f"channel {i}")) for i in range(count))


def _training_data(metadata: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    if "training_data" in ours:
        return tuple(dict(entry) for entry in ours["training_data"])
    source = metadata.get("data_source")
    return ({"name": str(source), "licence": "not stated"},) if source else ()
