"""Every architecture: built from its defaults, run, exported, and kept in a bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from napari_medseg.bundles.network import build_network, check_names
from napari_medseg.case import InputError
from napari_medseg.networks import ARCHITECTURES, find_architecture

_EACH = [pytest.param(name, dims, id=f"{name}-{dims}d") for name, entry in ARCHITECTURES.items() for dims in entry.dims]


def sized(name: str, dims: int) -> dict[str, int]:
    return {"spatial_dims": dims} if "spatial_dims" in find_architecture(name).schema().model_fields else {}


@pytest.mark.parametrize("name, dims", _EACH)
def test_is_built_from_its_defaults_and_runs(name: str, dims: int) -> None:
    entry = find_architecture(name)
    network = entry.build(**sized(name, dims)).eval()
    parameters = entry.check(sized(name, dims))
    image = torch.rand(1, parameters.in_channels, *(find_architecture(name).smallest,) * dims)
    with torch.no_grad():
        maps = network(image)
    if entry.role == "segmentation":
        assert maps.shape == (1, parameters.out_channels, *image.shape[2:])
    assert torch.isfinite(maps).all()


@pytest.mark.parametrize("name, dims", _EACH)
def test_a_bundle_rebuilds_it_without_trust(name: str, dims: int) -> None:
    definition = find_architecture(name).definition(**sized(name, dims))
    check_names(definition)
    network, again = find_architecture(name).build(**sized(name, dims)), build_network(definition)
    again.load_state_dict(network.state_dict())
    image = torch.rand(1, find_architecture(name).check({}).in_channels, *(find_architecture(name).smallest,) * dims)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(image), network.eval()(image))


@pytest.mark.parametrize("name, dims", [p for p in _EACH if p.values[0] != "classical"])
def test_torchscript_runs_it_without_this_package(name: str, dims: int, tmp_path: Path) -> None:
    entry = find_architecture(name)
    network = entry.build(**sized(name, dims)).eval()
    image = torch.rand(1, entry.check({}).in_channels, *(entry.smallest,) * dims)
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(network, image, check_trace=False), tmp_path / "network.ts")
        other = torch.rand_like(image)
        torch.testing.assert_close(torch.jit.load(tmp_path / "network.ts")(other), network(other), atol=1e-4, rtol=1e-4)


def test_a_wrong_parameter_is_named() -> None:
    with pytest.raises(InputError, match=r"U-Net with residual units: in_channels: .*greater than or equal to 1"):
        find_architecture("unet").build(in_channels=0)
    with pytest.raises(InputError, match="no architecture 'u-net'; there are unet, "):
        find_architecture("u-net")


def test_a_missing_extra_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_medseg.networks.architecture._MODULES", {"zoo": ("a_module_nobody_has",)})
    entry = next(iter(ARCHITECTURES.values()))
    lacking = type(entry)(**{**vars(entry), "extra": "zoo"})
    assert lacking.missing is not None
    assert lacking.missing.endswith('a_module_nobody_has: pip install "napari-medseg[zoo]".')
    with pytest.raises(InputError, match="a_module_nobody_has"):
        lacking.build()


def test_the_list_is_read_without_torch() -> None:
    code = "import sys, napari_medseg.networks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
