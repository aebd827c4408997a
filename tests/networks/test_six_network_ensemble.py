"""The mean of six networks' probabilities."""

from __future__ import annotations

import io
import math
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from napari_medseg.networks.six_network_ensemble import SixNetworkEnsemble, SixNetworkEnsembleParameters

if find_spec("segmentation_models_pytorch") is None:
    pytest.skip("segmentation-models-pytorch is not installed", allow_module_level=True)

NAMES = [
    "deeplabv3plus_resnet50_cross_entropy",
    "deeplabv3plus_resnet50_dice",
    "deeplabv3plus_mobilenet_v2_cross_entropy",
    "deeplabv3plus_mobilenet_v2_dice",
    "unet_cross_entropy",
    "unet_dice",
]


class Says(torch.nn.Module):
    """Stands in for a member: its logits times the first channel of the image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits).reshape(1, -1, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits * image[:, :1]


@pytest.fixture(scope="module")
def ensemble() -> SixNetworkEnsemble:
    torch.manual_seed(0)
    return SixNetworkEnsemble(**SixNetworkEnsembleParameters().arguments()).eval()


def saying(*each: tuple[float, ...]) -> SixNetworkEnsemble:
    found = SixNetworkEnsemble.__new__(SixNetworkEnsemble)
    torch.nn.Module.__init__(found)
    found.members = torch.nn.ModuleDict({f"member_{k}": Says(*logits) for k, logits in enumerate(each)})
    found._one_map = len(each[0]) == 1
    return found


def test_members_of_the_paper_in_its_order(ensemble: SixNetworkEnsemble) -> None:
    assert list(ensemble.members) == NAMES
    sizes = [sum(p.numel() for p in member.parameters()) for member in ensemble.members.values()]
    assert sizes[:4] == [26_677_585] * 2 + [4_378_513] * 2
    assert sizes[4] == sizes[5] == 23_452_641
    assert [type(m.decoder).__name__ for m in ensemble.members.values()][4:] == ["UnetDecoder"] * 2
    with torch.no_grad():
        maps = ensemble.members["unet_dice"].encoder(torch.rand(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 2]
    # each pair starts from weights of its own
    states = [torch.cat([p.flatten() for p in m.decoder.parameters()]) for m in ensemble.members.values()]
    assert all(not torch.equal(states[k], states[k + 1]) for k in (0, 2, 4))


def test_is_the_mean_of_its_members_probabilities(ensemble: SixNetworkEnsemble) -> None:
    image = torch.rand(2, 3, 50, 47)
    with torch.no_grad():
        each = torch.stack([torch.sigmoid(member(image)) for member in ensemble.members.values()])
        mean, deviation = ensemble.mean_and_deviation(image)
        probabilities = torch.sigmoid(ensemble(image))
    assert probabilities.shape == mean.shape == deviation.shape == (2, 1, 50, 47)
    torch.testing.assert_close(mean, each.mean(0))
    torch.testing.assert_close(probabilities, each.mean(0))
    np.testing.assert_allclose(deviation.numpy(), each.numpy().std(0), atol=1e-6)
    assert deviation.max() > 0.001


def test_by_hand() -> None:
    chances = (0.9, 0.8, 0.7, 0.2, 0.1, 0.6)
    network = saying(*((math.log(p / (1 - p)),) for p in chances))
    image = torch.ones(1, 3, 2, 2)
    # mean 3.3 / 6 = 0.55, though the mean logit, 0.35, would say 0.587
    assert torch.sigmoid(network(image)).flatten().tolist() == pytest.approx([0.55] * 4)
    mean, deviation = network.mean_and_deviation(image)
    assert mean.flatten()[0].item() == pytest.approx(0.55)
    assert deviation.flatten()[0].item() == pytest.approx(math.sqrt(sum((p - 0.55) ** 2 for p in chances) / 6))


def test_stays_exact_where_all_are_sure() -> None:
    for sure in (-300.0, 300.0):
        assert saying(*((sure,),) * 6)(torch.ones(1, 3, 1, 1)).item() == pytest.approx(sure)


@settings(max_examples=30)
@given(st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=6, max_size=6))
def test_several_maps_are_one_distribution(logits: list[list[float]]) -> None:
    network = saying(*map(tuple, logits))
    found = torch.softmax(network(torch.ones(1, 3, 1, 1)), 1).flatten()
    e = np.exp(np.array(logits, np.float64))
    np.testing.assert_allclose(found.numpy(), (e / e.sum(1, keepdims=True)).mean(0), atol=1e-5)


def test_each_member_learns(ensemble: SixNetworkEnsemble) -> None:
    torch.sigmoid(ensemble(torch.rand(1, 3, 32, 32))).mean().backward()
    for member in ensemble.members.values():
        assert next(member.encoder.parameters()).grad.abs().max() > 0
    ensemble.zero_grad()


def onnx_of(network: torch.nn.Module, example: torch.Tensor, image: torch.Tensor) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    stored = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            stored,
            input_names=["image"],
            dynamic_axes={"image": {0: "n"}},
            opset_version=17,
            dynamo=False,
        )
    session = onnxruntime.InferenceSession(stored.getvalue(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.numpy()})[0]


@pytest.mark.parametrize("maps", [1, 3])
def test_the_mean_exports(maps: int) -> None:
    network = saying(*torch.randn(6, maps, generator=torch.Generator().manual_seed(0)).mul(20).tolist())
    image = torch.randn(3, 3, 4, 4)
    found = onnx_of(network.eval(), torch.rand(1, 3, 4, 4), image)
    np.testing.assert_allclose(found, network(image).numpy(), atol=1e-4)


@pytest.mark.slow
def test_the_whole_exports_and_traces(ensemble: SixNetworkEnsemble) -> None:
    image = torch.rand(2, 3, 50, 47)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(ensemble, torch.rand(1, 3, 32, 32))
    with torch.no_grad():
        expected = ensemble(image)
        torch.testing.assert_close(traced(image), expected)
    np.testing.assert_allclose(onnx_of(ensemble, torch.rand(1, 3, 50, 47), image), expected.numpy(), atol=1e-4)


def test_a_rate_below_one_is_refused() -> None:
    with pytest.raises(ValidationError, match="1 or more"):
        SixNetworkEnsembleParameters(atrous_rates=(0, 1, 2))
