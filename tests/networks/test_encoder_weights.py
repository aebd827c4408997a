"""ImageNet weights for an encoder, from a hub's cache that the tests make themselves."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from napari_medseg.case import InputError
from napari_medseg.networks.encoder_decoder import EncoderDecoder
from napari_medseg.networks.encoder_weights import (
    ENCODER_WEIGHTS,
    EncoderWeights,
    find_encoder_weights,
    kernels_for_channels,
    load_encoder_weights,
    start_from_imagenet,
)
from napari_medseg.networks.torchvision_repair import repair_torchvision

if find_spec("segmentation_models_pytorch") is None:
    pytest.skip("segmentation-models-pytorch is not installed", allow_module_level=True)
repair_torchvision()
encoders = import_module("segmentation_models_pytorch.encoders")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LAST_LAYER = {"resnet18": ("fc", 512), "mobilenet_v2": ("classifier.1", 1280), "efficientnet-b3": ("_fc", 1536)}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the hub fails at once, whatever the machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def cached(folder: Path, weights: EncoderWeights, state: dict[str, torch.Tensor]) -> Path:
    """Store `state` as the hub's client does: a blob, and a link to it in the snapshot of the commit."""
    repository = folder / f"models--{weights.repository.replace('/', '--')}"
    blob = repository / "blobs" / "0badc0de"
    blob.parent.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in state.items()}, blob)
    snapshot = repository / "snapshots" / weights.revision
    snapshot.mkdir(parents=True)
    (snapshot / weights.file).symlink_to(blob)
    return folder


def learned(encoder: str) -> dict[str, torch.Tensor]:
    """Weights of a whole classifier, with batch statistics that are not those of a new one."""
    torch.manual_seed(7)
    network = encoders.get_encoder(encoder, weights=None)
    for m in network.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.uniform_(-0.1, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    layer, width = _LAST_LAYER[encoder]
    return network.state_dict() | {f"{layer}.weight": torch.rand(1000, width), f"{layer}.bias": torch.rand(1000)}


def network_of(encoder: str, in_channels: int, decoder: str = "unet") -> EncoderDecoder:
    torch.manual_seed(1)
    return EncoderDecoder(in_channels=in_channels, decoder=decoder, encoder=encoder).eval()


@pytest.mark.parametrize("encoder", list(_LAST_LAYER))
def test_a_grey_network_equals_the_colour_one_on_a_grey_image(tmp_path: Path, encoder: str) -> None:
    cache = cached(tmp_path, ENCODER_WEIGHTS[encoder], learned(encoder))
    colour, grey = network_of(encoder, 3), network_of(encoder, 1)
    grey.decoder.load_state_dict(colour.decoder.state_dict())
    grey.head.load_state_dict(colour.head.state_dict())
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        before = grey(image)
        for network in (colour, grey):
            assert start_from_imagenet(network, cache=cache).encoder == encoder
        found, expected = grey(image), colour(image.repeat(1, 3, 1, 1))
    assert (found - expected).abs().max() < 1e-4
    assert (found - before).abs().max() > 1e-3
    own = colour.encoder.state_dict()
    assert all(torch.equal(own[k], v) for k, v in learned(encoder).items() if k in own)


def test_decoder_and_head_stay_as_they_are(tmp_path: Path) -> None:
    network = network_of("resnet18", 1, "deeplabv3plus")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    start_from_imagenet(network, cache=cached(tmp_path, ENCODER_WEIGHTS["resnet18"], learned("resnet18")))
    after = network.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if not k.startswith("encoder."))
    assert not torch.equal(before["encoder.layer4.1.conv2.weight"], after["encoder.layer4.1.conv2.weight"])


@given(st.integers(1, 7), st.integers(0, 2**31))
def test_kernels_answer_equally_to_grey(channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    kernels, image = torch.randn(4, 3, 3, 3), torch.rand(1, 1, 6, 6)
    found = torch.conv2d(image.repeat(1, channels, 1, 1), kernels_for_channels(kernels, channels))
    torch.testing.assert_close(found, torch.conv2d(image.repeat(1, 3, 1, 1), kernels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name, channels", [("resnet18", 1), ("resnet18", 3), ("convnext_atto", 1)])
def test_an_encoder_of_timms(tmp_path: Path, name: str, channels: int) -> None:
    import timm

    torch.manual_seed(7)
    classifier = timm.create_model(name, pretrained=False).eval()
    weights = EncoderWeights(f"tu-{name}", f"timm/{name}", COMMIT)
    network = network_of(f"tu-{name}", channels)
    start_from_imagenet(network, weights, cache=cached(tmp_path, weights, classifier.state_dict()))
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        found = network.encoder(image.repeat(1, channels, 1, 1))[-1]
        expected = classifier.forward_features(image.repeat(1, 3, 1, 1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_table_is_pinned_to_what_the_library_was_tested_with() -> None:
    for name, weights in ENCODER_WEIGHTS.items():
        theirs = encoders.encoders[name]["pretrained_settings"]["imagenet"]
        assert (weights.encoder, weights.repository, weights.revision) == (name, theirs["repo_id"], theirs["revision"])
        assert weights.licence
    assert not any(name.startswith("mit_") for name in ENCODER_WEIGHTS)


@pytest.mark.parametrize("revision", ["main", "3f2325f", "G" * 40, ""])
def test_a_branch_is_no_revision(revision: str) -> None:
    with pytest.raises(InputError, match="a commit of 40 digits is needed"):
        EncoderWeights("resnet18", "someone/model", revision)


def test_absence_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ENCODER_WEIGHTS["resnet34"]

    def said(download: bool) -> str:
        with pytest.raises(InputError) as caught:
            find_encoder_weights(line, download=download, cache=tmp_path)
        return str(caught.value)

    end = "; training can also start from random weights."
    start = "the ImageNet weights of resnet34 are not on this computer, and "
    assert said(False) == start + "fetching them was not asked for" + end
    assert said(True) == start + "HF_HUB_OFFLINE forbids fetching them" + end


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # nothing listens there; the client asks again for about 23 s
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(InputError, match=r"^the ImageNet weights of vgg16_bn are not .* the hub cannot be reached; "):
        find_encoder_weights(ENCODER_WEIGHTS["vgg16_bn"], download=True, cache=tmp_path)


def test_a_refusal_of_the_hub_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    def refuse(*_: object, **__: object) -> str:
        raise EntryNotFoundError("404")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(InputError, match=r"the hub refused smp-hub/resnet34\.imagenet at 7a57b34f7233"):
        find_encoder_weights(ENCODER_WEIGHTS["resnet34"], download=True, cache=tmp_path)


def test_another_commit_in_the_cache_is_not_taken(tmp_path: Path) -> None:
    other = EncoderWeights("resnet18", "smp-hub/resnet18.imagenet", COMMIT)
    cache = cached(tmp_path, other, {"a": torch.zeros(1)})
    assert find_encoder_weights(other, cache=cache).name == "model.safetensors"
    with pytest.raises(InputError, match="not on this computer"):
        find_encoder_weights(ENCODER_WEIGHTS["resnet18"], cache=cache)


def _lacks(state: dict[str, torch.Tensor]) -> None:
    del state["layer4.1.bn2.running_var"]


def _has_more(state: dict[str, torch.Tensor]) -> None:
    state["layer5.weight"] = torch.zeros(2)


def _other_shape(state: dict[str, torch.Tensor]) -> None:
    state["layer4.1.bn2.weight"] = torch.ones(7)


def _four_colours(state: dict[str, torch.Tensor]) -> None:
    state["conv1.weight"] = torch.ones(64, 4, 7, 7)


@pytest.mark.parametrize(
    "change, what",
    [
        (_lacks, "layer4.1.bn2.running_var"),
        (_has_more, "layer5.weight"),
        (_other_shape, "layer4.1.bn2.weight"),
        (_four_colours, "conv1.weight"),
    ],
)
def test_what_does_not_fit_leaves_the_encoder_alone(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], what: str
) -> None:
    state = learned("resnet18")
    change(state)
    save_file(state, tmp_path / "weights.safetensors")
    network = network_of("resnet18", 1)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(InputError, match=rf"weights\.safetensors does not fit the encoder: .*{what}"):
        load_encoder_weights(network.encoder, tmp_path / "weights.safetensors")
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_a_file_for_another_encoder_of_timms_is_told(tmp_path: Path) -> None:
    import timm

    state = timm.create_model("resnet18").state_dict()
    del state["layer3.0.conv1.weight"]
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"does not fit the encoder: .*layer3\.0\.conv1\.weight"):
        load_encoder_weights(network_of("tu-resnet18", 1).encoder, tmp_path / "weights.safetensors")


def test_a_file_that_is_none_and_an_encoder_without_weights_are_told(tmp_path: Path) -> None:
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    network = network_of("tu-resnet18", 1)
    with pytest.raises(InputError, match=r"page\.safetensors is not a readable safetensors file"):
        load_encoder_weights(network.encoder, tmp_path / "page.safetensors")
    with pytest.raises(InputError, match="no ImageNet weights are known for the encoder 'tu-resnet18'"):
        start_from_imagenet(network, cache=tmp_path)
    with pytest.raises(InputError, match="for the encoder 'resnet18'; the network has 'tu-resnet18'"):
        start_from_imagenet(network, ENCODER_WEIGHTS["resnet18"], cache=tmp_path)


def test_building_a_network_asks_for_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> str:
        raise AssertionError("a constructor asked for weights")

    for place in ("huggingface_hub.hf_hub_download", "segmentation_models_pytorch.encoders.hf_hub_download"):
        monkeypatch.setattr(place, asked)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", asked)
    monkeypatch.setattr("timm.models._builder.load_pretrained", asked)
    for encoder in ("resnet18", "tu-resnet18.a1_in1k"):
        EncoderDecoder(encoder=encoder)
