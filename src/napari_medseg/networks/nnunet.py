"""The plain convolutional U-Net of nnU-Net, built from a plan (Isensee et al., Nature Methods 18:203-211, 2021).

Its weights carry the names that nnU-Net v2 gives them (``PlainConvUNet`` of dynamic_network_architectures), so that
what nnU-Net trained is loaded as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import nn

from napari_medseg.networks.parameters import AnyDimensional

_SMALLEST_SIDE = 4
_WIDEST = {2: 512, 3: 320}
_USUAL_SIDE = 64


@dataclass(frozen=True)
class Levels:
    """The levels of a plan, one entry each, fine to coarse.

    Parameters
    ----------
    strides
        Step of the first convolution of each level, per axis.
    kernel_sizes
        Sides of the convolutions of each level, per axis.
    patch_size
        The patch, grown so that every axis can be halved as often as planned.
    """

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    patch_size: tuple[int, ...]


def plan_levels(patch_size: Sequence[int], spacing: Sequence[float] | None = None) -> Levels:
    """Levels of a network for patches of a given size, by nnU-Net's rule.

    An axis is halved as long as that leaves it at least 4 samples and its spacing is below twice the smallest of the
    axes that can still be halved; a single remaining axis is halved only from 12 samples on. Convolutions are of
    side 1 along an axis until its spacing is below twice the smallest, and of side 3 from then on.

    Parameters
    ----------
    patch_size
        Samples along each axis.
    spacing
        Distance between samples along each axis, in any unit; equal for all axes when left out.

    Returns
    -------
    Levels
        At least one.

    Raises
    ------
    ValueError
        The two do not match, or one of the numbers is not positive.
    """
    steps = [1.0] * len(patch_size) if spacing is None else [float(v) for v in spacing]
    if len(steps) != len(patch_size) or min(steps) <= 0 or min(patch_size) < 1:
        raise ValueError(
            f"a patch of {tuple(patch_size)} at {spacing} needs one positive number of each for every axis"
        )
    axes = range(len(patch_size))
    sizes, halvings, sides = [int(v) for v in patch_size], [0 for _ in axes], [1 for _ in axes]
    strides, kernels = [[1 for _ in axes]], []
    while True:
        large = [a for a in axes if sizes[a] >= 2 * _SMALLEST_SIDE]
        halved = [a for a in large if steps[a] / min(steps[b] for b in large) < 2]
        if not halved or (len(halved) == 1 and sizes[halved[0]] < 3 * _SMALLEST_SIDE):
            break
        sides = [3 if side == 3 or steps[a] / min(steps) < 2 else 1 for a, side in zip(axes, sides, strict=True)]
        kernels.append(tuple(sides))
        strides.append([2 if a in halved else 1 for a in axes])
        for a in halved:
            halvings[a] += 1
            steps[a] *= 2
            sizes[a] = ceil(sizes[a] / 2)
    kernels.append(tuple(3 for _ in axes))
    patch = tuple(ceil(size / 2**n) * 2**n for size, n in zip(patch_size, halvings, strict=True))
    return Levels(tuple(tuple(s) for s in strides), tuple(kernels), patch)


class PlainConvUNetParameters(AnyDimensional):
    """A plan for `PlainConvUNet`.

    Give the patch and its spacing, and the levels follow by `plan_levels`; or give strides and kernel sizes.
    """

    patch_size: tuple[int, ...] = Field(
        default=(),
        max_length=3,
        description="Samples of a patch along each axis; 64 when left empty, where nnU-Net would look at the data.",
    )
    spacing: tuple[float, ...] = Field(
        default=(), max_length=3, description="Distance between samples along each axis, mm; equal when left empty."
    )
    base_width: int = Field(default=32, ge=1, le=512, description="Channels of the finest level; doubled each level.")
    widest: int | None = Field(
        default=None, ge=1, le=4096, description="Most channels of a level; 512 for pictures and 320 for volumes."
    )
    convolutions: int = Field(default=2, ge=1, le=16, description="Convolutions a level, encoder and decoder.")

    @model_validator(mode="after")
    def _fits(self) -> PlainConvUNetParameters:
        for name, values in (("patch_size", self.patch_size), ("spacing", self.spacing)):
            if values and (len(values) != self.spatial_dims or min(values) <= 0):
                raise ValueError(f"{name} needs {self.spatial_dims} positive numbers")
        if len(self._levels().strides) < 2:
            raise ValueError(f"a patch of {self.patch_size} is too small to be halved even once")
        return self

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `PlainConvUNet`: the plan, worked out."""
        dims, levels = self.spatial_dims, self._levels()
        count = len(levels.strides)
        widest = self.widest or _WIDEST[dims]
        return {
            "spatial_dims": dims,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "widths": [min(widest, self.base_width * 2**level) for level in range(count)],
            "strides": [list(s) for s in levels.strides],
            "kernel_sizes": [list(k) for k in levels.kernel_sizes],
            "convolutions": [self.convolutions] * count,
            "decoder_convolutions": [self.convolutions] * (count - 1),
        }

    def _levels(self) -> Levels:
        patch_size = self.patch_size or (_USUAL_SIDE,) * self.spatial_dims
        return plan_levels(patch_size, self.spacing or None)


class _Unit(nn.Module):
    """Convolution, instance normalisation with affine, leaky ReLU of 0.01."""

    def __init__(
        self, spatial_dims: int, inputs: int, width: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        padding = [(side - 1) // 2 for side in kernel]
        norm = nn.InstanceNorm2d if spatial_dims == 2 else nn.InstanceNorm3d
        convolution: Any = _convolution(spatial_dims)
        self.conv: nn.Module = convolution(inputs, width, tuple(kernel), tuple(stride), tuple(padding))
        self.norm: nn.Module = norm(width, affine=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(self.norm(self.conv(features)), 0.01)


class _Units(nn.Module):
    def __init__(
        self, spatial_dims: int, count: int, inputs: int, width: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        rest = (_Unit(spatial_dims, width, width, kernel, (1,) * spatial_dims) for _ in range(count - 1))
        self.convs = nn.Sequential(_Unit(spatial_dims, inputs, width, kernel, stride), *rest)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.convs(features)
        return made


class _Encoder(nn.Module):
    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(stage) for stage in stages)


class _Decoder(nn.Module):
    def __init__(self, stages: Sequence[nn.Module], ups: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages, self.transpconvs, self.seg_layers = map(nn.ModuleList, (stages, ups, heads))


class PlainConvUNet(nn.Module):
    """nnU-Net's plain convolutional U-Net.

    A level is a number of [convolution with bias, instance normalisation with affine, leaky ReLU of 0.01], the first
    with the level's stride. The way up is transposed convolutions with sides and steps of the stride. Every level of
    the decoder has a convolution of side 1 that makes logits; `forward` gives those of the finest.

    Parameters
    ----------
    spatial_dims, in_channels, out_channels
        Dimensions, channels of the image, maps given.
    widths
        Channels of each level, fine to coarse, at least two levels.
    strides, kernel_sizes
        Of each level, per axis; kernel sizes are odd.
    convolutions, decoder_convolutions
        How many a level; the decoder's from coarse to fine, one less.

    Raises
    ------
    ValueError
        The lists do not fit each other.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        convolutions: Sequence[int],
        decoder_convolutions: Sequence[int],
    ) -> None:
        super().__init__()
        count = len(widths)
        if count < 2 or {len(strides), len(kernel_sizes), len(convolutions), len(decoder_convolutions) + 1} != {count}:
            raise ValueError(f"{count} levels need as many strides, kernel sizes and convolutions, and at least two")
        if any(len(v) != spatial_dims for v in (*strides, *kernel_sizes)):
            raise ValueError(f"strides and kernel sizes of a level need {spatial_dims} numbers each")
        if any(side % 2 == 0 for kernel in kernel_sizes for side in kernel):
            raise ValueError(f"kernel sizes {list(kernel_sizes)} need to be odd")
        inputs = (in_channels, *widths[:-1])
        levels = zip(convolutions, inputs, widths, kernel_sizes, strides, strict=True)
        self.encoder = _Encoder([_Units(spatial_dims, *level) for level in levels])
        up = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
        ones = (1,) * spatial_dims
        stages, ups, heads = [], [], []
        for fine, number in zip(reversed(range(count - 1)), decoder_convolutions, strict=True):
            width, stride = widths[fine], tuple(strides[fine + 1])
            ups.append(up(widths[fine + 1], width, stride, stride))  # type: ignore[arg-type]
            stages.append(_Units(spatial_dims, number, 2 * width, width, kernel_sizes[fine], ones))
            heads.append(_convolution(spatial_dims)(width, out_channels, 1))
        self.decoder = _Decoder(stages, ups, heads)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, *spatial)``; along each axis the product of the strides divides the image."""
        logits: torch.Tensor = self.decoder.seg_layers[-1](self._decoded(image)[-1])
        return logits

    def supervised_logits(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Logits of every level of the decoder, the finest first: what deep supervision compares with shrunk labels.

        The first is that of `forward`; the next has the size of the image over the strides of the second level, and
        so on down to the level before the coarsest.
        """
        decoded = self._decoded(image)
        return [head(x) for head, x in zip(self.decoder.seg_layers, decoded, strict=True)][::-1]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in torch; nnU-Net's second names of the same weights are left out."""
        return super().load_state_dict(own_weights(state_dict), strict=strict, assign=assign)

    def _decoded(self, image: torch.Tensor) -> list[torch.Tensor]:
        skips = []
        features = image
        for stage in self.encoder.stages:
            features = stage(features)
            skips.append(features)
        decoded = []
        ups, stages = self.decoder.transpconvs, self.decoder.stages
        for up, stage, skip in zip(ups, stages, reversed(skips[:-1]), strict=True):
            features = stage(torch.cat([up(features), skip], dim=1))
            decoded.append(features)
        return decoded


def own_weights(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of nnU-Net without their second names.

    There every convolution and normalisation is named twice, the second time under ``all_modules``, and the decoder
    holds the encoder once more.
    """
    return {k: v for k, v in state_dict.items() if not k.startswith("decoder.encoder.") and ".all_modules." not in k}


def _convolution(spatial_dims: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if spatial_dims == 2 else nn.Conv3d
