"""Save a network with its weights and its card as a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_medseg.bundles.load import load_model
from napari_medseg.bundles.model import Model
from napari_medseg.bundles.save import folder as place
from napari_medseg.bundles.save.comparison import compare_description, compare_output, try_network
from napari_medseg.bundles.save.description import (
    BundleDescription,
    Precision,
    check_labels_and_channels,
    check_texts,
    file_kind,
)
from napari_medseg.bundles.save.inference_config import inference_config
from napari_medseg.bundles.save.metadata import metadata
from napari_medseg.bundles.save.plain import json_text, plain_values
from napari_medseg.bundles.save.readme import licence_text, readme_text
from napari_medseg.bundles.save.weights import read_state, stored_weights, weights_count
from napari_medseg.bundles.scan import refuse_hostile
from napari_medseg.case import InputError
from napari_medseg.networks import Architecture

if TYPE_CHECKING:
    import torch


def save_bundle(
    folder: str | Path | None,
    network: Mapping[str, Any] | Architecture,
    weights: Mapping[str, torch.Tensor] | str | Path,
    description: BundleDescription,
    *,
    parameters: Mapping[str, Any] | None = None,
    precision: Precision = "float16",
    overwrite: bool = False,
    within: str | Path | None = None,
) -> Model:
    """Write a bundle that `load_model` and MONAI's own command line run.

    It is written beside `folder`, opened again, and its output for one tile of noise compared with that of the
    network it was made from; only then does it get its name.

    Parameters
    ----------
    folder
        The bundle's folder, which is made; its parent must be there. ``None`` for the user's own bundles, by id.
    network
        ``network_def``, as `Architecture.definition` makes it, or an architecture to be used with `parameters`.
    weights
        State dictionary, or a file of one (safetensors, or ``torch.save`` of tensors only); empty for a method that
        has none.
    description
        Everything else.
    parameters
        Parameters of an architecture; its defaults where left out.
    precision
        How weights are stored. Running statistics of normalisation layers always stay float32.
    overwrite
        Whether a bundle that is there may be replaced. A folder with any file that its ``SHA256SUMS`` does not
        name is never replaced.
    within
        Refuse a folder that does not lie inside this one.

    Returns
    -------
    Model
        What was written, as read back.

    Raises
    ------
    InputError
        Something in the description is missing, contradicts the network, or does not read back as it was given.
    RefusedError
        The folder lies outside `within`, or the bundle would run code.
    """
    check_texts(description.card)
    target = place.target_folder(folder, description.card.id, within)
    place.require_free(target, overwrite)
    definition = _definition(network, parameters)
    state = read_state(weights)
    tried = try_network(definition, state, description)
    files = _files(definition, description, tried[0][1].shape[1], weights_count(state))
    stored = stored_weights(state, precision)
    with place.staged(target) as written:
        place.write_files(written, files, stored)
        model = load_model(written, trust=set())
        compare_description(model, definition, description)
        compare_output(model, tried, precision)
        place.publish(written, target, overwrite)
    return dataclasses.replace(model, path=target, weights=target / place.WEIGHTS, source=str(target.parent))


def _definition(network: Mapping[str, Any] | Architecture, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(network, Architecture):
        network = network.definition(**(parameters or {}))
    elif parameters:
        raise InputError("parameters go with an architecture; a network_def holds its own arguments.")
    definition: dict[str, Any] = plain_values(network, "network_def", classes=True)
    return definition


def _files(definition: dict[str, Any], description: BundleDescription, out_channels: int, count: int) -> dict[str, str]:
    """Text of every file but the weights, by its path in the bundle; `count` is the number of weights."""
    check_labels_and_channels(description, out_channels)
    kind = file_kind(description)
    files = {
        place.METADATA: json_text(metadata(definition, description, out_channels, kind, count), "metadata"),
        place.INFERENCE: json_text(inference_config(definition, description, out_channels, kind), "inference"),
        place.README: readme_text(definition, description, kind, count),
        place.LICENCE: licence_text(description, count),
    }
    if description.training_config is not None:
        refuse_hostile(description.training_config, description.card.id)
        files[place.TRAINING] = json_text(dict(description.training_config), "training_config")
    return files
