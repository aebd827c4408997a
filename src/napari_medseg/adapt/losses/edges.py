"""Cross-entropy and Jaccard in which pixels near an edge count more (Qiu et al., 2024, after F3Net)."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool1d, binary_cross_entropy_with_logits, pad

from napari_medseg.adapt.losses.maps import reference_maps


def edge_weights(reference: torch.Tensor, window: int = 31, gain: float = 5.0) -> torch.Tensor:
    """``1 + gain |mean of the window around - value|``: 1 away from edges, up to ``1 + gain`` beside them.

    Parameters
    ----------
    reference
        ``(n, 1, *spatial)``, 0 to 1.
    window
        Side of the window in pixels, odd; outside the image is 0.
    gain
        How much more a pixel weighs.

    Returns
    -------
    ``(n, 1, *spatial)``, 1 to ``1 + gain``.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"the window's side is odd; given was {window}")
    mean = reference
    # one axis after the other is the same mean in a fraction of the time, and images may be smaller than the window
    for axis in range(2, reference.ndim):
        lines = mean.movedim(axis, -1)
        padded = pad(lines.reshape(-1, 1, lines.shape[-1]), (window // 2, window // 2))
        mean = avg_pool1d(padded, window, stride=1).reshape(lines.shape).movedim(-1, axis)
    return 1 + gain * (mean - reference).abs()


class EdgeWeighted:
    """Weighted binary cross-entropy + weighted Jaccard of a single map (``L_fm``), the mean over images.

    ``sum(w bce) / sum(w) + 1 - (sum(w p g) + 1) / (sum(w (p + g - p g)) + 1)`` with w of `edge_weights`.

    Parameters
    ----------
    window, gain
        Of `edge_weights`.
    """

    def __init__(self, window: int = 31, gain: float = 5.0) -> None:
        self.window, self.gain = window, gain

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits ``(n, 1, *spatial)``."""
        if logits.shape[1] != 1:
            raise ValueError(f"the edge-weighted loss is for one map; there are {logits.shape[1]}")
        reference = reference_maps(logits, target)
        weight = edge_weights(reference, self.window, self.gain)
        chance = torch.sigmoid(logits)
        each = binary_cross_entropy_with_logits(logits, reference, reduction="none")
        axes = tuple(range(1, logits.ndim))
        entropy = (weight * each).sum(axes) / weight.sum(axes)
        both = (weight * chance * reference).sum(axes)
        either = (weight * (chance + reference - chance * reference)).sum(axes)
        return (entropy + 1 - (both + 1) / (either + 1)).mean()
