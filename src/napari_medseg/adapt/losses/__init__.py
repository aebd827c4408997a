"""Losses and class weights: each loss is called with (logits, target) and gives one number.

Unless a loss says otherwise, logits are ``(n, c, *spatial)`` float32. With one map, ``c == 1``, a sigmoid makes them
probabilities and the target is 0 to 1; with more, a softmax does and the target holds class numbers 0 to ``c - 1``, or
maps of each class's share. A target of numbers is ``(n, *spatial)`` or ``(n, 1, *spatial)``, of any type.
"""

from napari_medseg.adapt.losses.boundary import Boundary, SharedBoundary, border_shares, signed_distance
from napari_medseg.adapt.losses.cascade import CascadeLoss, CascadeMaps
from napari_medseg.adapt.losses.edges import EdgeWeighted, edge_weights
from napari_medseg.adapt.losses.mixture import (
    DeepSupervision,
    Loss,
    Mixture,
    cross_entropy_dice,
    cross_entropy_jaccard,
    deep_supervision_weights,
)
from napari_medseg.adapt.losses.overlap import SoftDice, SoftJaccard, Tversky
from napari_medseg.adapt.losses.pixels import BalancedCrossEntropy, CrossEntropy, Focal
from napari_medseg.adapt.losses.proximal import Proximal
from napari_medseg.adapt.losses.reconstruction import (
    AdversarialReconstruction,
    ContextualReconstruction,
    discriminator_loss,
)
from napari_medseg.adapt.losses.weights import foreground_balance, median_frequency_weights

__all__ = [
    "AdversarialReconstruction",
    "BalancedCrossEntropy",
    "Boundary",
    "CascadeLoss",
    "CascadeMaps",
    "ContextualReconstruction",
    "CrossEntropy",
    "DeepSupervision",
    "EdgeWeighted",
    "Focal",
    "Loss",
    "Mixture",
    "Proximal",
    "SharedBoundary",
    "SoftDice",
    "SoftJaccard",
    "Tversky",
    "border_shares",
    "cross_entropy_dice",
    "cross_entropy_jaccard",
    "deep_supervision_weights",
    "discriminator_loss",
    "edge_weights",
    "foreground_balance",
    "median_frequency_weights",
    "signed_distance",
]
