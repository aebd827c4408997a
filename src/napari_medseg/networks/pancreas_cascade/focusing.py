"""Focusing: take away false-positive and add false-negative evidence (Qiu et al. 2024, section C)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from napari_medseg.networks.pancreas_cascade.blocks import Norm, conv_norm_relu, normalisation

_KERNELS = (1, 3, 5, 7)
_DILATIONS = (1, 2, 4, 8)


class ContextExploration(nn.Module):
    """Four branches that look ever further, each given what the one before has found.

    A branch reduces the channels to a quarter (side 3), adds the output of the branch before, and convolves with side
    1, 3, 5 or 7 and then with side 3 and dilation 1, 2, 4 or 8; the four are joined by a convolution of side 3.

    Parameters
    ----------
    channels
        Channels in and out.
    norm
        Normalisation after each convolution.
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        quarter = max(1, channels // 4)
        self.reduce = nn.ModuleList(conv_norm_relu(channels, quarter, 3, norm) for _ in _KERNELS)
        self.local = nn.ModuleList(conv_norm_relu(quarter, quarter, k, norm) for k in _KERNELS)
        self.dilated = nn.ModuleList(conv_norm_relu(quarter, quarter, 3, norm, r) for r in _DILATIONS)
        self.fuse = conv_norm_relu(4 * quarter, channels, 3, norm)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Context ``(n, channels, y, x)`` of a feature ``(n, channels, y, x)``."""
        found: list[torch.Tensor] = []
        for reduce, local, dilated in zip(self.reduce, self.local, self.dilated, strict=True):
            reduced = reduce(feature)
            found.append(dilated(local(reduced + found[-1] if found else reduced)))
        fused: torch.Tensor = self.fuse(torch.cat(found, dim=1))
        return fused


class Focusing(nn.Module):
    r"""Refine a logit map on the next finer feature.

    .. math::
        A &= \sigma(\mathrm{up}(m)),\quad F_{fpd} = CE(F_c \odot A),\quad F_{fnd} = CE(F_c \odot (1 - A)) \\
        F_r &= BR(\mathrm{up}(CBR(F_h)) - \lambda F_{fpd}),\quad F'_r = BR(F_r + \gamma F_{fnd})

    CBR is a convolution of side 7 with normalisation and ReLU, BR normalisation and ReLU, up bilinear. The
    scalars :math:`\lambda` and :math:`\gamma` are learnt and start at 1.

    Parameters
    ----------
    current, higher
        Channels of the current feature and of the next coarser one.
    norm
        Normalisation.
    """

    def __init__(self, current: int, higher: int, norm: Norm) -> None:
        super().__init__()
        self.up = conv_norm_relu(higher, current, 7, norm)
        self.false_positive = ContextExploration(current, norm)
        self.false_negative = ContextExploration(current, norm)
        self.without = nn.Sequential(normalisation(current, norm), nn.ReLU())
        self.within = nn.Sequential(normalisation(current, norm), nn.ReLU())
        self.head = nn.Conv2d(current, 1, 7, padding=3)
        self.lam = nn.Parameter(torch.ones(()))
        self.gamma = nn.Parameter(torch.ones(()))

    def split(self, current: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The feature weighted by the map and by what the map leaves out, each ``(n, current, y, x)``.

        Parameters
        ----------
        current
            ``(n, current, y, x)``.
        logits
            ``(n, 1, y / 2, x / 2)``.
        """
        doubled = _double(logits)
        return current * torch.sigmoid(doubled), current * torch.sigmoid(-doubled)

    def evidence(self, current: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """False-positive and false-negative evidence, each ``(n, current, y, x)``; parameters as in `split`."""
        inside, outside = self.split(current, logits)
        return self.false_positive(inside), self.false_negative(outside)

    def forward(
        self, current: torch.Tensor, higher: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The refined feature ``(n, current, y, x)`` and logits ``(n, 1, y, x)``.

        Parameters
        ----------
        current
            The feature of this level, ``(n, current, y, x)``.
        higher
            The refined feature of the next coarser level, ``(n, higher, y / 2, x / 2)``.
        logits
            Its logits, ``(n, 1, y / 2, x / 2)``.
        """
        positive, negative = self.evidence(current, logits)
        refined = self.without(_double(self.up(higher)) - self.lam * positive)
        refined = self.within(refined + self.gamma * negative)
        return refined, self.head(refined)


def _double(values: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(values, scale_factor=2.0, mode="bilinear", align_corners=False)
