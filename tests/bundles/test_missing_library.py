"""A bundle whose network belongs to a library that is not installed."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from napari_medseg.bundles import list_bundles, load_model
from napari_medseg.bundles.network import build_network
from napari_medseg.bundles.save import save_bundle
from napari_medseg.case import InputError
from napari_medseg.networks import ARCHITECTURES, Architecture
from tests.bundles.bundle_cases import BUILT_IN
from tests.bundles.save_cases import card, described


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
    entry = Architecture("borrowed", "Borrowed", "borrowed", "Borrowed", "nowhere", (2,), extra="zoo")
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
    assert entry.warning == 'Borrowed needs a_module_nobody_has: pip install "napari-medseg[zoo]".'
    assert [e.id for e in list_bundles()] == [*BUILT_IN, "borrower"]
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
