"""``configs/metadata.json``: what MONAI's schema asks for, and the card under ``medseg``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from napari_medseg.bundles.instances import DistanceDecoder, WatershedDecoder
from napari_medseg.bundles.model import ModelCard
from napari_medseg.bundles.save.description import BundleDescription, FileKind
from napari_medseg.bundles.save.inference_config import decoder_definition
from napari_medseg.bundles.save.plain import plain_values
from napari_medseg.case.labels import palette_colour

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def metadata(
    definition: dict[str, Any], description: BundleDescription, out_channels: int, kind: FileKind, count: int
) -> dict[str, Any]:
    """Content of the file, for a network of `count` weights that makes `out_channels` maps.

    Raises
    ------
    InputError, RefusedError
        As `plain_values` does.
    """
    card, after = description.card, description.after
    names = [label.name for label in card.labels]
    made = _maps(description, out_channels)
    shared = {"spatial_shape": _shape(description), "dtype": "float32", "is_patch_data": not description.whole}
    packages = [
        "safetensors",
        *(["nibabel"] if kind != "png" else []),
        *(["scipy", "scikit-image"] * bool(after.instances)),
    ]
    packages += ["napari-medseg"] if "napari_medseg." in json.dumps([definition, decoder_definition(after)]) else []
    what = "Instance segmentation" if card.kind == "instance" else "Segmentation"
    content = {
        "schema": _SCHEMA,
        "version": card.version,
        "changelog": {card.version: "written by napari-medseg"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in packages},
        "supported_apps": {},
        "name": card.name,
        "task": f"{what}: {', '.join(names)}",
        "description": card.description,
        "authors": description.authors,
        "copyright": f"Copyright (c) {description.authors}",
        "license": card.licence,
        "data_type": kind,
        "image_classes": ", ".join(card.channels) or "any number of channels",
        "label_classes": "0 background, " + ", ".join(f"{label.id} {label.name}" for label in card.labels),
        "pred_classes": ", ".join(made),
        "intended_use": card.intended_use,
        "references": list(card.references),
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "RGB" if kind == "png" and card.in_channels == 3 else "magnitude",
                    "modality": (card.modality or ("n/a",))[0],
                    "num_channels": card.in_channels,
                    "value_range": [],
                    **shared,
                    "channel_def": {str(k): name for k, name in enumerate(card.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "segmentation",
                    "num_channels": out_channels,
                    "value_range": [] if after.activation == "none" else [0, 1],
                    **shared,
                    "channel_def": {str(k): name for k, name in enumerate(made)},
                }
            },
        },
        "medseg": {
            "id": card.id,
            "task": card.task,
            "kind": card.kind,
            "modality": list(card.modality),
            "labels": [
                {"id": label.id, "name": label.name}
                | ({} if label.colour == palette_colour(label.id) else {"colour": list(label.colour)})
                | ({"terminology": list(label.terminology)} if label.terminology else {})
                for label in card.labels
            ],
            "licence": card.licence,
            "intended_use": card.intended_use,
            "training_data": [dict(entry) for entry in card.training_data],
            "recipe": card.recipe,
            "validation": card.validation,
            "reference_scores": dict(card.reference_scores),
            "unit": description.unit,
            "slices": description.slices,
            "whole": description.whole,
            "limits": list(description.limits),
        },
        "data_source": "; ".join(str(entry.get("name", "")) for entry in card.training_data)
        or ("not stated" if count else "none: nothing was learned"),
        "eval_metrics": {
            f"{title}: {name}" if title else name: value
            for title, scores in scores_by_set(card).items()
            for name, value in scores.items()
        },
    }
    checked: dict[str, Any] = plain_values(content, "metadata")
    return checked


def _maps(description: BundleDescription, out_channels: int) -> list[str]:
    """Names of the network's maps."""
    names, decoder = [label.name for label in description.card.labels], description.after.instances
    if decoder is None:
        return names if description.after.threshold is not None else ["background", *names]
    if isinstance(decoder, DistanceDecoder) and out_channels == 3:
        return ["foreground", "distance", "contact"]
    if isinstance(decoder, WatershedDecoder):
        return [*(["background"] if out_channels == 2 else [f"map {k}" for k in range(out_channels - 1)]), "foreground"]
    return [f"map {k}" for k in range(out_channels)]


def _shape(description: BundleDescription) -> list[str] | list[int]:
    tile, multiple = description.tiling.tile or (), description.before.divisible_by
    if description.whole:
        multiple = (1,) * len(tile)
    return [f"{m}*n" for m in multiple] if multiple else list(tile)


def scores_by_set(card: ModelCard) -> dict[str, dict[str, Any]]:
    """Scores by set and name; those that stand outside any set come under an empty title."""
    sets = {str(k): dict(v) for k, v in card.reference_scores.items() if isinstance(v, Mapping)}
    alone = {str(k): v for k, v in card.reference_scores.items() if not isinstance(v, Mapping)}
    return sets | ({"": alone} if alone else {})
