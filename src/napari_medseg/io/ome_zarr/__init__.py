"""OME-Zarr (NGFF 0.1 to 0.5): images and labels in, labels out.

What we write is described in `metadata` and `labels`: plain NGFF that any reader opens, plus one private attribute,
``medseg``, with the exact grid, the label table and the history.
"""

from napari_medseg.io.ome_zarr.exporting import write_segmentation
from napari_medseg.io.ome_zarr.gather import move_labels
from napari_medseg.io.ome_zarr.image import copy_image
from napari_medseg.io.ome_zarr.labels import LabelStoreWriter
from napari_medseg.io.ome_zarr.metadata import Ngff
from napari_medseg.io.ome_zarr.reading import has_image, label_names, read, read_segmentation

__all__ = [
    "LabelStoreWriter",
    "Ngff",
    "copy_image",
    "has_image",
    "label_names",
    "move_labels",
    "read",
    "read_segmentation",
    "write_segmentation",
]
