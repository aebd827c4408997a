"""Swin UNETR as MONAI builds it."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from napari_medseg.networks import swin_unetr
from napari_medseg.networks.swin_unetr import SwinUNETRParameters


def built(**values: object) -> torch.nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(**SwinUNETRParameters(**values).arguments())


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("in_channels, spatial_dims, total", [(1, 2, 6_302_203), (2, 2, 6_302_539), (2, 3, 15_703_843)])
def test_parameter_totals_of_the_papers(in_channels: int, spatial_dims: int, total: int) -> None:
    assert count(built(in_channels=in_channels, spatial_dims=spatial_dims)) == total


def test_depths_heads_and_the_second_version_reach_the_network() -> None:
    plain = built()
    assert count(built(depths=(2, 2, 4, 2))) > count(plain)
    assert count(built(use_v2=True)) > count(plain)
    heads = [m.num_heads for m in built(num_heads=(2, 4, 8, 16)).modules() if type(m).__name__ == "WindowAttention"]
    assert heads == [2, 2, 4, 4, 8, 8, 16, 16]
    rates = {m.p for m in built(drop_rate=0.25).modules() if isinstance(m, torch.nn.Dropout)}
    assert 0.25 in rates


def test_gives_one_map_a_class_of_the_size_of_the_image() -> None:
    pytest.importorskip("einops", reason="MONAI runs Swin UNETR only where einops is installed")
    with torch.no_grad():
        assert built(in_channels=3, out_channels=4).eval()(torch.rand(1, 3, 32, 64)).shape == (1, 4, 32, 64)


def test_older_monai_is_told_a_size_and_the_installed_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swin_unetr.metadata, "version", lambda name: "1.4.0")
    assert SwinUNETRParameters(spatial_dims=3).arguments()["img_size"] == (64, 64, 64)
    monkeypatch.setattr(swin_unetr.metadata, "version", lambda name: "1.10.0rc1")
    assert "img_size" not in SwinUNETRParameters(spatial_dims=3).arguments()


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"feature_size": 20}, "multiple of 12"),
        ({"num_heads": (5, 6, 12, 24)}, r"have to divide the channels of the stages, \(24, 48, 96, 192\)"),
        ({"depths": (2, 0, 2, 2)}, "1 or more"),
        ({"img_size": 96}, "Extra inputs"),
    ],
)
def test_what_cannot_be_built_is_refused(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        SwinUNETRParameters(**values)
