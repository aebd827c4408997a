"""From a results folder of nnU-Net v2 to a bundle.

What nnU-Net wrote is read as data: plans and data set from JSON, the checkpoint with torch's restricted reader, to
which only NumPy's plain numbers are added, for nnU-Net logs its scores as such. Nothing that is stored is run.
"""

from napari_medseg.bundles.nnunet.checkpoint import read_checkpoint
from napari_medseg.bundles.nnunet.convert import convert_nnunet
from napari_medseg.bundles.nnunet.results import NNUNetResults, describe_nnunet

__all__ = ["NNUNetResults", "convert_nnunet", "describe_nnunet", "read_checkpoint"]
