"""A bundle is written whole, reads back as it was described, and is run by MONAI as by us; or nothing is left."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from napari_medseg.bundles import list_bundles, load_model, save
from napari_medseg.bundles.instances import DistanceDecoder
from napari_medseg.bundles.intensity import IntensityPlan, IntensityStep, intensity_step
from napari_medseg.bundles.model import ModelCard
from napari_medseg.bundles.network import build_network
from napari_medseg.bundles.save import BundleDescription, save_bundle
from napari_medseg.bundles.steps import After, Before, Tiling
from napari_medseg.case import InputError, Label, LabelTable, MedsegError, RefusedError
from napari_medseg.networks import ARCHITECTURES, Architecture, find_architecture

ROOT = Path(save.__file__).parents[1] / "resources" / "bundles"
RANGE = intensity_step("ScaleIntensityRange", {"a_min": 0, "a_max": 255, "b_min": 0.0, "b_max": 1.0, "clip": True})


def unet(dims: int = 2, channels: int = 1, out: int = 2, norm: str = "batch") -> dict[str, Any]:
    values = {"spatial_dims": dims, "in_channels": channels, "out_channels": out, "channels": (4, 8), "strides": (2,)}
    return {"_target_": "monai.networks.nets.UNet", **values, "norm": norm}


def weights_of(definition: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights, and running statistics as they are after some training."""
    torch.manual_seed(seed)
    network = build_network(definition)
    dims = definition.get("spatial_dims", 2)
    with torch.no_grad():
        network.train()(torch.rand(2, definition["in_channels"], *(16,) * dims) * 4)
    return network.state_dict()


def card(out: int = 2, reads: int = 1, threshold: bool = False, **changed: Any) -> ModelCard:
    names = [f"part {k}" for k in range(out - (not threshold))]
    values: dict[str, Any] = {
        "id": "tiny-one",
        "name": "Tiny one",
        "version": "0.2.0",
        "description": "Finds a blob.",
        "task": "segmentation",
        "kind": "semantic",
        "modality": ("MR",),
        "labels": LabelTable.from_names(names),
        "in_channels": reads,
        "channels": tuple(f"channel {k}" for k in range(reads)),
        "licence": "CC BY 4.0",
        "training_data": ({"name": "Blobs", "licence": "CC0 1.0", "attribution": "Nobody", "images": 12},),
        "recipe": "ten steps with seed 0",
        "validation": "one image kept apart",
        "reference_scores": {"blobs | kept apart": {"dice": 0.91, "images": 1}, "others": {"dice": 0.5, "hd95": 2.5}},
        "intended_use": "research, not for diagnosis",
        "references": ("Somebody, Blobs (2020)",),
    }
    return ModelCard(**{**values, **changed})


def described(changed_card: ModelCard | None = None, **changed: Any) -> BundleDescription:
    values: dict[str, Any] = {
        "card": changed_card or card(),
        "before": Before(None, None, (4, 4), IntensityPlan((RANGE,))),
        "tiling": Tiling((16, 24), 0.25, "reflect"),
        "after": After("softmax", None, None),
        "limits": ("Has seen one blob.",),
    }
    return BundleDescription(**{**values, **changed})


def volume(**changed: Any) -> BundleDescription:
    steps = (
        intensity_step("ClipIntensityPercentiles", {"lower": 1, "upper": 99}),
        intensity_step("NormalizeIntensity", {"nonzero": True, "channel_wise": True}),
    )
    before = Before(("L", "P", "S"), (0.5, 0.5, 2.0), (8, 8, 4), IntensityPlan(steps))
    values = {"before": before, "tiling": Tiling((16, 16, 8), 0.5, "constant"), **changed}
    return described(card(3), **values)


DECODER = DistanceDecoder(seed=0.3, margin=40)
CELLS = card(2, 3, kind="instance", modality=("SM",), labels=LabelTable.from_names(["cell"], instances=True))
COLOURS = LabelTable((Label(1, "liver", (1, 2, 3), ("SCT", "10200004", "Liver")),))
CASES = {
    "2D softmax": (unet(), described()),
    "2D sigmoid": (unet(out=1), described(card(1, threshold=True), after=After("sigmoid", 0.4, None))),
    "2D many thresholds": (unet(out=3), described(card(3, threshold=True), after=After("sigmoid", 0.5, None))),
    "2D logits": (unet(out=3), described(card(3), after=After("none", None, None))),
    "2D colours": (unet(channels=3), described(card(2, 3, labels=COLOURS, modality=("ES",)), files="png")),
    "2D objects": (unet(channels=3, out=3), described(CELLS, after=After("sigmoid", None, DECODER))),
    "2D slices": (unet(channels=3), described(card(2, 3), slices=3, files="npy")),
    "3D softmax": (unet(3, out=3, norm="instance"), volume()),
    "3D micrometres": (unet(3, out=3), volume(unit="um")),
}


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
    tile = ({2: 64, 3: 32}[dims],) * dims
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


def test_the_metadata_has_all_that_the_shipped_ones_have(tmp_path):
    model = save_bundle(
        tmp_path / "one", unet(channels=3, out=3), weights_of(unet(channels=3, out=3)), CASES["2D objects"][1]
    )
    shipped = json.loads((ROOT / "he_nuclei" / "configs" / "metadata.json").read_text(encoding="utf-8"))
    written = json.loads((model.path / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert shipped.keys() <= written.keys()
    for side, item in (("inputs", "image"), ("outputs", "pred")):
        theirs, ours = (m["network_data_format"][side][item] for m in (shipped, written))
        assert theirs.keys() == ours.keys()
        assert {k: type(v) for k, v in theirs.items()} == {k: type(v) for k, v in ours.items()}
        assert len(ours["channel_def"]) == ours["num_channels"]
    assert set(shipped["medseg"]) - {"image_grid"} <= set(written["medseg"])
    assert written["eval_metrics"] == {
        "blobs | kept apart: dice": 0.91,
        "blobs | kept apart: images": 1,
        "others: dice": 0.5,
        "others: hd95": 2.5,
    }
    assert written["required_packages_version"].keys() == {"safetensors", "scipy", "scikit-image", "napari-medseg"}


def test_every_file_is_there_and_hashed(tmp_path):
    description = described(training_config={"seed": 0, "run": ["$@trainer.run()"]})
    folder = save_bundle(tmp_path / "one", unet(), weights_of(unet()), description).path
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert set(sums) == {
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "configs/train.json",
        "docs/README.md",
        "models/model.safetensors",
    }
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {*sums, "SHA256SUMS"}
    assert json.loads((folder / "configs" / "train.json").read_text()) == description.training_config


def test_the_readme_says_what_a_user_must_know(tmp_path):
    changed = card(description="Finds a blob.\n\nAnd no other.", intended_use="research, not for diagnosis.")
    folder = save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(changed)).path
    text = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Tiny one\n\nFinds a blob.\n\nAnd no other.\n")
    assert "| images kept apart | dice | images | hd95 |\n|---|---|---|---|\n" in text.replace(" --- ", "---")
    assert "| blobs \\| kept apart | 0.91 | 1 | – |\n| others | 0.5 | – | 2.5 |\n" in text
    assert "## Limits\n\n- Has seen one blob.\n" in text
    assert "- Blobs, 12 images, CC0 1.0. Nobody.\n" in text
    assert "**Intended use: research, not for diagnosis.** Weights: CC BY 4.0." in text
    assert "napari-medseg segment IMAGE -m tiny-one -o OUT.zarr" in text
    assert "- Somebody, Blobs (2020)" in text
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    assert "under CC BY 4.0, https://creativecommons.org/licenses/by/4.0/\n" in licence
    assert "- Blobs, 12 images, CC0 1.0. Nobody." in licence


def test_what_is_not_known_is_said(tmp_path):
    bare = card(training_data=(), reference_scores={})
    description = described(bare, limits=(), licence_text="All rights reserved.")
    folder = save_bundle(tmp_path / "one", unet(), weights_of(unet()), description).path
    text = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert "No scores were measured." in text
    assert "None are stated, which does not mean none." in text
    assert "## Trained on\n\n- Not stated.\n" in text
    assert (folder / "LICENSE").read_text(encoding="utf-8").endswith("\n\nAll rights reserved.\n")


def test_scores_without_sets_make_one_row(tmp_path):
    flat = card(reference_scores={"dice": 0.7})
    folder = save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(flat)).path
    assert "| all | 0.7 |" in (folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert load_model(folder).card.reference_scores == {"dice": 0.7}


# what is refused ------------------------------------------------------------------------------------------------------


def refused(folder: Path, error: type[MedsegError], words: str, **given: Any) -> None:
    """Saving fails with one sentence and leaves `folder`'s parent as it was."""
    network = given.pop("network", unet())
    description = given.pop("description", None) or described()
    state = given.pop("weights", None) or weights_of(unet())
    before = sorted(p.relative_to(folder.parent) for p in folder.parent.rglob("*"))
    with pytest.raises(error, match=words) as told:
        save_bundle(folder, network, state, description, **given)
    assert "\n" not in str(told.value)
    assert sorted(p.relative_to(folder.parent) for p in folder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["..", ".hidden", "a/b", "a\\b", "/etc/passwd", "", "a b", "a\n", "$x", "x" * 101, "end.", "C:", "é", "-x"]
)
def test_ids_that_are_no_plain_names_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *a, **k: str(tmp_path / "data"))
    refused(tmp_path / "one", InputError, "The id .* cannot be used", description=described(card(id=name)))
    with pytest.raises(InputError, match="The id"):
        save_bundle(None, unet(), weights_of(unet()), described(card(id=name)))
    assert not (tmp_path / "data").exists()


def test_a_folder_outside_is_refused(tmp_path):
    (tmp_path / "bundles").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bundles" / "link").symlink_to(tmp_path / "elsewhere")
    within = tmp_path / "bundles"
    for folder in ("../out", "link/out", "../../out", "x/../../out"):
        refused(within / folder, RefusedError, "lies outside bundles", within=within)
    refused(tmp_path / "out", RefusedError, "lies outside bundles", within=within)
    refused(within / "link", RefusedError, "is a link to another place", overwrite=True)
    for folder in (within / "..", within / ".x", within / "a b"):
        with pytest.raises(InputError, match="A bundle cannot be called"):
            save_bundle(folder, unet(), weights_of(unet()), described())
    refused(tmp_path / "bundles" / "none" / "out", InputError, "there is no such folder", within=within)
    assert save_bundle(within / "in", unet(), weights_of(unet()), described(), within=within).path == within / "in"


HOSTILE = "$__import__('os').system('true')"


@pytest.mark.parametrize("text", [HOSTILE, "@network", "%/etc/passwd", "%#x", "see @##network", "100 %::x"])
@pytest.mark.parametrize("key", ["name", "description", "licence", "validation", "recipe", "intended_use"])
def test_texts_that_monai_would_act_on_are_refused(tmp_path, key, text):
    refused(tmp_path / "one", RefusedError, "MONAI would act on", description=described(card(**{key: text})))


@pytest.mark.parametrize(
    "changed",
    [
        {"training_data": ({"name": HOSTILE},)},
        {"training_data": ({"_target_": "os.system", "command": "true"},)},
        {"reference_scores": {"all": {"dice": "$1"}}},
        {"references": (HOSTILE,)},
        {"labels": LabelTable.from_names([HOSTILE])},
        {"channels": (HOSTILE,)},
    ],
)
def test_hostile_entries_of_the_card_are_refused(tmp_path, changed):
    refused(tmp_path / "one", RefusedError, "MONAI would act on", description=described(card(**changed)))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"_target_": "os.system", "command": "true"}, "no network class"),
        ({"_target_": "torch.hub.load", "repo": "x"}, "no network class"),
        ({**unet(), "channels": "$[4, 8]"}, "would act on"),
        ({**unet(), "_mode_": "debug"}, "would act on"),
        ({**unet(), "norm": {"_target_": "os.getcwd"}}, "no network class"),
    ],
)
def test_networks_that_would_run_code_are_refused(tmp_path, network, words):
    refused(tmp_path / "one", RefusedError, words, network=network)


def test_texts_that_no_file_can_hold_are_refused(tmp_path):
    refused(tmp_path / "one", InputError, "is not made of plain", description=described(card(name="\ud800")))
    refused(tmp_path / "one", InputError, "is not made of plain", description=described(training_config={"a": {1, 2}}))


def test_hostile_training_is_refused(tmp_path):
    config = {"training": ["$__import__('os').mkdir('boom')"]}
    refused(tmp_path / "one", RefusedError, "would run", description=described(training_config=config))


NORMALISE = IntensityPlan((IntensityStep("NormalizeIntensity", {"subtrahend": [1.0], "divisor": [2.0]}),))
ODD_STEP = IntensityPlan((IntensityStep("HistogramNormalize", {}),))


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (described(card(version="first")), "the version 'first' cannot be used"),
        (described(card(licence=" ")), "licence is empty"),
        (described(card(modality=("XX",))), "modality 'XX' is not known"),
        (described(card(task="drawing")), None),
        (described(card(task="cell segmentation")), "card.task was given as 'cell segmentation' and reads back as"),
        (described(card(reference_scores={"dice": float("nan")})), "metadata is not made of plain"),
        (described(card(reference_scores={"dice": np.float32(1)})), "metadata is not made of plain"),
        (described(card(3)), r"the labels are \[1, 2\]; the 2 channels of the output need \[1\]"),
        (described(card(labels=LabelTable((Label(3, "far"),)))), r"the labels are \[3\]"),
        (described(after=After("sigmoid", 0.5, None)), r"need \[1, 2\]"),
        (described(after=After("softmax", None, DECODER)), "the kind is semantic"),
        (described(card(kind="instance", labels=LabelTable.from_names(["x"], instances=True))), "the kind is instance"),
        (described(card(channels=("a", "b"))), "2 channels are named; the network reads 1"),
        (described(card(2, 2)), "does not take a tile"),
        (described(tiling=Tiling(None, 0.0, "constant")), "the tile is None"),
        (described(tiling=Tiling((16,), 0.0, "constant")), r"the tile is \(16,\)"),
        (described(tiling=Tiling((18, 24), 0.0, "constant")), r"the tile \(18, 24\) is no multiple of \(4, 4\)"),
        (described(tiling=Tiling((16, 24), 1.0, "constant")), "overlap 1.0"),
        (described(tiling=Tiling((16, 16, 16), 0.0, "constant")), "no multiple"),
        (described(before=Before(("R", "R", "S"), None, None, IntensityPlan())), "three letters such as RAS"),
        (described(before=Before(None, (1.0, -1.0), None, IntensityPlan())), "2 numbers above 0"),
        (described(before=Before(None, None, None, NORMALISE)), "it needs channel_wise as well"),
        (described(before=Before(None, None, None, ODD_STEP)), "HistogramNormalized is not supported"),
        (described(files="nii.gz"), "nii.gz files do not go with 1 channels in 2 dimensions"),
        (described(slices=2), "reads 2 slices"),
    ],
)
def test_descriptions_that_cannot_be_kept_are_named(tmp_path, description, words):
    if words is None:
        save_bundle(tmp_path / "one", unet(), weights_of(unet()), description)
        assert load_model(tmp_path / "one").card.task == "drawing"
        return
    refused(tmp_path / "one", InputError, words, description=description)


def test_weights_that_cannot_be_kept_are_named(tmp_path):
    def state(**changed: float) -> dict[str, torch.Tensor]:
        weights = weights_of(unet())
        for name, value in changed.items():
            weights[name].view(-1)[0] = value
        return weights

    bias = next(n for n in weights_of(unet()) if n.endswith("bias"))
    refused(tmp_path / "one", InputError, r"holds 70000, which float16 cannot", weights=state(**{bias: 70000.0}))
    refused(tmp_path / "one", InputError, "values that are no numbers", weights=state(**{bias: float("nan")}))
    refused(tmp_path / "one", InputError, "do not fit the network", weights={"other": torch.zeros(2)})
    save_bundle(tmp_path / "one", unet(), state(**{bias: 70000.0}), described(), precision="float32")


def test_a_network_that_changes_the_size_is_refused(tmp_path):
    network = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 3}
    state = {"weight": torch.zeros(2, 1, 3, 3), "bias": torch.zeros(2)}
    refused(tmp_path / "one", InputError, r"makes \(1, 2, 14, 22\) of \(1, 1, 16, 24\)", network=network, weights=state)
    with pytest.raises(InputError, match="parameters go with an architecture"):
        save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(), parameters={"in_channels": 1})


def test_a_stored_network_that_answers_otherwise_is_refused(tmp_path, monkeypatch):
    right = save._stored

    def wrong(state, precision):
        stored = right(state, precision)
        name = next(n for n in stored if n.endswith("weight"))
        return {**stored, name: stored[name] * 1.2}

    monkeypatch.setattr(save, "_stored", wrong)
    refused(tmp_path / "one", InputError, "the output of the stored network differs")


# all or nothing -------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    "step", ["write_sums", "load_model", "_compare_description", "_compare_output", "_publish", "_require_free"]
)
@pytest.mark.parametrize("failure", [OSError("no space left"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_everything_as_it_was(tmp_path, monkeypatch, step, failure, there):
    if there:
        save_bundle(tmp_path / "one", unet(), weights_of(unet(), seed=1), described())
    before = contents(tmp_path)

    def fail(*arguments, **options):
        raise failure

    monkeypatch.setattr(save, step, fail)
    with pytest.raises(type(failure)):
        save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(), overwrite=there)
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["one"] * there


@pytest.mark.parametrize("fails", [1, 2])
def test_a_rename_that_fails_puts_the_old_bundle_back(tmp_path, monkeypatch, fails):
    save_bundle(tmp_path / "one", unet(), weights_of(unet(), seed=1), described())
    before, rename, calls = contents(tmp_path), Path.rename, []

    def failing(self, target):
        calls.append(self)
        if len(calls) == fails:
            raise OSError("busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="busy"):
        save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(), overwrite=True)
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_an_old_bundle_that_cannot_be_put_back_is_kept_aside(tmp_path, monkeypatch):
    save_bundle(tmp_path / "one", unet(), weights_of(unet(), seed=1), described())
    before, rename, calls = contents(tmp_path / "one"), Path.rename, []

    def failing(self, target):
        calls.append(self)
        if len(calls) > 1:
            raise OSError("busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="busy"):
        save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(), overwrite=True)
    (kept,) = tmp_path.rglob("replaced bundle")
    assert contents(kept) == before


def test_nobody_sees_it_before_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_BUNDLES", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *a, **k: str(tmp_path / "none"))
    compare, seen = save._compare_output, []

    def looking(model, *rest):
        assert (model.path / "SHA256SUMS").is_file()
        seen.append([e.path for e in list_bundles() if e.source != "built-in"])
        compare(model, *rest)

    monkeypatch.setattr(save, "_compare_output", looking)
    save_bundle(tmp_path / "one", unet(), weights_of(unet()), described())
    assert seen == [[]]
    assert [e.path for e in list_bundles() if e.source != "built-in"] == [tmp_path / "one"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_meanwhile_is_left_alone(tmp_path, monkeypatch, overwrite):
    compare = save._compare_output

    def meanwhile(*arguments):
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "notes.txt").write_text("mine")
        compare(*arguments)

    monkeypatch.setattr(save, "_compare_output", meanwhile)
    with pytest.raises(InputError, match="is no bundle" if overwrite else "already exists"):
        save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(), overwrite=overwrite)
    assert contents(tmp_path) == {"one/notes.txt": b"mine"}


def test_a_bundle_is_replaced_only_when_asked(tmp_path):
    first = save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(training_config={"seed": 0}))
    refused(tmp_path / "one", InputError, "already exists", weights=weights_of(unet(), seed=1))
    assert load_model(tmp_path / "one").sha256 == first.sha256
    (tmp_path / "one" / "__pycache__").mkdir()
    (tmp_path / "one" / "__pycache__" / "x.pyc").write_bytes(b"")
    second = save_bundle(tmp_path / "one", unet(), weights_of(unet(), seed=1), described(), overwrite=True)
    assert load_model(tmp_path / "one").sha256 == second.sha256 != first.sha256
    assert "configs/train.json" not in contents(tmp_path / "one")
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("foreign", ["eval/scan/scan_trans.nii.gz", "run/model.pt", "notes.txt", "a/SHA256SUMS"])
def test_nobodys_other_files_are_replaced(tmp_path, foreign):
    save_bundle(tmp_path / "one", unet(), weights_of(unet()), described())
    (tmp_path / "one" / foreign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "one" / foreign).write_bytes(b"mine")
    refused(tmp_path / "one", InputError, f"holds {foreign}, which SHA256SUMS does not name", overwrite=True)


def test_what_is_no_bundle_is_never_replaced(tmp_path):
    (tmp_path / "one").mkdir()
    refused(tmp_path / "one", InputError, "is no bundle", overwrite=True)
    (tmp_path / "two").write_text("a file")
    refused(tmp_path / "two", InputError, "is no bundle", overwrite=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(text=st.text(min_size=1, max_size=30), place=st.sampled_from(["name", "description", "validation", "licence"]))
def test_any_text_is_kept_to_the_letter_or_refused(tmp_path, text, place):
    from monai.bundle import ConfigParser

    definition = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    state = {"weight": torch.ones(2, 1, 1, 1), "bias": torch.zeros(2)}
    try:
        model = save_bundle(tmp_path / "any", definition, state, described(card(**{place: text})), overwrite=True)
    except MedsegError as error:
        assert "\n" not in str(error)
        return
    assert getattr(load_model(model.path).card, place) == text
    parser = ConfigParser()
    parser.read_meta(model.path / "configs" / "metadata.json")
    where = {"validation": "medseg::validation", "licence": "license"}.get(place, place)
    # MONAI reads every # as its own separator
    assert parser.get_parsed_content(f"_meta_::{where}") == text.replace("#", "::")


# a network whose library is not installed ----------------------------------------------------------------------------


@pytest.fixture
def lacking(tmp_path, monkeypatch):
    """A bundle of the user whose network belongs to an extra that was removed after it was written."""
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *a, **k: str(tmp_path / "data"))
    monkeypatch.setenv("MEDSEG_BUNDLES", "")
    state = {"absent": False}

    class Borrowed(torch.nn.Conv2d):
        def __init__(self, in_channels, out_channels):
            if state["absent"]:
                raise ModuleNotFoundError("No module named 'a_module_nobody_has'", name="a_module_nobody_has")
            super().__init__(in_channels, out_channels, 1)

    room = types.ModuleType("napari_medseg.networks.borrowed")
    Borrowed.__module__, room.Borrowed = room.__name__, Borrowed
    monkeypatch.setitem(sys.modules, room.__name__, room)
    entry = Architecture("borrowed", "Borrowed", "borrowed", "Borrowed", "none", "nowhere", (2,), extra="zoo")
    monkeypatch.setitem(ARCHITECTURES, "borrowed", entry)
    network = {"_target_": entry.target, "in_channels": 1, "out_channels": 2}
    description = described(card(id="borrower"))
    save_bundle(None, network, Borrowed(1, 2).state_dict(), description)
    monkeypatch.setattr("napari_medseg.networks.architecture._MODULES", {"zoo": ("a_module_nobody_has",)})
    state["absent"] = True
    return network


def test_a_bundle_whose_library_is_missing_stops_neither_list_nor_card(lacking):
    entry = next(e for e in list_bundles() if e.id == "borrower")
    assert entry.card is not None
    assert [e.id for e in list_bundles()] == ["he_nuclei", "mr_hippocampus", "borrower"]
    assert load_model("borrower").network_def == lacking


def test_its_network_says_what_to_install(lacking):
    sentence = r'^Borrowed needs a_module_nobody_has: pip install "napari-medseg\[zoo\]"\.$'
    with pytest.raises(InputError, match=sentence):
        load_model("borrower").network()
    with pytest.raises(InputError, match=sentence):
        build_network({"_target_": "torch.nn.Sequential", "args": [lacking]})


def test_a_library_of_no_extra_is_named(lacking, monkeypatch):
    monkeypatch.delitem(ARCHITECTURES, "borrowed")
    with pytest.raises(InputError, match=r"networks\.borrowed\.Borrowed needs a_module_nobody_has, which is not"):
        build_network(lacking)
