"""Segment medical images in napari, see where models are wrong, put labels right, export OME-Zarr."""

__version__ = "0.1.0"
