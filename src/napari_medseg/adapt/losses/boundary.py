"""Losses of borders: distance to the reference's border, and with whom each class shares its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from napari_medseg.adapt.losses.maps import probabilities, reference_maps

# a class with less border than this many pixel pairs has none: its shares would only be rounding
_NO_BORDER = 1e-6


def signed_distance(reference: torch.Tensor, spacing: Sequence[float] | None = None) -> torch.Tensor:
    """Distance to each class's border: negative inside, positive outside.

    Parameters
    ----------
    reference
        ``(n, c, *spatial)``; above 0.5 is the class.
    spacing
        Size of a pixel along each axis; distances come in its unit. 1 without. The class's outermost pixels along the
        axis with the smallest size lie at 0.

    Returns
    -------
    float32 ``(n, c, *spatial)``; 0 where the class fills the image or is absent.
    """
    from scipy.ndimage import distance_transform_edt

    masks = (reference > 0.5).cpu().numpy()
    step = tuple(spacing) if spacing is not None else (1.0,) * (masks.ndim - 2)
    distance = np.zeros(masks.shape, np.float32)
    for index in np.ndindex(masks.shape[:2]):
        mask = masks[index]
        if mask.any() and not mask.all():
            outside = distance_transform_edt(~mask, sampling=step)
            inside = distance_transform_edt(mask, sampling=step)
            distance[index] = np.where(mask, np.minimum(min(step) - inside, 0.0), outside)
    return torch.from_numpy(distance).to(reference.device)


class Boundary:
    """``mean(p d)`` with d the signed distance to the reference's border (Kervadec et al., 2019, equation 5).

    It is not bounded below by 0 and gives little guidance on its own; mix it with Dice, its weight rising.
    The distances are computed on the processor at each call, in float64, one class of one image at a time.

    Parameters
    ----------
    background
        Whether class 0 counts among several classes; a single map always counts.
    spacing
        Size of a pixel along each axis.
    """

    def __init__(self, background: bool = False, spacing: Sequence[float] | None = None) -> None:
        self.background, self.spacing = background, spacing

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits ``(n, c, *spatial)`` in the unit of the spacing."""
        first = 0 if self.background or logits.shape[1] == 1 else 1
        reference = reference_maps(logits, target)[:, first:]
        distance = signed_distance(reference, self.spacing).to(logits.dtype)
        return (probabilities(logits)[:, first:] * distance).mean()


def border_shares(maps: torch.Tensor) -> torch.Tensor:
    """Which part of a class's border it shares with which other class (Qiu et al., 2024).

    ``l_ij`` adds ``p_i(a) p_j(b) + p_j(a) p_i(b)`` over all pairs of neighbouring pixels (4 neighbours, 6 in volumes),
    which counts the pairs where the maps are 0 or 1; the frame of the image is no border.

    Parameters
    ----------
    maps
        ``(n, c, *spatial)``, 0 to 1.

    Returns
    -------
    ``(n, c, c)``: ``l_ij / sum_j l_ij``, 0 on the diagonal and in the row of a class without a border.
    """
    length = maps.new_zeros(maps.shape[0], maps.shape[1], maps.shape[1])
    for axis in range(2, maps.ndim):
        here = maps.narrow(axis, 0, maps.shape[axis] - 1).flatten(2)
        there = maps.narrow(axis, 1, maps.shape[axis] - 1).flatten(2)
        pairs = here @ there.transpose(1, 2)
        length = length + pairs + pairs.transpose(1, 2)
    length = length * (1 - torch.eye(maps.shape[1], dtype=maps.dtype, device=maps.device))
    total = length.sum(2, keepdim=True)
    shares = length / total.clamp_min(_NO_BORDER)
    return torch.where(total > _NO_BORDER, shares, torch.zeros_like(shares))


class SharedBoundary:
    """``sum((m_ij - m_ij of the reference)^2) / c^2`` with m of `border_shares` (``L_isb``), the mean over images.

    Free of scale: a 10-pixel tumour weighs as much as the liver.
    """

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits ``(n, c, *spatial)``.

        Raises
        ------
        ValueError
            There are fewer than three classes.
        """
        if logits.shape[1] < 3:
            raise ValueError("with two classes every border is shared with the other one; three are needed")
        shares = border_shares(probabilities(logits))
        return (shares - border_shares(reference_maps(logits, target))).square().mean()
