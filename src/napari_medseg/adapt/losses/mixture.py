"""Sums of losses: over several losses, and over the resolutions of a deeply supervised network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from napari_medseg.adapt.losses.overlap import SoftDice, SoftJaccard
from napari_medseg.adapt.losses.pixels import CrossEntropy

Loss = Callable[[Any, torch.Tensor], torch.Tensor]


class Mixture:
    """Weighted sum of losses.

    Parameters
    ----------
    terms
        Pairs of weight and loss.
    """

    def __init__(self, *terms: tuple[float, Loss]) -> None:
        if not terms:
            raise ValueError("a mixture needs at least one loss")
        self.terms = terms

    def __call__(self, logits: Any, target: torch.Tensor) -> torch.Tensor:
        """Sum of ``weight * loss(logits, target)``."""
        first, *others = (weight * loss(logits, target) for weight, loss in self.terms)
        return sum(others, start=first)


def cross_entropy_dice(
    cross_entropy: float = 1.0,
    dice: float = 1.0,
    weights: Sequence[float] | None = None,
    background: bool = True,
    smoothing: float = 1e-5,
) -> Mixture:
    """Cross-entropy + Dice, by default 1 : 1; 0.5 and 0.5 for the mean of both.

    Parameters
    ----------
    cross_entropy, dice
        Their weights.
    weights
        Class weights of the cross-entropy.
    background, smoothing
        As in `SoftDice`.
    """
    return Mixture((cross_entropy, CrossEntropy(weights)), (dice, SoftDice(background, smoothing=smoothing)))


def cross_entropy_jaccard(pooled: bool = False) -> Mixture:
    """Cross-entropy + Jaccard, 1 : 1 (``L_pm`` of Qiu et al., 2024); `pooled` as in `SoftJaccard`."""
    return Mixture((1.0, CrossEntropy()), (1.0, SoftJaccard(pooled=pooled)))


def deep_supervision_weights(levels: int) -> tuple[float, ...]:
    """Weights of the resolutions, finest first: 1, 1/2, 1/4 ... divided by their sum."""
    if levels < 1:
        raise ValueError(f"there is at least one resolution; given was {levels}")
    raw = [0.5**level for level in range(levels)]
    return tuple(w / sum(raw) for w in raw)


class DeepSupervision:
    """A loss at each resolution that a network gives, the target sampled down by nearest neighbour.

    Parameters
    ----------
    loss
        Loss of one resolution.
    weights
        One a resolution, finest first; those of `deep_supervision_weights` without.
    """

    def __init__(self, loss: Loss, weights: Sequence[float] | None = None) -> None:
        self.loss, self.weights = loss, weights

    def __call__(self, logits: Sequence[torch.Tensor] | torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Weighted sum over `logits`, finest first, each ``(n, c, *grid)``; a single tensor is the finest alone.

        Raises
        ------
        ValueError
            The number of weights is not that of the resolutions.
        """
        from monai.losses import DeepSupervisionLoss

        levels = [logits] if isinstance(logits, torch.Tensor) else list(logits)
        weights = list(self.weights or deep_supervision_weights(len(levels)))
        if len(weights) != len(levels):
            raise ValueError(f"{len(weights)} weights were given for {len(levels)} resolutions")
        if target.ndim == levels[0].ndim - 1:
            target = target[:, None]
        # interpolation takes no integers; class numbers stay whole through nearest neighbour
        value: torch.Tensor = DeepSupervisionLoss(self.loss, weights=weights)(levels, target.float())
        return value
