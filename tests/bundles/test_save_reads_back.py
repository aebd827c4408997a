"""A bundle reads back as it was described, and its network answers as the given one did."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_medseg.bundles import list_bundles, load_model
from napari_medseg.bundles.intensity import IntensityPlan
from napari_medseg.bundles.network import build_network
from napari_medseg.bundles.save import BundleDescription, save_bundle
from napari_medseg.bundles.steps import After, Before, Tiling
from napari_medseg.case import InputError
from napari_medseg.networks import ARCHITECTURES, find_architecture
from tests.bundles.save_cases import CASES, card, described, unet, weights_of


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_it_reads_back_as_it_was_described(tmp_path, name, precision):
    definition, description = CASES[name]
    state = weights_of(definition)
    model = save_bundle(tmp_path / "tiny-one", definition, state, description, precision=precision)
    again = load_model(tmp_path / "tiny-one")
    assert (model.path, model.weights, model.source) == (again.path, again.weights, again.source)
    assert again.verified and not again.trusted
    assert again.card == description.card
    before, after = description.before, description.after
    assert (again.orientation, again.spacing, again.divisible_by) == (
        before.orientation,
        before.spacing,
        before.divisible_by,
    )
    assert again.unit == (description.unit if before.spacing else None)
    assert again.intensity == before.intensity
    assert (again.tile, again.overlap, again.padding) == dataclasses.astuple(description.tiling)
    assert (again.activation, again.threshold, again.instances) == (after.activation, after.threshold, after.instances)
    assert again.slices == description.slices
    given = build_network(definition)
    given.load_state_dict(state)
    image = torch.rand(1, again.card.in_channels, *again.tile)
    with torch.inference_mode():
        meant, found = given.eval()(image), again.network()(image)
    if precision == "float32":
        assert torch.equal(meant, found)
    else:
        assert not torch.equal(meant, found)
        torch.testing.assert_close(found, meant, atol=5e-3, rtol=5e-3)


EACH = [
    pytest.param(name, dims, id=f"{name}-{dims}d")
    for name, entry in ARCHITECTURES.items()
    for dims in entry.dims
    if entry.role == "segmentation" and entry.missing is None
]


@pytest.mark.parametrize(("name", "dims"), EACH)
def test_every_architecture_goes_into_a_bundle(tmp_path, name, dims):
    entry = find_architecture(name)
    parameters = {"spatial_dims": dims} if "spatial_dims" in entry.schema().model_fields else {}
    checked = entry.check(parameters)
    tile = (max(entry.smallest, {2: 64, 3: 32}[dims]),) * dims
    network = entry.build(**parameters)
    threshold = checked.out_channels == 1
    description = described(
        card(checked.out_channels, checked.in_channels, threshold=threshold),
        before=Before(None, None, None, IntensityPlan()),
        tiling=Tiling(tile, 0.25, "constant"),
        after=After("sigmoid", 0.5, None) if threshold else After("softmax", None, None),
    )
    state = network.state_dict()
    model = save_bundle(tmp_path / "one", entry, state, description, parameters=parameters, precision="float32")
    assert model.network_def["_target_"] == entry.target
    image = torch.rand(1, checked.in_channels, *tile)
    with torch.inference_mode():
        torch.testing.assert_close(model.network()(image), network.eval()(image))


@pytest.mark.parametrize("name", ["he_nuclei", "mr_hippocampus"])
def test_a_shipped_model_saved_again_is_the_same(tmp_path, name):
    model = load_model(name)
    tile = (64, 64) if model.spatial_dims == 2 else model.tile
    description = BundleDescription(
        model.card,
        Before(model.orientation, model.spacing, model.divisible_by, model.intensity),
        Tiling(tile, model.overlap, model.padding),
        After(model.activation, model.threshold, model.instances),
        files="png" if model.spatial_dims == 2 else None,
    )
    again = save_bundle(tmp_path / name, model.network_def, model.network().state_dict(), description)
    assert (again.sha256, again.card) == (model.sha256, model.card)
    ours, shipped = (
        json.loads((m.path / "configs" / "inference.json").read_text(encoding="utf-8")) for m in (again, model)
    )
    *decisions, saving = ours["postprocessing"]["transforms"]
    assert decisions == shipped["postprocessing"]["transforms"][:-1]
    assert saving["_target_"] == "SaveImaged"
    assert ours["preprocessing"]["transforms"][2:] == shipped["preprocessing"]["transforms"][2:]
    counted = sum(p.numel() for p in model.network().parameters())
    assert f" {counted:,} weights; " in (again.path / "docs" / "README.md").read_text(encoding="utf-8")


def test_halves_are_stored_but_for_running_statistics_and_counts(tmp_path):
    state = weights_of(unet())
    model = save_bundle(tmp_path / "one", unet(), state, described())
    stored = load_file(model.weights)
    kinds = {
        name: torch.float32 if ".running_" in name else torch.int64 if name.endswith("tracked") else torch.float16
        for name in state
    }
    assert {name: values.dtype for name, values in stored.items()} == kinds
    assert set(kinds.values()) == {torch.float16, torch.float32, torch.int64}


def test_weights_may_come_from_a_file(tmp_path):
    state = weights_of(unet())
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "b.pt")
    first = save_bundle(tmp_path / "a", unet(), tmp_path / "a.safetensors", described())
    second = save_bundle(tmp_path / "b", unet(), str(tmp_path / "b.pt"), described())
    assert first.sha256 == second.sha256
    with pytest.raises(InputError, match=r"c\.pt: there is no such file of weights"):
        save_bundle(tmp_path / "c", unet(), tmp_path / "c.pt", described())


def test_tied_weights_are_stored_once_each(tmp_path):
    definition = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    shared = torch.arange(4.0)
    state = {"weight": shared[:2].reshape(2, 1, 1, 1), "bias": shared[:2]}
    model = save_bundle(tmp_path / "one", definition, state, described(), precision="float32")
    assert torch.equal(model.network().bias, torch.tensor([0.0, 1.0]))


def test_the_user_folder_is_used_by_id(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *a, **k: str(tmp_path / "data"))
    model = save_bundle(None, unet(), weights_of(unet()), described())
    assert model.path == tmp_path / "data" / "bundles" / "tiny-one"
    entry = next(e for e in list_bundles() if e.id == "tiny-one")
    assert (entry.source, entry.warning, entry.sha256) == ("user folder", None, model.sha256)
