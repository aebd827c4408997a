"""NIfTI-1 and NIfTI-2 volumes: images and labels in, labels out."""

from napari_medseg.io.nifti.exporting import write_segmentation
from napari_medseg.io.nifti.reading import read, read_segmentation, says_labels

__all__ = ["read", "read_segmentation", "says_labels", "write_segmentation"]
