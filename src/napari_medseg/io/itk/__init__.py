"""NRRD and MetaImage volumes: images and labels in, labels out."""

from napari_medseg.io.itk.exporting import write_segmentation
from napari_medseg.io.itk.reading import read, read_segmentation, says_labels

__all__ = ["read", "read_segmentation", "says_labels", "write_segmentation"]
