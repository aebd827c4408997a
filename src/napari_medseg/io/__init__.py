"""Files in, files out: one module a format, each turning a file into what lies on the desk."""

from napari_medseg.io.formats import FORMATS, Format, open_images, open_segmentation, write_segmentation

__all__ = ["FORMATS", "Format", "open_images", "open_segmentation", "write_segmentation"]
