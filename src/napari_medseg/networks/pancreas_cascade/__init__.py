"""Organ, then lesion within it: a cascade of two U-Nets (Qiu et al., Frontiers in Oncology 2024, 14:1328146)."""

from napari_medseg.networks.pancreas_cascade.cascade import CascadeOutputs, PancreasCascade, Phase
from napari_medseg.networks.pancreas_cascade.focusing import ContextExploration, Focusing
from napari_medseg.networks.pancreas_cascade.lesion import LesionNet
from napari_medseg.networks.pancreas_cascade.localisation import ChannelAttention, Localisation, SpatialAttention
from napari_medseg.networks.pancreas_cascade.multiscale import MultiScaleUNet, OrganNet
from napari_medseg.networks.pancreas_cascade.parameters import PancreasCascadeParameters
from napari_medseg.networks.pancreas_cascade.saliency import Saliency
from napari_medseg.networks.pancreas_cascade.window import crop, draw_margins, organ_box, paste

__all__ = [
    "CascadeOutputs",
    "ChannelAttention",
    "ContextExploration",
    "Focusing",
    "LesionNet",
    "Localisation",
    "MultiScaleUNet",
    "OrganNet",
    "PancreasCascade",
    "PancreasCascadeParameters",
    "Phase",
    "Saliency",
    "SpatialAttention",
    "crop",
    "draw_margins",
    "organ_box",
    "paste",
]
