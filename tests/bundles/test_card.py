"""Cards of our bundles and of the model zoo's."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_medseg.bundles.card import read_card
from napari_medseg.case import InputError
from tests.bundles.bundle_cases import metadata


def test_a_zoo_bundle_gets_a_card_that_says_what_is_not_stated():
    meta = metadata()
    del meta["medseg"]
    meta["network_data_format"]["inputs"]["image"]["modality"] = "MRI"
    meta["license"], meta["data_source"], meta["eval_metrics"] = "Apache-2.0", "Somewhere", {"mean_dice": 0.9}
    card = read_card(meta, "zoo_model")
    assert (card.id, card.name, card.version, card.kind) == ("zoo_model", "Tiny", "1.2.3", "semantic")
    assert card.task == "segmentation"
    assert card.modality == ("MR",)
    assert card.licence == "Apache-2.0"
    assert [(e.id, e.name) for e in card.labels] == [(1, "blob")]
    assert card.training_data == ({"name": "Somewhere", "licence": "not stated"},)
    assert card.reference_scores == {"mean_dice": 0.9}
    assert card.recipe == card.validation == card.intended_use == "not stated"
    assert card.channels == ("grey",)


def test_labels_without_background_start_at_one():
    meta = metadata()
    meta["network_data_format"]["outputs"]["pred"]["channel_def"] = {"0": "tumour core", "1": "whole tumour"}
    assert [(e.id, e.name) for e in read_card(meta, "x").labels] == [(1, "tumour core"), (2, "whole tumour")]


def test_our_own_labels_carry_colours_and_codes():
    labels = [{"id": 4, "name": "liver", "colour": [1, 2, 3], "terminology": ["SCT", "10200004", "Liver"]}]
    (label,) = read_card(metadata(labels=labels), "x").labels
    assert (label.id, label.name, label.colour) == (4, "liver", (1, 2, 3))
    assert label.terminology == ("SCT", "10200004", "Liver")


def test_instance_models_have_an_instance_table():
    card = read_card(metadata(kind="instance", labels=[{"id": 1, "name": "cell"}]), "x")
    assert card.kind == "instance"
    assert card.labels.instances
    assert card.labels.name(7) == "cell 7"


def test_another_task_is_named_as_it_is():
    meta = metadata()
    meta["task"] = "Classification"
    assert read_card(meta, "x").task == "Classification"
    assert read_card(metadata(training_data=[{"name": "A"}]), "x").training_data == ({"name": "A"},)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("network_data_format"), "does not say what the network reads"),
        (lambda m: m["network_data_format"]["inputs"]["image"].pop("num_channels"), "does not say what"),
        (lambda m: m.update(medseg=[1]), "medseg in metadata.json is a list"),
        (lambda m: m["medseg"].update(modality=["XX"]), "modality 'XX' is not known"),
        (lambda m: m["medseg"].update(labels=[{"name": "no id"}]), "labels in metadata.json cannot be read"),
        (lambda m: m["network_data_format"]["outputs"]["pred"].update(channel_def={}), "names no label"),
    ],
)
def test_incomplete_metadata_is_named(change, words):
    meta = copy.deepcopy(metadata())
    change(meta)
    with pytest.raises(InputError, match=words):
        read_card(meta, "tiny")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
PLACES = [
    *(("medseg", key) for key in ("id", "kind", "labels", "modality", "licence", "training_data", "reference_scores")),
    *((key,) for key in ("references", "data_source", "eval_metrics", "task", "name")),
    ("network_data_format", "inputs", "image", "channel_def"),
]


@given(place=st.sampled_from(PLACES), value=VALUES)
def test_odd_metadata_gives_a_card_or_one_sentence(place, value):
    meta = json.loads(json.dumps(metadata()))
    part = meta
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    try:
        card = read_card(meta, "tiny")
    except InputError as error:
        assert str(error).startswith("tiny: ")
        assert "\n" not in str(error)
    else:
        assert card.in_channels == 1
        assert len(card.labels) >= 1
