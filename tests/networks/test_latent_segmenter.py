"""Encoder-decoder, discriminator and classifier of the study on starts: shapes, counts, and what a start is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from napari_medseg.networks.latent_segmenter import LatentSegmenter, LatentSegmenterParameters
from napari_medseg.networks.slice_classifier import SliceClassifier, SliceClassifierParameters
from napari_medseg.networks.slice_discriminator import SliceDiscriminator, SliceDiscriminatorParameters
from napari_medseg.networks.transfer import transfer_weights

NARROW = {"blocks": (1, 1, 1, 1), "width": 8, "decoder_width": 32}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def settled(network: torch.nn.Module, *shape: int) -> torch.nn.Module:
    """In evaluation mode with the statistics of random images: with none the result hardly depends on the image."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(4, *shape))
    return network.eval()


def test_numbers_of_parameters() -> None:
    colour = LatentSegmenter(**LatentSegmenterParameters(in_channels=3, out_channels=7).arguments())
    assert count(colour.encoder.backbone) == 23_508_032
    assert count(colour.encoder.latent) == 73_732
    assert count(colour.decoder) == 1_187_223
    grey = LatentSegmenter(**LatentSegmenterParameters().arguments())
    assert count(grey.encoder.backbone) == 23_501_760
    assert count(grey.decoder) == 1_186_498


def test_the_decoder_has_ten_layers_and_doubles_the_side_four_times() -> None:
    decoder = LatentSegmenter(**NARROW).decoder
    convolutions = [m for m in decoder if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    assert [m.out_channels for m in convolutions] == [32, 32, 16, 16, 8, 8, 4, 4, 2, 2]
    assert [m.stride[0] for m in convolutions] == [1, 1, 2, 1, 2, 1, 2, 1, 2, 1]
    assert {m.negative_slope for m in decoder if isinstance(m, torch.nn.LeakyReLU)} == {0.2}
    assert decoder[-1] is convolutions[-1]


def test_a_slice_passes_through_16_x_16_x_4() -> None:
    network = LatentSegmenter(3, 7).eval()
    with torch.no_grad():
        latent = network.encoder(torch.rand(1, 3, 256, 256))
        assert latent.shape == (1, 4, 16, 16)
        assert network.decoder(latent).shape == (1, 7, 256, 256)


def test_nothing_but_the_latent_picture_reaches_the_result() -> None:
    torch.manual_seed(0)
    network = settled(LatentSegmenter(**NARROW), 1, 64, 64)
    one, other = torch.rand(2, 1, 1, 64, 64)
    with torch.no_grad():
        assert (network(one) - network(other)).abs().mean() > 0.01
        network.encoder.latent.register_forward_hook(lambda _m, _i, out: torch.zeros_like(out))
        torch.testing.assert_close(network(one), network(other))


@pytest.mark.parametrize("h, w", [(48, 48), (65, 31), (33, 96)])
def test_any_size_gives_its_own_size(h: int, w: int) -> None:
    torch.manual_seed(0)
    network = LatentSegmenter(**NARROW).eval()
    with torch.no_grad():
        image = torch.rand(1, 1, h, w)
        assert network(image).shape == (1, 2, h, w)
        assert network.encoder(image).shape[2:] == (2 * -(-h // 32), 2 * -(-w // 32))


def test_the_discriminator_judges_14_x_14_patches() -> None:
    network = SliceDiscriminator(**SliceDiscriminatorParameters().arguments())
    assert count(network) == 3_134_401
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 2, 256, 256)).shape == (1, 1, 14, 14)
        assert network(torch.rand(1, 2, 33, 64)).shape == (1, 1, 1, 2)


def test_the_classifier_scores_each_structure_from_the_latent_picture() -> None:
    torch.manual_seed(0)
    network = settled(SliceClassifier(blocks=(1, 1, 1, 1), width=8), 1, 64, 64)
    assert count(network.head) == 1024 * 2048 + 2048 + 2048 * 16 + 16
    image = torch.rand(2, 1, 256, 256)
    with torch.no_grad():
        torch.testing.assert_close(network(image), network.head(network.encoder(image).flatten(1)))
        assert network(torch.rand(2, 1, 64, 96)).shape == (2, 16)


def test_segmenting_reconstructing_and_classifying_share_the_encoder() -> None:
    names = [
        [(name, tensor.shape) for name, tensor in network.state_dict().items() if name.startswith("encoder.")]
        for network in (
            LatentSegmenter(**NARROW),
            LatentSegmenter(**NARROW, out_channels=1),
            SliceClassifier(blocks=(1, 1, 1, 1), width=8),
        )
    ]
    assert names[0] == names[1] == names[2]
    assert len(names[0]) > 50


@pytest.mark.parametrize(
    "parameters, wrong",
    [
        (LatentSegmenterParameters, {"decoder_width": 24}),
        (LatentSegmenterParameters, {"blocks": (3, 4, 6)}),
        (SliceClassifierParameters, {"grid": 0}),
        (SliceDiscriminatorParameters, {"width": 0}),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: type, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parameters(**wrong)


@pytest.mark.parametrize(
    "network, channels",
    [
        (LatentSegmenter(**NARROW), 1),
        (SliceClassifier(blocks=(1, 1, 1, 1), width=8), 1),
        (SliceDiscriminator(width=8), 2),
    ],
    ids=["segmenter", "classifier", "discriminator"],
)
def test_traces_and_keeps_its_result(network: torch.nn.Module, channels: int) -> None:
    settled(network, channels, 64, 64)
    image, another = torch.rand(2, 1, channels, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(network, image)(another), network(another))


# --- what a start is worth: "brain" phantoms with a rim, tissue and a core; then a lesion ---------------------------

# phantoms of 48 x 48 are shown enlarged: this encoder gives a sixteenth of the side, and three points see no lesion
ENLARGED = 4
SMALL = {"blocks": (1, 1, 1, 1), "width": 8, "latent_channels": 16, "decoder_width": 64}


def brains(seed: int, number: int, lesion: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """`number` slices 48 x 48, enlarged, and labels: background, rim, tissue, core; with `lesion` only where it is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48]
    images, labels = [], []
    for _ in range(number):
        cy, cx = rng.uniform(19, 29, 2)
        a, b = rng.uniform(13, 18, 2)
        radius = np.hypot((y - cy) / a, (x - cx) / b)

        def spot(near: float, far: float, cy: float = cy, cx: float = cx, a: float = a, b: float = b) -> np.ndarray:
            turn, out = rng.uniform(0, 2 * np.pi), rng.uniform(near, far)
            return np.hypot(y - cy - a * out * np.sin(turn), x - cx - b * out * np.cos(turn)) < rng.uniform(4, 6)

        wanted = np.select([spot(0, 0.5), radius < 0.85, radius < 1], [3, 2, 1], 0)
        image = np.array([0.0, 0.9, 0.6, 0.3])[wanted]
        if lesion:
            wanted = spot(0.2, 0.6).astype(int)
            image = image + 0.35 * wanted
        images.append(image + rng.normal(0, 0.06, (48, 48)))
        labels.append(wanted)
    block = np.ones((1, ENLARGED, ENLARGED), dtype=int)
    return (
        torch.tensor(np.kron(np.array(images), block)[:, None], dtype=torch.float32),
        torch.tensor(np.kron(np.array(labels), block)).long(),
    )


def train(network: LatentSegmenter, images: torch.Tensor, labels: torch.Tensor, steps: int, seed: int) -> None:
    """Cross-entropy with median-frequency weights; the rate is divided by 10 after half the steps."""
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3, weight_decay=2e-4)
    order = torch.Generator().manual_seed(seed)
    share = torch.bincount(labels.flatten()).float() / labels.numel()
    network.train()
    for step in range(steps):
        if step == steps // 2:
            optimiser.param_groups[0]["lr"] /= 10
        picked = torch.randint(len(images), (8,), generator=order)
        optimiser.zero_grad()
        functional.cross_entropy(network(images[picked]), labels[picked], weight=share.median() / share).backward()
        optimiser.step()


def fine_tuned(seed: int, source: LatentSegmenter | None) -> LatentSegmenter:
    """Trained on 8 slices with a lesion, from the encoder of `source` if there is one; the decoder is new."""
    torch.manual_seed(500 + seed)
    network = LatentSegmenter(**SMALL)
    if source is not None:
        network.load_state_dict(transfer_weights(source.state_dict(), network.state_dict(), ["encoder"]).weights)
    train(network, *brains(2000 + seed, 8, lesion=True), 150, seed)
    return network


def dice(network: LatentSegmenter, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        found = network.eval()(images).argmax(1)
    overlap = (found & labels).sum((1, 2))
    return float((2 * overlap / (found.sum((1, 2)) + labels.sum((1, 2)))).mean())


@pytest.mark.slow
def test_a_start_from_segmentation_of_the_same_domain_beats_a_random_one() -> None:
    held_out = brains(9, 60, lesion=True)
    scores: dict[str, list[float]] = {"random": [], "segmentation": []}
    for seed in range(3):
        torch.manual_seed(seed)
        source = LatentSegmenter(**SMALL, out_channels=4)
        train(source, *brains(1000 + seed, 200, lesion=False), 250, seed)
        scores["random"].append(dice(fine_tuned(seed, None), *held_out))
        scores["segmentation"].append(dice(fine_tuned(seed, source), *held_out))
    print({name: [round(v, 3) for v in values] for name, values in scores.items()})
    assert np.mean(scores["segmentation"]) > np.mean(scores["random"]) + 0.05
