"""Non-local localisation on the coarsest feature (Qiu et al. 2024, section C)."""

from __future__ import annotations

import torch
from torch import nn


class ChannelAttention(nn.Module):
    r"""Each channel gets what resembles it: :math:`a_{ij}=\mathrm{softmax}_j(Q_i\cdot K_j)`.

    .. math:: F'_i = \gamma\sum_j a_{ij}V_j + F_i,\quad Q=K=V=F\ \text{as}\ (C, N),\quad \gamma = 1\ \text{at first}
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(()))

    def rows(self, feature: torch.Tensor) -> torch.Tensor:
        """The weights a ``(n, c, c)`` of a feature ``(n, c, y, x)``; each row sums to 1."""
        flat = feature.flatten(2)
        return torch.softmax(flat @ flat.transpose(1, 2), dim=-1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """The feature F' ``(n, c, y, x)`` of a feature ``(n, c, y, x)``."""
        mixed = (self.rows(feature) @ feature.flatten(2)).reshape(feature.shape)
        return self.gamma * mixed + feature


class SpatialAttention(nn.Module):
    r"""Each place gets what resembles it: :math:`a'_{ij}=\mathrm{softmax}_j(Q'_{:i}\cdot K'_{:j})`.

    .. math:: F''_{:i} = \gamma'\sum_j a'_{ij}V'_{:j} + F'_{:i},\quad \gamma' = 1\ \text{at first}

    The paper prints :math:`a'_{ji}`, whose sum over j is not 1; rows are used here.

    Parameters
    ----------
    channels
        C; Q' and K' have an eighth of it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.ones(()))

    def rows(self, feature: torch.Tensor) -> torch.Tensor:
        """The weights a' ``(n, y * x, y * x)`` of a feature ``(n, c, y, x)``; each row sums to 1."""
        query, key = self.query(feature).flatten(2), self.key(feature).flatten(2)
        return torch.softmax(query.transpose(1, 2) @ key, dim=-1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """The feature F'' ``(n, c, y, x)`` of a feature ``(n, c, y, x)``."""
        value = self.value(feature).flatten(2)
        mixed: torch.Tensor = (value @ self.rows(feature).transpose(1, 2)).reshape(feature.shape)
        return self.gamma * mixed + feature


class Localisation(nn.Module):
    """Channel attention, spatial attention, and a convolution of side 7 to the first map of the lesion.

    Parameters
    ----------
    channels
        Channels of the coarsest feature.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = ChannelAttention()
        self.spatial = SpatialAttention(channels)
        self.head = nn.Conv2d(channels, 1, 7, padding=3)

    def forward(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The feature F'' ``(n, c, y, x)`` and logits ``(n, 1, y, x)`` of a feature ``(n, c, y, x)``."""
        attended = self.spatial(self.channel(feature))
        return attended, self.head(attended)

    def spatial_rows(self, feature: torch.Tensor) -> torch.Tensor:
        """The spatial weights a' ``(n, y * x, y * x)`` that `forward` uses for a feature ``(n, c, y, x)``."""
        rows: torch.Tensor = self.spatial.rows(self.channel(feature))
        return rows
