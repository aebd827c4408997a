"""OME-Zarr (NGFF 0.1 to 0.5): images and labels in, labels out.

What we write is described in `metadata` and `labels`: plain NGFF that any reader opens, plus one private attribute,
``medseg``, with the exact grid, the label table and the history.
"""

from napari_medseg.io.ome_zarr.exporting import write_segmentation
from napari_medseg.io.ome_zarr.image import copy_image
from napari_medseg.io.ome_zarr.labels import LabelFrame, LabelGroup, LabelStoreWriter, open_root
from napari_medseg.io.ome_zarr.metadata import Ngff
from napari_medseg.io.ome_zarr.reading import has_image, label_names, read, read_segmentation

__all__ = [
    "LabelFrame",
    "LabelGroup",
    "LabelStoreWriter",
    "Ngff",
    "copy_image",
    "has_image",
    "label_names",
    "open_root",
    "read",
    "read_segmentation",
    "write_segmentation",
]
