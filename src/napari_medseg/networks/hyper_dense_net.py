"""HyperDenseNet: a stream of convolutions for each channel, every layer fed by all earlier ones of all streams.

Dolz et al., IEEE Transactions on Medical Imaging 38(5):1116-1126 (2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from napari_medseg.networks.parameters import AnyDimensional


class HyperDenseNetParameters(AnyDimensional):
    """Parameters of `HyperDenseNet`, those of the paper with two channels."""

    spatial_dims: int = Field(default=3, ge=2, le=3, description="2 for pictures and single slices, 3 for volumes.")
    in_channels: int = Field(default=2, ge=2, le=3, description="Channels of the image, each with a stream of its own.")
    widths: tuple[int, ...] = Field(
        default=(25, 25, 25, 50, 50, 50, 75, 75, 75),
        min_length=1,
        max_length=16,
        description="Channels of each convolution of a stream.",
    )
    head_widths: tuple[int, ...] = Field(
        default=(400, 200, 150), max_length=8, description="Channels of the convolutions of side 1 that follow."
    )


class HyperDenseNet(nn.Module):
    """One stream a channel, joined everywhere.

    A stream is convolutions of side 3 that lose a sample at each edge. Each sees what all earlier ones of all streams
    gave, its own stream's first, cut to the size it has left. It is preceded by PReLU, from the second on by batch
    normalisation and PReLU; so are the convolutions of side 1 that follow, for which the paper's public code has no
    activation, which would make them one. No side is ever halved: 27 samples in give 9 out.

    Parameters
    ----------
    spatial_dims, in_channels, out_channels, widths, head_widths
        As in `HyperDenseNetParameters`.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 2,
        out_channels: int = 2,
        widths: Sequence[int] = (25, 25, 25, 50, 50, 50, 75, 75, 75),
        head_widths: Sequence[int] = (400, 200, 150),
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for number, width in enumerate(widths):
            given = in_channels * sum(widths[:number]) if number else 1
            unit = [_unit(spatial_dims, given, width, 3, normalised=number > 0) for _ in range(in_channels)]
            self.layers.append(nn.ModuleList(unit))
        sizes = [in_channels * sum(widths), *head_widths, out_channels]
        self.head = nn.Sequential(
            *(_unit(spatial_dims, given, made, 1, normalised=True) for given, made in pairwise(sizes))
        )

    @property
    def border(self) -> int:
        """Samples that are lost at each edge: one a layer."""
        return len(self.layers)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, *spatial)`` of ``(n, in_channels, *spatial)``, seen with a border of zeros."""
        return self.valid_logits(functional.pad(image, [self.border, self.border] * (image.ndim - 2)))

    def valid_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Logits where no border is needed: ``border`` samples less at each edge, as the paper trains on them."""
        streams = list(range(image.shape[1]))
        made: list[list[torch.Tensor]] = []
        for layer in self.layers:
            own = cast(nn.ModuleList, layer)
            given = [_dense(made, k) if made else image[:, k : k + 1] for k in streams]
            features = [unit(x) for unit, x in zip(own, given, strict=True)]
            made = [[_inner(x) for x in earlier] for earlier in made] + [features]
        logits: torch.Tensor = self.head(_dense(made, 0))
        return logits


def _dense(made: Sequence[Sequence[torch.Tensor]], stream: int) -> torch.Tensor:
    """All features, layer by layer, those of one stream first in each."""
    turned = [[*layer[stream : stream + 1], *layer[:stream], *layer[stream + 1 :]] for layer in made]
    return torch.cat([x for layer in turned for x in layer], dim=1)


def _inner(features: torch.Tensor) -> torch.Tensor:
    for axis in range(2, features.ndim):
        features = features.narrow(axis, 1, features.shape[axis] - 2)
    return features


def _unit(spatial_dims: int, inputs: int, width: int, side: int, *, normalised: bool) -> nn.Sequential:
    convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if spatial_dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
    before: list[nn.Module] = [norm(inputs)] if normalised else []
    return nn.Sequential(*before, nn.PReLU(), convolution(inputs, width, side))
