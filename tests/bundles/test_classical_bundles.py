"""The built-in methods without weights: written by their script, and finding what they say they find."""

from __future__ import annotations

import json
import runpy
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_medseg.bundles import load_model
from napari_medseg.case import Geometry, MedicalImage, Modality
from napari_medseg.inference import segment
from tests.bundles.bundle_cases import METHODS
from tests.bundles.save_cases import contents

ROOT = Path(str(resources.files("napari_medseg") / "resources" / "bundles"))
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_classical_bundles.py"
# depend on what is installed beside the script, as the sums do
VERSIONS = ("monai_version", "pytorch_version", "numpy_version", "required_packages_version")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """What the script writes."""
    folder = tmp_path_factory.mktemp("written")
    runpy.run_path(str(SCRIPT))["main"](["--folder", str(folder)])
    return folder


def test_the_script_writes_what_is_shipped(written):
    assert sorted(p.name for p in written.iterdir()) == METHODS
    for name in METHODS:
        made, shipped = contents(written / name), contents(ROOT / name)
        assert made.keys() == shipped.keys()
        stated = [json.loads(files.pop("configs/metadata.json")) for files in (made, shipped)]
        for files in (made, shipped):
            del files["SHA256SUMS"]
        assert made == shipped
        first, second = ({k: v for k, v in one.items() if k not in VERSIONS} for one in stated)
        assert first == second


def test_the_script_writes_the_same_bytes_again(written):
    before = contents(written)
    runpy.run_path(str(SCRIPT))["main"](["--folder", str(written)])
    assert contents(written) == before


@pytest.mark.parametrize("name", METHODS)
def test_the_card_says_that_nothing_was_learned(name):
    model = load_model(name)
    card = model.card
    assert (card.id, card.licence, card.training_data, card.reference_scores) == (name, "BSD-3-Clause", (), {})
    assert (card.intended_use, card.validation) == ("research baseline, not for diagnosis", "not scored")
    assert card.recipe.startswith("nothing was learned; ") and card.references
    assert (card.in_channels, model.whole, model.verified, model.source) == (0, True, True, "built-in")
    assert model.spatial_dims == (3 if name.endswith("volume") else 2)
    assert load_file(model.weights) == {}
    assert sum(len(content) for content in contents(ROOT / name).values()) < 12_000


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_it_finds_one_object(name, channels):
    model = load_model(name)
    dims = model.spatial_dims
    grid = np.indices((60,) * dims if dims == 2 else (40,) * dims) - (30 if dims == 2 else 20)
    ball = np.square(grid).sum(0) < 12**2
    noise = np.random.default_rng(0).normal(0, 3, (channels, *ball.shape))
    dark = "dark" in name
    image = torch.from_numpy((np.where(ball, 40.0, 200.0) if dark else np.where(ball, 200.0, 40.0)) + noise).float()
    found = model.network()(image[None])[0].softmax(0).numpy()
    labels = found.argmax(0) if model.instances is None else model.instances.decode(found)
    assert labels.max() == 1
    # a contour in a coarse grid lies within a pixel of the edge
    dice = 2 * (labels.astype(bool) & ball).sum() / (labels.sum() + ball.sum())
    assert dice > 0.93


def test_touching_objects_are_apart_in_a_picture_of_colours(tmp_path):
    y, x = np.indices((90, 120))
    one, other = ((np.hypot(y - 45, x - centre) < 14) for centre in (48, 72))
    picture = np.full((90, 120, 3), 230, np.uint8)
    picture[one | other] = (90, 40, 120)
    geometry = Geometry.from_spacing((90, 120), (0.25, 0.25), "um")
    image = MedicalImage((picture,), "yxc", geometry, Modality.SM, "RGB", name="two")
    labels = np.asarray(segment(image, load_model("classical_watershed_dark"), tmp_path / "o.zarr").segmentation.data)
    assert labels.max() == 2
    assert labels[45, 40] != labels[45, 80]
    assert set(np.unique(labels[one & (x < 58)])) == {labels[45, 40]}
