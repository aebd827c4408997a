"""MONAI makes of a bundle that was saved what we make of it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from napari_medseg.bundles.intensity import IntensityPlan
from napari_medseg.bundles.network import build_network
from napari_medseg.bundles.save import save_bundle
from napari_medseg.bundles.steps import Before, Tiling
from tests.bundles.save_cases import CASES, card, described, weights_of


@pytest.mark.parametrize("name", CASES)
def test_monai_makes_the_same_of_it(tmp_path, name):
    from monai.bundle import ConfigParser

    definition, description = CASES[name]
    state = weights_of(definition)
    model = save_bundle(tmp_path / "tiny-one", definition, state, description, precision="float32")
    parser = ConfigParser()
    parser.read_config(model.path / "configs" / "inference.json")
    parser.read_meta(model.path / "configs" / "metadata.json")
    parser.update({"bundle_root": str(model.path), "device": torch.device("cpu")})
    parser.get_parsed_content("initialize")
    theirs = parser.get_parsed_content("network")
    image = torch.rand(1, model.card.in_channels, *model.tile)
    with torch.inference_mode():
        maps = theirs(image)[0]
        given = build_network(definition)
        given.load_state_dict(state)
        assert torch.equal(maps, given.eval()(image)[0])
    inferer = parser.get_parsed_content("inferer")
    assert (tuple(inferer.roi_size), inferer.overlap, inferer.padding_mode) == (
        model.tile,
        model.overlap,
        model.padding,
    )
    values = np.random.default_rng(0).gamma(2.0, 60.0, (model.card.in_channels, 9, 8, 7)[: 1 + model.spatial_dims])
    expected = {"image": torch.as_tensor(values, dtype=torch.float32)}
    for transform in parser.get_parsed_content("preprocessing").transforms:
        if "Intensity" in type(transform).__name__:
            expected = transform(expected)
    statistics = model.intensity.statistics(values) if model.intensity.needs_statistics else None
    np.testing.assert_allclose(model.intensity.apply(values, statistics), np.asarray(expected["image"]), atol=2e-5)
    decided = {"pred": maps}
    for transform in parser.get_parsed_content("postprocessing").transforms:
        if type(transform).__name__ in ("Activationsd", "AsDiscreted", "Instancesd"):
            decided = transform(decided)
    active = {"softmax": lambda m: m.softmax(0), "sigmoid": torch.sigmoid, "none": lambda m: m}[model.activation](maps)
    if model.instances is not None:
        wanted = model.instances.decode(active.numpy())[None]
    elif model.threshold is not None:
        wanted = (active >= model.threshold).numpy()
    else:
        wanted = active.argmax(0, keepdim=True).numpy()
    np.testing.assert_array_equal(np.asarray(decided["pred"]), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "npy", "nii.gz"])
def test_monai_runs_it_from_the_command_line(tmp_path, kind):
    # above 100, by one layer whose sums are exact; the image lies in another orientation than the network's
    dims = 3 if kind == "nii.gz" else 2
    definition = {"_target_": f"torch.nn.Conv{dims}d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    state = {"weight": torch.zeros(2, 1, *(1,) * dims), "bias": torch.tensor([0.0, -100.0])}
    state["weight"][1] = 1.0
    orientation = ("L", "P", "S") if dims == 3 else None
    description = described(
        before=Before(orientation, None, None, IntensityPlan()),
        tiling=Tiling((8,) * dims, 0.25, "constant"),
        files=kind,
    )
    folder = save_bundle(tmp_path / "bright", definition, state, description).path
    raw = np.random.default_rng(0).integers(0, 256, (11, 9, 7)[:dims]).astype(np.uint8)
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / f"one.{kind}"
    if kind == "png":
        from PIL import Image

        Image.fromarray(raw).save(path)
    elif kind == "npy":
        np.save(path, raw[None].astype(np.float32))
    else:
        import nibabel

        nibabel.save(nibabel.Nifti1Image(raw, np.diag([2.0, 2.0, 3.0, 1.0])), path)
    command = [sys.executable, "-m", "monai.bundle", "run", "run", "--config_file", "configs/inference.json"]
    options = ["--dataset_dir", str(tmp_path / "images"), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = (p for p in (tmp_path / "out").rglob("*") if p.is_file())
    if kind == "png":
        found = np.asarray(Image.open(written))
    else:
        import nibabel

        found = np.squeeze(np.asarray(nibabel.load(written).dataobj))
    np.testing.assert_array_equal(found, raw > 100)


def test_monai_reads_several_channels_of_a_volume_from_one_file(tmp_path):
    import nibabel
    import SimpleITK as sitk
    from monai.bundle import ConfigParser

    definition = {"_target_": "torch.nn.Conv3d", "in_channels": 3, "out_channels": 2, "kernel_size": 1}
    description = described(
        card(reads=3),
        before=Before(("R", "A", "S"), None, None, IntensityPlan()),
        tiling=Tiling((8, 8, 8), 0.25, "constant"),
        files="nii.gz",
    )
    state = {"weight": torch.randn(2, 3, 1, 1, 1), "bias": torch.zeros(2)}
    folder = save_bundle(tmp_path / "three", definition, state, description).path
    raw = np.random.default_rng(0).random((7, 9, 11, 3)).astype(np.float32)
    # ITK writes a vector a voxel as NIfTI's fifth axis
    sitk.WriteImage(sitk.GetImageFromArray(raw, isVector=True), tmp_path / "one.nii.gz")
    assert nibabel.load(tmp_path / "one.nii.gz").shape == (11, 9, 7, 1, 3)
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    image = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "one.nii.gz")})["image"]
    # ITK's axes run left and back in the world, MONAI's RAS right and forwards
    expected = raw.transpose(3, 2, 1, 0)[:, ::-1, ::-1]
    np.testing.assert_array_equal(np.asarray(image), expected)
