"""Saliency change: the organ's probability weighs the image (Qiu et al. 2024, section B)."""

from __future__ import annotations

import torch
from torch import nn

_HIDDEN = 8


class Saliency(nn.Module):
    r"""Weights g(P) of the image: :math:`\tilde I = I \odot g(P)`.

    The paper gives no formula. As in the recurrent saliency network it builds on, two convolutions (side 3 with ReLU,
    side 5) keep the size; the last one starts with weights 0 and bias 1, so g = 1 until it has learnt. Until then the
    first stage gets a gradient of exactly 0 through it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, _HIDDEN, 3, padding=1)
        self.last = nn.Conv2d(_HIDDEN, 1, 5, padding=2)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.ones_(self.last.bias)

    def forward(self, probability: torch.Tensor) -> torch.Tensor:
        """Weights g(P) ``(n, 1, y, x)`` of a probability ``(n, 1, y, x)``."""
        weights: torch.Tensor = self.last(torch.relu(self.first(probability)))
        return weights
