"""Losses of single pixels: cross-entropy, plain, weighted and balanced, and focal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, log_softmax

from napari_medseg.adapt.losses.maps import class_numbers, reference_maps


class CrossEntropy:
    """``-sum(w_y log p_y) / sum(w_y)`` over all pixels; binary cross-entropy's mean for a single map.

    Parameters
    ----------
    weights
        One a class, as `median_frequency_weights` gives them; for a single map, those of background and foreground.
        All alike without.
    """

    def __init__(self, weights: Sequence[float] | None = None) -> None:
        self.weights = None if weights is None else tuple(float(w) for w in weights)

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits ``(n, c, *spatial)`` in nats.

        Raises
        ------
        ValueError
            The number of weights is not that of the classes.
        """
        classes = max(logits.shape[1], 2)
        if self.weights is not None and len(self.weights) != classes:
            raise ValueError(f"{len(self.weights)} weights were given for {classes} classes")
        weights = None if self.weights is None else logits.new_tensor(self.weights)
        if logits.shape[1] == 1:
            maps = reference_maps(logits, target)
            if weights is None:
                return binary_cross_entropy_with_logits(logits, maps)
            each = weights[0] + (weights[1] - weights[0]) * maps
            return binary_cross_entropy_with_logits(logits, maps, weight=each, reduction="sum") / each.sum()
        numbers = class_numbers(logits, target)
        if numbers is not None:
            return cross_entropy(logits, numbers, weight=weights)
        # torch divides by the number of pixels where the target is shares, and by the sum of weights where it is not
        maps = reference_maps(logits, target)
        if weights is not None:
            maps = maps * weights.view(1, -1, *(1,) * (logits.ndim - 2))
        return -(maps * log_softmax(logits, 1)).sum() / maps.sum()


class BalancedCrossEntropy:
    """``-mean(b y log p + (1 - b) (1 - y) log(1 - p))`` of a single map (Gil et al., 2023).

    Parameters
    ----------
    balance
        b, 0 to 1: the share of the foreground; `foreground_balance` gives it from labels. 0.5 is half of ordinary
        binary cross-entropy.
    """

    def __init__(self, balance: float = 0.5) -> None:
        if not 0 < balance < 1:
            raise ValueError(f"the balance lies between 0 and 1; given was {balance}")
        self.balance = balance

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits ``(n, 1, *spatial)`` in nats."""
        if logits.shape[1] != 1:
            raise ValueError(f"balanced cross-entropy is for one map; there are {logits.shape[1]}")
        maps = reference_maps(logits, target)
        each = (1 - self.balance) + (2 * self.balance - 1) * maps
        return binary_cross_entropy_with_logits(logits, maps, weight=each)


class Focal:
    """``-mean(w_y (1 - p_y)^gamma log p_y)`` over pixels (Lin et al., 2017): easy pixels count less.

    Parameters
    ----------
    gamma
        0 is cross-entropy; 2 is the paper's.
    weights
        One a class; all 1 without. A single map takes those of background and foreground.
    """

    def __init__(self, gamma: float = 2.0, weights: Sequence[float] | None = None) -> None:
        self.gamma = gamma
        self.weights = None if weights is None else tuple(float(w) for w in weights)

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits ``(n, c, *spatial)``.

        Raises
        ------
        ValueError
            The number of weights is not that of the classes.
        """
        from monai.losses import FocalLoss

        classes = max(logits.shape[1], 2)
        if self.weights is not None and len(self.weights) != classes:
            raise ValueError(f"{len(self.weights)} weights were given for {classes} classes")
        maps = reference_maps(logits, target)
        each: torch.Tensor = FocalLoss(gamma=self.gamma, use_softmax=logits.shape[1] > 1, reduction="none")(
            logits, maps
        )
        if self.weights is not None:
            weights = logits.new_tensor(self.weights)
            if logits.shape[1] == 1:
                each = each * (weights[0] + (weights[1] - weights[0]) * maps)
            else:
                each = each * weights.view(1, -1, *(1,) * (logits.ndim - 2))
        # MONAI's mean would divide by the number of classes too
        return each.sum(1).mean()
