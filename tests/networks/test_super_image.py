"""Networks for super images: exact sizes, SE normalisation by hand, and learning on mosaics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from napari_medseg.bundles.network import build_network, check_names
from napari_medseg.networks.architecture import Architecture
from napari_medseg.networks.maps import OffersMaps
from napari_medseg.networks.super_image import SENorm, SENormUNet, SuperImageUNet

PLAIN = Architecture("plain", "Plain", "super_image", "SuperImageUNet", "here")
SENORM = Architecture("senorm", "SE", "super_image", "SENormUNet", "here")
LARGE = Architecture(
    "lk",
    "LK",
    "super_image",
    "SENormUNet",
    "here",
    dims=(2,),
    preset=(("large_kernels", True),),
)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    "entry, dims, expected",
    [
        (PLAIN, 3, 3_611_665),
        (PLAIN, 2, 1_205_425),
        (SENORM, 3, 21_751_681),
        (SENORM, 2, 8_508_001),
        (LARGE, 2, 28_092_001),
    ],
)
def test_has_the_number_of_parameters_that_the_paper_reports(entry: Architecture, dims: int, expected: int) -> None:
    with torch.device("meta"):
        assert count(entry.build(spatial_dims=dims)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("dims, expected", [(3, 15_703_843), (2, 6_302_539)])
def test_swin_unetr_of_monai_is_the_fourth_network(dims: int, expected: int) -> None:
    from monai.networks.nets import SwinUNETR

    # it reads a number off a tensor while it is built, so it cannot be built without memory
    assert count(SwinUNETR(in_channels=2, out_channels=1, feature_size=24, spatial_dims=dims)) == expected


@pytest.mark.parametrize("entry, dims", [(PLAIN, 2), (PLAIN, 3), (SENORM, 2), (SENORM, 3), (LARGE, 2)])
def test_a_bundle_rebuilds_it_and_a_trace_runs_it(entry: Architecture, dims: int) -> None:
    width = {"width": 4, "spatial_dims": dims, "in_channels": 3, "out_channels": 2}
    definition = entry.definition(**width)
    check_names(definition)
    network, again = entry.build(**width).eval(), build_network(definition).eval()
    again.load_state_dict(network.state_dict())
    sides, others = ((32, 48), (48, 32)) if dims == 2 else ((32, 16, 16), (16, 32, 16))
    image = torch.rand(1, 3, *sides)
    with torch.no_grad():
        maps = network(image)
        assert maps.shape == (1, 2, *image.shape[2:])
        torch.testing.assert_close(again(image), maps)
        traced = torch.jit.trace(again, torch.rand(1, 3, *others), check_trace=False)
        torch.testing.assert_close(traced(image), maps)


def test_se_norm_without_weights_halves_the_normalised_features() -> None:
    norm = SENorm(2, 4)
    for weights in norm.parameters():
        nn.init.zeros_(weights)
    features = torch.randn(2, 4, 8, 8) * 5 + 3
    torch.testing.assert_close(norm(features), 0.5 * functional.instance_norm(features))
    torch.testing.assert_close(norm.gain(features), torch.full((2, 4, 1, 1), 0.5))


def test_se_norm_is_what_the_equation_says() -> None:
    torch.manual_seed(0)
    norm = SENorm(3, 4)
    features = torch.randn(2, 4, 3, 4, 5)
    means = features.mean((2, 3, 4))

    def excite(part: Any) -> torch.Tensor:
        hidden = torch.relu(means @ part.squeeze.weight.T + part.squeeze.bias)
        return hidden @ part.excite.weight.T + part.excite.bias

    gain, shift = torch.sigmoid(excite(norm.gamma)), torch.tanh(excite(norm.beta))
    assert norm.gamma.squeeze.weight.shape == (2, 4)
    middle = features - means[:, :, None, None, None]
    middle = middle / (middle.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()
    expected = gain[:, :, None, None, None] * middle + shift[:, :, None, None, None]
    torch.testing.assert_close(norm(features), expected)


def test_se_norm_shifts_by_less_than_one() -> None:
    torch.manual_seed(0)
    norm = SENorm(2, 8)
    features = torch.randn(4, 8, 6, 6) * 3
    shift = norm(features).mean((2, 3))
    assert shift.abs().max() < 1
    assert shift.abs().min() > 0


def test_every_coarse_level_reaches_the_finest_one() -> None:
    torch.manual_seed(0)
    network = SENormUNet(2, width=4)
    assert [unit.convolution.weight.shape[:2] for unit in network.supervision] == [(4, 32), (4, 16), (4, 8)]
    network(torch.randn(1, 2, 32, 32)).square().sum().backward()
    for unit in network.supervision:
        assert unit.convolution.weight.grad.abs().sum() > 0
    # what comes from level 4 covers eight pixels a sample, and is added before the last unit
    image = torch.randn(1, 2, 64, 64)
    seen: list[torch.Tensor] = []
    handle = network.second[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        network(image)
        for unit in network.supervision:
            unit.norm.beta.excite.bias.fill_(-0.5)
            unit.norm.beta.excite.weight.zero_()
            unit.norm.gamma.excite.bias.fill_(-50)
        network(image)
        network.supervision[0].norm.beta.excite.bias.fill_(0.5)
        network(image)
    handle.remove()
    expected = seen[1] + 2 * torch.tanh(torch.tensor(0.5))
    torch.testing.assert_close(seen[2], expected, atol=1e-5, rtol=1e-5)


def test_large_kernels_are_in_every_residual_unit_but_the_second() -> None:
    network = SENormUNet(2, width=2, large_kernels=True)
    sides = [[unit.body.convolution.kernel_size[0] for unit in level] for level in network.encoder]
    assert sides == [[7, 3], [7, 7, 7], [7, 7, 7], [7, 7, 7], [7, 7, 7]]
    plain = SENormUNet(2, width=2)
    sides = [[unit.body.convolution.kernel_size[0] for unit in level] for level in plain.encoder]
    assert sides == [[7, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]


def test_gains_can_be_looked_at() -> None:
    torch.manual_seed(0)
    network = SENormUNet(2, width=4).eval()
    assert isinstance(network, OffersMaps)
    image = torch.randn(2, 2, 32, 32)
    with torch.no_grad():
        maps = network.attention_maps(image)
    assert list(maps) == [
        "gain, encoder level 5",
        "gain, encoder level 4",
        "gain, decoder level 4",
        "gain, encoder level 3",
        "gain, decoder level 3",
        "gain, encoder level 2",
        "gain, decoder level 2",
        "gain, encoder level 1",
        "gain, decoder level 1",
    ]
    assert [m.shape[1] for m in maps.values()] == [64, 32, 32, 16, 16, 8, 8, 4, 4]
    assert all(m.shape[2:] == (1, 1) and m.min() > 0 and m.max() < 1 for m in maps.values())
    # turning one unit's excitation all the way up shows in its map, and there alone
    with torch.no_grad():
        network.encoder[0][-1].body.norm.gamma.excite.bias.fill_(20)
        network.encoder[0][-1].body.norm.gamma.excite.weight.zero_()
        changed = network.attention_maps(image)
    torch.testing.assert_close(changed["gain, encoder level 1"], torch.ones(2, 4, 1, 1))
    assert not any(m._forward_hooks for m in network.modules())


def _phantoms(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Volumes (n, 1, 16, 24, 24) with a noisy sphere of radius 4 to 7 on smooth clutter, and the spheres.

    Clutter and noise are such that the best global threshold reaches a Dice of 0.5, as in the specification.
    """
    grid = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in (16, 24, 24)), indexing="ij"))
    images, labels = [], []
    for _ in range(count):
        radius = 4 + 3 * torch.rand((), generator=generator)
        size = torch.tensor([16.0, 24.0, 24.0])
        centre = radius + torch.rand(3, generator=generator) * (size - 2 * radius)
        inside = ((grid - centre[:, None, None, None]).square().sum(0) <= radius**2).float()
        clutter = functional.interpolate(
            torch.randn(1, 1, 2, 3, 3, generator=generator), size=(16, 24, 24), mode="trilinear", align_corners=False
        )[0, 0]
        noise = torch.randn(16, 24, 24, generator=generator)
        images.append(inside + 0.3 * clutter + 0.55 * noise)
        labels.append(inside)
    return torch.stack(images)[:, None], torch.stack(labels)[:, None]


def _mosaic(volumes: torch.Tensor) -> torch.Tensor:
    """Volumes (n, c, 16, h, w) to mosaics (n, c, 4 h, 4 w), slices in reading order."""
    n, c, _, h, w = volumes.shape
    return volumes.reshape(n, c, 4, 4, h, w).permute(0, 1, 2, 4, 3, 5).reshape(n, c, 4 * h, 4 * w)


def _dice(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    each = 2 * (found * true).flatten(1).sum(1) / (found.flatten(1).sum(1) + true.flatten(1).sum(1))
    return each.mean()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_learns_spheres_on_mosaics(seed: int) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = _phantoms(24, generator)
    kept, true = _phantoms(12, generator)
    best = max(_dice((kept > t).float(), true) for t in torch.linspace(-1, 3, 81))
    network = SuperImageUNet(2, in_channels=1, width=8)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-5)
    network.train()
    for _ in range(150):
        chosen = torch.randint(24, (2,), generator=generator)
        image, label = _mosaic(images[chosen]), _mosaic(labels[chosen])
        logits = network(image)
        probability = torch.sigmoid(logits)
        overlap = 2 * (probability * label).sum((1, 2, 3)) + 1e-5
        dice = 1 - (overlap / (probability.sum((1, 2, 3)) + label.sum((1, 2, 3)) + 1e-5)).mean()
        optimiser.zero_grad()
        (dice + functional.binary_cross_entropy_with_logits(logits, label)).backward()
        optimiser.step()
    network.eval()
    with torch.no_grad():
        found = (network(_mosaic(kept)) > 0).float()
    reached = _dice(found, _mosaic(true))
    assert reached >= 0.80
    assert reached >= best + 0.2
