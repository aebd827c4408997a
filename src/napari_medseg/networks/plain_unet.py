"""The plain U-Net with padded convolutions and dropout, at its original width and slimmed to SegFormer-B0's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch.nn import functional

from napari_medseg.case import InputError
from napari_medseg.networks.parameters import NetworkParameters

Norm = Literal["none", "batch"]


class PlainUNetParameters(NetworkParameters):
    """Parameters of `PlainUNet`; the defaults are the U-Net of Sourget et al. (2023) for cardiac ultrasound."""

    in_channels: int = Field(default=1, ge=1, le=1024, description="Channels of the image: 1 for grey, 3 for colour.")
    out_channels: int = Field(default=4, ge=1, le=1024, description="Maps that the network gives, one a class.")
    channels: tuple[int, ...] = Field(
        default=(64, 128, 256, 512, 1024),
        min_length=2,
        max_length=8,
        description="Channels of each level, the last being the bridge; 22, 44, 88, 176, 352 for the U-Net Lite.",
    )
    dropout: float = Field(default=0.2, ge=0, lt=1, description="Part of the values left out in training.")
    norm: Norm = Field(default="none", description="Normalisation after each 3 x 3 convolution; the paper has none.")

    @model_validator(mode="after")
    def _positive(self) -> PlainUNetParameters:
        if min(self.channels) < 1:
            raise ValueError("channels are 1 or more")
        return self


class PlainUNet(torch.nn.Module):
    """The U-Net and U-Net Lite that Sourget et al. (MIUA 2023) compare with SegFormer.

    "Can SegFormer be a True Competitor to U-Net for Medical Image Segmentation?" takes the network of
    Ronneberger et al. (2015) with "same" padding and dropout after every level, of whole channels in the first and the
    last. A level is two 3 × 3 convolutions with ReLU; max pooling leads down, a transposed 2 × 2 convolution up, where
    the level's own map is joined in front. `bridge` is the deepest level, whose map a class activation map is taken
    from. Weights start as torch gives them.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the image and of the result.
    channels
        Of each level, fine to coarse; the last is the bridge.
    dropout
        Part of the values left out in training.
    norm
        "none", or "batch" for a BatchNorm before each ReLU.

    Raises
    ------
    InputError
        There are fewer than two levels, or no such normalisation.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 4,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        dropout: float = 0.2,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise InputError(f"a U-Net has two levels or more; channels is {list(channels)}.")
        if norm not in ("none", "batch"):
            raise InputError(f"there is no normalisation {norm!r} for a plain U-Net; there are none and batch.")
        *levels, deepest = channels
        self._multiple = 2 ** len(levels)
        self.encoder = torch.nn.ModuleList(
            torch.nn.Sequential(
                _Convolutions(before, width, norm),
                torch.nn.Dropout2d(dropout) if level == 0 else torch.nn.Dropout(dropout),
            )
            for level, (before, width) in enumerate(zip((in_channels, *levels), levels, strict=False))
        )
        self.bridge = _Convolutions(levels[-1], deepest, norm)
        self.rise = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.ConvTranspose2d(below, width, 2, stride=2), torch.nn.Dropout(dropout))
            for below, width in reversed(list(zip(channels[1:], levels, strict=True)))
        )
        self.decoder = torch.nn.ModuleList(_Convolutions(2 * width, width, norm) for width in reversed(levels))
        self.head = torch.nn.Sequential(
            torch.nn.Dropout2d(dropout), torch.nn.Conv2d(levels[0], out_channels, kernel_size=1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, y, x)`` of `image` ``(n, in_channels, y, x)`` of any size.

        An image that cannot be halved often enough is continued below and to the right by its last row and column,
        and the result cut back.
        """
        height, width = image.shape[-2:]
        # always padded, if by nothing: a choice by size would be fixed when the network is traced
        padding = (0, -width % self._multiple, 0, -height % self._multiple)
        features = functional.pad(image, padding, mode="replicate")
        skips: list[torch.Tensor] = []
        for level in self.encoder:
            skips.append(level(features))
            features = functional.max_pool2d(skips[-1], 2)
        features = self.bridge(features)
        for rise, convolve, skip in zip(self.rise, self.decoder, reversed(skips), strict=True):
            features = convolve(torch.cat((skip, rise(features)), dim=1))
        logits: torch.Tensor = self.head(features)
        return logits[..., :height, :width]


class _Convolutions(torch.nn.Sequential):
    def __init__(self, before: int, width: int, norm: Norm) -> None:
        layers: list[torch.nn.Module] = []
        for channels in (before, width):
            layers.append(torch.nn.Conv2d(channels, width, kernel_size=3, padding=1))
            if norm == "batch":
                layers.append(torch.nn.BatchNorm2d(width))
            layers.append(torch.nn.ReLU(inplace=True))
        super().__init__(*layers)
