"""The plain U-Net: its exact counts, its layers by hand, and what it learns beside a small SegFormer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional

from napari_medseg.bundles.network import build_network, check_names
from napari_medseg.case import InputError
from napari_medseg.networks.plain_unet import Norm, PlainUNet, PlainUNetParameters

WIDE = (64, 128, 256, 512, 1024)
LITE = (22, 44, 88, 176, 352)


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    "channels, image, classes, norm, expected",
    [
        (WIDE, 1, 4, "none", 31_030_788),
        (LITE, 1, 4, "none", 3_668_460),
        (WIDE, 3, 2, "none", 31_031_810),
        (LITE, 3, 2, "none", 3_668_810),
        (WIDE, 1, 4, "batch", 31_042_564),
        (LITE, 1, 4, "batch", 3_672_508),
        ((8, 16, 32, 64, 128), 3, 2, "batch", 487_298),
    ],
)
def test_the_counts_of_the_paper(
    channels: tuple[int, ...], image: int, classes: int, norm: Norm, expected: int
) -> None:
    with torch.device("meta"):
        assert count(PlainUNet(image, classes, channels, norm=norm)) == expected


def test_the_defaults_are_the_original_width() -> None:
    with torch.device("meta"):
        assert count(PlainUNet(**PlainUNetParameters().arguments())) == 31_030_788


def test_it_computes_what_its_layers_compute_in_turn() -> None:
    torch.manual_seed(0)
    network = PlainUNet(1, 2, (3, 5, 7)).eval()
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    first, second, third, fourth, fifth, sixth, seventh, eighth, ninth, tenth, head = convolutions
    rises = [m for m in network.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    image = torch.rand(1, 1, 8, 12)
    with torch.no_grad():
        fine = second(first(image).relu()).relu()
        middle = fourth(third(functional.max_pool2d(fine, 2)).relu()).relu()
        x = sixth(fifth(functional.max_pool2d(middle, 2)).relu()).relu()
        x = eighth(seventh(torch.cat((middle, rises[0](x)), 1)).relu()).relu()
        x = tenth(ninth(torch.cat((fine, rises[1](x)), 1)).relu()).relu()
        torch.testing.assert_close(network(image), head(x))
        assert network(image).std() > 1e-3


def test_dropout_stands_after_every_level_and_takes_channels_at_both_ends() -> None:
    network = PlainUNet(1, 2, (4, 4, 4, 4, 4), dropout=0.3)
    whole = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout2d)]
    single = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)]
    assert whole == [0.3] * 2
    # three more levels down, four ways up
    assert single == [0.3] * 7
    assert isinstance(network.encoder[0][-1], torch.nn.Dropout2d)
    assert isinstance(network.head[0], torch.nn.Dropout2d)


def test_shapes_of_the_paper() -> None:
    network = PlainUNet(1, 4, LITE).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 1, 256, 256)).shape == (1, 4, 256, 256)
        image = torch.rand(1, 1, 250, 190)
        logits = network(image)
        padded = network(functional.pad(image, (0, 2, 0, 6), mode="replicate"))
    assert logits.shape == (1, 4, 250, 190)
    torch.testing.assert_close(logits, padded[..., :250, :190])


@given(height=st.integers(1, 40), width=st.integers(1, 40), levels=st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_any_size_comes_back(height: int, width: int, levels: int) -> None:
    with torch.no_grad():
        assert PlainUNet(2, 3, (2,) * levels).eval()(torch.rand(1, 2, height, width)).shape == (1, 3, height, width)


def test_a_bundle_rebuilds_it_from_plain_values() -> None:
    parameters = PlainUNetParameters(channels=(2, 4), norm="batch")
    definition = {"_target_": "napari_medseg.networks.plain_unet.PlainUNet", **parameters.arguments()}
    check_names(definition)
    assert count(build_network(definition)) == count(PlainUNet(1, 4, (2, 4), norm="batch"))


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(InputError, match=r"two levels or more; channels is \[8\]"):
        PlainUNet(channels=(8,))
    with pytest.raises(InputError, match="no normalisation 'group'"):
        PlainUNet(norm="group")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="channels are 1 or more"):
        PlainUNetParameters(channels=(8, 0))


def test_it_is_traced_for_any_size() -> None:
    network = PlainUNet(1, 2, (2, 4, 8)).eval()
    traced = torch.jit.trace(network, torch.rand(1, 1, 16, 16))
    image = torch.rand(2, 1, 21, 30)
    torch.testing.assert_close(traced(image), network(image))


def mucosa(random: np.random.Generator, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A drawn endoscopy frame ``(3, side, side)`` and the mask of its one polyp."""
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    centre = random.uniform(-0.4, 0.4, 2)
    angle, (long, short) = random.uniform(0, np.pi), random.uniform(0.20, 0.42, 2)
    dy, dx = y - random.uniform(-0.5, 0.5), x - random.uniform(-0.5, 0.5)
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    distance = (u / long) ** 2 + (v / short) ** 2
    mask = distance < 1
    texture = gaussian_filter(random.normal(size=(side, side)), 4)
    frame = np.array([0.75, 0.42, 0.36])[:, None, None] * (1 + 0.06 * texture / texture.std())
    dome = np.where(mask, 1 - distance, 0)
    frame = frame * np.where(mask, np.array([1.04, 0.92, 0.92])[:, None, None], 1) * (1 + 0.12 * dome)
    fall = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 2
    frame *= 1 - 0.45 * np.clip(fall, 0, 1)
    for _ in range(int(random.integers(2, 6))):
        spot = random.uniform(-0.9, 0.9, 2)
        frame += 0.8 * np.exp(-((y - spot[0]) ** 2 + (x - spot[1]) ** 2) / 0.003)
    frame += random.normal(scale=0.02, size=frame.shape)
    return np.clip(frame, 0, 1).astype(np.float32), mask


@pytest.mark.slow
def test_without_pre_training_it_wins_over_a_small_segformer_on_few_frames() -> None:
    from scipy.ndimage import gaussian_filter
    from scipy.stats import wilcoxon
    from skimage.filters import threshold_otsu

    from napari_medseg.networks.segformer import SegFormer, SegFormerParameters

    random = np.random.default_rng(0)
    frames = [mucosa(random) for _ in range(144)]
    images = torch.from_numpy(np.stack([f[0] for f in frames]))
    masks = torch.from_numpy(np.stack([f[1] for f in frames]))
    truth = masks[96:].numpy()

    def each(found: np.ndarray) -> np.ndarray:
        return np.array([2 * (f & t).sum() / (f.sum() + t.sum()) for f, t in zip(found, truth, strict=True)])

    ratios = [gaussian_filter(i[0] / (i[1] + 0.05), 2) for i in images[96:].numpy()]
    otsu = each(np.stack([r > threshold_otsu(r) for r in ratios]))

    def trained(network: torch.nn.Module) -> np.ndarray:
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        order = np.random.default_rng(1)
        for _ in range(300):
            chosen = torch.from_numpy(order.permutation(96)[:8])
            axes = [a for a in (1, 2) if order.random() < 0.5]
            image, mask = images[chosen].flip([a + 1 for a in axes]), masks[chosen].flip(axes)
            logits = network(image)
            p, g = logits.softmax(1)[:, 1], mask.float()
            overlap = (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)
            loss = 0.5 * functional.cross_entropy(logits, mask.long()) + 0.5 * (1 - overlap)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            return each(network(images[96:]).argmax(1).numpy().astype(bool))

    torch.manual_seed(0)
    unet = trained(PlainUNet(3, 2, (8, 16, 32, 64, 128), dropout=0, norm="batch"))
    segformer = trained(SegFormer(**SegFormerParameters(size="tiny", out_channels=2).arguments()))
    p = wilcoxon(unet, segformer).pvalue
    print("U-Net, SegFormer, Otsu, p:", unet.mean(), segformer.mean(), otsu.mean(), p)
    assert unet.mean() >= 0.93
    assert segformer.mean() >= 0.82
    assert segformer.mean() > otsu.mean()
    assert unet.mean() > segformer.mean()
    assert p < 0.05
