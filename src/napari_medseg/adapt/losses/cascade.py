"""Loss of a cascade: an organ, its lesion in steps from coarse to fine, and the borders between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.nn.functional import interpolate

from napari_medseg.adapt.losses.boundary import SharedBoundary
from napari_medseg.adapt.losses.edges import EdgeWeighted
from napari_medseg.adapt.losses.mixture import cross_entropy_jaccard
from napari_medseg.adapt.losses.overlap import SoftDice


class CascadeMaps(Protocol):
    """What a cascade gives, as `napari_medseg.networks.pancreas_cascade.PancreasCascade.run_phase` does.

    `organ` holds logits ``(n, 1, *spatial)`` of the organ with its lesion, `lesion` logit maps of the lesion from
    coarse to fine, ``(n, 1, *grid)``, all of one field of view, `boxes` where that field lies, and `classes` logits
    ``(n, 3, *spatial)`` of rest, organ and lesion.
    """

    @property
    def organ(self) -> torch.Tensor:
        """Logits of the organ with its lesion."""

    @property
    def lesion(self) -> Sequence[torch.Tensor]:
        """Logits of the lesion, coarse to fine."""

    @property
    def boxes(self) -> Any:
        """Where the lesion was looked for; handed to `cut` as it is."""

    @property
    def classes(self) -> torch.Tensor:
        """Logits of rest, organ and lesion."""


class CascadeLoss:
    """``Dice(organ) + alpha (L_pm(coarsest) + sum w L_fm(finer)) + beta L_isb`` (Qiu et al., 2024, part D).

    Parameters
    ----------
    cut
        From values ``(n, 1, *spatial)`` and the boxes to the values where the lesion is looked for, as the cascade's
        own `cut`. Without, the lesion's maps cover the whole image.
    alpha, beta
        Weights of the lesion's and the border's part.
    stages
        Weights of the finer maps, finest first.
    """

    def __init__(
        self,
        cut: Callable[[torch.Tensor, Any], torch.Tensor] | None = None,
        alpha: float = 0.9,
        beta: float = 0.4,
        stages: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
    ) -> None:
        self.cut, self.alpha, self.beta, self.stages = cut, alpha, beta, tuple(stages)

    def __call__(self, outputs: CascadeMaps, target: torch.Tensor) -> torch.Tensor:
        """Loss against class numbers ``(n, *spatial)`` or ``(n, 1, *spatial)``: 0 rest, 1 organ, 2 lesion.

        Raises
        ------
        ValueError
            The number of finer maps is not that of the stages' weights.
        """
        labels = target if target.ndim == outputs.organ.ndim else target[:, None]
        mask = (labels == 2).to(outputs.organ.dtype)
        mask = mask if self.cut is None else self.cut(mask, outputs.boxes)
        organ = SoftDice()(outputs.organ, labels > 0)
        border = SharedBoundary()(outputs.classes, labels)
        return organ + self.alpha * self.lesion(outputs.lesion, mask) + self.beta * border

    def lesion(self, maps: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """``L_seg2`` of maps from coarse to fine, each enlarged to the grid of the mask ``(n, 1, *spatial)``."""
        coarsest, *finer = maps
        if len(finer) != len(self.stages):
            raise ValueError(f"{len(finer)} refined maps were given; there are weights of {len(self.stages)}")
        loss = cross_entropy_jaccard()(_enlarged(coarsest, mask), mask)
        for weight, logits in zip(self.stages, reversed(finer), strict=True):
            loss = loss + weight * EdgeWeighted()(_enlarged(logits, mask), mask)
        return loss


def _enlarged(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if logits.shape[2:] == mask.shape[2:]:
        return logits
    mode = "bilinear" if logits.ndim == 4 else "trilinear"
    return interpolate(logits, size=mask.shape[2:], mode=mode, align_corners=False)
