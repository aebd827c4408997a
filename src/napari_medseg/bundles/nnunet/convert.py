"""Write the bundle of a results folder of nnU-Net v2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_medseg.bundles.model import Model, ModelCard
from napari_medseg.bundles.nnunet.results import NNUNetResults, describe_nnunet
from napari_medseg.bundles.save import BundleDescription, save_bundle
from napari_medseg.bundles.steps import Before
from napari_medseg.case import InputError, LabelTable

_MR = frozenset({"mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair", "dwi", "adc"})


def convert_nnunet(
    folder: str | Path,
    target: str | Path,
    fold: str | None = None,
    *,
    checkpoint: str = "checkpoint_final.pth",
    orientation: Sequence[str] | None = None,
    licence: str = "not stated",
    overwrite: bool = False,
) -> Model:
    """Write a bundle of one fold of a results folder.

    Parameters
    ----------
    folder, fold, checkpoint
        As in `describe_nnunet`.
    target
        The bundle's folder, which is made; its name becomes the model's id.
    orientation
        Where the arrays' axes (z, y, x) of the training files pointed, for instance ``"SPL"`` or ``"SAR"``. nnU-Net
        mostly takes images as they are stored and does not write this down; left out, so does the bundle.
    licence
        Of the weights.
    overwrite
        Whether a bundle that is there may be replaced.

    Returns
    -------
    Model
        What was written, as read back.

    Raises
    ------
    InputError, RefusedError
        As in `describe_nnunet` and `napari_medseg.bundles.save.save_bundle`.
    """
    found = describe_nnunet(folder, fold, checkpoint=checkpoint)
    before = found.before
    if orientation is not None:
        if len(found.tiling.tile or ()) != 3:
            raise InputError("An orientation goes with a network for volumes; leave it out for pictures and slices.")
        before = Before(tuple(orientation), before.spacing, before.divisible_by, before.intensity)
    card = _card(found, Path(target).name, licence)
    description = BundleDescription(card, before, found.tiling, found.after, limits=found.limits)
    return save_bundle(target, found.network_def, found.weights, description, precision="float32", overwrite=overwrite)


def _card(found: NNUNetResults, name: str, licence: str) -> ModelCard:
    given = found.dataset_json
    modality = {"CT" if c.lower() == "ct" else "MR" if c.lower() in _MR else "" for c in found.channels} - {""}
    data: dict[str, Any] = {"name": str(given.get("name", found.dataset))}
    data["licence"] = str(given.get("licence", given.get("license", "not stated")))
    if isinstance(given.get("numTraining"), int):
        data["images"] = given["numTraining"]
    if given.get("reference"):
        data["attribution"] = str(given["reference"])
    return ModelCard(
        id=name,
        name=f"{found.dataset} {found.configuration}, fold {found.fold}",
        version="1.0.0",
        description=str(given.get("description") or f"nnU-Net trained on {found.dataset}."),
        task="segmentation",
        kind="semantic",
        modality=tuple(sorted(modality)),
        labels=LabelTable.from_names(found.labels),
        in_channels=len(found.channels),
        channels=found.channels,
        licence=licence,
        training_data=(data,),
        recipe=f"nnU-Net v2, {found.trainer}, {found.configuration}, fold {found.fold}, {found.epochs} epochs",
        validation="nnU-Net's validation of this fold" if found.scores else "not stated",
        reference_scores={f"fold {found.fold}": dict(found.scores)} if found.scores else {},
        intended_use="not stated",
        references=("Isensee et al., nnU-Net, Nature Methods 18:203-211 (2021)",),
    )
