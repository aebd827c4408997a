"""Results folders as nnU-Net v2 leaves them, small."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_medseg.networks.nnunet import PlainConvUNet

# nnU-Net's own axes, turned: the second of the stored array comes first
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
WIDTHS = [4, 6, 8]


def plans(dims: int = 3) -> dict[str, Any]:
    """Plans as nnU-Net 2.5 writes them, as far as they matter here."""
    cut = slice(3 - dims, None)
    configuration = {
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [8, 16, 12][cut],
        "spacing": [3.0, 1.5, 0.75][cut],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": WIDTHS,
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [k[cut] for k in KERNELS],
                "strides": [s[cut] for s in STRIDES],
                "n_conv_per_stage": [2, 1, 1],
                "n_conv_per_stage_decoder": [1, 2],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    intensities = {"mean": 60.0, "std": 80.0, "percentile_00_5": -150.0, "percentile_99_5": 250.0, "min": -900.0}
    return {
        "dataset_name": "Dataset042_Liver",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2] if dims == 3 else [0, 1, 2],
        "configurations": {
            "base": configuration,
            "fine": {"inherits_from": "base"},
        },
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def dataset() -> dict[str, Any]:
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": 131,
        "licence": "CC BY-SA 4.0",
        "reference": "Bilic et al.",
    }


def original(dims: int = 3, channels: int = 1, maps: int = 3) -> PlainConvUNet:
    """The network as nnU-Net has it, in its own axes."""
    torch.manual_seed(dims)
    cut = slice(3 - dims, None)
    network = PlainConvUNet(
        dims, channels, maps, WIDTHS, [s[cut] for s in STRIDES], [k[cut] for k in KERNELS], [2, 1, 1], [1, 2]
    )
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.2 * torch.randn_like(weights))
    return network.eval()


def checkpoint(network: PlainConvUNet, **more: Any) -> dict[str, Any]:
    """What nnU-Net's trainer saves: every weight under two names, NumPy's numbers in the log."""
    weights = {}
    for name, values in network.state_dict().items():
        second = name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")
        weights |= {name: values, second: values}
        if name.startswith("encoder."):
            weights |= {f"decoder.{name}": values, f"decoder.{second}": values}
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float64(0.4)], "train_losses": [np.float32(0.7)], "lrs": [0.01]},
        "_best_ema": np.float64(0.4),
        "current_epoch": 1000,
        "init_args": {"configuration": "fine", "fold": 0, "device": torch.device("cuda:0")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **more,
    }


def results(
    folder: Path,
    *,
    plan: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    network: PlainConvUNet | None = None,
    folds: tuple[str, ...] = ("0",),
    **more: Any,
) -> Path:
    """A results folder with one file a fold."""
    path = folder / "Dataset042_Liver" / "nnUNetTrainer__nnUNetPlans__fine"
    for fold in folds:
        (path / f"fold_{fold}").mkdir(parents=True)
        torch.save(checkpoint(network or original(), **more), path / f"fold_{fold}" / "checkpoint_final.pth")
    (path / "plans.json").write_text(json.dumps(plan or plans()))
    (path / "dataset.json").write_text(json.dumps(data or dataset()))
    return path


def changed(content: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """A copy with the entry at ``a/b/c`` replaced."""
    copied = copy.deepcopy(content)
    *parents, last = where.split("/")
    inner = copied
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return copied
