"""``configs/inference.json``: how MONAI's own command line runs the network on a folder of files."""

from __future__ import annotations

import dataclasses
from typing import Any

from napari_medseg.bundles.save.description import PICTURES, BundleDescription, FileKind
from napari_medseg.bundles.save.folder import WEIGHTS
from napari_medseg.bundles.save.plain import plain_values
from napari_medseg.bundles.steps import After, Tiling
from napari_medseg.case import InputError

_READERS = {"png": "PILReader", "npy": "NumpyReader", "nii.gz": "NibabelReader"}


def inference_config(
    definition: dict[str, Any], description: BundleDescription, out_channels: int, kind: FileKind
) -> dict[str, Any]:
    """Content of the file, for a network that makes `out_channels` maps and a folder of files of one `kind`.

    Raises
    ------
    InputError
        A step or the decoder cannot be written down.
    RefusedError
        MONAI would act on a value.
    """
    image, pred = {"keys": "image"}, {"keys": "pred"}
    before, tiling, after = description.before, description.tiling, description.after
    channels = description.card.in_channels
    load: dict[str, Any] = {"_target_": "LoadImaged", **image, "reader": _READERS[kind]}
    first: dict[str, Any] = {"_target_": "EnsureChannelFirstd", **image}
    if kind == "png":
        load |= {"reverse_indexing": False, "converter": f"$lambda image: image.convert('{PICTURES[channels]}')"}
        first["channel_dim"] = "no_channel" if channels == 1 else -1
    elif kind == "npy":
        first["channel_dim"] = 0
    elif channels != 1:
        # NIfTI keeps channels on its fifth axis, behind a time of length one
        load["squeeze_non_spatial_dims"] = True
    given: list[dict[str, Any]] = []
    if before.orientation is not None:
        given.append({"_target_": "Orientationd", **image, "axcodes": "".join(before.orientation), "labels": None})
    if before.spacing is not None:
        given.append({"_target_": "Spacingd", **image, "pixdim": list(before.spacing), "mode": "bilinear"})
    for step in before.intensity.steps:
        lists = [k for k, v in step.arguments.items() if isinstance(v, list | tuple)]
        if lists and not step.arguments.get("channel_wise"):
            raise InputError(f"{step.name} has a list of {lists[0]}; it needs channel_wise as well.")
        given.append({"_target_": f"{step.name}d", **image, **step.arguments})
    ending: list[dict[str, Any]] = []
    if after.activation != "none":
        ending.append({"_target_": "Activationsd", **pred, after.activation: True})
    if before.orientation is not None or before.spacing is not None:
        back = {"transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False, "to_tensor": True}
        ending.append({"_target_": "Invertd", **pred, **back})
    if after.instances is not None:
        own = "napari_medseg.bundles.instances.Instancesd"
        ending.append({"_target_": own, **pred, "decoder": decoder_definition(after)})
    elif after.threshold is not None:
        ending.append({"_target_": "AsDiscreted", **pred, "threshold": after.threshold})
    else:
        ending.append({"_target_": "AsDiscreted", **pred, "argmax": True})
    save = {"output_dir": "@output_dir", "output_ext": ".nii.gz", "output_dtype": "$numpy.uint16"}
    if kind == "png" and (after.threshold is None or out_channels == 1):
        # MONAI writes pictures as (x, y)
        ending += [
            {"_target_": "CopyItemsd", **pred, "names": "labels"},
            {"_target_": "Transposed", "keys": "labels", "indices": [0, 2, 1]},
            {"_target_": "SaveImaged", "keys": "labels", **save, "output_ext": ".png", "resample": False},
        ]
    else:
        ending.append({"_target_": "SaveImaged", **pred, **save})
    described = {
        "network_def": definition,
        "before": given,
        "inferer": {"_target_": "SimpleInferer"} if description.whole else _sliding_window(tiling),
    }
    plain = plain_values(described, "inference", classes=True)
    return {
        "bundle_root": ".",
        "dataset_dir": "@bundle_root",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "datalist": f"$sorted(glob.glob(@dataset_dir + '/*.{kind}'))",
        "network_def": plain["network_def"],
        "network": "$@network_def.to(@device)",
        "weights": f"$load_file(@bundle_root + '/{WEIGHTS}')",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [load, first, *plain["before"], {"_target_": "EnsureTyped", **image}],
        },
        "dataset": {"_target_": "Dataset", "data": "$[{'image': f} for f in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": plain["inferer"],
        "postprocessing": {"_target_": "Compose", "transforms": ending},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "imports": [
            "$import glob",
            "$import monai",
            "$import numpy",
            "$from safetensors.torch import load_file",
            "$import torch",
        ],
        "initialize": ["$@network.load_state_dict(@weights)", "$@network.eval()"],
        "run": ["$@evaluator.run()"],
    }


def _sliding_window(tiling: Tiling) -> dict[str, Any]:
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(tiling.tile or ()),
        "sw_batch_size": 1,
        "overlap": tiling.overlap,
        "mode": "gaussian",
        "padding_mode": tiling.padding,
    }


def decoder_definition(after: After) -> dict[str, Any] | None:
    """Class and arguments of the decoder of instances, if there is one; `InputError` where it is no dataclass."""
    decoder = after.instances
    if decoder is None:
        return None
    if not dataclasses.is_dataclass(decoder) or isinstance(decoder, type):
        raise InputError(f"the decoder {type(decoder).__name__} is no dataclass of napari_medseg.bundles.instances.")
    target = f"{type(decoder).__module__}.{type(decoder).__qualname__}"
    return {"_target_": target, **dataclasses.asdict(decoder)}
