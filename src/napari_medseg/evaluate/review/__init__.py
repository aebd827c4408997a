"""Errors one after the other: found, ranked, decided, brought up to date after edits, kept with the labels."""

from napari_medseg.evaluate.review.queue import ReviewItem, ReviewQueue, State
from napari_medseg.evaluate.review.ranking import Order, ranked
from napari_medseg.evaluate.review.region import Error, ErrorRegion, RegionRules
from napari_medseg.evaluate.review.regions import error_regions
from napari_medseg.evaluate.review.storing import open_review, review_path, save_review
from napari_medseg.evaluate.review.updating import update_review

__all__ = [
    "Error",
    "ErrorRegion",
    "Order",
    "RegionRules",
    "ReviewItem",
    "ReviewQueue",
    "State",
    "error_regions",
    "open_review",
    "ranked",
    "review_path",
    "save_review",
    "update_review",
]
