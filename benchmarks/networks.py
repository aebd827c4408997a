"""Networks for the benchmarks of the engine, wrapped as models: random weights from a fixed seed, or trained ones."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from monai.networks.nets import UNet

from napari_medseg.bundles import load_model
from napari_medseg.bundles.intensity import IntensityPlan, intensity_step
from napari_medseg.bundles.model import Model, ModelCard
from napari_medseg.case import LabelTable
from napari_medseg.networks import find_architecture

NetworkName = Literal["unet", "unet-head", "segformer", "he_nuclei", "quick"]

_SEED = 0
_NUCLEUS_THRESHOLD = 0.4
_FEATURES = 16
_RANGES = {2: (0.0, 255.0), 3: (-1000.0, 1000.0)}
_CHANNELS = {2: ("red", "green", "blue"), 3: ("intensity",)}


@dataclass(frozen=True, eq=False)
class GivenModel(Model):
    """A model around a network that exists already.

    Every `network` is a copy, so that nothing one program does to it (memory format, fused layers) helps another.
    """

    module: Any = None

    def network(self) -> torch.nn.Module:
        """A copy of the network, in evaluation mode."""
        return copy.deepcopy(self.module).eval()


class Nuclei(torch.nn.Module):
    """The foreground channel of the shipped, trained model he_nuclei."""

    def __init__(self) -> None:
        super().__init__()
        self.network = load_model("he_nuclei").network()

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, 1, y, x)`` of tiles ``(n, 3, y, x)``."""
        return self.network(tiles)[:, :1]


def make_model(name: NetworkName, *, dims: int, classes: int, tile: tuple[int, ...], overlap: float) -> GivenModel:
    """The network called `name` as a model of `classes` classes, background included, on the image's own grid.

    ``"unet"`` computes all classes with 3 x 3 (x 3) convolutions at full size; ``"unet-head"`` ends, as nnU-Net's
    networks do, in a 1 x 1 (x 1) convolution of 16 features, without which 100 classes take seconds a tile.
    ``"he_nuclei"`` has one class beside the background, whatever `classes` says: a sigmoid of 0.4 or more.
    """
    torch.manual_seed(_SEED)
    module = _network(name, dims, classes)
    trained = name == "he_nuclei"
    low, high = _RANGES[dims]
    scale = {"a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0, "clip": True}
    names = ["nucleus"] if trained else [f"class {k}" for k in range(1, classes)]
    card = ModelCard(
        id=f"{name}-{dims}d",
        name=name,
        version="1.0",
        description="a network for measuring speed",
        task="segmentation",
        kind="semantic",
        modality=("SM",) if dims == 2 else ("CT",),
        labels=LabelTable.from_names(names),
        in_channels=len(_CHANNELS[dims]),
        channels=_CHANNELS[dims],
        licence="CC BY 4.0" if trained else "CC0-1.0",
        training_data=(),
        recipe="",
        validation="",
        reference_scores={},
        intended_use="measuring speed",
    )
    return GivenModel(
        card=card,
        path=Path("given"),
        weights=Path("given"),
        sha256=_sha256(module),
        size=0,
        source="benchmark",
        spatial_dims=dims,
        spacing=None,
        unit=None,
        orientation=None,
        tile=tile,
        overlap=overlap,
        padding="constant",
        divisible_by=(16,) * dims,
        out_channels=1 if trained else classes,
        intensity=IntensityPlan((intensity_step("ScaleIntensityRange", scale),)),
        activation="sigmoid" if trained else "softmax",
        threshold=_NUCLEUS_THRESHOLD if trained else None,
        instances=None,
        network_def={"name": name, "dims": dims, "classes": classes},
        module=module.eval(),
    )


def _network(name: NetworkName, dims: int, classes: int) -> torch.nn.Module:
    if name == "he_nuclei":
        return Nuclei()
    if name == "segformer":
        return find_architecture("segformer_b0").build(out_channels=classes)
    if name == "quick":
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, classes, 3, padding=1),
            torch.nn.Upsample(scale_factor=2),
        )
    if name == "unet-head":
        convolution = torch.nn.Conv3d if dims == 3 else torch.nn.Conv2d
        return torch.nn.Sequential(_unet(dims, _FEATURES), torch.nn.PReLU(), convolution(_FEATURES, classes, 1))
    return _unet(dims, classes)


def _unet(dims: int, out_channels: int) -> UNet:
    return UNet(
        spatial_dims=dims,
        in_channels=len(_CHANNELS[dims]),
        out_channels=out_channels,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )


def _sha256(module: torch.nn.Module) -> str:
    """Of all weights: whatever is kept of one network must not be taken for another."""
    digest = hashlib.sha256()
    for key, values in module.state_dict().items():
        digest.update(key.encode())
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()
