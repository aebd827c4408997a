"""Losses of overlap: Dice, Jaccard, Tversky. The arithmetic is MONAI's."""

from __future__ import annotations

import torch

from napari_medseg.adapt.losses.maps import reference_maps


class SoftDice:
    """``1 - (2 sum(p g) + e) / (sum(p) + sum(g) + e)``, the mean over classes and images.

    Parameters
    ----------
    background
        Whether class 0 counts among several classes; a single map always counts.
    pooled
        Add up over the whole batch before dividing instead of image by image.
    smoothing
        e. With 1, an image without the class gives gradients that a whole image does not lose in rounding.
    """

    def __init__(self, background: bool = True, pooled: bool = False, smoothing: float = 1e-5) -> None:
        self.background, self.pooled, self.smoothing = background, pooled, smoothing

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits ``(n, c, *spatial)``, 0 to 1."""
        return _monai_dice(logits, target, self.background, self.pooled, self.smoothing, jaccard=False)


class SoftJaccard:
    """``1 - (sum(p g) + e) / (sum(p) + sum(g) - sum(p g) + e)``, the mean over classes and images.

    Parameters
    ----------
    background
        Whether class 0 counts among several classes; a single map always counts.
    pooled
        Add up over the whole batch before dividing. Smoother where many slices lack the structure: such a slice alone
        gives hardly any gradient.
    smoothing
        e.
    """

    def __init__(self, background: bool = True, pooled: bool = True, smoothing: float = 1e-5) -> None:
        self.background, self.pooled, self.smoothing = background, pooled, smoothing

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits ``(n, c, *spatial)``, 0 to 1."""
        # MONAI doubles numerator and denominator, so its smoothing is twice the formula's
        return _monai_dice(logits, target, self.background, self.pooled, 2 * self.smoothing, jaccard=True)


class Tversky:
    """``1 - (TP + e) / (TP + a FP + b FN + e)`` with soft counts, the mean over classes and images.

    Parameters
    ----------
    false_positive, false_negative
        a and b. Both 0.5 give Dice; more weight on what is missed finds more of small structures.
    background
        Whether class 0 counts among several classes; a single map always counts.
    pooled
        Add up over the whole batch before dividing.
    smoothing
        e.
    """

    def __init__(
        self,
        false_positive: float = 0.3,
        false_negative: float = 0.7,
        background: bool = True,
        pooled: bool = False,
        smoothing: float = 1e-5,
    ) -> None:
        self.false_positive, self.false_negative = false_positive, false_negative
        self.background, self.pooled, self.smoothing = background, pooled, smoothing

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits ``(n, c, *spatial)``, 0 to 1."""
        from monai.losses import TverskyLoss

        several = logits.shape[1] > 1
        loss = TverskyLoss(
            include_background=self.background or not several,
            sigmoid=not several,
            softmax=several,
            alpha=self.false_positive,
            beta=self.false_negative,
            smooth_nr=self.smoothing,
            smooth_dr=self.smoothing,
            batch=self.pooled,
        )
        value: torch.Tensor = loss(logits, reference_maps(logits, target))
        return value


def _monai_dice(
    logits: torch.Tensor, target: torch.Tensor, background: bool, pooled: bool, smoothing: float, jaccard: bool
) -> torch.Tensor:
    from monai.losses import DiceLoss

    several = logits.shape[1] > 1
    loss = DiceLoss(
        include_background=background or not several,
        sigmoid=not several,
        softmax=several,
        jaccard=jaccard,
        smooth_nr=smoothing,
        smooth_dr=smoothing,
        batch=pooled,
    )
    value: torch.Tensor = loss(logits, reference_maps(logits, target))
    return value
