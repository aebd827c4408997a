"""What lies on the desk: images, segmentations, their label tables, geometry and history. numpy only."""

from napari_medseg.case.errors import CancelledError, InputError, MedsegError, OtherRunError, RefusedError
from napari_medseg.case.geometry import AxisMap, Geometry
from napari_medseg.case.image import MedicalImage, Modality, Source
from napari_medseg.case.labels import Label, LabelTable
from napari_medseg.case.provenance import Provenance, Step
from napari_medseg.case.segmentation import Segmentation

__all__ = [
    "AxisMap",
    "CancelledError",
    "Geometry",
    "InputError",
    "Label",
    "LabelTable",
    "MedicalImage",
    "MedsegError",
    "Modality",
    "OtherRunError",
    "Provenance",
    "RefusedError",
    "Segmentation",
    "Source",
    "Step",
]
