"""TIFF in every flavour medicine uses, in; labels out as OME-TIFF."""

from napari_medseg.io.tiff.exporting import write_segmentation
from napari_medseg.io.tiff.reading import read, read_segmentation, says_labels

__all__ = ["read", "read_segmentation", "says_labels", "write_segmentation"]
