"""Linked views: several candidates over the same image, side by side, under a wipe, or in turn."""

from napari_medseg.desk.linked.arrangement import MOST_PANELS, Arrangement, Mode, Panel
from napari_medseg.desk.linked.linked_views import LinkedViews, open_linked_views
from napari_medseg.desk.linked.picker import LinkedViewsPicker

__all__ = [
    "MOST_PANELS",
    "Arrangement",
    "LinkedViews",
    "LinkedViewsPicker",
    "Mode",
    "Panel",
    "open_linked_views",
]
