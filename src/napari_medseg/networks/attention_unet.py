"""U-Net whose skips pass additive attention gates (Gad et al., MIUA 2023, LNCS 14122, pp. 310-324)."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Literal, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from napari_medseg.networks.parameters import AnyDimensional

Norm = Literal["group", "batch"]


class AttentionUNetParameters(AnyDimensional):
    """Parameters of `AttentionUNet`.

    The paper prints no widths. With these defaults the network has 8,288,613 parameters, 523,204 of them in gates.
    """

    out_channels: int = Field(default=1, ge=1, le=1024, description="Maps that the network gives, one a class.")
    widths: tuple[int, ...] = Field(
        default=(32, 64, 128, 256, 512),
        min_length=2,
        max_length=8,
        description="Channels of each level, fine to coarse; each level has half the side of the one before.",
    )
    norm: Norm = Field(
        default="group",
        description="Normalisation: group (8 groups, bears scanners that differ and small batches) or batch.",
    )


class AttentionGate(nn.Module):
    r"""Additive attention gate with a strided convolution of the skip.

    .. math:: q = \psi^T\,\mathrm{ReLU}(W_x * x + W_g * g + b_g) + b_\psi,\quad
              \alpha = \mathrm{up}(\sigma(q)),\quad \hat x = \alpha \odot x

    :math:`W_x` is a convolution of side 2 and stride 2 without bias, so that x lands on the grid of g; :math:`\psi`
    gives one channel, so one coefficient weighs all channels of a place.

    Parameters
    ----------
    spatial_dims
        2 or 3.
    skip, gating, intermediate
        Channels of x, of g, and in between.
    """

    def __init__(self, spatial_dims: int, skip: int, gating: int, intermediate: int) -> None:
        super().__init__()
        conv = _convolution(spatial_dims)
        self.skip = conv(skip, intermediate, 2, stride=2, bias=False)
        self.gating = conv(gating, intermediate, 1)
        self.psi = conv(intermediate, 1, 1)
        self._mode = "bilinear" if spatial_dims == 2 else "trilinear"

    def coefficients(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Attention coefficients.

        Parameters
        ----------
        x
            The skip, ``(n, skip, *spatial)``, with even sides.
        g
            The next coarser level, ``(n, gating, *spatial / 2)``.

        Returns
        -------
        torch.Tensor
            ``(n, 1, *spatial)``, between 0 and 1.
        """
        q = self.psi(functional.relu(self.skip(x) + self.gating(g)))
        return functional.interpolate(torch.sigmoid(q), scale_factor=2.0, mode=self._mode, align_corners=False)

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """The skip times its coefficients; shapes as in `coefficients`."""
        return x * self.coefficients(x, g)


class AttentionUNet(nn.Module):
    """U-Net with an `AttentionGate` on every skip.

    A level is two convolutions of side 3, each with normalisation and ReLU; levels are joined by max-pooling on the way
    down and by transposed convolutions of side 2 on the way up. The gating feature of a level is the decoder's feature
    of the next coarser level. Sides that the coarsest level's step does not divide are padded with zeros at
    their ends, and the logits are cut back.

    Parameters
    ----------
    spatial_dims, in_channels, out_channels, widths, norm
        As in `AttentionUNetParameters`.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        conv = _convolution(spatial_dims)
        up = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
        self._dims = spatial_dims
        self._step: int = 2 ** (len(widths) - 1)
        inputs = (in_channels, *widths[:-1])
        self.encoder = nn.ModuleList(_level(spatial_dims, i, w, norm) for i, w in zip(inputs, widths, strict=True))
        self.pool: nn.Module = nn.MaxPool2d(2) if spatial_dims == 2 else nn.MaxPool3d(2)
        pairs = [(widths[i], widths[i + 1]) for i in reversed(range(len(widths) - 1))]
        self.gates = nn.ModuleList(AttentionGate(spatial_dims, fine, coarse, fine) for fine, coarse in pairs)
        self.ups = nn.ModuleList(up(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(_level(spatial_dims, 2 * fine, fine, norm) for fine, _ in pairs)
        self.head = conv(widths[0], out_channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, *spatial)`` of an image ``(n, in_channels, *spatial)``."""
        return self._run(image)[0]

    def attention_maps(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Coefficients of each gate, which are what multiplies the skips: ``(n, 1, *grid)``, 0 to 1, coarse to fine.

        The grid of a level is the image's, halved once a level and rounded up, so where a side is not divisible the
        last cells reach past the image by less than one cell.
        """
        maps = {}
        for i, alpha in enumerate(self._run(image)[1]):
            cell = self._step // 2 ** (i + 1)
            grid = tuple(-(-side // cell) for side in image.shape[2:])
            maps[f"gate {i + 1}, {' x '.join(map(str, grid))}"] = _cut(alpha, grid)
        return maps

    def _run(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        sides = image.shape[2:]
        padding: list[int] = []
        for side in reversed(sides):
            padding += [0, -side % self._step]
        feature = functional.pad(image, padding)
        skips = []
        for i, level in enumerate(self.encoder):
            feature = level(self.pool(feature) if i else feature)
            skips.append(feature)
        alphas = []
        for skip, gate, up, level in zip(reversed(skips[:-1]), self.gates, self.ups, self.decoder, strict=True):
            alpha = cast(AttentionGate, gate).coefficients(skip, feature)
            alphas.append(alpha)
            feature = level(torch.cat([alpha * skip, up(feature)], dim=1))
        logits = self.head(feature)
        return _cut(logits, sides), alphas


def _cut(values: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    for axis, side in enumerate(sides, start=2):
        values = values.narrow(axis, 0, side)
    return values


def _convolution(spatial_dims: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if spatial_dims == 2 else nn.Conv3d


def _level(spatial_dims: int, inputs: int, width: int, norm: Norm) -> nn.Sequential:
    conv = _convolution(spatial_dims)
    batch = nn.BatchNorm2d if spatial_dims == 2 else nn.BatchNorm3d
    parts: list[nn.Module] = []
    for channels in (inputs, width):
        normalisation = batch(width) if norm == "batch" else nn.GroupNorm(gcd(8, width), width)
        parts += [conv(channels, width, 3, padding=1), normalisation, nn.ReLU()]
    return nn.Sequential(*parts)
