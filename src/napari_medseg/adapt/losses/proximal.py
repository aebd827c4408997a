"""A pull towards the weights that training started from (FedProx, Li et al., 2020; L2-SP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from napari_medseg.adapt.losses.mixture import Loss


class Proximal:
    """``loss + mu/2 ||w - w0||^2 + sparsity ||w||_1`` over the trainable parameters; buffers are left alone.

    Parameters
    ----------
    loss
        Loss of logits and target.
    network
        The network being trained.
    mu
        Strength of the pull; 0 is the loss alone, hence federated averaging.
    anchor
        w0, from parameters' names to tensors: the weights that the server sent, or those of the base model. Without,
        the weights at the first call.
    sparsity
        Strength of the sum of absolute weights.
    """

    def __init__(
        self,
        loss: Loss,
        network: torch.nn.Module,
        mu: float = 0.1,
        anchor: Mapping[str, torch.Tensor] | None = None,
        sparsity: float = 0.0,
    ) -> None:
        if mu < 0 or sparsity < 0:
            raise ValueError(f"mu and sparsity are at least 0; given were {mu} and {sparsity}")
        self.loss, self.network, self.mu, self.sparsity = loss, network, mu, sparsity
        self._anchor = None if anchor is None else self._copied(anchor)

    def __call__(self, logits: Any, target: torch.Tensor) -> torch.Tensor:
        """The loss with its pull; the gradient of the pull is ``mu (w - w0)``."""
        value = self.loss(logits, target)
        if self.mu:
            value = value + 0.5 * self.mu * self._squared_drift()
        if self.sparsity:
            value = value + self.sparsity * torch.stack([w.abs().sum() for _, w in self._trained()]).sum()
        return value

    def drift(self) -> float:
        """``||w - w0||`` of the trainable parameters."""
        with torch.no_grad():
            return float(self._squared_drift().sqrt())

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, w) for name, w in self.network.named_parameters() if w.requires_grad]

    def _squared_drift(self) -> torch.Tensor:
        if self._anchor is None:
            self._anchor = self._copied(dict(self.network.named_parameters()))
        anchor = self._anchor
        return torch.stack([(w - anchor[name].to(w)).square().sum() for name, w in self._trained()]).sum()

    def _copied(self, anchor: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        missing = [name for name, _ in self._trained() if name not in anchor]
        if missing:
            raise ValueError(f"the weights to stay close to lack {missing[0]}")
        return {name: anchor[name].detach().clone() for name, _ in self.network.named_parameters() if name in anchor}
