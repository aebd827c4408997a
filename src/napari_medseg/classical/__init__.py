"""Segmentation without networks: thresholds, watersheds, level sets and a random forest, as functions on arrays."""

from napari_medseg.classical.method import METHODS, Method, find_method
from napari_medseg.classical.parameters import MethodParameters

__all__ = ["METHODS", "Method", "MethodParameters", "find_method"]
