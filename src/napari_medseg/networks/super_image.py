"""Networks for super images: all slices of a volume laid out as one picture (Sobirov, Saeed and Yaqub, MIUA 2023).

LNCS 14122, pp. 325-336. The same networks exist for volumes; only the dimension of every operator differs. SE
normalisation and the network around it come from Iantsen, Jaouen, Visvikis and Hatt, "Encoder-Decoder Network for
Brain Tumor Segmentation on Multi-sequence MRI" (BrainLes 2019) and their entry to HECKTOR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from napari_medseg.networks.parameters import AnyDimensional


class SuperImageUNetParameters(AnyDimensional):
    """Parameters of `SuperImageUNet`; the defaults are those for the CT and PET of HECKTOR."""

    in_channels: int = Field(default=2, ge=1, le=1024, description="Channels of the image.")
    out_channels: int = Field(default=1, ge=1, le=1024, description="Maps that the network gives, one a class.")
    width: int = Field(default=24, ge=1, le=512, description="Channels of the finest level; doubled each level.")
    levels: int = Field(default=4, ge=2, le=8, description="Number of levels; each has half the side of the one above.")


class SENormUNetParameters(AnyDimensional):
    """Parameters of `SENormUNet`; the defaults are those for the CT and PET of HECKTOR."""

    in_channels: int = Field(default=2, ge=1, le=1024, description="Channels of the image.")
    out_channels: int = Field(default=1, ge=1, le=1024, description="Maps that the network gives, one a class.")
    width: int = Field(default=24, ge=2, le=512, description="Channels of the finest level; doubled each level.")
    large_kernels: bool = Field(
        default=False,
        description="Encoder convolutions of side 7 instead of 3 (the paper's LK; meant for two dimensions).",
    )


class SuperImageUNet(nn.Module):
    """U-Net with instance normalisation.

    A level is two times [convolution of side 3 without bias, instance normalisation with affine, ReLU]. Levels are
    joined by max-pooling of 2 on the way down and by transposed convolutions (side 3, stride 2) on the way up; a
    convolution of side 1 gives the logits. With 2 channels in and 1 out it has 1,205,425 parameters in two
    dimensions and 3,611,665 in three, as the paper reports.

    Parameters
    ----------
    spatial_dims, in_channels, out_channels, width, levels
        As in `SuperImageUNetParameters`.
    """

    def __init__(
        self, spatial_dims: int = 2, in_channels: int = 2, out_channels: int = 1, width: int = 24, levels: int = 4
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        inputs = [in_channels, *widths[:-1]]
        pairs = list(zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True))
        self.pool = _pool(spatial_dims)
        self.encoder = nn.ModuleList(_plain_level(spatial_dims, i, o) for i, o in zip(inputs, widths, strict=True))
        self.ups = nn.ModuleList(_up(spatial_dims, coarse, fine) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(_plain_level(spatial_dims, 2 * fine, fine) for fine, _ in pairs)
        self.head = _convolution(spatial_dims)(width, out_channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, *spatial)`` of ``(n, in_channels, *spatial)``; 2**(levels-1) divides each side."""
        features = self.encoder[0](image)
        skips = []
        for level in list(self.encoder)[1:]:
            skips.append(features)
            features = level(self.pool(features))
        for up, level, skip in zip(self.ups, self.decoder, reversed(skips), strict=True):
            features = level(torch.cat([up(features), skip], dim=1))
        logits: torch.Tensor = self.head(features)
        return logits


class _Excitation(nn.Module):
    """Global average of each channel, then channels -> channels / 2 -> ReLU -> channels, with biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 2)
        self.excite = nn.Linear(channels // 2, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        means = features.flatten(2).mean(2)
        weights: torch.Tensor = self.excite(functional.relu(self.squeeze(means)))
        return weights[(..., *(None,) * (features.ndim - 2))]


class SENorm(nn.Module):
    r"""Instance normalisation whose gain and shift come from the image itself.

    .. math:: y = \gamma(x) \odot \mathrm{IN}(x) + \beta(x),\quad
              \gamma = \sigma(\mathrm{MLP}_\gamma(\mathrm{GAP}\,x)),\quad
              \beta = \tanh(\mathrm{MLP}_\beta(\mathrm{GAP}\,x))

    Parameters
    ----------
    spatial_dims
        2 or 3.
    channels
        Channels of x, at least 2.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.InstanceNorm2d(channels) if spatial_dims == 2 else nn.InstanceNorm3d(channels)
        self.gamma = _Excitation(channels)
        self.beta = _Excitation(channels)

    def gain(self, features: torch.Tensor) -> torch.Tensor:
        """The gain of each channel of ``(n, c, *spatial)``: ``(n, c, 1, ...)``, between 0 and 1."""
        return torch.sigmoid(self.gamma(features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalised features; same shape."""
        normed: torch.Tensor = self.norm(features)
        return self.gain(features) * normed + torch.tanh(self.beta(features))


class _SEConvolution(nn.Module):
    """Convolution with bias, ReLU, SE normalisation ("FS")."""

    def __init__(self, spatial_dims: int, inputs: int, width: int, side: int) -> None:
        super().__init__()
        self.convolution = _convolution(spatial_dims)(inputs, width, side, padding=side // 2)
        self.norm = SENorm(spatial_dims, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(functional.relu(self.convolution(features)))
        return normed


class _SEResidual(nn.Module):
    """`_SEConvolution` plus its input, which passes one of side 1 where the channels change ("RS")."""

    def __init__(self, spatial_dims: int, inputs: int, width: int, side: int) -> None:
        super().__init__()
        self.body = _SEConvolution(spatial_dims, inputs, width, side)
        self.shortcut = nn.Identity() if inputs == width else _SEConvolution(spatial_dims, inputs, width, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.body(features) + self.shortcut(features)
        return total


class SENormUNet(nn.Module):
    """U-Net of five levels with SE normalisation, residual encoder, and coarse features added at the finest level.

    Level 1 of the encoder is a residual unit of side 7 and one of side 3; levels 2 to 5 are three of side 3 each. The
    decoder is, a level, a transposed convolution (side 3, stride 2) and two plain units. Features of the decoder's
    levels 4, 3 and 2 are brought to the width and the size of level 1 and added between its two units. With 2
    channels in and 1 out it has 8,508,001 parameters in two dimensions and 21,751,681 in three, as the paper reports.
    With large kernels all residual units but the second are of side 7: 28.09 million in two dimensions.

    Parameters
    ----------
    spatial_dims, in_channels, out_channels, width, large_kernels
        As in `SENormUNetParameters`.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 2,
        out_channels: int = 1,
        width: int = 24,
        large_kernels: bool = False,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        side = 7 if large_kernels else 3
        self.pool = _pool(spatial_dims)
        self.encoder = nn.ModuleList([_residual_level(spatial_dims, in_channels, width, (7, 3))])
        for inputs, outputs in pairwise(widths):
            self.encoder.append(_residual_level(spatial_dims, inputs, outputs, (side,) * 3))
        pairs = list(zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True))
        self.ups = nn.ModuleList(_up(spatial_dims, coarse, fine) for fine, coarse in pairs)
        self.first = nn.ModuleList(_SEConvolution(spatial_dims, 2 * fine, fine, 3) for fine, _ in pairs)
        self.second = nn.ModuleList(_SEConvolution(spatial_dims, fine, fine, 3) for fine, _ in pairs)
        self.supervision = nn.ModuleList(_SEConvolution(spatial_dims, fine, width, 1) for fine, _ in pairs[:-1])
        self.head = _convolution(spatial_dims)(width, out_channels, 1)
        self._mode = "bilinear" if spatial_dims == 2 else "trilinear"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, *spatial)`` of ``(n, in_channels, *spatial)``, 16 divides each side."""
        features = self.encoder[0](image)
        skips = []
        for level in list(self.encoder)[1:]:
            skips.append(features)
            features = level(self.pool(features))
        coarse: list[torch.Tensor] = []
        parts = zip(self.ups, self.first, self.second, reversed(skips), strict=True)
        for number, (up, first, second, skip) in enumerate(parts):
            features = first(torch.cat([up(features), skip], dim=1))
            for added in coarse if number == len(self.supervision) else ():
                features = features + added
            features = second(features)
            if number < len(self.supervision):
                narrow = self.supervision[number](features)
                factor = float(2 ** (len(self.supervision) - number))
                coarse.append(functional.interpolate(narrow, scale_factor=factor, mode=self._mode, align_corners=False))
        logits: torch.Tensor = self.head(features)
        return logits

    def attention_maps(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """The gain of every channel in the last SE normalisation of each level, encoder and decoder.

        Parameters
        ----------
        image
            ``(n, in_channels, *spatial)``.

        Returns
        -------
        dict
            ``(n, k, 1, ...)`` for each, one channel a channel of that level, 0 to 1, coarse to fine: one value holds
            for the whole image, because the excitation sees nothing but the average.
        """
        norms: dict[str, SENorm] = {}
        for number in range(len(self.encoder), 0, -1):
            norms[f"gain, encoder level {number}"] = _last_norm(self.encoder[number - 1])
            if number < len(self.encoder):
                norms[f"gain, decoder level {number}"] = _last_norm(self.second[len(self.second) - number])
        seen: dict[str, torch.Tensor] = {}

        def keep(name: str, norm: SENorm) -> torch.utils.hooks.RemovableHandle:
            return norm.register_forward_hook(lambda module, given, _: seen.update({name: module.gain(given[0])}))

        handles = [keep(name, norm) for name, norm in norms.items()]
        try:
            self(image)
        finally:
            for handle in handles:
                handle.remove()
        return {name: seen[name] for name in norms}


def _last_norm(block: nn.Module) -> SENorm:
    unit = list(block)[-1].body if isinstance(block, nn.Sequential) else block
    norm = unit.norm
    assert isinstance(norm, SENorm)
    return norm


def _residual_level(spatial_dims: int, inputs: int, width: int, sides: Sequence[int]) -> nn.Sequential:
    given = [inputs] + [width] * (len(sides) - 1)
    return nn.Sequential(*(_SEResidual(spatial_dims, i, width, side) for i, side in zip(given, sides, strict=True)))


def _plain_level(spatial_dims: int, inputs: int, width: int) -> nn.Sequential:
    norm = nn.InstanceNorm2d if spatial_dims == 2 else nn.InstanceNorm3d
    parts: list[nn.Module] = []
    for channels in (inputs, width):
        convolution = _convolution(spatial_dims)(channels, width, 3, padding=1, bias=False)
        parts += [convolution, norm(width, affine=True), nn.ReLU()]
    return nn.Sequential(*parts)


def _convolution(spatial_dims: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if spatial_dims == 2 else nn.Conv3d


def _up(spatial_dims: int, inputs: int, width: int) -> nn.Module:
    up = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
    return up(inputs, width, 3, stride=2, padding=1, output_padding=1)


def _pool(spatial_dims: int) -> nn.Module:
    return nn.MaxPool2d(2) if spatial_dims == 2 else nn.MaxPool3d(2)
