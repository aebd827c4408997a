"""U-Net with attention gates: counts to the digit, the gate by hand, and the decoder against one written out."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch.nn import functional

from napari_medseg.networks.attention_unet import AttentionGate, AttentionUNet, AttentionUNetParameters


def number_of_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_counts_of_the_paper_s_widths() -> None:
    arguments = AttentionUNetParameters().arguments()
    with torch.device("meta"):
        network = AttentionUNet(**arguments)
        gate = AttentionGate(2, 64, 128, 64)
    assert number_of_parameters(network) == 8_288_613
    assert number_of_parameters(network.gates) == 523_204
    assert number_of_parameters(gate) == 24_705  # 64*64*4 + (128*64 + 64) + (64 + 1)


def test_norms_have_the_same_parameters_but_only_batch_keeps_statistics() -> None:
    with torch.device("meta"):
        group, batch = AttentionUNet(norm="group"), AttentionUNet(norm="batch")
    assert number_of_parameters(group) == number_of_parameters(batch)
    assert not list(group.buffers())
    assert list(batch.buffers())
    assert {m.num_groups for m in group.modules() if isinstance(m, torch.nn.GroupNorm)} == {8}


@pytest.mark.parametrize("dims", [2, 3])
def test_gate_with_fixed_psi(dims: int) -> None:
    gate = AttentionGate(dims, 3, 5, 4)
    x, g = torch.rand(2, 3, *(8,) * dims), torch.rand(2, 5, *(4,) * dims)
    torch.nn.init.zeros_(gate.psi.weight)
    torch.nn.init.zeros_(gate.psi.bias)
    alpha = gate.coefficients(x, g)
    assert alpha.shape == (2, 1, *x.shape[2:])
    torch.testing.assert_close(alpha, torch.full_like(alpha, 0.5), rtol=0, atol=0)
    torch.testing.assert_close(gate(x, g), x / 2)
    torch.nn.init.constant_(gate.psi.bias, 20.0)
    torch.testing.assert_close(gate(x, g), x)


def test_gate_coefficients_are_between_0_and_1_on_the_grid_of_the_skip() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(2, 64, 128, 64)
    alpha = gate.coefficients(torch.randn(1, 64, 64, 64), torch.randn(1, 128, 32, 32))
    assert alpha.shape == (1, 1, 64, 64)
    assert 0 < alpha.min() < alpha.max() < 1


def test_gate_by_hand() -> None:
    """One channel: q = 3 relu(mean of 2 x 2 of x + 2 g - 1) - 0.5; the sigmoid comes before the interpolation."""
    gate = AttentionGate(2, 1, 1, 1)
    with torch.no_grad():
        gate.skip.weight.fill_(0.25)
        gate.gating.weight.fill_(2.0)
        gate.gating.bias.fill_(-1.0)
        gate.psi.weight.fill_(3.0)
        gate.psi.bias.fill_(-0.5)
    x = torch.tensor([[0.0, 1, 2, 2], [1, 2, 2, 2]])[None, None]
    g = torch.tensor([[0.5, -4.0]])[None, None]
    left, right = 1 / (1 + np.exp(-(3 * 1.0 - 0.5))), 1 / (1 + np.exp(0.5))  # relu(1 + 1 - 1) and relu(2 - 8 - 1)
    row = np.array([left, 0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right, right])
    np.testing.assert_allclose(gate.coefficients(x, g)[0, 0].detach(), [row, row], rtol=1e-6)
    np.testing.assert_allclose(gate(x, g)[0, 0].detach(), x[0, 0].numpy() * row, rtol=1e-6)


def test_maps_at_the_four_skip_sizes_coarse_to_fine() -> None:
    torch.manual_seed(0)
    network = AttentionUNet().eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert network(image).shape == (2, 1, 64, 64)
        maps = network.attention_maps(image)
    assert list(maps) == ["gate 1, 8 x 8", "gate 2, 16 x 16", "gate 3, 32 x 32", "gate 4, 64 x 64"]
    assert [tuple(m.shape) for m in maps.values()] == [(2, 1, s, s) for s in (8, 16, 32, 64)]
    assert all(0 < m.min() < m.max() < 1 for m in maps.values())


def test_the_decoder_joins_gated_skips() -> None:
    """Against the same levels written out, with the maps that are shown."""
    torch.manual_seed(1)
    network = AttentionUNet(2, 2, 3, (8, 16, 24)).eval()
    image = torch.rand(2, 2, 16, 12)
    with torch.no_grad():
        one = network.encoder[0](image)
        two = network.encoder[1](functional.max_pool2d(one, 2))
        three = network.encoder[2](functional.max_pool2d(two, 2))
        coarse, fine = network.attention_maps(image).values()
        up = network.decoder[0](torch.cat([coarse * two, network.ups[0](three)], 1))
        up = network.decoder[1](torch.cat([fine * one, network.ups[1](up)], 1))
        torch.testing.assert_close(network(image), network.head(up))
        torch.testing.assert_close(coarse, network.gates[0].coefficients(two, three))


def test_the_finest_gate_is_told_by_the_decoder_not_the_encoder() -> None:
    torch.manual_seed(2)
    network = AttentionUNet(2, 1, 1, (8, 8, 8)).eval()
    image = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        before = list(network.attention_maps(image).values())
        network.decoder[0][0].weight.mul_(-1.0)
        after = list(network.attention_maps(image).values())
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("side", [8, 11])
def test_any_size_keeps_its_size(dims: int, side: int) -> None:
    network = AttentionUNet(dims, 1, 2, (4, 8, 8)).eval()
    image = torch.rand(1, 1, *(side,) * (dims - 1), 9)
    with torch.no_grad():
        assert network(image).shape == (1, 2, *image.shape[2:])
        grids = [m.shape[2:] for m in network.attention_maps(image).values()]
    assert grids == [tuple(-(-s // 2) for s in image.shape[2:]), image.shape[2:]]


def test_padding_is_zeros_at_the_ends() -> None:
    torch.manual_seed(3)
    network = AttentionUNet(2, 1, 1, (4, 8, 8)).eval()
    image = torch.rand(1, 1, 10, 13)
    with torch.no_grad():
        whole = network(functional.pad(image, [0, 3, 0, 2]))
        torch.testing.assert_close(network(image), whole[..., :10, :13])


@pytest.mark.parametrize("dims", [2, 3])
def test_exported_it_gives_the_same(dims: int) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(4)
    network = AttentionUNet(dims, 1, 2, (4, 8, 8)).eval()
    image = torch.rand(1, 1, *(10,) * dims)
    file = io.BytesIO()
    torch.onnx.export(network, (torch.zeros_like(image),), file, input_names=["image"], opset_version=17, dynamo=False)
    found = runtime.InferenceSession(file.getvalue()).run(None, {"image": image.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, network(image), atol=1e-4)


def test_training_reaches_every_parameter() -> None:
    torch.manual_seed(5)
    network = AttentionUNet(2, 1, 1, (8, 8, 16))
    network(torch.rand(2, 1, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
