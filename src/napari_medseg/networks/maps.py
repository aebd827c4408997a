"""The one interface through which a network shows what it attends to."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class OffersMaps(Protocol):
    """A network with attention that can be looked at."""

    def attention_maps(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the network attends to in `image`.

        Parameters
        ----------
        image
            ``(n, c, *spatial)``, as for a forward pass; the network should be in evaluation mode.

        Returns
        -------
        dict
            From a name a person understands ("gate 1, 128 x 128") to a map ``(n, k, *grid)``, coarse to fine. Each
            grid covers the whole image; its values are the network's own, not scaled.
        """
