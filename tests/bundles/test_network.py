"""Only network classes are built, and only tensors are read."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from napari_medseg.bundles.checksums import file_sha256
from napari_medseg.bundles.network import build_network, check_names, load_weights, network_class, read_weights
from napari_medseg.case import InputError, RefusedError
from tests.bundles.bundle_cases import inference, write_bundle


def test_short_and_full_names_find_the_same_class():
    from monai.networks.nets import UNet

    assert network_class("UNet") is UNet
    assert network_class("monai.networks.nets.UNet") is UNet
    assert network_class("monai.networks.nets.unet.UNet") is UNet
    assert network_class("torch.nn.Conv2d") is torch.nn.Conv2d


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.load",
        "torch.hub.load",
        "monai.networks.nets.unet.warnings.warn",
        "monai.networks.nets.NoSuchNet",
        "monai.networks.nets.unet.Sequence",
        "monai.networks.netsevil.UNet",
        "torch.nn.functional.relu",
        "NoSuchNet",
        "numpy.ndarray",
    ],
)
def test_everything_else_is_refused(target):
    with pytest.raises(RefusedError, match="no network class"):
        network_class(target)
    with pytest.raises(RefusedError, match="no network class"):
        build_network({"_target_": target})


def test_names_are_checked_without_building():
    check_names({"_target_": "UNet", "layers": [{"_target_": "torch.nn.ReLU"}]})
    with pytest.raises(RefusedError, match=r"os\.system"):
        check_names({"_target_": "UNet", "layers": [{"_target_": "os.system", "command": "true"}]})


def test_nested_layers_are_built():
    network = build_network(
        {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 3, "_desc_": "a layer"}
    )
    assert network(torch.zeros(1, 1, 5, 5)).shape == (1, 2, 3, 3)


def test_nothing_is_downloaded_for_a_network():
    network = build_network(
        {
            "_target_": "FlexibleUNet",
            "in_channels": 3,
            "out_channels": 2,
            "backbone": "efficientnet-b0",
            "pretrained": True,
        }
    )
    assert sum(p.numel() for p in network.parameters()) > 1e6


def test_odd_definitions_are_refused():
    with pytest.raises(RefusedError, match="_mode_"):
        build_network({"_target_": "UNet", "_mode_": "debug"})
    with pytest.raises(InputError, match="does not accept its arguments"):
        build_network({"_target_": "UNet", "colour": "red"})
    with pytest.raises(InputError, match="a torch network is expected"):
        build_network({"channels": [1, 2]})


def test_trust_opens_other_classes():
    assert isinstance(build_network({"_target_": "torch.nn.ReLU"}, trusted=True), torch.nn.ReLU)
    with pytest.raises(InputError, match="not installed"):
        build_network({"_target_": "no_such_package.Net"}, trusted=True)
    with pytest.raises(InputError, match="makes a OrderedDict"):
        build_network({"_target_": "collections.OrderedDict"}, trusted=True)


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_code_is_never_run(tmp_path):
    for name, write in (("a.pt", torch.save), ("b.pt", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        path = tmp_path / name
        write({"weights": _Bomb(str(tmp_path / "boom"))}, path)
        with pytest.raises(RefusedError, match="could run code"):
            read_weights(path)
    assert not (tmp_path / "boom").exists()


def test_both_formats_hold_the_same_weights(tmp_path):
    a = write_bundle(tmp_path / "a") / "models" / "model.safetensors"
    b = write_bundle(tmp_path / "b", weights="model.pt") / "models" / "model.pt"
    first, second = read_weights(a), read_weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_weights_must_be_those_that_were_verified(tmp_path):
    path = write_bundle(tmp_path / "a") / "models" / "model.safetensors"
    good = file_sha256(path)
    network = build_network(inference()["network_def"])
    load_weights(network, path, good)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RefusedError, match="changed since it was verified"):
        load_weights(network, path, good)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"other": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="does not fit the network"):
        load_weights(build_network(inference()["network_def"]), path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.safetensors", b"no"), ("x.pt", b""), ("y.pt", b"PK\x03\x04 broken")],
)
def test_damaged_weights_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((InputError, RefusedError), match=name):
        read_weights(tmp_path / name)


def test_a_file_without_a_state_dictionary_is_named(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "x.pt")
    with pytest.raises(InputError, match="holds no state dictionary"):
        read_weights(tmp_path / "x.pt")
