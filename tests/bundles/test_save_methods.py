"""Methods without weights go into bundles: they see everything at once and read any number of channels."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_medseg.bundles import load_model
from napari_medseg.bundles.instances import DistanceDecoder, InstanceDecoder, WatershedDecoder
from napari_medseg.bundles.intensity import IntensityPlan
from napari_medseg.bundles.save import BundleDescription, save_bundle, saving
from napari_medseg.bundles.steps import After, Before, Tiling
from napari_medseg.case import InputError, LabelTable
from napari_medseg.classical import METHODS
from tests.bundles.save_cases import card, described, refused, unet, weights_of

DECODER = WatershedDecoder(foreground=0.6, minimum_distance=7.0, distance_smoothing=2.0, smallest=12, margin=50)


def method(dims: int, name: str = "otsu", **values: Any) -> dict[str, Any]:
    target = "napari_medseg.networks.classical.ClassicalSegmenter"
    return {"_target_": target, "spatial_dims": dims, "method": name, "values": {"smoothing": 1.0, **values}}


def baseline(dims: int, decoder: InstanceDecoder | None = None, **changed: Any) -> BundleDescription:
    kind = "semantic" if decoder is None else "instance"
    labels = LabelTable.from_names(["thing"], instances=decoder is not None)
    bare = card(2, 0, kind=kind, labels=labels, training_data=(), reference_scores={}, licence="BSD-3-Clause")
    values: dict[str, Any] = {
        "before": Before(None, None, None, IntensityPlan()),
        "tiling": Tiling((24,) * dims, 0.0, "constant"),
        "after": After("softmax", None, decoder),
        "whole": True,
    }
    return described(bare, **{**values, **changed})


def blobs(dims: int, channels: int) -> np.ndarray:
    """Bright blobs on a dark ground, (c, *spatial); channels differ."""
    random = np.random.default_rng(3)
    values = random.normal(0, 0.1, (channels, *(40, 30, 20)[:dims])).astype(np.float32)
    for corner in ((4, 5, 6), (22, 12, 3)):
        values[(slice(None), *(slice(c, c + 9) for c in corner[:dims]))] += 2.0
    return values * np.arange(1, channels + 1, dtype=np.float32).reshape(-1, *(1,) * dims)


@pytest.mark.parametrize(
    ("dims", "name", "values"),
    [(2, "otsu", {"bright": False, "smallest": 5}), (2, "drlse", {"iterations": 20}), (3, "otsu", {})]
    + [(d, "morphological_chan_vese", {"iterations": 10}) for d in (2, 3)],
)
def test_a_method_reads_back_and_answers_as_the_method_alone(tmp_path, dims, name, values):
    model = save_bundle(tmp_path / "one", method(dims, name, **values), {}, baseline(dims))
    again = load_model(tmp_path / "one")
    assert again.card == model.card == baseline(dims).card
    assert (again.card.in_channels, again.card.channels, again.whole, again.spatial_dims) == (0, (), True, dims)
    assert load_file(again.weights) == {} and again.verified
    for channels in (1, 2, 5):
        image = blobs(dims, channels)
        alone = METHODS[name].run(image, {"spatial_dims": dims, "smoothing": 1.0, **values})
        maps = again.network()(torch.from_numpy(image)[None])[0]
        assert 0 < alone.mean() < 1
        np.testing.assert_array_equal(maps.softmax(0).argmax(0).numpy(), alone)


def test_a_watershed_reads_back_and_is_monais_postprocessing_too(tmp_path):
    from monai.bundle import ConfigParser

    model = save_bundle(tmp_path / "one", method(2), {}, baseline(2, DECODER))
    assert load_model(tmp_path / "one").instances == DECODER
    metadata = json.loads((model.path / "configs" / "metadata.json").read_text(encoding="utf-8"))
    made = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert made == {"0": "background", "1": "foreground"}
    parser = ConfigParser()
    parser.read_config(model.path / "configs" / "inference.json")
    decided = {"pred": model.network()(torch.from_numpy(blobs(2, 1))[None])[0]}
    for transform in parser.get_parsed_content("postprocessing").transforms[:-1]:
        decided = transform(decided)
    assert decided["pred"].shape == (1, 40, 30) and decided["pred"].max() == 2
    maps = model.network()(torch.from_numpy(blobs(2, 1))[None])[0].softmax(0)
    np.testing.assert_array_equal(decided["pred"][0], DECODER.decode(maps.numpy()))


def test_the_maps_of_decoders_are_called_what_they_are(tmp_path):
    three = unet(out=3)
    cells = card(2, 1, kind="instance", labels=LabelTable.from_names(["cell"], instances=True))
    for decoder, names in (
        (DistanceDecoder(), ["foreground", "distance", "contact"]),
        (WatershedDecoder(), ["map 0", "map 1", "foreground"]),
    ):
        description = described(cells, after=After("sigmoid", None, decoder))
        folder = save_bundle(tmp_path / type(decoder).__name__, three, weights_of(three), description).path
        metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
        assert list(metadata["network_data_format"]["outputs"]["pred"]["channel_def"].values()) == names


@pytest.mark.parametrize(("dims", "kind"), [(2, "npy"), (3, "nii.gz")])
def test_monai_runs_it_on_any_number_of_channels_whole(tmp_path, dims, kind):
    import nibabel
    from monai.bundle import run

    folder = save_bundle(tmp_path / "one", method(dims), {}, baseline(dims)).path
    (tmp_path / "images").mkdir()
    images = {f"with{channels}": blobs(dims, channels) for channels in (1, 2)}
    # side by side with a brighter half, each half has another threshold than the whole
    images = {name: np.concatenate([image, 3 * image], 1) for name, image in images.items()}
    affine = np.diag([-1.0, 2.0, 3.0, 1.0]) if dims == 3 else np.eye(4)
    for name, image in images.items():
        path = tmp_path / "images" / f"{name}.{kind}"
        if kind == "npy":
            np.save(path, image)
        else:
            stored = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
            nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    places = {"bundle_root": str(folder), "dataset_dir": str(tmp_path / "images"), "output_dir": str(tmp_path / "out")}
    run(run_id="run", config_file=str(folder / "configs" / "inference.json"), **places)
    for name, image in images.items():
        written = nibabel.load(tmp_path / "out" / name / f"{name}_trans.nii.gz")
        np.testing.assert_array_equal(written.affine, affine)
        expected = METHODS["otsu"].run(image, {"spatial_dims": dims, "smoothing": 1.0})
        np.testing.assert_array_equal(np.squeeze(np.asarray(written.dataobj)), expected)


def test_what_monai_cannot_do_with_any_number_of_channels_is_so(tmp_path):
    from monai.bundle import verify_net_in_out

    folder = save_bundle(tmp_path / "one", method(2), {}, baseline(2)).path
    files = {"meta_file": folder / "configs" / "metadata.json", "config_file": folder / "configs" / "inference.json"}
    with pytest.raises(InputError, match=r"an image of shape \(0, "):
        verify_net_in_out(net_id="network_def", device="cpu", **{k: str(v) for k, v in files.items()})
    text = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert "`verify_net_in_out` takes the 0 for a number and cannot check the network." in text
    known = save_bundle(tmp_path / "two", unet(), weights_of(unet()), described()).path
    assert "verify_net_in_out" not in (known / "docs" / "README.md").read_text(encoding="utf-8")


def test_the_files_do_not_speak_of_weights_tiles_or_training(tmp_path):
    folder = save_bundle(tmp_path / "one", method(3), {}, baseline(3)).path
    text = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert (
        "ClassicalSegmenter`, no weights; the whole image at once, at the image's own grid, with any number of" in text
    )
    assert "Licence: BSD-3-Clause." in text and "Weights:" not in text
    assert "## Trained on\n\n- Nothing: there is nothing to learn.\n" in text
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    assert licence.startswith(
        "This bundle is licensed under BSD-3-Clause, https://opensource.org/license/bsd-3-clause\n"
    )
    assert "It holds no weights: nothing was learned." in licence and "trained" not in licence
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    given = metadata["network_data_format"]["inputs"]["image"]
    assert (given["num_channels"], given["channel_def"], given["is_patch_data"]) == (0, {}, False)
    assert given["spatial_shape"] == ["1*n"] * 3
    assert metadata["data_source"] == "none: nothing was learned"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"before": Before(None, None, (8, 8), IntensityPlan())}, r"multiples of \(8, 8\) cannot be had"),
        ({"tiling": Tiling((24, 24), 0.25, "constant")}, "overlap was given as 0.25 and reads back as 0.0"),
        ({"tiling": Tiling((24, 24), 0.0, "reflect")}, "padding was given as 'reflect'"),
        ({"tiling": Tiling(None, 0.0, "constant")}, "the tile is None"),
        ({"slices": 3}, "3 slices are no number of channels"),
        ({"files": "png"}, "png files do not go with any number of channels in 2 dimensions"),
    ],
)
def test_what_does_not_go_with_everything_at_once_is_named(tmp_path, changed, words):
    description = dataclasses.replace(baseline(2), **changed)
    refused(tmp_path / "one", InputError, words, network=method(2), weights={}, description=description)


def test_a_network_that_reads_one_number_of_channels_is_not_said_to_read_any(tmp_path):
    refused(tmp_path / "one", InputError, "does not take a tile of .1, 3, 16, 24.", description=described(card(2, 0)))
    named = dataclasses.replace(baseline(2).card, channels=("grey",))
    with pytest.raises(InputError, match="1 channels are named; the network reads any number"):
        save_bundle(tmp_path / "one", method(2), {}, dataclasses.replace(baseline(2), card=named))


def test_a_bundle_that_lost_what_it_sees_is_not_written(tmp_path, monkeypatch):
    right = saving.metadata

    def forgetful(*arguments):
        content = right(*arguments)
        del content["medseg"]["whole"]
        return content

    monkeypatch.setattr(saving, "metadata", forgetful)
    with pytest.raises(InputError, match="whole was given as True and reads back as False; nothing was written"):
        save_bundle(tmp_path / "one", method(2), {}, baseline(2))
    assert list(tmp_path.iterdir()) == []
