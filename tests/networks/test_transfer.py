"""Weights carried from one network to another by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from napari_medseg.case import InputError
from napari_medseg.networks.latent_segmenter import LatentSegmenter
from napari_medseg.networks.slice_classifier import SliceClassifier
from napari_medseg.networks.transfer import convert_input_channels, transfer_weights

BLOCKS = {"blocks": (1, 1, 1, 1), "width": 8}
NARROW = {**BLOCKS, "decoder_width": 32}


def settled(network: torch.nn.Module, *shape: int) -> torch.nn.Module:
    """In evaluation mode with the statistics of random images: with none the result hardly depends on the image."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(4, *shape))
    return network.eval()


def test_the_encoder_is_the_source_s_and_the_decoder_is_not() -> None:
    torch.manual_seed(0)
    source, target = LatentSegmenter(**NARROW, out_channels=4), LatentSegmenter(**NARROW, out_channels=2)
    own = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    moved = transfer_weights(source.state_dict(), target.state_dict(), ["encoder"])
    target.load_state_dict(moved.weights)
    after = target.state_dict()
    for name, tensor in source.encoder.state_dict().items():
        assert torch.equal(after[f"encoder.{name}"], tensor)
    assert not torch.equal(after["encoder.backbone.conv1.weight"], own["encoder.backbone.conv1.weight"])
    for name in moved.kept:
        assert name.startswith("decoder.")
        assert torch.equal(after[name], own[name])
    assert not torch.equal(after["decoder.0.weight"], source.state_dict()["decoder.0.weight"])
    assert sorted(moved.taken + moved.kept) == sorted(own)
    assert moved.words == f"{len(moved.taken)} tensors come from the source; {len(moved.kept)} stay as they were."


def test_the_target_shares_no_memory_with_either() -> None:
    source, target = {"a.w": torch.ones(2)}, {"a.w": torch.zeros(2), "b.w": torch.zeros(2)}
    moved = transfer_weights(source, target, ["a"])
    for tensor in moved.weights.values():
        tensor.add_(5)
    assert source["a.w"].tolist() == [1, 1]
    assert target["a.w"].tolist() == target["b.w"].tolist() == [0, 0]


def test_a_classifier_s_encoder_starts_a_segmenter() -> None:
    source, target = settled(SliceClassifier(**BLOCKS), 1, 64, 64), LatentSegmenter(**NARROW).eval()
    target.load_state_dict(transfer_weights(source.state_dict(), target.state_dict(), ["encoder"]).weights)
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(target.encoder(image), source.encoder(image))


def test_an_encoder_from_colour_reads_a_grey_slice_as_it_read_three_equal_channels() -> None:
    torch.manual_seed(0)
    source = settled(LatentSegmenter(3, **NARROW), 3, 64, 64).double()
    target = LatentSegmenter(1, **NARROW).double()
    moved = transfer_weights(
        source.state_dict(), target.state_dict(), ["encoder"], image_layer=LatentSegmenter.IMAGE_LAYER
    )
    assert moved.converted == ("encoder.backbone.conv1.weight",)
    assert "encoder.backbone.conv1.weight for another number of channels" in moved.words
    target.load_state_dict(moved.weights)
    grey = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        replicated = source.encoder(grey.expand(1, 3, 64, 64))
        torch.testing.assert_close(target.eval().encoder(grey), replicated, atol=1e-12, rtol=1e-10)


@given(st.integers(2, 6), st.integers(0, 2**31))
@settings(max_examples=20)
def test_channels_are_converted_exactly_on_replicated_input(channels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    many = torch.randn(4, channels, 3, 3, dtype=torch.float64, generator=generator)
    one = torch.randn(4, 1, 3, 3, dtype=torch.float64, generator=generator)
    grey = torch.rand(1, 1, 7, 7, dtype=torch.float64, generator=generator)
    replicated = grey.expand(1, channels, 7, 7)
    near = {"atol": 1e-12, "rtol": 1e-12}
    torch.testing.assert_close(
        functional.conv2d(grey, convert_input_channels(many, 1), padding=1),
        functional.conv2d(replicated, many, padding=1),
        **near,
    )
    torch.testing.assert_close(
        functional.conv2d(replicated, convert_input_channels(one, channels), padding=1),
        functional.conv2d(grey, one, padding=1),
        **near,
    )


def test_three_channels_to_one_by_hand() -> None:
    weight = torch.tensor([1.0, 2.0, 4.0, -1.0, 0.5, 0.25]).reshape(2, 3, 1, 1)
    assert convert_input_channels(weight, 1).flatten().tolist() == [7.0, -0.25]
    assert convert_input_channels(weight, 3).tolist() == weight.tolist()
    assert convert_input_channels(torch.full((1, 1, 1, 1), 3.0), 3).flatten().tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="reads 3 channels cannot read 2: one of the two has to be 1"):
        convert_input_channels(weight, 2)


def test_a_mismatch_is_told_in_words() -> None:
    colour, grey = LatentSegmenter(3, **NARROW).state_dict(), LatentSegmenter(1, **NARROW).state_dict()
    with pytest.raises(InputError) as told:
        transfer_weights(colour, grey, ["encoder"])
    assert str(told.value) == (
        "shapes differ: encoder.backbone.conv1.weight (8 x 3 x 7 x 7 in the source, 8 x 1 x 7 x 7 in the network)."
    )
    deeper = LatentSegmenter(**{**NARROW, "blocks": (2, 1, 1, 1)}).state_dict()
    with pytest.raises(InputError, match=r"no encoder\.backbone\.layer1\.1\.conv1\.weight, .* and \d+ more, which"):
        transfer_weights(grey, deeper, ["encoder"])
    with pytest.raises(InputError, match=r"no place for encoder\.backbone\.layer1\.1\.conv1\.weight"):
        transfer_weights(deeper, grey, ["encoder"])
    wider = LatentSegmenter(**{**NARROW, "width": 16}).state_dict()
    with pytest.raises(InputError, match=r"shapes differ: .* and \d+ more"):
        transfer_weights(wider, grey, ["encoder"], image_layer=LatentSegmenter.IMAGE_LAYER)
    with pytest.raises(InputError, match="no part backbone; its parts are encoder, decoder"):
        transfer_weights(grey, grey, ["backbone"])
    with pytest.raises(InputError, match="no part of the network is named"):
        transfer_weights(grey, grey, [])


def test_a_part_is_a_whole_word_of_the_name() -> None:
    target = {"conv1.w": torch.zeros(1), "conv10.w": torch.zeros(1)}
    moved = transfer_weights({"conv1.w": torch.ones(1), "conv10.w": torch.ones(1)}, target, ["conv1"])
    assert moved.taken == ("conv1.w",)
    assert moved.kept == ("conv10.w",)


def test_names_are_translated_once_by_the_longest_start() -> None:
    source = {"layer1.w": torch.ones(1), "layer1.0.w": torch.full((1,), 2.0), "fc.w": torch.ones(7)}
    target = {"conv2.w": torch.zeros(1), "layer1.w": torch.zeros(1), "head.w": torch.zeros(3)}
    renames = {"layer1.": "conv2.", "layer1.0.": "layer1."}
    moved = transfer_weights(source, target, ["conv2", "layer1"], renames=renames)
    assert moved.weights["conv2.w"].item() == 1
    assert moved.weights["layer1.w"].item() == 2
    with pytest.raises(InputError, match=r"both be called b\.w"):
        transfer_weights(
            {"a.w": torch.ones(1), "b.w": torch.ones(1)}, {"b.w": torch.ones(1)}, ["b"], renames={"a": "b"}
        )


def test_precision_is_the_target_s_and_an_old_source_may_lack_counters() -> None:
    source = {"bn.weight": torch.ones(2, dtype=torch.float16)}
    target = {"bn.weight": torch.zeros(2), "bn.num_batches_tracked": torch.tensor(3)}
    moved = transfer_weights(source, target, ["bn"])
    assert moved.weights["bn.weight"].dtype is torch.float32
    assert moved.kept == ("bn.num_batches_tracked",)
