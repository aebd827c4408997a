"""Write a real MONAI bundle whose answer is known: class 1 where the mean of the channels exceeds a level."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_threshold_bundle(
    folder: Path, *, spatial_dims: int, channels: int, level: float, tile: int = 64, modality: str = "OT"
) -> Path:
    """A bundle folder named like its id; every computation with it is exact."""
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    metadata = {
        "version": "1.0.0",
        "name": "Bright things",
        "description": "marks what is brighter than a level",
        "task": "segmentation",
        "license": "CC0-1.0",
        "intended_use": "tests",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": modality,
                    "num_channels": channels,
                    "spatial_shape": [tile] * spatial_dims,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(k): f"channel {k}" for k in range(channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "segmentation",
                    "num_channels": 2,
                    "spatial_shape": [tile] * spatial_dims,
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": True,
                    "channel_def": {"0": "background", "1": "bright"},
                }
            },
        },
    }
    transforms = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
    if spatial_dims == 3:
        transforms.append({"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"})
    inference = {
        "network_def": {
            "_target_": f"torch.nn.Conv{spatial_dims}d",
            "in_channels": channels,
            "out_channels": 2,
            "kernel_size": 1,
        },
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [tile] * spatial_dims, "overlap": 0.25},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }
    weight = torch.zeros(2, channels, *(1,) * spatial_dims)
    weight[1] = 1 / channels
    save_file({"weight": weight, "bias": torch.tensor([0.0, -level])}, folder / "models" / "model.safetensors")
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    return folder
