"""Networks, weights and descriptions that the tests of saving share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from napari_medseg.bundles.instances import DistanceDecoder
from napari_medseg.bundles.intensity import IntensityPlan, intensity_step
from napari_medseg.bundles.model import ModelCard
from napari_medseg.bundles.network import build_network
from napari_medseg.bundles.save import BundleDescription, save_bundle
from napari_medseg.bundles.steps import After, Before, Tiling
from napari_medseg.case import Label, LabelTable, MedsegError

RANGE = intensity_step("ScaleIntensityRange", {"a_min": 0, "a_max": 255, "b_min": 0.0, "b_max": 1.0, "clip": True})


def unet(dims: int = 2, channels: int = 1, out: int = 2, norm: str = "batch") -> dict[str, Any]:
    values = {"spatial_dims": dims, "in_channels": channels, "out_channels": out, "channels": (4, 8), "strides": (2,)}
    return {"_target_": "monai.networks.nets.UNet", **values, "norm": norm}


def weights_of(definition: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights, and running statistics as they are after some training."""
    torch.manual_seed(seed)
    network = build_network(definition)
    dims = definition.get("spatial_dims", 2)
    with torch.no_grad():
        network.train()(torch.rand(2, definition["in_channels"], *(16,) * dims) * 4)
    return network.state_dict()


def card(out: int = 2, reads: int = 1, threshold: bool = False, **changed: Any) -> ModelCard:
    names = [f"part {k}" for k in range(out - (not threshold))]
    values: dict[str, Any] = {
        "id": "tiny-one",
        "name": "Tiny one",
        "version": "0.2.0",
        "description": "Finds a blob.",
        "task": "segmentation",
        "kind": "semantic",
        "modality": ("MR",),
        "labels": LabelTable.from_names(names),
        "in_channels": reads,
        "channels": tuple(f"channel {k}" for k in range(reads)),
        "licence": "CC BY 4.0",
        "training_data": ({"name": "Blobs", "licence": "CC0 1.0", "attribution": "Nobody", "images": 12},),
        "recipe": "ten steps with seed 0",
        "validation": "one image kept apart",
        "reference_scores": {"blobs | kept apart": {"dice": 0.91, "images": 1}, "others": {"dice": 0.5, "hd95": 2.5}},
        "intended_use": "research, not for diagnosis",
        "references": ("Somebody, Blobs (2020)",),
    }
    return ModelCard(**{**values, **changed})


def described(changed_card: ModelCard | None = None, **changed: Any) -> BundleDescription:
    values: dict[str, Any] = {
        "card": changed_card or card(),
        "before": Before(None, None, (4, 4), IntensityPlan((RANGE,))),
        "tiling": Tiling((16, 24), 0.25, "reflect"),
        "after": After("softmax", None, None),
        "limits": ("Has seen one blob.",),
    }
    return BundleDescription(**{**values, **changed})


def volume(**changed: Any) -> BundleDescription:
    steps = (
        intensity_step("ClipIntensityPercentiles", {"lower": 1, "upper": 99}),
        intensity_step("NormalizeIntensity", {"nonzero": True, "channel_wise": True}),
    )
    before = Before(("L", "P", "S"), (0.5, 0.5, 2.0), (8, 8, 4), IntensityPlan(steps))
    values = {"before": before, "tiling": Tiling((16, 16, 8), 0.5, "constant"), **changed}
    return described(card(3), **values)


DECODER = DistanceDecoder(seed=0.3, margin=40)
CELLS = card(2, 3, kind="instance", modality=("SM",), labels=LabelTable.from_names(["cell"], instances=True))
COLOURS = LabelTable((Label(1, "liver", (1, 2, 3), ("SCT", "10200004", "Liver")),))
CASES = {
    "2D softmax": (unet(), described()),
    "2D sigmoid": (unet(out=1), described(card(1, threshold=True), after=After("sigmoid", 0.4, None))),
    "2D many thresholds": (unet(out=3), described(card(3, threshold=True), after=After("sigmoid", 0.5, None))),
    "2D logits": (unet(out=3), described(card(3), after=After("none", None, None))),
    "2D colours": (unet(channels=3), described(card(2, 3, labels=COLOURS, modality=("ES",)), files="png")),
    "2D objects": (unet(channels=3, out=3), described(CELLS, after=After("sigmoid", None, DECODER))),
    "2D slices": (unet(channels=3), described(card(2, 3), slices=3, files="npy")),
    "3D softmax": (unet(3, out=3, norm="instance"), volume()),
    "3D micrometres": (unet(3, out=3), volume(unit="um")),
}


def refused(folder: Path, error: type[MedsegError], words: str, **given: Any) -> None:
    """Saving fails with one sentence and leaves `folder`'s parent as it was."""
    network = given.pop("network", unet())
    description = given.pop("description", None) or described()
    state = given.pop("weights") if "weights" in given else weights_of(unet())
    before = sorted(p.relative_to(folder.parent) for p in folder.parent.rglob("*"))
    with pytest.raises(error, match=words) as told:
        save_bundle(folder, network, state, description, **given)
    assert "\n" not in str(told.value)
    assert sorted(p.relative_to(folder.parent) for p in folder.parent.rglob("*")) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
