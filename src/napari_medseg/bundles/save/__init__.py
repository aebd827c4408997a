"""Write a MONAI bundle: all of it, read back and compared with the network it came from, or nothing at all."""

from napari_medseg.bundles.save.description import BundleDescription, FileKind, Precision
from napari_medseg.bundles.save.saving import save_bundle

__all__ = ["BundleDescription", "FileKind", "Precision", "save_bundle"]
