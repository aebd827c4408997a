"""Architectures: one module each, pure torch modules, found through one registry with typed parameters."""

from napari_medseg.networks.architecture import Architecture
from napari_medseg.networks.registry import ARCHITECTURES, find_architecture

__all__ = ["ARCHITECTURES", "Architecture", "find_architecture"]
