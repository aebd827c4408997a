"""NRRD and MetaImage volumes: images and labels in, labels out."""

from napari_medseg.io.itk.exporting import write_segmentation
from napari_medseg.io.itk.reading import read, read_segmentation

__all__ = ["read", "read_segmentation", "write_segmentation"]
