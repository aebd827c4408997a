"""Bundles written the way the model zoo writes them: what is usual is read, what changes the result is named."""

import copy

import pytest

from napari_medseg.bundles import load_model
from napari_medseg.case import InputError
from tests.bundles.bundle_cases import inference, metadata, write_bundle

AROUND = {
    "displayable_configs": {"highres": True, "sw_overlap": 0.25},
    "imports": ["$import glob", "$import numpy", "$import os"],
    "image_key": "image",
    "output_dtype": "$numpy.float32",
    "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
    "dataset_dir": "/workspace/data/Somewhere",
    "pixdim": "$[1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0]",
    "modelname": "$'model.pt' if @displayable_configs#highres else 'model_lowres.pt'",
    "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
    "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device", "network": "@network", "amp": True},
    "checkpointloader": {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/' + @modelname",
        "load_dict": {"model": "@network"},
    },
    "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)", "$@checkpointloader(@evaluator)"],
}


def zoo_config():
    config = {**inference(), **copy.deepcopy(AROUND)}
    config["preprocessing"] = {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "@image_key"},
            {"_target_": "EnsureTyped", "keys": "@image_key"},
            {"_target_": "Spacingd", "keys": "@image_key", "pixdim": "@pixdim", "mode": "bilinear"},
            {"_target_": "NormalizeIntensityd", "keys": "@image_key", "nonzero": True},
            {"_target_": "ScaleIntensityd", "keys": "@image_key", "minv": -1.0, "maxv": 1.0},
        ],
    }
    config["inferer"] = {
        "_target_": "SlidingWindowInferer",
        "roi_size": [32, 32],
        "overlap": "@displayable_configs#sw_overlap",
        "padding_mode": "replicate",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    }
    config["postprocessing"]["transforms"].insert(
        1, {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "@image_key"}
    )
    return config


def test_a_bundle_in_the_manner_of_the_zoo_is_read(tmp_path):
    meta = metadata()
    del meta["medseg"]
    meta["network_data_format"]["inputs"]["image"].update(modality="CT", spatial_shape=[32, 32])
    folder = write_bundle(tmp_path / "zoo", config=zoo_config(), meta=meta, sums=False, weights="model.pt")
    model = load_model(folder)
    assert model.card.modality == ("CT",)
    assert (model.spacing, model.unit, model.overlap, model.padding) == ((1.5, 1.5), "mm", 0.25, "replicate")
    assert [s.name for s in model.intensity.steps] == ["NormalizeIntensity", "ScaleIntensity"]
    assert model.weights.name == "model.pt"
    assert sum(p.numel() for p in model.network().parameters()) > 100


@pytest.mark.parametrize(
    ("section", "transform", "words"),
    [
        (
            "preprocessing",
            {"_target_": "Resized", "keys": ["image"], "spatial_size": [7, 4]},
            "Resized is not supported",
        ),
        ("postprocessing", {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x[1:]"}, "Lambdad is not"),
    ],
)
def test_steps_that_change_the_result_are_named(tmp_path, section, transform, words):
    config = zoo_config()
    config[section]["transforms"].append(transform)
    with pytest.raises(InputError, match=words):
        load_model(write_bundle(tmp_path / "zoo", config=config))
