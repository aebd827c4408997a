"""Second stage: the lesion within the organ's window (Qiu et al. 2024, section C)."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from napari_medseg.networks.pancreas_cascade.blocks import Norm, conv_norm_relu
from napari_medseg.networks.pancreas_cascade.focusing import Focusing
from napari_medseg.networks.pancreas_cascade.localisation import Localisation
from napari_medseg.networks.pancreas_cascade.multiscale import MultiScaleUNet


class LesionNet(nn.Module):
    """A `MultiScaleUNet`, a convolution on each feature, `Localisation`, and four `Focusing` steps.

    Parameters
    ----------
    in_channels, base, norm
        As in `MultiScaleUNet`.
    """

    def __init__(self, in_channels: int, base: int, norm: Norm) -> None:
        super().__init__()
        self.backbone = MultiScaleUNet(in_channels, base, norm)
        widths = self.backbone.widths[::-1]
        self.reduce = nn.ModuleList([conv_norm_relu(3 * widths[0], widths[0], 3, norm)])
        self.reduce.extend(conv_norm_relu(width, width, 3, norm) for width in widths)
        self.localisation = Localisation(widths[0])
        coarser = (widths[0], *widths[:-1])
        self.focusing = nn.ModuleList(Focusing(w, h, norm) for w, h in zip(widths, coarser, strict=True))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Five logit maps, coarse to fine, each of them supervised in training.

        Parameters
        ----------
        image
            ``(n, in_channels, y, x)``, sides divisible by 16.

        Returns
        -------
        tuple
            ``(n, 1, y / s, x / s)`` for s of 16, 8, 4, 2 and 1.
        """
        features = self._features(image)
        feature, logits = self.localisation(features[0])
        maps = [logits]
        for current, focusing in zip(features[1:], self.focusing, strict=True):
            feature, logits = focusing(current, feature, logits)
            maps.append(logits)
        return tuple(maps)

    def spatial_rows(self, image: torch.Tensor) -> torch.Tensor:
        """Weights ``(n, p, p)`` of the spatial attention, p = y / 16 * x / 16 places row by row; rows sum to 1."""
        return self.localisation.spatial_rows(self._features(image)[0])

    def evidence(self, image: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """False-positive and false-negative evidence of each focusing step, coarse to fine.

        Each is the mean of the absolute values over the channels, ``(n, 1, y / s, x / s)`` for s of 8, 4, 2 and 1.
        """
        features = self._features(image)
        feature, logits = self.localisation(features[0])
        pairs = []
        for current, module in zip(features[1:], self.focusing, strict=True):
            focusing = cast(Focusing, module)
            positive, negative = focusing.evidence(current, logits)
            pairs.append((positive.abs().mean(1, keepdim=True), negative.abs().mean(1, keepdim=True)))
            feature, logits = focusing(current, feature, logits)
        return pairs

    def _features(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [reduce(f) for reduce, f in zip(self.reduce, self.backbone(image), strict=True)]
