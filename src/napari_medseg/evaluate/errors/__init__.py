"""Where labels differ, as maps that are computed for the part that is looked at."""

from napari_medseg.evaluate.errors.cache import RecentChunks
from napari_medseg.evaluate.errors.distance import BoundaryDistance
from napari_medseg.evaluate.errors.maps import Disagreement, ErrorCategories, LabelsMap, VoteEntropy, map_levels
from napari_medseg.evaluate.errors.palette import ERROR_TABLE, Category, LegendEntry, difference_table, legend

__all__ = [
    "ERROR_TABLE",
    "BoundaryDistance",
    "Category",
    "Disagreement",
    "ErrorCategories",
    "LabelsMap",
    "LegendEntry",
    "RecentChunks",
    "VoteEntropy",
    "difference_table",
    "legend",
    "map_levels",
]
