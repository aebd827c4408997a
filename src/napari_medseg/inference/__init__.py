"""The tile engine: plan, read, forward, blend, decide, store; memory follows the tile, not the image."""

from napari_medseg.inference.options import SegmentOptions
from napari_medseg.inference.segment import SegmentResult, segment, segment_all

__all__ = ["SegmentOptions", "SegmentResult", "segment", "segment_all"]
