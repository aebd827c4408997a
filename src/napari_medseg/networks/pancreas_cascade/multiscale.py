"""Multi-scale U-Net: two encoders side by side and two skips a level (Qiu et al. 2024, section A)."""

from __future__ import annotations

import torch
from torch import nn

from napari_medseg.networks.pancreas_cascade.blocks import Norm, conv_norm_relu

LEVELS = 4
STEP = 2**LEVELS


class MultiScaleUNet(nn.Module):
    r"""Backbone of both stages.

    .. math::
        C_{i+1,1} &= p(3{\times}3(3{\times}3(C_{i,1}))) \\
        C_{i+1,2} &= p(3{\times}3(1{\times}1(C_{i,2})) \oplus 3{\times}3(5{\times}5(C_{i,2}))) \\
        C_5 &= 3{\times}3(1{\times}1(C_{4,1})) \oplus 3{\times}3(3{\times}3(C_{4,2}))
               \oplus 3{\times}3(5{\times}5(C_{4,2})) \\
        U_{i-1} &= 3{\times}3(3{\times}3(\mathrm{DeConv}(U_i) \oplus C_{i-1,1}) \oplus C_{i-1,2})

    The skips are taken before the pooling p. The two halves of the second encoder have half a level's width each.

    Parameters
    ----------
    in_channels
        Channels of the image.
    base
        Width of the finest level; the levels have `base`, 2, 4 and 8 times `base`, the centre 24 times.
    norm
        Normalisation.
    """

    def __init__(self, in_channels: int, base: int, norm: Norm) -> None:
        super().__init__()
        self.widths = tuple(base * 2**i for i in range(LEVELS))
        self.plain = nn.ModuleList()
        self.narrow = nn.ModuleList()
        self.wide = nn.ModuleList()
        inputs = in_channels
        for width in self.widths:
            self.plain.append(_pair(inputs, width, 3, norm))
            self.narrow.append(_pair(inputs, width // 2, 1, norm))
            self.wide.append(_pair(inputs, width // 2, 5, norm))
            inputs = width
        self.centre = nn.ModuleList(_pair(inputs, inputs, kernel, norm) for kernel in (1, 3, 5))
        self.ups = nn.ModuleList()
        self.first = nn.ModuleList()
        self.second = nn.ModuleList()
        inputs = 3 * self.widths[-1]
        for width in reversed(self.widths):
            self.ups.append(nn.ConvTranspose2d(inputs, width, 2, stride=2))
            self.first.append(conv_norm_relu(2 * width, width, 3, norm))
            self.second.append(conv_norm_relu(2 * width, width, 3, norm))
            inputs = width

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Five features, coarse to fine.

        Parameters
        ----------
        image
            ``(n, in_channels, y, x)``, sides divisible by 16.

        Returns
        -------
        list
            ``(n, width, y / s, x / s)`` for steps s of 16, 8, 4, 2 and 1 with widths of 24, 8, 4, 2 and 1 `base`.
        """
        one, two = image, image
        skips: list[tuple[torch.Tensor, torch.Tensor]] = []
        for plain, narrow, wide in zip(self.plain, self.narrow, self.wide, strict=True):
            one, two = plain(one), torch.cat([narrow(two), wide(two)], dim=1)
            skips.append((one, two))
            one, two = nn.functional.max_pool2d(one, 2), nn.functional.max_pool2d(two, 2)
        feature = torch.cat([part(source) for part, source in zip(self.centre, (one, two, two), strict=True)], dim=1)
        features = [feature]
        for (one, two), up, first, second in zip(reversed(skips), self.ups, self.first, self.second, strict=True):
            feature = first(torch.cat([up(feature), one], dim=1))
            feature = second(torch.cat([feature, two], dim=1))
            features.append(feature)
        return features


class OrganNet(nn.Module):
    """First stage: logits of the organ from a `MultiScaleUNet` and a convolution of side 1.

    Parameters
    ----------
    in_channels, base, norm
        As in `MultiScaleUNet`.
    """

    def __init__(self, in_channels: int, base: int, norm: Norm) -> None:
        super().__init__()
        self.backbone = MultiScaleUNet(in_channels, base, norm)
        self.head = nn.Conv2d(base, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, 1, y, x)`` of an image ``(n, in_channels, y, x)`` of any size, padded to a multiple of 16."""
        height, width = image.shape[2:]
        padded = nn.functional.pad(image, [0, -width % STEP, 0, -height % STEP])
        logits: torch.Tensor = self.head(self.backbone(padded)[-1])
        return logits[..., :height, :width]


def _pair(inputs: int, width: int, kernel: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(conv_norm_relu(inputs, width, kernel, norm), conv_norm_relu(width, width, 3, norm))
