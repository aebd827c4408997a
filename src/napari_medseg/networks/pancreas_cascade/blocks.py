"""What the parts of the cascade are made of."""

from __future__ import annotations

from math import gcd
from typing import Literal

from torch import nn

Norm = Literal["group", "batch"]


def normalisation(channels: int, norm: Norm) -> nn.Module:
    """Batch normalisation, or group normalisation in eight groups (fewer where eight do not divide the channels)."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(gcd(8, channels), channels)


def conv_norm_relu(inputs: int, width: int, kernel: int, norm: Norm, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, with normalisation and ReLU."""
    conv = nn.Conv2d(inputs, width, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    return nn.Sequential(conv, normalisation(width, norm), nn.ReLU())
