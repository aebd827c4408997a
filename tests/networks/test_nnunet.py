"""nnU-Net's plain U-Net: levels by its rule, names of its weights, and the same numbers as the original."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_medseg.bundles.network import build_network, check_names
from napari_medseg.case import InputError
from napari_medseg.networks.architecture import Architecture
from napari_medseg.networks.nnunet import PlainConvUNet, PlainConvUNetParameters, own_weights, plan_levels

ENTRY = Architecture("nnunet", "nnU-Net", "nnunet", "PlainConvUNet", "here")


def halvings(strides: tuple[tuple[int, ...], ...]) -> list[int]:
    return [sum(s[axis] == 2 for s in strides) for axis in range(len(strides[0]))]


def test_the_plan_of_the_paper_on_white_matter_ends_at_7_5_4() -> None:
    levels = plan_levels((112, 160, 128))
    assert halvings(levels.strides) == [4, 5, 5]
    assert [112 // 2**4, 160 // 2**5, 128 // 2**5] == [7, 5, 4]
    assert levels.strides[0] == (1, 1, 1)
    assert levels.strides[-1] == (1, 2, 2)
    assert levels.patch_size == (112, 160, 128)
    assert set(levels.kernel_sizes) == {(3, 3, 3)}
    arguments = PlainConvUNetParameters(spatial_dims=3, patch_size=(112, 160, 128)).arguments()
    assert arguments["widths"] == [32, 64, 128, 256, 320, 320]


def test_thick_slices_are_halved_and_joined_later() -> None:
    # 0.5 x 0.5 x 4 mm: in-plane steps of 0.5, 1 and 2 stay below half of 4; at 4 all axes are alike
    levels = plan_levels((16, 256, 256), (4.0, 0.5, 0.5))
    assert levels.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2))
    assert levels.kernel_sizes[:4] == ((1, 3, 3), (1, 3, 3), (1, 3, 3), (3, 3, 3))
    # 16 slices can be halved twice
    assert halvings(levels.strides) == [2, 6, 6]
    assert levels.kernel_sizes[-1] == (3, 3, 3)


def test_a_last_axis_alone_needs_twelve_samples() -> None:
    assert halvings(plan_levels((4, 8)).strides) == [0, 0]
    assert halvings(plan_levels((4, 12)).strides) == [0, 1]
    assert halvings(plan_levels((8, 8)).strides) == [1, 1]
    assert plan_levels((7, 13)).patch_size == (7, 14)


@given(
    patch=st.lists(st.integers(1, 300), min_size=2, max_size=3),
    data=st.data(),
)
def test_every_plan_can_be_halved_and_stays_large_enough(patch: list[int], data: st.DataObject) -> None:
    spacing = data.draw(st.lists(st.floats(0.1, 10), min_size=len(patch), max_size=len(patch)))
    levels = plan_levels(patch, spacing)
    times = halvings(levels.strides)
    assert all(size % 2**n == 0 for size, n in zip(levels.patch_size, times, strict=True))
    assert all(n == 0 or size // 2**n >= 4 for size, n in zip(levels.patch_size, times, strict=True))
    assert all(size - old < 2**n for size, old, n in zip(levels.patch_size, patch, times, strict=True))
    # a kernel that has become 3 stays so
    for before, after in zip(levels.kernel_sizes, levels.kernel_sizes[1:], strict=False):
        assert all(b <= a for b, a in zip(before, after, strict=True))


@given(
    patch=st.lists(st.integers(1, 300), min_size=2, max_size=3),
    data=st.data(),
)
def test_every_plan_is_that_of_nnunet(patch: list[int], data: st.DataObject) -> None:
    topology = pytest.importorskip("nnunetv2.experiment_planning.experiment_planners.network_topology")
    spacing = data.draw(st.lists(st.floats(0.1, 10), min_size=len(patch), max_size=len(patch)))
    _, strides, kernels, grown, _ = topology.get_pool_and_conv_props(spacing, patch, 4, 999999)
    levels = plan_levels(patch, spacing)
    assert (levels.strides, levels.kernel_sizes) == (tuple(tuple(s) for s in strides), kernels)
    assert levels.patch_size == tuple(int(n) for n in grown)


def small(dims: int = 2) -> PlainConvUNet:
    """Three levels, 4, 8 and 8 channels, one of them halved along the last axes only."""
    lead = (1,) * (dims - 2)
    strides = [(1,) * dims, (*lead, 2, 2), (2,) * dims]
    kernels = [(*lead, 3, 3), (3,) * dims, (3,) * dims]
    return PlainConvUNet(dims, 2, 3, [4, 8, 8], strides, kernels, [2, 1, 2], [1, 2])


def test_weights_have_the_names_and_shapes_of_nnunet() -> None:
    shapes = {name: tuple(values.shape) for name, values in small().state_dict().items()}
    units = {
        "encoder.stages.0.0.convs.0": (2, 4),
        "encoder.stages.0.0.convs.1": (4, 4),
        "encoder.stages.1.0.convs.0": (4, 8),
        "encoder.stages.2.0.convs.0": (8, 8),
        "encoder.stages.2.0.convs.1": (8, 8),
        "decoder.stages.0.convs.0": (16, 8),
        "decoder.stages.1.convs.0": (8, 4),
        "decoder.stages.1.convs.1": (4, 4),
    }
    expected = {}
    for name, (read, made) in units.items():
        expected |= {f"{name}.conv.weight": (made, read, 3, 3), f"{name}.conv.bias": (made,)}
        expected |= {f"{name}.norm.weight": (made,), f"{name}.norm.bias": (made,)}
    expected |= {"decoder.transpconvs.0.weight": (8, 8, 2, 2), "decoder.transpconvs.0.bias": (8,)}
    expected |= {"decoder.transpconvs.1.weight": (8, 4, 2, 2), "decoder.transpconvs.1.bias": (4,)}
    expected |= {"decoder.seg_layers.0.weight": (3, 8, 1, 1), "decoder.seg_layers.0.bias": (3,)}
    expected |= {"decoder.seg_layers.1.weight": (3, 4, 1, 1), "decoder.seg_layers.1.bias": (3,)}
    assert shapes == expected


def test_second_names_are_left_out() -> None:
    torch.manual_seed(0)
    network, other = small(), small()
    own = network.state_dict()
    stored = dict(own)
    for name, values in own.items():
        second = name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")
        stored[second] = values
        if name.startswith("encoder."):
            stored[f"decoder.{name}"] = values
            stored[f"decoder.{second}"] = values
    assert len(stored) > 2 * len(own)
    assert set(own_weights(stored)) == set(own)
    other.load_state_dict(stored)
    image = torch.randn(1, 2, 16, 16)
    torch.testing.assert_close(other(image), network(image))
    del stored["decoder.seg_layers.0.weight"]
    with pytest.raises(RuntimeError, match=r"seg_layers\.0\.weight"):
        other.load_state_dict(stored)


@pytest.mark.parametrize("dims", [2, 3])
def test_deep_supervision_gives_every_level_of_the_decoder(dims: int) -> None:
    torch.manual_seed(0)
    network = small(dims)
    image = torch.randn(1, 2, *(8, 16, 16)[-dims:])
    levels = network.supervised_logits(image)
    lead = image.shape[2:-2]
    assert [tuple(v.shape) for v in levels] == [(1, 3, *lead, 16, 16), (1, 3, *lead, 8, 8)]
    for mode in (True, False):
        torch.testing.assert_close(network.train(mode)(image), levels[0])
    levels[1].sum().backward()
    assert network.decoder.seg_layers[0].weight.grad is not None
    assert network.decoder.seg_layers[1].weight.grad is None


@pytest.mark.parametrize("dims", [2, 3])
def test_goes_through_json_and_back(dims: int) -> None:
    values = {"spatial_dims": dims, "in_channels": 2, "base_width": 4, "patch_size": (16,) * dims, "convolutions": 1}
    definition = json.loads(json.dumps(ENTRY.definition(**values)))
    check_names(definition)
    torch.manual_seed(3)
    network = ENTRY.build(**values).eval()
    torch.manual_seed(3)
    again = build_network(definition).eval()
    image = torch.randn(1, 2, *(16,) * dims)
    with torch.no_grad():
        torch.testing.assert_close(again(image), network(image))
        traced = torch.jit.trace(again, image, check_trace=False)
        torch.testing.assert_close(traced(image + 1), network(image + 1))


def test_the_number_of_parameters_is_that_of_the_original() -> None:
    # counted with dynamic_network_architectures 0.4.4: one channel, three classes, 112 x 160 x 128
    with torch.device("meta"):
        network = ENTRY.build(spatial_dims=3, out_channels=3, patch_size=(112, 160, 128))
    assert sum(p.numel() for p in network.parameters()) == 30_786_799


def test_wrong_plans_are_refused() -> None:
    with pytest.raises(InputError, match="patch_size needs 3 positive numbers"):
        ENTRY.build(spatial_dims=3, patch_size=(16, 16))
    with pytest.raises(InputError, match="spacing needs 2 positive numbers"):
        ENTRY.build(spacing=(1.0, 0.0))
    with pytest.raises(InputError, match="too small to be halved"):
        ENTRY.build(patch_size=(6, 6))
    with pytest.raises(InputError, match="need to be odd"):
        build_network({**ENTRY.definition(patch_size=(16, 16)), "kernel_sizes": [[2, 3]] * 3})
    with pytest.raises(InputError, match="need as many strides"):
        build_network({**ENTRY.definition(patch_size=(16, 16)), "strides": [[1, 1]]})


@pytest.mark.parametrize(
    "patch, spacing",
    [((32, 48), ()), ((8, 32, 32), (4.0, 1.0, 1.0)), ((16, 16, 16), ())],
)
def test_gives_the_numbers_of_the_original(patch: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    dims = len(patch)
    plan = PlainConvUNetParameters(
        spatial_dims=dims, in_channels=2, out_channels=3, patch_size=patch, spacing=spacing, base_width=4, widest=12
    ).arguments()
    torch.manual_seed(1)
    original = unet.PlainConvUNet(
        2,
        len(plan["widths"]),
        plan["widths"],
        getattr(torch.nn, f"Conv{dims}d"),
        plan["kernel_sizes"],
        plan["strides"],
        plan["convolutions"],
        3,
        plan["decoder_convolutions"],
        True,
        getattr(torch.nn, f"InstanceNorm{dims}d"),
        {"eps": 1e-5, "affine": True},
        None,
        None,
        torch.nn.LeakyReLU,
        {"inplace": True},
        deep_supervision=True,
    ).eval()
    with torch.no_grad():
        for weights in original.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    network = PlainConvUNet(**plan).eval()
    network.load_state_dict(original.state_dict())
    image = torch.randn(1, 2, *patch)
    with torch.no_grad():
        for own, theirs in zip(network.supervised_logits(image), original(image), strict=True):
            assert math.isclose(float((own - theirs).abs().max()), 0.0, abs_tol=1e-6)
