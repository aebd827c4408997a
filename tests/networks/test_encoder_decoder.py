"""U-Net, UNet++ and DeepLab v3+ around a swappable encoder."""

from __future__ import annotations

import io
import warnings
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from napari_medseg.case import InputError
from napari_medseg.networks.encoder_decoder import EncoderDecoder, EncoderDecoderParameters
from napari_medseg.networks.torchvision_repair import repair_torchvision

if find_spec("segmentation_models_pytorch") is None:
    pytest.skip("segmentation-models-pytorch is not installed", allow_module_level=True)
repair_torchvision()
smp = import_module("segmentation_models_pytorch")

DECODERS = ("unet", "unetplusplus", "deeplabv3plus")


def built(**values: object) -> EncoderDecoder:
    torch.manual_seed(0)
    return EncoderDecoder(**EncoderDecoderParameters(**values).arguments()).eval()


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def logits(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(image)


@pytest.mark.parametrize(
    "decoder, total", [("unet", 13_158_313), ("unetplusplus", 13_624_073), ("deeplabv3plus", 11_679_465)]
)
def test_parameter_totals_of_the_paper(decoder: str, total: int) -> None:
    network = built(decoder=decoder)
    assert count(network) == total
    assert count(network.encoder) == 10_695_512
    assert count(network.decoder) + count(network.head) == total - 10_695_512


@pytest.mark.parametrize("encoder, total", [("resnet50", 26_677_585), ("mobilenet_v2", 4_378_513)])
def test_lung_networks_have_their_size(encoder: str, total: int) -> None:
    network = built(in_channels=3, decoder="deeplabv3plus", encoder=encoder, atrous_rates=(6, 12, 18))
    assert count(network) == total
    rates = [m.dilation[0] for m in network.decoder.modules() if isinstance(m, torch.nn.Conv2d) and m.dilation[0] > 1]
    assert rates == [6, 12, 18]
    low_level = network.decoder.block1[0]
    assert low_level.out_channels == 48
    with torch.no_grad():
        maps = network.encoder(torch.rand(1, 3, 64, 64))
    assert maps[-1].shape[-1] == 64 // 16
    assert maps[2].shape[-1] == 64 // 4


@pytest.mark.parametrize("encoder, reaches", [("resnet50", "conv1"), ("mobilenet_v2", "features.0.0")])
@pytest.mark.slow
def test_deeplab_at_the_patch_size_of_the_paper(encoder: str, reaches: str) -> None:
    network = built(in_channels=3, decoder="deeplabv3plus", encoder=encoder, atrous_rates=(6, 12, 18))
    maps = network(torch.rand(1, 3, 224, 224))
    assert maps.shape == (1, 1, 224, 224) and torch.isfinite(maps).all()
    maps.mean().backward()
    assert network.encoder.get_submodule(reaches).weight.grad.abs().max() > 0


@pytest.mark.parametrize("decoder", DECODERS)
def test_same_numbers_as_the_library_where_nothing_is_padded(decoder: str) -> None:
    classes = {"unet": smp.Unet, "unetplusplus": smp.UnetPlusPlus, "deeplabv3plus": smp.DeepLabV3Plus}
    torch.manual_seed(0)
    theirs = classes[decoder](encoder_name="resnet18", encoder_weights=None, in_channels=2, classes=3).eval()
    ours = built(decoder=decoder, encoder="resnet18", in_channels=2, out_channels=3)
    image = torch.rand(2, 2, 64, 96)
    torch.testing.assert_close(logits(ours, image), logits(theirs, image), rtol=0, atol=0)


@pytest.mark.parametrize("decoder, multiple", [("unet", 32), ("unetplusplus", 32), ("deeplabv3plus", 16)])
def test_an_odd_size_is_continued_by_its_edge_and_cut_back(decoder: str, multiple: int) -> None:
    network = built(decoder=decoder, encoder="mobilenet_v2")
    image = torch.rand(1, 1, 50, 47)
    whole = np.pad(image.numpy(), [(0, 0), (0, 0), (0, -50 % multiple), (0, -47 % multiple)], mode="edge")
    expected = logits(network, torch.from_numpy(whole))[..., :50, :47]
    torch.testing.assert_close(logits(network, image), expected, rtol=0, atol=0)


@settings(max_examples=15)
@given(st.sampled_from(DECODERS), st.integers(1, 70), st.integers(1, 70), st.sampled_from((1, 3)))
def test_output_has_the_size_of_the_input(decoder: str, height: int, width: int, channels: int) -> None:
    network = built(decoder=decoder, encoder="mobilenet_v2", in_channels=channels)
    maps = logits(network, torch.rand(1, channels, height, width))
    assert maps.shape == (1, 1, height, width) and torch.isfinite(maps).all()


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(64, 64), (512, 512), (500, 470)])
def test_sizes_of_the_paper(decoder: str, size: tuple[int, int]) -> None:
    assert logits(built(decoder=decoder), torch.rand(1, 1, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize("encoder", ["efficientnet-b3", "resnet34", "resnet50", "mobilenet_v2", "tu-resnet18"])
def test_each_part_takes_part(encoder: str) -> None:
    network = built(encoder=encoder).train()
    network(torch.rand(2, 1, 32, 32)).mean().backward()
    for part in ("encoder", "decoder", "head"):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in getattr(network, part).parameters())
    own = {name.split(".")[0] for name in network.state_dict()}
    assert own == {"encoder", "decoder", "head"}


def test_a_shallower_encoder_takes_the_first_channels() -> None:
    network = built(encoder="resnet34", encoder_depth=4, in_channels=3)
    theirs = smp.Unet("resnet34", encoder_depth=4, encoder_weights=None, decoder_channels=(256, 128, 64, 32))
    assert count(network) == count(theirs)
    with pytest.raises(ValidationError, match="decoder_channels has 3 values; an encoder_depth of 4 needs as many"):
        EncoderDecoderParameters(encoder_depth=4, decoder_channels=(64, 32, 16))


@pytest.mark.parametrize("decoder", ["unet", "deeplabv3plus", pytest.param("unetplusplus", marks=pytest.mark.slow)])
def test_exports_and_traces(decoder: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    network = built(decoder=decoder, encoder="mobilenet_v2")
    stored = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.rand(2, 1, 50, 47),),
            stored,
            input_names=["image"],
            dynamic_axes={"image": {0: "n"}},
            opset_version=17,
            dynamo=False,
        )
        traced = torch.jit.trace(network, torch.rand(1, 1, 64, 64))
    image = torch.rand(3, 1, 50, 47)
    session = onnxruntime.InferenceSession(stored.getvalue(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": image.numpy()})[0]
    np.testing.assert_allclose(found, logits(network, image).numpy(), atol=1e-4)
    torch.testing.assert_close(logits(traced, image), logits(network, image))


def test_deeplab_says_why_it_cannot_train_on_one_image() -> None:
    network = built(decoder="deeplabv3plus", encoder="mobilenet_v2").train()
    with pytest.raises(InputError, match="batches of two images or more"):
        network(torch.rand(1, 1, 32, 32))
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"encoder": "resnet35"}, "no encoder 'resnet35'; .*resnet34"),
        ({"encoder": "tu-resnet35"}, "no encoder 'tu-resnet35'"),
        ({"encoder": "tu-hf-hub:someone/model"}, "no encoder 'tu-hf-hub:someone/model'"),
        ({"encoder": "tu-local-dir:folder"}, "no encoder 'tu-local-dir:folder'"),
        ({"encoder": "tu-swin_tiny_patch4_window7_224"}, "images of one size only"),
        ({"encoder": "mit_b0", "decoder": "unetplusplus"}, "unetplusplus cannot be built on the encoder 'mit_b0'"),
        ({"decoder": "pspnet"}, "no decoder 'pspnet'; there are unet, unetplusplus, deeplabv3plus"),
    ],
)
def test_what_cannot_be_built_is_told(arguments: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        EncoderDecoder(**arguments)
