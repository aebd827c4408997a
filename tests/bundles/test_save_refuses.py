"""What cannot be kept, or would run code, is refused in one sentence and leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_medseg.bundles import load_model
from napari_medseg.bundles.intensity import IntensityPlan, IntensityStep
from napari_medseg.bundles.save import save_bundle, saving
from napari_medseg.bundles.steps import After, Before, Tiling
from napari_medseg.case import InputError, Label, LabelTable, RefusedError
from tests.bundles.save_cases import DECODER, card, described, refused, unet, weights_of


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
    right = saving.stored_weights

    def wrong(state, precision):
        stored = right(state, precision)
        name = next(n for n in stored if n.endswith("weight"))
        return {**stored, name: stored[name] * 1.2}

    monkeypatch.setattr(saving, "stored_weights", wrong)
    refused(tmp_path / "one", InputError, "the output of the stored network differs")
