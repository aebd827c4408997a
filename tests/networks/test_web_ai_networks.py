"""HighResNet, SegResNet, the residual U-Net with a Gibbs layer, and HyperDenseNet."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from napari_medseg.bundles.network import build_network, check_names
from napari_medseg.case import InputError
from napari_medseg.networks.architecture import Architecture
from napari_medseg.networks.hyper_dense_net import HyperDenseNet
from napari_medseg.networks.residual_unet_gibbs import GibbsLayer, GibbsUNet
from napari_medseg.networks.segresnet import SupervisedSegResNet

HIGHRES = Architecture("highres", "H", "highres_net", "monai.networks.nets.HighResNet", "here")
SEGRES = Architecture("segres", "S", "segresnet", "monai.networks.nets.SegResNet", "here")
SUPERVISED = Architecture("ds", "D", "segresnet", "SupervisedSegResNet", "here")
GIBBS = Architecture("gibbs", "G", "residual_unet_gibbs", "GibbsUNet", "here")
DENSE = Architecture("dense", "HD", "hyper_dense_net", "HyperDenseNet", "here")

_SMALL: dict[str, dict[str, Any]] = {
    "highres": {"width": 4, "repeats": 1, "last_width": 8},
    "segres": {"blocks_down": (1, 1, 2), "blocks_up": (1, 1)},
    "ds": {"init_filters": 4, "blocks_down": (1, 1, 1), "supervised_levels": 2},
    "gibbs": {"channels": (4, 8), "strides": (2,), "num_res_units": 1},
    "dense": {"widths": (3, 4), "head_widths": (5,)},
}
_ENTRIES = [HIGHRES, SEGRES, SUPERVISED, GIBBS, DENSE]


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    "entry, channels, millions",
    [(HIGHRES, (4, 4), 0.810), (SEGRES, (1, 2), 1.18), (SEGRES, (4, 4), 1.18), (GIBBS, (4, 3), 4.81)],
)
def test_has_the_stated_number_of_parameters(entry: Architecture, channels: tuple[int, int], millions: float) -> None:
    network = entry.build(in_channels=channels[0], out_channels=channels[1], spatial_dims=3)
    assert count(network) / 1e6 == pytest.approx(millions, rel=4e-3)


def test_the_stated_numbers_to_the_digit() -> None:
    assert count(HIGHRES.build(in_channels=4, out_channels=4)) == 810_408
    assert count(SEGRES.build()) == 1_176_186
    # the U-Net's and one alpha
    assert count(GIBBS.build(in_channels=4, out_channels=3)) == 4_810_074 + 1
    assert count(GIBBS.build(in_channels=4, out_channels=3, gibbs="fixed")) == 4_810_074


@pytest.mark.slow
def test_the_supervised_network_is_as_large_as_that_of_auto3dseg() -> None:
    assert round(count(SUPERVISED.build(out_channels=3)) / 1e6) == 87


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("entry", _ENTRIES, ids=lambda e: e.name)
def test_goes_through_json_and_back(entry: Architecture, dims: int) -> None:
    values = {**_SMALL[entry.name], "spatial_dims": dims, "in_channels": 2, "out_channels": 3}
    definition = json.loads(json.dumps(entry.definition(**values)))
    check_names(definition)
    torch.manual_seed(5)
    network = entry.build(**values)
    torch.manual_seed(5)
    again = build_network(definition)
    own, other = network.state_dict(), again.state_dict()
    assert list(own) == list(other)
    assert all(torch.equal(own[key], other[key]) for key in own)
    image = torch.rand(2, 2, *(16, 8, 8)[:dims])
    with torch.no_grad():
        maps = network.eval()(image)
        assert maps.shape == (2, 3, *image.shape[2:])
        traced = torch.jit.trace(again.eval(), image, check_trace=False)
        torch.testing.assert_close(traced(image), maps)
        assert network.train()(image).shape == maps.shape


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(InputError, match="blocks_up needs 2 numbers"):
        SEGRES.build(blocks_down=(1, 2, 2))
    with pytest.raises(InputError, match=r"init_filters: .*multiple of 8; given was 12"):
        SEGRES.build(init_filters=12)
    with pytest.raises(InputError, match="all but the coarsest can be supervised"):
        SUPERVISED.build(blocks_down=(1, 1), supervised_levels=2)
    with pytest.raises(InputError, match="strides need 1 positive numbers"):
        GIBBS.build(channels=(4, 8), strides=(2, 2))
    with pytest.raises(InputError, match=r"alpha: .*greater than 0"):
        GIBBS.build(alpha=0)
    with pytest.raises(InputError, match=r"in_channels: .*greater than or equal to 2"):
        DENSE.build(in_channels=1)


def test_supervision_gives_one_tensor_and_further_ones_on_request() -> None:
    torch.manual_seed(0)
    network = SupervisedSegResNet(2, 1, 2, init_filters=4, blocks_down=(1, 1, 1, 1), supervised_levels=3)
    image = torch.rand(1, 1, 16, 16)
    network.train()
    levels = network.supervised_logits(image)
    assert [tuple(v.shape[2:]) for v in levels] == [(16, 16), (8, 8), (4, 4)]
    torch.testing.assert_close(network(image), levels[0])
    network.eval()
    assert [tuple(v.shape[2:]) for v in network.supervised_logits(image)] == [(16, 16)]
    torch.testing.assert_close(network(image), network.supervised_logits(image)[0])


@settings(max_examples=25, deadline=None)
@given(sides=st.lists(st.integers(2, 11), min_size=2, max_size=3), seed=st.integers(0, 99))
def test_a_hard_edge_at_one_changes_nothing(sides: list[int], seed: int) -> None:
    image = torch.randn(2, 2, *sides, generator=torch.Generator().manual_seed(seed))
    assert (GibbsLayer(1.0)(image) - image).norm() < 1e-5 * image.norm()


@settings(max_examples=25, deadline=None)
@given(
    sides=st.lists(st.integers(2, 11), min_size=2, max_size=3),
    alpha=st.floats(0.01, 1),
    edge=st.sampled_from(["hard", "soft"]),
)
def test_a_constant_image_is_left_alone(sides: list[int], alpha: float, edge: Any) -> None:
    image = torch.full((1, 1, *sides), 3.0)
    torch.testing.assert_close(GibbsLayer(alpha, edge)(image).detach(), image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sides", [(16, 12), (9, 8, 7)])
@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_nothing_is_left_beyond_the_edge(sides: tuple[int, ...], alpha: float) -> None:
    image = torch.randn(1, 1, *sides, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.fftshift(torch.fft.fftn(GibbsLayer(alpha)(image)[0, 0]))
    whole = torch.fft.fftshift(torch.fft.fftn(image[0, 0]))
    grids = torch.meshgrid(*(torch.arange(n) - n // 2 for n in sides), indexing="ij")
    distance = torch.stack(grids).float().square().sum(0).sqrt()
    beyond = distance > alpha * distance.max()
    assert spectrum[beyond].abs().max() < 1e-4 * whole.abs().max()
    torch.testing.assert_close(spectrum[~beyond], whole[~beyond], atol=1e-3, rtol=1e-4)


def test_a_wave_passes_below_the_edge_and_not_above() -> None:
    # 16 samples: the largest distance is 8 along the one axis with more than one sample
    places = torch.arange(16) * 2 * torch.pi / 16
    slow, fast = (torch.cos(k * places).reshape(1, 1, 1, 16) for k in (3, 6))
    layer = GibbsLayer(0.5)
    torch.testing.assert_close(layer(slow + fast), slow, atol=1e-5, rtol=0)
    torch.testing.assert_close(layer(slow + fast, torch.tensor(0.75)), slow + fast, atol=1e-5, rtol=0)


def test_alpha_learns_at_a_soft_edge_alone() -> None:
    image = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    soft = GibbsLayer(0.6, "soft")
    soft(image).square().sum().backward()
    assert soft.alpha.grad is not None
    assert soft.alpha.grad.abs() > 1e-3
    alpha = torch.tensor(0.6, requires_grad=True)
    image.requires_grad_()
    total = GibbsLayer(0.6)(image, alpha).square().sum()
    of_image, of_alpha = torch.autograd.grad(total, (image, alpha), allow_unused=True)
    assert of_image.abs().sum() > 0
    assert of_alpha is None


def test_the_layer_sees_every_item_and_channel_alone() -> None:
    image = torch.randn(3, 4, 10, 9, 8, generator=torch.Generator().manual_seed(0))
    layer = GibbsLayer(0.4)
    torch.testing.assert_close(layer(image)[[2, 0, 1]], layer(image[[2, 0, 1]]))
    torch.testing.assert_close(layer(image)[:, [3, 1, 0, 2]], layer(image[:, [3, 1, 0, 2]]))
    torch.testing.assert_close(layer(image)[1:2, 2:3], layer(image[1:2, 2:3]))


def test_the_convention_is_the_other_way_round_from_monai() -> None:
    from monai.transforms import GibbsNoise

    image = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    for kept in (0.3, 0.7):
        theirs = torch.as_tensor(GibbsNoise(alpha=1 - kept)(image))
        ours = GibbsLayer(kept)(image[None])[0]
        other = GibbsLayer(1 - kept)(image[None])[0]
        assert (ours - theirs).norm() < 0.5 * (other - theirs).norm()


def test_alpha_is_drawn_in_training_and_left_out_otherwise() -> None:
    torch.manual_seed(0)
    network = GibbsUNet(2, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1, gibbs="sampled", alpha=0.3)
    image = torch.randn(2, 1, 16, 16)
    network.eval()
    torch.testing.assert_close(network(image), network.unet(image))
    seen: list[torch.Tensor] = []
    handle = network.gibbs.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    network.train()
    for _ in range(20):
        network(image)
    handle.remove()
    drawn = torch.stack(seen)
    assert drawn.min() >= 0.3
    assert drawn.max() <= 1
    assert drawn.std() > 0.1


def test_the_layer_stands_before_the_unet() -> None:
    torch.manual_seed(0)
    network = GibbsUNet(2, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1, gibbs="fixed", alpha=0.3).eval()
    image = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(network(image), network.unet(GibbsLayer(0.3)(image)))
    assert not torch.allclose(network(image), network.unet(image))


@pytest.mark.parametrize("streams", [2, 3])
def test_hyper_dense_net_has_the_layers_of_the_paper(streams: int) -> None:
    with torch.device("meta"):
        network = HyperDenseNet(3, streams, 4)
    widths = [25, 25, 25, 50, 50, 50, 75, 75, 75]
    expected = [(1, 25)] + [(streams * sum(widths[:k]), widths[k]) for k in range(1, 9)]
    for stream in range(streams):
        made = [layer[stream][-1] for layer in network.layers]
        assert [(c.in_channels, c.out_channels) for c in made] == expected
        assert all(c.kernel_size == (3, 3, 3) for c in made)
        assert [type(layer[stream][0]) for layer in network.layers] == [nn.PReLU] + [nn.BatchNorm3d] * 8
    assert [unit[-1].out_channels for unit in network.head] == [400, 200, 150, 4]
    assert network.head[0][-1].in_channels == streams * 450
    assert network.border == 9


@pytest.mark.slow
def test_hyper_dense_net_makes_9_of_27() -> None:
    network = HyperDenseNet().eval()
    with torch.no_grad():
        assert network.valid_logits(torch.rand(1, 2, 27, 27, 27)).shape == (1, 2, 9, 9, 9)


def test_hyper_dense_net_sees_zeros_beyond_the_image_and_nothing_else() -> None:
    torch.manual_seed(0)
    network = HyperDenseNet(2, 2, 3, widths=(3, 4, 5), head_widths=(6,)).eval()
    image = torch.randn(1, 2, 14, 15)
    with torch.no_grad():
        whole, inner = network(image), network.valid_logits(image)
        assert inner.shape == (1, 3, 8, 9)
        torch.testing.assert_close(whole[:, :, 3:-3, 3:-3], inner)
        # one sample reaches as far as the layers go, and no farther
        changed = image.clone()
        changed[0, 1, 7, 7] += 1
        reached = (network(changed) - whole).abs().sum((0, 1)) > 0
    rows, columns = torch.nonzero(reached, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 10, 4, 10)


def test_hyper_dense_net_puts_a_streams_own_features_first() -> None:
    torch.manual_seed(0)
    network = HyperDenseNet(2, 2, 1, widths=(2, 3), head_widths=()).eval()
    image = torch.randn(1, 2, 9, 9)
    top, bottom = (network.layers[0][k](image[:, k : k + 1]) for k in (0, 1))
    second_top = network.layers[1][0](torch.cat([top, bottom], 1))
    second_bottom = network.layers[1][1](torch.cat([bottom, top], 1))
    inner = [x[:, :, 1:-1, 1:-1] for x in (top, bottom)]
    expected = network.head(torch.cat([*inner, second_top, second_bottom], 1))
    torch.testing.assert_close(network.valid_logits(image), expected)
