"""The tile engine: plan, read, forward, blend, decide, store; memory follows the tile, not the image."""

from napari_medseg.inference.segment import SegmentOptions, SegmentResult, segment

__all__ = ["SegmentOptions", "SegmentResult", "segment"]
