"""SegFormer: counts of its paper, attention, position, and what it learns of drawn nuclei."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from napari_medseg.bundles.network import build_network, check_names
from napari_medseg.case import InputError
from napari_medseg.networks.maps import OffersMaps
from napari_medseg.networks.segformer import PRETRAINED_NOTICE, SegFormer, SegFormerParameters, Size

TARGET = "napari_medseg.networks.segformer.SegFormer"


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def built(size: Size = "tiny", **values: int | str) -> SegFormer:
    torch.manual_seed(0)
    return SegFormer(**SegFormerParameters(size=size, **values).arguments())


def settled(network: SegFormer) -> SegFormer:
    """In evaluation mode with lively weights and statistics: fresh ones attend evenly to all."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point() and "norm" not in name:
                fan_in = max(1, value[0].numel()) if value.ndim > 1 else 100
                value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5)
            elif name.endswith(("batch_norm.running_mean", "batch_norm.weight", "batch_norm.running_var")):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return network.eval()


@pytest.mark.parametrize(
    "size, classes, total, encoder",
    [
        ("b0", 6, 3_715_686, 3_319_392),
        ("b0", 4, 3_715_172, 3_319_392),
        ("b0", 2, 3_714_658, 3_319_392),
        ("b4", 6, 63_997_638, 60_842_688),
        ("tiny", 2, 455_906, 423_648),
    ],
)
def test_the_counts_of_the_papers(size: Size, classes: int, total: int, encoder: int) -> None:
    with torch.device("meta"):
        network = built(size, out_channels=classes)
    assert (count(network), count(network.segformer)) == (total, encoder)


def by_hand(depths: list[int], channels: list[int], width: int, classes: int) -> int:
    total, before = 0, 3
    for depth, c, kernel, r in zip(depths, channels, (7, 3, 3, 3), (8, 4, 2, 1), strict=True):
        attention = 4 * (c * c + c) + (c * c * r * r + c + 2 * c if r > 1 else 0)
        feed_forward = (c * 4 * c + 4 * c) + (9 * 4 * c + 4 * c) + (4 * c * c + c)
        total += before * c * kernel**2 + c + 2 * c + depth * (attention + feed_forward + 4 * c) + 2 * c
        total += c * width + width
        before = c
    return total + 4 * width * width + 2 * width + width * classes + classes


@pytest.mark.parametrize("size", ["b1", "b2", "b3", "b4", "b5"])
def test_the_counts_of_the_other_sizes_by_hand(size: Size) -> None:
    arguments = SegFormerParameters(size=size).arguments()
    with torch.device("meta"):
        assert count(SegFormer(**arguments)) == by_hand(
            arguments["depths"], arguments["channels"], arguments["decoder_channels"], 6
        )


def test_shapes_of_stages_and_of_attention() -> None:
    network = built("b0", out_channels=4).eval()
    image = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        maps = network.features(image)
        attention = network.segformer(image, output_attentions=True).attentions
        last = network.attention(image)
        assert network.decode_head(maps).shape == (1, 4, 64, 64)
        assert network(image).shape == (1, 4, 256, 256)
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 64, 64), (64, 32, 32), (160, 16, 16), (256, 8, 8)]
    expected = [(1, 4096, 64)] * 2 + [(2, 1024, 64)] * 2 + [(5, 256, 64)] * 2 + [(8, 64, 64)] * 2
    assert [tuple(a.shape[1:]) for a in attention] == expected
    for stage, weights in zip(last, attention[1::2], strict=True):
        torch.testing.assert_close(stage.weights, weights)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5, rtol=0)
        assert stage.keys == (8, 8)
        assert stage.queries[0] * stage.queries[1] == weights.shape[2]


def test_padding_keeps_the_size_and_the_border() -> None:
    network = settled(built("b0", out_channels=4))
    image = torch.rand(1, 3, 250, 190)
    with torch.no_grad():
        logits = network(image)
        whole = network(functional.pad(image, (0, 2, 0, 6), mode="replicate"))
        unpadded = network.segformer(image, output_attentions=True).attentions[0]
    assert logits.shape == (1, 4, 250, 190)
    torch.testing.assert_close(logits, whole[..., :250, :190])
    # why it pads: 63 x 48 queries would see only 7 x 6 keys
    assert unpadded.shape == (1, 1, 63 * 48, 7 * 6)
    assert [s.keys for s in network.attention(image)] == [(8, 6)] * 4


@given(height=st.integers(1, 70), width=st.integers(1, 70))
@settings(max_examples=12, deadline=None)
def test_any_size_comes_back(height: int, width: int) -> None:
    with torch.no_grad():
        assert built(in_channels=1).eval()(torch.rand(1, 1, height, width)).shape == (1, 6, height, width)


def test_position_comes_from_the_zeros_around_the_map() -> None:
    network = built("b0").eval()
    image = torch.full((1, 3, 64, 64), 0.5)
    with torch.no_grad():
        assert network(image).std((2, 3)).max() > 1e-3
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.padding != (0, 0):
                layer.padding_mode = "circular"
        assert network(image).std((2, 3)).max() < 1e-5


def as_smp(name: str) -> str:
    name = re.sub(r"segformer\.stages\.(\d)\.", lambda m: f"encoder.{int(m[1]) + 1}|", name)
    name = re.sub(r"encoder\.(\d)\|patch_embeddings\.(proj|layer_norm)", r"encoder.patch_embed\1.\2", name)
    name = re.sub(r"encoder\.(\d)\|blocks\.", r"encoder.block\1.", name)
    name = re.sub(r"encoder\.(\d)\|layer_norm", r"encoder.norm\1", name)
    name = name.replace("layernorm_before", "norm1").replace("layernorm_after", "norm2").replace("layer_norm", "norm")
    name = name.replace("attention.sequence_reduction.sequence_reduction", "attn.sr")
    name = name.replace("attention.sequence_reduction.norm", "attn.norm").replace("attention.o_proj", "attn.proj")
    name = name.replace("attention.q_proj", "attn.q").replace("decode_head.linear_fuse", "decoder.fuse_stage.0")
    name = re.sub(
        r"decode_head\.linear_projections\.(\d)\.proj", lambda m: f"decoder.mlp_stage.{3 - int(m[1])}.linear", name
    )
    return name.replace("decode_head.batch_norm", "decoder.fuse_stage.1").replace(
        "decode_head.classifier", "segmentation_head.0"
    )


def test_it_computes_what_segmentation_models_pytorch_computes() -> None:
    network = settled(built("b0"))
    import segmentation_models_pytorch

    other = segmentation_models_pytorch.Segformer("mit_b0", encoder_weights=None, classes=6).eval()
    for layer in other.modules():
        if isinstance(layer, torch.nn.LayerNorm):
            layer.eps = 1e-5
    state = network.state_dict()
    named = {as_smp(k): v for k, v in state.items() if "k_proj" not in k and "v_proj" not in k}
    for key in [k for k in state if "k_proj" in k]:
        both = torch.cat((state[key], state[key.replace("k_proj", "v_proj")]))
        named[as_smp(key).replace("attention.k_proj", "attn.kv")] = both
    other.load_state_dict(named)
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        logits = network(image)
        assert logits.std() > 0.1
        # that library's head enlarges with aligned corners: the maps before it are compared
        torch.testing.assert_close(
            network.decode_head(network.features(image)),
            other.segmentation_head[0](other.decoder(other.encoder(image))),
            atol=1e-4,
            rtol=1e-4,
        )


def test_attention_received_is_a_share_of_each_place() -> None:
    network = settled(built())
    assert isinstance(network, OffersMaps)
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps = network.attention_maps(image)
    assert list(maps) == [f"stage {k}, attention received" for k in (4, 3, 2, 1)]
    for received, heads in zip(maps.values(), (8, 4, 2, 1), strict=True):
        assert received.shape == (2, heads, 2, 3)
        torch.testing.assert_close(received.sum((2, 3)), torch.ones(2, heads))
        assert received.std() > 1e-3


def test_attention_of_a_pixel_averages_to_what_is_received() -> None:
    network = settled(built())
    image = torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        received = network.attention_maps(image)["stage 4, attention received"]
        rows = [network.attention_from(image, (y, 3))["stage 4, attention paid"] for y in (0, 40)]
        first, second = (network.attention_from(image, (y, 5))["stage 1, attention paid"] for y in (4, 7))
    torch.testing.assert_close((rows[0] + rows[1]) / 2, received)
    assert not torch.allclose(rows[0], rows[1])
    torch.testing.assert_close(first, second)
    with pytest.raises(InputError, match=r"\(64, 0\) lies outside an image of 64 x 32 pixels"):
        network.attention_from(image, (64, 0))


def test_a_map_of_a_padded_image_lies_on_the_image() -> None:
    network = settled(built())
    image = torch.rand(1, 3, 40, 50)
    with torch.no_grad():
        paid = network.attention_from(image, (0, 0))["stage 4, attention paid"]
        whole = network.attention_from(functional.pad(image, (0, 14, 0, 24), mode="replicate"), (0, 0))
        received = network.attention_maps(image)["stage 1, attention received"]
        rows = network.attention(image)[0].weights.reshape(1, 1, 16, 16, 4)
    assert paid.shape == (1, 8, 40, 50)
    torch.testing.assert_close(paid[..., [0, 31, 32, 39], [0, 31, 32, 49]].diff()[..., [0, 2]], torch.zeros(1, 8, 2))
    torch.testing.assert_close(paid[..., ::32, ::32], whole["stage 4, attention paid"])
    # places of the padding look too, but are not asked
    torch.testing.assert_close(received[..., ::32, ::32].flatten(2), rows[:, :, :10, :13].mean((2, 3)))


def test_a_bundle_rebuilds_it_from_plain_values() -> None:
    definition = {"_target_": TARGET, **SegFormerParameters(size="tiny").arguments()}
    check_names(definition)
    assert count(build_network(definition)) == count(built())


OLD = (
    (r"segformer\.stages\.(\d)\.patch_embeddings", r"segformer.encoder.patch_embeddings.\1"),
    (r"segformer\.stages\.(\d)\.blocks", r"segformer.encoder.block.\1"),
    (r"segformer\.stages\.(\d)\.layer_norm", r"segformer.encoder.layer_norm.\1"),
    (r"attention\.q_proj", "attention.self.query"),
    (r"attention\.k_proj", "attention.self.key"),
    (r"attention\.v_proj", "attention.self.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"attention\.sequence_reduction\.sequence_reduction", "attention.self.sr"),
    (r"attention\.sequence_reduction\.layer_norm", "attention.self.layer_norm"),
    (r"mlp\.fc(\d)", r"mlp.dense\1"),
    (r"layernorm_before", "layer_norm_1"),
    (r"layernorm_after", "layer_norm_2"),
    (r"linear_projections", "linear_c"),
)


def published(network: SegFormer) -> dict[str, torch.Tensor]:
    """The state under the names of the published files."""
    state = network.state_dict()
    for new, old in OLD:
        state = {re.sub(new, old, name): value for name, value in state.items()}
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in state
    assert "segformer.encoder.block.3.0.mlp.dwconv.dwconv.bias" in state
    assert "decode_head.linear_c.2.proj.weight" in state
    return state


def test_weights_under_their_published_names_are_accepted() -> None:
    network, again = settled(built()), built().eval()
    image = torch.rand(1, 3, 32, 32)
    again.load_state_dict(published(network))
    inside = torch.nn.Sequential(built()).eval()
    inside.load_state_dict({f"0.{name}": value for name, value in published(network).items()})
    with torch.no_grad():
        torch.testing.assert_close(again(image), network(image))
        torch.testing.assert_close(inside(image), network(image))


def test_an_encoder_is_taken_over_and_the_decoder_is_not() -> None:
    source, network = settled(built(out_channels=3)), built(out_channels=6)
    head = {k: v.clone() for k, v in network.decode_head.state_dict().items()}
    classifier = {k: v for k, v in published(source).items() if not k.startswith("decode_head")}
    network.take_encoder({**classifier, "classifier.weight": torch.rand(1000, 128)})
    for name, value in source.segformer.state_dict().items():
        assert torch.equal(network.segformer.state_dict()[name], value)
    for name, value in network.decode_head.state_dict().items():
        assert torch.equal(head[name], value)
    bare = built()
    bare.take_encoder({k.removeprefix("segformer."): v for k, v in source.state_dict().items()})
    assert torch.equal(bare.segformer.stages[0].layer_norm.bias, source.segformer.stages[0].layer_norm.bias)
    with pytest.raises(InputError, match=r"these weights do not fit the encoder: .*Missing key"):
        network.take_encoder(dict(list(classifier.items())[1:]))
    assert "not commercially" in PRETRAINED_NOTICE


def test_random_weights_start_as_the_authors_do() -> None:
    network = built("b0")
    block = network.segformer.stages[3].blocks[0]
    assert float(block.mlp.fc1.weight.std()) == pytest.approx(0.02, rel=0.05)
    # nine weights a channel fan out of a depth-wise convolution
    assert float(block.mlp.dwconv.dwconv.weight.std()) == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    patches = network.segformer.stages[0].patch_embeddings.proj.weight
    assert float(patches.std()) == pytest.approx((2 / (49 * 32)) ** 0.5, rel=0.05)
    assert float(network.decode_head.linear_fuse.weight.std()) == pytest.approx((2 / 256) ** 0.5, rel=0.05)
    # torch's own: uniform up to the root of one through the width
    assert float(network.decode_head.linear_projections[1].proj.weight.abs().max()) == pytest.approx(1 / 8, rel=0.01)
    assert float(network.decode_head.classifier.weight.std()) == pytest.approx(0.01, rel=0.1)
    linear = built("b0", start="torch").segformer.stages[3].blocks[0].mlp.fc1.weight
    assert float(linear.abs().max()) == pytest.approx(1 / 16, rel=0.01)


def test_stochastic_depth_grows_from_nothing() -> None:
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for s in built("b0").segformer.stages for b in s.blocks]
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])
    assert all(a < b for a, b in pairwise(rates))


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"depths": [1, 1, 1]}, "four values each"),
        ({"heads": [3, 2, 5, 8]}, r"do not divide by its heads \[3, 2, 5, 8\]"),
        ({"start": "zero"}, "do not start as 'zero'"),
    ],
)
def test_what_cannot_be_built_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        SegFormer(**wrong)


def test_it_is_exported_for_any_size() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network, file = settled(built()), io.BytesIO()
    axes = {0: "n", 2: "y", 3: "x"}
    torch.onnx.export(
        network,
        (torch.rand(1, 3, 64, 64),),
        file,
        dynamo=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": axes, "logits": axes},
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    image = torch.rand(2, 3, 70, 90)
    with torch.no_grad():
        expected = network(image)
    found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def nuclei(side: int, number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A drawn H&E tile ``(3, side, side)`` and its classes: 1 small, round and dark, 2 large, oval and pale."""
    from scipy.ndimage import binary_dilation, gaussian_filter
    from skimage.color import hed2rgb
    from skimage.draw import ellipse

    label = np.zeros((side, side), np.int64)
    stain = np.zeros((side, side, 3))
    smooth = gaussian_filter(random.normal(size=(side, side)), 12)
    stain[..., 0], stain[..., 1] = 0.02, 0.10 + 0.02 * smooth / smooth.std()
    for _ in range(50 * number):
        kind = int(random.integers(1, 3))
        small = random.uniform(4, 6)
        radii = (small, small) if kind == 1 else (random.uniform(9, 13), random.uniform(6, 8))
        y, x = random.uniform(0, side, 2)
        inside = ellipse(y, x, *radii, shape=label.shape, rotation=random.uniform(-np.pi, np.pi))
        mask = np.zeros(label.shape, bool)
        mask[inside] = True
        if label[binary_dilation(mask, iterations=2)].any():
            continue
        label[inside] = kind
        stain[..., 0][inside] = 0.22 if kind == 1 else 0.10
        number -= 1
        if number == 0:
            break
    image = np.clip(hed2rgb(stain) + random.normal(scale=0.02, size=(side, side, 3)), 0, 1)
    return image.transpose(2, 0, 1).astype(np.float32), label


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.slow
def test_it_learns_drawn_nuclei_from_nothing_and_tiles_without_seams() -> None:
    from monai.inferers import SlidingWindowInferer

    random = np.random.default_rng(0)
    tiles = [nuclei(128, int(random.integers(8, 17)), random) for _ in range(96)]
    images = torch.from_numpy(np.stack([t[0] for t in tiles]))
    labels = torch.from_numpy(np.stack([t[1] for t in tiles]))
    # as the authors start them the statistics of the decoder's normalisation lag behind for these 50 steps
    network = built("b0", out_channels=3, start="torch")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(50):
        chosen = torch.from_numpy(random.permutation(64)[:8])
        axes = [a for a in (1, 2) if random.random() < 0.5]
        image, label = images[chosen].flip([a + 1 for a in axes]), labels[chosen].flip(axes)
        logits = network(image)
        p, g = logits.softmax(1), functional.one_hot(label, 3).movedim(-1, 1).float()
        overlap = (2 * (p * g).sum((0, 2, 3)) + 1e-5) / (p.sum((0, 2, 3)) + g.sum((0, 2, 3)) + 1e-5)
        loss = functional.cross_entropy(logits, label) + 1 - overlap.mean()
        assert torch.isfinite(loss), step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        found = network(images[64:]).argmax(1).numpy()
    truth = labels[64:].numpy()
    scores = [dice(found > 0, truth > 0), dice(found == 1, truth == 1), dice(found == 2, truth == 2)]
    print("binary, small, large:", scores)
    assert scores[0] >= 0.94
    assert min(scores[1:]) >= 0.88

    slide = torch.from_numpy(nuclei(384, 100, random)[0])[None]
    with torch.no_grad():
        whole = network(slide).argmax(1)
        tiled = SlidingWindowInferer((256, 256), overlap=0.25, mode="gaussian")(slide, network).argmax(1)
    print("agreement of tiles:", float((whole == tiled).float().mean()))
    assert (whole == tiled).float().mean() >= 0.98
