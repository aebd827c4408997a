"""A model made by hand, for tests of the engine that must not depend on trained weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from napari_medseg.bundles.intensity import IntensityPlan
from napari_medseg.bundles.model import Model, ModelCard
from napari_medseg.case import LabelTable


class Threshold(torch.nn.Module):
    """Two logits a voxel: class 1 where the first channel exceeds `level`."""

    def __init__(self, level: float = 0.5) -> None:
        super().__init__()
        self.level = level

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        value = tiles[:, :1] - self.level
        return torch.cat([-value, value], 1)


class Identity(torch.nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles


class Pieces:
    """Every connected piece of foreground is an object; none is larger than the margin."""

    margin = 8

    def decode(self, maps: np.ndarray) -> np.ndarray:
        return ndimage.label(maps[0] > 0.5)[0]


@dataclass(frozen=True, eq=False)
class FakeModel(Model):
    module: Any = None

    def network(self) -> torch.nn.Module:
        return self.module.eval()


def make_model(module: torch.nn.Module, *, channels: int = 1, names=("thing",), instances=None, **changes) -> FakeModel:
    table = LabelTable.from_names(list(names), instances=instances is not None)
    card = ModelCard(
        id="fake",
        name="Fake",
        version="1.0",
        description="made by hand",
        task="segmentation",
        kind="instance" if instances else "semantic",
        modality=("MR",),
        labels=table,
        in_channels=channels,
        channels=tuple(f"channel {k}" for k in range(channels)),
        licence="CC0-1.0",
        training_data=(),
        recipe="",
        validation="",
        reference_scores={},
        intended_use="tests",
    )
    dims = changes.get("spatial_dims", 2)
    values = {
        "card": card,
        "path": Path("fake"),
        "weights": Path("fake"),
        "sha256": "0" * 64,
        "size": 0,
        "source": "test",
        "spatial_dims": dims,
        "spacing": None,
        "unit": None,
        "orientation": None,
        "tile": (8,) * dims,
        "overlap": 0.25,
        "padding": "constant",
        "divisible_by": (1,) * dims,
        "out_channels": 2,
        "intensity": IntensityPlan(()),
        "activation": "softmax",
        "threshold": None,
        "instances": instances,
        "network_def": {},
        "module": module,
    }
    return FakeModel(**{**values, **changes})


def ball(shape, centre, radius, steps=None) -> np.ndarray:
    """1 inside a ball (in units of `steps`), 0 outside, as float32."""
    steps = steps or (1.0,) * len(shape)
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    distance = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, steps, strict=True))
    return (distance <= radius**2).astype(np.float32)
