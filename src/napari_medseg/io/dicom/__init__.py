"""DICOM files and folders: every series as an image of its own, with its place in the patient."""

from napari_medseg.io.dicom.reading import read

__all__ = ["read"]
