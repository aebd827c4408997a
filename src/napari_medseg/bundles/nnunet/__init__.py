"""From a results folder of nnU-Net v2 to a bundle.

What nnU-Net wrote is read as data: plans and data set from JSON, the checkpoint with torch's restricted reader, to
which only NumPy's plain numbers are added, for nnU-Net logs its scores as such. Nothing that is stored is run.
"""

from napari_medseg.bundles.nnunet.checkpoint import read_checkpoint
from napari_medseg.bundles.nnunet.convert import convert_nnunet
from napari_medseg.bundles.nnunet.kept import bundle_name, kept_bundle
from napari_medseg.bundles.nnunet.results import NNUNetResults, describe_nnunet, results_folder

__all__ = [
    "NNUNetResults",
    "bundle_name",
    "convert_nnunet",
    "describe_nnunet",
    "kept_bundle",
    "read_checkpoint",
    "results_folder",
]
