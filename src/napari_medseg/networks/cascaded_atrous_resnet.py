"""ResNet-101 with cascaded atrous convolutions and spatial pyramid pooling, whose last stages are retrained elsewhere.

X. Chen et al., "Investigating transfer learning to improve the deep-learning-based segmentation of organs at risk among
different medical centers for nasopharyngeal carcinoma", Frontiers in Physics 11:1147900, 2023. The dilation rates,
which the paper does not print, are those of DeepLab at an output stride of 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import nn
from torch.nn import functional

from napari_medseg.networks.parameters import NetworkParameters

Norm = Literal["batch", "group"]

STRIDE = 8
"""Pixels of the image to one of the grid on which the network decides."""

TORCHVISION_STAGES = MappingProxyType(
    {"conv1.": "conv1.0.", "bn1.": "conv1.1.", "layer1.": "conv2.", "layer2.": "conv3.", "layer3.": "conv4."}
    | {"layer4.": "conv5."}
)
"""From the start of a name in torchvision's, timm's or MONAI's ResNet-101 to the start of the same name here."""


class CascadedAtrousResNetParameters(NetworkParameters):
    """Parameters of the cascaded atrous ResNet-101 (Chen et al., 2023)."""

    blocks: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(3, 4, 23), description="Bottlenecks of Conv2, Conv3 and Conv4; Conv5 has one to each of its dilations."
    )
    width: int = Field(
        default=64, ge=4, le=256, multiple_of=4, description="Channels of Conv1; later stages double it."
    )
    dilation: int = Field(default=2, ge=1, le=32, description="Dilation of the 3 x 3 convolutions of Conv4.")
    cascade: tuple[PositiveInt, ...] = Field(
        default=(4, 8, 16), min_length=1, max_length=8, description="Dilation of each bottleneck of Conv5."
    )
    pyramid: tuple[PositiveInt, ...] = Field(
        default=(6, 12, 18), min_length=1, max_length=8, description="Dilations of the head's 3 x 3 convolutions."
    )
    norm: Norm = Field(
        default="batch", description="Normalisation; 'group' where fewer than 8 images make a batch in training."
    )


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution beside an identity, or a 1 x 1 projection where the shape changes.

    Its tensors carry the names of torchvision's. `width` is that of the 3 x 3 convolution; the output has four times as
    many channels.
    """

    def __init__(self, channels: int, width: int, stride: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = _norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = _norm(norm, width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = _norm(norm, 4 * width)
        self.downsample = (
            None
            if stride == 1 and channels == 4 * width
            else nn.Sequential(nn.Conv2d(channels, 4 * width, 1, stride, bias=False), _norm(norm, 4 * width))
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``(n, channels, h, w)`` to ``(n, 4 width, h / stride, w / stride)``, rounded up."""
        inner = functional.relu(self.bn1(self.conv1(features)))
        inner = self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(inner)))))
        return functional.relu(inner + (features if self.downsample is None else self.downsample(features)))


class AtrousPyramid(nn.Module):
    """Classifiers that see a pixel at several scales, summed: one 1 x 1 and a 3 x 3 to each dilation (DeepLab v2)."""

    def __init__(self, channels: int, out_channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.point = nn.Conv2d(channels, out_channels, 1)
        self.rings = nn.ModuleList(nn.Conv2d(channels, out_channels, 3, padding=d, dilation=d) for d in dilations)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``(n, channels, h, w)`` to logits ``(n, out_channels, h, w)``."""
        logits: torch.Tensor = self.point(features)
        for ring in self.rings:
            logits = logits + ring(features)
        return logits


class CascadedAtrousResNet(nn.Module):
    """A ResNet that keeps an eighth of the resolution from Conv3 on and widens its view by dilation instead.

    Its children are the stages of the paper's table, `STAGES`: whoever adapts it to another centre locks ``conv1`` to
    ``conv4`` and retrains ``conv5`` and ``head``. The paper trains with one image a batch, from which batch
    normalisation can learn nothing: keep it in evaluation mode then, or build the network with ``norm="group"``.
    A picture of 417 x 417 is decided on a grid of 53 x 53, whose corners are the picture's: (53 - 1) 8 + 1 = 417. Other
    sizes are filled up with zeros at their far edges to the next such size, and the result is cut back, so that each
    grid point stays on its pixel.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the image and of the result.
    blocks
        Bottlenecks of Conv2, Conv3 and Conv4.
    width
        Channels of Conv1.
    dilation
        Dilation in Conv4.
    cascade
        Dilation of each bottleneck of Conv5.
    pyramid
        Dilations of the head.
    norm
        ``"batch"`` or ``"group"``.
    """

    STAGES: ClassVar[tuple[str, ...]] = ("conv1", "conv2", "conv3", "conv4", "conv5", "head")
    IMAGE_LAYER: ClassVar[str] = "conv1.0.weight"

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        blocks: Sequence[int] = (3, 4, 23),
        width: int = 64,
        dilation: int = 2,
        cascade: Sequence[int] = (4, 8, 16),
        pyramid: Sequence[int] = (6, 12, 18),
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, 2, padding=3, bias=False), _norm(norm, width), nn.ReLU()
        )
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.conv2 = _stage(width, width, 1, [1] * blocks[0], norm)
        self.conv3 = _stage(4 * width, 2 * width, 2, [1] * blocks[1], norm)
        self.conv4 = _stage(8 * width, 4 * width, 1, [dilation] * blocks[2], norm)
        self.conv5 = _stage(16 * width, 8 * width, 1, cascade, norm)
        self.head = AtrousPyramid(32 * width, out_channels, pyramid)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for classifier in (self.head.point, *self.head.rings):
            # four classifiers are summed: as large as a ResNet's convolutions they would start far from "undecided"
            nn.init.normal_(classifier.weight, std=0.01)
            nn.init.zeros_(classifier.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(n, in_channels, h, w)`` to logits ``(n, out_channels, h, w)``."""
        h, w = image.shape[-2:]
        below, beside = -(h - 1) % STRIDE, -(w - 1) % STRIDE
        logits = self.grid_logits(functional.pad(image, (0, beside, 0, below)))
        logits = functional.interpolate(logits, size=(h + below, w + beside), mode="bilinear", align_corners=True)
        return logits[..., :h, :w]

    def grid_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Logits where the network decides: image ``(n, in_channels, h, w)`` to ``(n, out_channels, h / 8, w / 8)``.

        The sides of the grid are rounded up.
        """
        features = self.conv2(self.pool(self.conv1(image)))
        logits: torch.Tensor = self.head(self.conv5(self.conv4(self.conv3(features))))
        return logits


def _stage(channels: int, width: int, stride: int, dilations: Sequence[int], norm: Norm) -> nn.Sequential:
    first = Bottleneck(channels, width, stride, dilations[0], norm)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, 1, d, norm) for d in dilations[1:]))


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(gcd(32, channels), channels)
