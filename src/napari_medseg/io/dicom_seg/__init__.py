"""DICOM segmentations: labels that name the series they were made on, as hospital archives and viewers keep them."""

from napari_medseg.io.dicom_seg.exporting import write_segmentation
from napari_medseg.io.dicom_seg.reading import read_segmentation

__all__ = ["read_segmentation", "write_segmentation"]
