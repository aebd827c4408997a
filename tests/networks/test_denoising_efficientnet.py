"""The denoising auto-encoder and the segmenter behind it: counts, noise, transfer, and what it takes away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from napari_medseg.bundles.network import build_network, check_names
from napari_medseg.case import InputError
from napari_medseg.networks.denoising_efficientnet import (
    DenoisingAutoEncoder,
    DenoisingAutoEncoderParameters,
    DenoisingEfficientNet,
    DenoisingEfficientNetParameters,
    GaussianNoise,
)

SMALL = {"encoder": "resnet18", "encoder_depth": 3}


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """In evaluation mode with a last layer that does something and the statistics of random images."""
    torch.manual_seed(1)
    torch.nn.init.normal_(network.get_parameter("network.segmentation_head.0.weight"), std=0.05)
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(4, 3, 32, 32))
    return network.eval()


def test_the_counts_of_the_paper_s_networks() -> None:
    network = DenoisingEfficientNet(**DenoisingEfficientNetParameters().arguments())
    assert isinstance(network.autoencoder, DenoisingAutoEncoder)
    assert count(network.segmenter) == 13_159_758
    assert count(network.segmenter.encoder) == 10_696_232
    assert count(network.autoencoder) == 13_159_323
    alone = DenoisingAutoEncoder(**DenoisingAutoEncoderParameters().arguments())
    assert count(alone) == 13_159_323
    assert count(DenoisingEfficientNet(encoder="resnet18", prefilter=False)) == 14_328_934
    with torch.no_grad():
        assert network.eval()(torch.rand(2, 3, 256, 256)).shape == (2, 6, 256, 256)
        # the size that EfficientNet-B3 was made for is no multiple of 32
        assert network(torch.rand(1, 3, 300, 300)).shape == (1, 6, 300, 300)


def test_noise_has_its_deviation_and_is_off_in_use() -> None:
    torch.manual_seed(0)
    noise = GaussianNoise(low=0.1, high=0.1)
    image = torch.full((1, 3, 320, 320), 0.5)
    noisy = noise.train()(image)
    assert abs(float(noisy.mean()) - 0.5) < 0.001
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.02)
    assert 0 <= float(noisy.min()) < 0.1 < 0.9 < float(noisy.max()) <= 1
    assert torch.equal(noise.eval()(image), image)
    assert not torch.equal(noise.noisy(image), image)


def test_noise_is_drawn_for_each_image_and_has_a_mean() -> None:
    torch.manual_seed(0)
    deviations = GaussianNoise(low=0.02, high=0.15)(torch.full((200, 1, 64, 64), 0.5)).std((1, 2, 3))
    assert 0.019 < float(deviations.min()) < 0.03
    assert 0.14 < float(deviations.max()) < 0.153
    assert float(deviations.mean()) == pytest.approx(0.085, abs=0.01)
    shifted = GaussianNoise(mean=0.2, low=0.01, high=0.01)(torch.full((1, 1, 64, 64), 0.5))
    assert float(shifted.mean()) == pytest.approx(0.7, abs=0.001)
    bright = GaussianNoise(low=0.1, high=0.1)(torch.ones(1, 1, 64, 64))
    assert float(bright.max()) == 1
    with pytest.raises(InputError, match=r"given was 0\.2 to 0\.1"):
        GaussianNoise(low=0.2, high=0.1)


def test_the_untrained_residual_filter_changes_nothing_and_the_direct_one_does() -> None:
    image = torch.rand(2, 3, 37, 50)
    with torch.no_grad():
        assert torch.equal(DenoisingAutoEncoder(**SMALL).eval()(image), image)
        direct = DenoisingAutoEncoder(**SMALL, output_form="direct").eval()
        assert not torch.allclose(direct(image), image, atol=0.1)


def test_the_forms_differ_by_a_subtraction_and_are_clipped_in_use() -> None:
    residual = lively(DenoisingAutoEncoder(**SMALL))
    direct = DenoisingAutoEncoder(**SMALL, output_form="direct").eval()
    direct.load_state_dict(residual.state_dict())
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = residual.network(image)
        assert found.std() > 0.01
        torch.testing.assert_close(residual(image), (image - found).clamp(0, 1))
        torch.testing.assert_close(direct(image), found.clamp(0, 1))
        torch.testing.assert_close(residual.removed(image), image - (image - found).clamp(0, 1))
        assert residual(image).min() == 0
        residual.train()
        assert residual.clean(0.05 * image).min() < 0


def test_training_adds_noise_and_use_does_not() -> None:
    network = DenoisingAutoEncoder(**SMALL, noise_low=0.1, noise_high=0.1)
    image = torch.full((1, 3, 64, 64), 0.5)
    with torch.no_grad():
        assert float(network.train()(image).std()) == pytest.approx(0.1, rel=0.05)
        assert float(network.train().clean(image).std()) == 0
        assert float(network.eval()(image).std()) == 0


def test_the_filter_in_front_is_applied_before_normalisation_and_stays_frozen() -> None:
    trained = lively(DenoisingAutoEncoder(**SMALL))
    network = DenoisingEfficientNet(**SMALL).train()
    network.take_autoencoder(trained)
    assert network.autoencoder is not None
    image = torch.rand(2, 3, 32, 32)
    before = {k: v.clone() for k, v in network.autoencoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(image).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in network.autoencoder.state_dict().items())
    assert count(network) - sum(p.numel() for p in network.parameters() if p.requires_grad) == count(trained)
    with torch.no_grad():
        cleaned = trained(image)
        torch.testing.assert_close(network.filtered(image), cleaned)
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        shown = (cleaned.movedim(1, -1) - mean) / deviation
        torch.testing.assert_close(network.eval()(image), network.segmenter.eval()(shown.movedim(-1, 1)))


def test_added_noise_is_added_in_use_as_well() -> None:
    image = torch.full((1, 3, 32, 32), 0.5)
    noisy = DenoisingEfficientNet(**SMALL, add_noise=True, noise_low=0.1, noise_high=0.1).eval()
    plain = DenoisingEfficientNet(**SMALL).eval()
    with torch.no_grad():
        assert float(noisy.filtered(image).std()) == pytest.approx(0.1, rel=0.1)
        assert not torch.equal(noisy(image), noisy(image))
        assert torch.equal(plain(image), plain(image))
    with pytest.raises(InputError, match="add_noise needs prefilter"):
        DenoisingEfficientNet(**SMALL, add_noise=True, prefilter=False)


def test_the_encoder_is_taken_over_and_all_of_the_segmenter_trains() -> None:
    trained = lively(DenoisingAutoEncoder(encoder="efficientnet-b0"))
    network = DenoisingEfficientNet(encoder="efficientnet-b0", out_channels=3, prefilter=False)
    assert network.autoencoder is None
    network.take_encoder(trained)
    for name, value in trained.network.encoder.state_dict().items():
        assert torch.equal(network.segmenter.encoder.state_dict()[name], value)
    theirs = dict(trained.network.decoder.named_parameters())
    assert all(
        not torch.equal(p, theirs[n])
        for n, p in network.segmenter.decoder.named_parameters()
        if "conv" in n and p.ndim > 1
    )
    assert network.segmenter.segmentation_head[0].weight.shape[0] == 3
    before = {k: v.clone() for k, v in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    functional.cross_entropy(network.train()(torch.rand(2, 3, 32, 32)), torch.randint(3, (2, 32, 32))).backward()
    optimizer.step()
    changed = {k.split(".")[1] for k, v in network.named_parameters() if not torch.equal(before[k], v)}
    assert changed == {"encoder", "decoder", "segmentation_head"}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="no auto-encoder in front"):
        DenoisingEfficientNet(**SMALL, prefilter=False).take_autoencoder(DenoisingAutoEncoder(**SMALL))
    with pytest.raises(InputError, match="trained in the direct form; this network has the residual one"):
        DenoisingEfficientNet(**SMALL).take_autoencoder(DenoisingAutoEncoder(**SMALL, output_form="direct"))
    with pytest.raises(InputError, match="the auto-encoder does not fit"):
        DenoisingEfficientNet(**SMALL).take_encoder(DenoisingAutoEncoder(encoder="efficientnet-b0"))
    with pytest.raises(InputError, match="no output form 'both'"):
        DenoisingAutoEncoder(**SMALL, output_form="both")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="noise_low is at most noise_high"):
        DenoisingAutoEncoderParameters(noise_low=0.5)
    with pytest.raises(ValidationError, match="out_channels is in_channels"):
        DenoisingAutoEncoderParameters(in_channels=1)
    with pytest.raises(ValidationError, match="add_noise needs prefilter"):
        DenoisingEfficientNetParameters(add_noise=True, prefilter=False)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(channels: int) -> None:
    network = DenoisingEfficientNet(channels, 2, **SMALL).eval()
    torch.testing.assert_close(network.mean.flatten(), torch.full((channels,), 1.347 / 3))
    torch.testing.assert_close(network.deviation.flatten(), torch.full((channels,), 0.678 / 3))
    with torch.no_grad():
        assert network(torch.rand(1, channels, 20, 33)).shape == (1, 2, 20, 33)


def test_bundles_rebuild_them_from_plain_values() -> None:
    room = "napari_medseg.networks.denoising_efficientnet"
    image = torch.rand(1, 3, 32, 32)
    for name, parameters in (
        ("DenoisingAutoEncoder", DenoisingAutoEncoderParameters(**SMALL)),
        ("DenoisingEfficientNet", DenoisingEfficientNetParameters(**SMALL)),
    ):
        definition = {"_target_": f"{room}.{name}", **parameters.arguments()}
        check_names(definition)
        network, again = build_network(definition).eval(), build_network(definition).eval()
        again.load_state_dict(network.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(again(image), network(image))


def test_it_is_traced_for_any_size() -> None:
    network = DenoisingEfficientNet(**SMALL).eval()
    traced = torch.jit.trace(network, torch.rand(1, 3, 32, 32))
    image = torch.rand(2, 3, 21, 50)
    torch.testing.assert_close(traced(image), network(image))


def patch(random: np.random.Generator, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A drawn patch ``(3, side, side)`` with nuclei of five colours and sizes, and its classes 0 to 5, 0 the ground."""
    from scipy.ndimage import gaussian_filter
    from skimage.draw import ellipse

    ground = gaussian_filter(random.normal(size=(side, side)), 6)
    image = np.array([0.88, 0.72, 0.82])[:, None, None] + 0.03 * ground / ground.std()
    label = np.zeros((side, side), np.int64)
    colours = np.array(
        [[0.45, 0.30, 0.62], [0.30, 0.22, 0.50], [0.58, 0.42, 0.66], [0.62, 0.30, 0.45], [0.42, 0.38, 0.70]]
    )
    radii = [(7, 5), (3.5, 3.5), (7, 3), (4, 4), (6, 6)]
    for _ in range(int(random.integers(6, 11))):
        kind = int(random.integers(5))
        inside = ellipse(
            *random.uniform(0, side, 2), *radii[kind], shape=label.shape, rotation=random.uniform(-np.pi, np.pi)
        )
        label[inside] = kind + 1
        image[:, inside[0], inside[1]] = (colours[kind] + random.normal(scale=0.02, size=3))[:, None]
    smooth = np.stack([gaussian_filter(c, 0.7) for c in image])
    return np.clip(smooth, 0, 1).astype(np.float32), label


def patches(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    drawn = [patch(random) for _ in range(number)]
    return torch.from_numpy(np.stack([d[0] for d in drawn])), torch.from_numpy(np.stack([d[1] for d in drawn]))


def steps(network: torch.nn.Module, images: torch.Tensor, number: int, rate: float, seed: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    order = np.random.default_rng(seed)
    for _ in range(number):
        chosen = images[torch.from_numpy(order.permutation(len(images))[:4])]
        loss = functional.mse_loss(network.train()(chosen), chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("rate", [3e-4, 1e-3])
def test_the_residual_filter_is_never_worse_than_none_and_soon_better(rate: float) -> None:
    images, _ = patches(48, 0)
    torch.manual_seed(0)
    network = DenoisingAutoEncoder(encoder_depth=3, noise_low=0.1, noise_high=0.1)
    noisy = network.noise.noisy(images)
    reference = functional.mse_loss(noisy, images)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    order = np.random.default_rng(0)
    ratios = []
    for step in range(161):
        if step % 20 == 0:
            network.eval()
            with torch.no_grad():
                ratios.append(float(functional.mse_loss(network(noisy), images) / reference))
        chosen = images[torch.from_numpy(order.permutation(48)[:4])]
        loss = functional.mse_loss(network.train()(chosen), chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print("noisy MSE, ratios:", float(reference), ratios)
    assert ratios[0] == pytest.approx(1, abs=1e-6)
    assert max(ratios) <= 1.05
    assert ratios[-1] <= 0.95


@pytest.mark.slow
def test_the_filter_helps_a_segmenter_that_never_saw_noise_and_training_with_noise_helps_more() -> None:
    from napari_medseg.networks.plain_unet import PlainUNet

    images, labels = patches(96, 0)
    test, truth = patches(48, 1)
    torch.manual_seed(0)
    autoencoder = DenoisingAutoEncoder(encoder="resnet18", encoder_depth=3, noise_low=0.1, noise_high=0.1)
    steps(autoencoder, images, 400, 1e-3, 0)
    noisy = GaussianNoise(low=0.1, high=0.1).noisy(test)
    with torch.no_grad():
        cleaned = autoencoder(noisy)
    ratio = float(functional.mse_loss(cleaned, test) / functional.mse_loss(noisy, test))

    def segmenter(noise: GaussianNoise | None) -> torch.nn.Module:
        torch.manual_seed(2)
        network = PlainUNet(3, 6, (8, 16, 32, 64), dropout=0, norm="batch")
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        order = np.random.default_rng(3)
        for _ in range(300):
            chosen = torch.from_numpy(order.permutation(96)[:8])
            shown = images[chosen] if noise is None else noise(images[chosen])
            loss = functional.cross_entropy(network(shown), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network.eval()

    def dice(network: torch.nn.Module, shown: torch.Tensor) -> tuple[float, float]:
        with torch.no_grad():
            found = network(shown).argmax(1)
        pairs = [(found > 0, truth > 0)] + [(found == k, truth == k) for k in range(1, 6)]
        scores = [float(2 * (f & t).sum() / (f.sum() + t.sum())) for f, t in pairs]
        return scores[0], sum(scores[1:]) / 5

    clean = segmenter(None)
    unfiltered, filtered = dice(clean, noisy), dice(clean, cleaned)
    control = dice(segmenter(GaussianNoise(low=0.1, high=0.1)), noisy)
    print("MSE ratio, clean, unfiltered, filtered, control:", ratio, dice(clean, test), unfiltered, filtered, control)
    assert filtered[0] >= unfiltered[0] + 0.02
    assert control[0] >= filtered[0]
