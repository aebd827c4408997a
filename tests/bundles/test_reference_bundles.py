"""The bundles that ship: MONAI runs them, our reading agrees with MONAI's, and the cards say what they must."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from napari_medseg.bundles import load_model
from napari_medseg.bundles.checksums import bundle_files, verify
from napari_medseg.bundles.instances import DistanceDecoder

IDS = (
    "ct_organs",
    "fl_tumour",
    "he_glands",
    "he_nuclei",
    "mr_hippocampus",
    "mr_hippocampus_swin",
    "mr_ms_lesion",
    "us_breast",
)
ROOT = Path(str(resources.files("napari_medseg") / "resources" / "bundles"))


# voxels of each volume's own spacing, so that MONAI has nothing to resample
STEPS = dict.fromkeys(IDS, (1, 1, 1, 1)) | {"ct_organs": (3, 3, 3, 1)}


@pytest.fixture(scope="module", params=IDS)
def both(request):
    """MONAI's parser of a shipped bundle and our model of it."""
    parser = ConfigParser()
    parser.read_config(ROOT / request.param / "configs" / "inference.json")
    parser.read_meta(ROOT / request.param / "configs" / "metadata.json")
    parser.update({"bundle_root": str(ROOT / request.param), "device": torch.device("cpu")})
    return parser, load_model(request.param)


def test_monai_initialises_the_bundle_with_the_same_weights(both):
    parser, model = both
    parser.get_parsed_content("initialize")
    theirs, ours = parser.get_parsed_content("network"), model.network()
    assert not theirs.training
    a, b = theirs.state_dict(), ours.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_preprocessing_agrees_with_monai(both, tmp_path):
    parser, model = both
    generator = np.random.default_rng(0)
    if model.spatial_dims == 2:
        raw = generator.integers(0, 256, (40, 56, model.card.in_channels), dtype=np.uint8)
        Image.fromarray(raw.squeeze()).save(tmp_path / "image.png")
        path, values = tmp_path / "image.png", np.moveaxis(raw, -1, 0)
    else:
        import nibabel

        several = model.card.in_channels
        raw = generator.gamma(2.0, 300.0, (20, 24, 18, several)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(raw.squeeze(), np.diag(STEPS[model.card.id])), tmp_path / "image.nii.gz")
        path, values = tmp_path / "image.nii.gz", np.moveaxis(raw, -1, 0)
    theirs = np.asarray(parser.get_parsed_content("preprocessing")({"image": str(path)})["image"])
    statistics = model.intensity.statistics(values) if model.intensity.needs_statistics else None
    np.testing.assert_allclose(model.intensity.apply(values, statistics), theirs, atol=2e-5)


def test_the_window_agrees_with_monai(both):
    parser, model = both
    inferer = parser.get_parsed_content("inferer")
    assert tuple(inferer.roi_size) == model.tile
    assert inferer.overlap == model.overlap
    assert inferer.padding_mode == model.padding
    assert all(t % d == 0 for t, d in zip(model.tile, model.divisible_by, strict=True))


def test_maps_and_decisions_agree_with_monai(both):
    parser, model = both
    parser.get_parsed_content("initialize")
    torch.manual_seed(0)
    shape = (1, model.card.in_channels, *(5 * t // 8 for t in model.tile))
    with torch.inference_mode():
        image = torch.rand(shape)
        theirs = parser.get_parsed_content("inferer")(image, parser.get_parsed_content("network"))[0]
        ours = model.network()(_fill(image, model.tile, model.padding))[0]
    inside = tuple(slice((t - n) // 2, (t - n) // 2 + n) for t, n in zip(model.tile, shape[2:], strict=True))
    torch.testing.assert_close(ours[:, *inside], theirs, atol=1e-3, rtol=1e-3)
    ending = [t for t in parser.get_parsed_content("postprocessing").transforms if _decides(t)]
    labels = {"pred": theirs}
    for transform in ending:
        labels = transform(labels)
    if model.instances is not None:
        assert isinstance(model.instances, DistanceDecoder)
        assert model.activation == "sigmoid"
        expected = model.instances.decode(torch.sigmoid(theirs).numpy())[None]
    else:
        assert model.activation == "softmax"
        expected = theirs.argmax(0, keepdim=True).numpy()
    np.testing.assert_array_equal(np.asarray(labels["pred"]), expected)


def _fill(image, tile, mode):
    pads = []
    for t, n in zip(reversed(tile), reversed(image.shape[2:]), strict=True):
        pads += [(t - n) // 2, t - n - (t - n) // 2]
    return torch.nn.functional.pad(image, pads, mode=mode)


def _decides(transform):
    return type(transform).__name__ in ("Activationsd", "AsDiscreted", "Instancesd")


@pytest.mark.parametrize("name", IDS)
def test_a_bundle_is_small_verified_and_holds_no_pickle(name):
    folder = ROOT / name
    files = bundle_files(folder)
    assert sum(f.stat().st_size for f in files) <= 10_000_000
    assert {f.relative_to(folder).as_posix() for f in files} == {
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "configs/train.json",
        "docs/README.md",
        "models/model.safetensors",
    }
    names = tuple(f.relative_to(folder).as_posix() for f in files)
    assert verify(folder, names) is True


@pytest.mark.parametrize("name", IDS)
def test_the_metadata_has_what_monai_asks_for(name):
    metadata = json.loads((ROOT / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
    asked = "version changelog monai_version pytorch_version numpy_version task description authors copyright"
    for key in (*asked.split(), "network_data_format", "intended_use", "references"):
        assert metadata[key], key
    for side, item in (("inputs", "image"), ("outputs", "pred")):
        part = metadata["network_data_format"][side][item]
        for key in ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"):
            assert key in part
        assert len(part["channel_def"]) == part["num_channels"]


@pytest.mark.parametrize("name", IDS)
def test_the_card_says_what_a_user_must_know(name):
    card = load_model(name).card
    assert card.id == name
    assert "not for diagnosis" in card.intended_use
    assert "CC BY" in card.licence or "Apache" in card.licence
    assert all({"name", "licence", "attribution", "images"} <= set(entry) for entry in card.training_data)
    assert card.training_data
    assert card.reference_scores
    assert "report" in card.validation
    assert card.modality in (("SM",), ("MR",), ("US",), ("FL",), ("CT",))


@pytest.mark.parametrize("name", IDS)
def test_the_recipe_trains_the_network_that_ships(name):
    train = json.loads((ROOT / name / "configs" / "train.json").read_text(encoding="utf-8"))
    ship = json.loads((ROOT / name / "configs" / "inference.json").read_text(encoding="utf-8"))
    assert train["network_def"] == ship["network_def"]
    assert isinstance(train["seed"], int)
