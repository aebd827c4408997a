"""Small bundles on disk for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from napari_medseg.bundles.checksums import write_sums

METHODS = [
    "classical_chan_vese",
    "classical_chan_vese_volume",
    "classical_level_set",
    "classical_otsu_bright",
    "classical_otsu_dark",
    "classical_otsu_volume",
    "classical_watershed_dark",
]
TRAINED = ["fl_tumour", "mr_hippocampus", "mr_hippocampus_swin", "he_nuclei"]
# these learned from so few images that they are never proposed first
TRAINED += ["he_glands", "us_breast", "ct_organs", "mr_ms_lesion"]
BUILT_IN = [*TRAINED, *METHODS]


def metadata(**medseg: Any) -> dict[str, Any]:
    """Metadata of a two-class, two-dimensional model."""
    return {
        "name": "Tiny",
        "version": "1.2.3",
        "description": "Finds a blob.",
        "task": "Blob segmentation",
        "network_data_format": {
            "inputs": {
                "image": {"num_channels": 1, "spatial_shape": ["4*n", "4*n"], "channel_def": {"0": "grey"}},
            },
            "outputs": {"pred": {"num_channels": 2, "channel_def": {"0": "background", "1": "blob"}}},
        },
        "medseg": {"modality": ["MR"], "licence": "CC0", **medseg},
    }


def inference() -> dict[str, Any]:
    """Configuration of the same model, with the usual parts around it that are never run here."""
    return {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cpu')",
        "size": 16,
        "network_def": {
            "_target_": "UNet",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            "channels": [4, 8],
            "strides": [2],
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1},
                {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": ["@size", "$@size * 2"], "overlap": 0.5},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/eval'"},
            ],
        },
        "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)"],
        "run": ["$@network.eval()"],
    }


def write_bundle(
    folder: Path,
    config: dict[str, Any] | None = None,
    meta: dict[str, Any] | None = None,
    sums: bool = True,
    weights: str = "model.safetensors",
) -> Path:
    """Write a bundle whose weights fit the network of `inference`."""
    import torch
    from monai.networks.nets import UNet
    from safetensors.torch import save_file

    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config or inference()))
    (folder / "configs" / "metadata.json").write_text(json.dumps(meta or metadata()))
    torch.manual_seed(0)
    state = UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=[4, 8], strides=[2]).state_dict()
    if weights.endswith("safetensors"):
        save_file(state, folder / "models" / weights)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "models" / weights)
    if sums:
        write_sums(folder)
    return folder
