"""Where each frame of a DICOM file lies and how its numbers become values, from old and new kinds of headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.case import InputError
from napari_medseg.case.geometry import FloatArray
from napari_medseg.io.dicom.header import Header, items, number, numbers, text

# What may tell apart several frames at one place, in the order in which it is tried: keyword, words, enhanced group.
# The last ones are times: frames that differ in them are one image that moves.
_CONTRASTS = (
    ("EchoNumbers", "echo", ""),
    ("EchoTime", "echo time", ""),
    ("EffectiveEchoTime", "echo time", "MREchoSequence"),
    ("InversionTime", "inversion time", ""),
    ("DiffusionBValue", "b-value", "MRDiffusionSequence"),
    ("ImageType", "image type", ""),
    ("FrameType", "image type", "MRImageFrameTypeSequence"),
    ("FrameType", "image type", "CTImageFrameTypeSequence"),
    ("ConvolutionKernel", "kernel", ""),
)
_TIMES = (
    ("TemporalPositionIdentifier", "temporal position", ""),
    ("TemporalPositionIndex", "temporal position", "FrameContentSequence"),
    ("TriggerTime", "trigger time", ""),
    ("NominalCardiacTriggerDelayTime", "trigger time", "CardiacSynchronizationSequence"),
    ("AcquisitionNumber", "acquisition", ""),
    ("AcquisitionTime", "acquisition time", ""),
    ("ContentTime", "content time", ""),
)
CONTRASTS = tuple(dict.fromkeys(name for _, name, _ in _CONTRASTS))
TIMES = tuple(dict.fromkeys(name for _, name, _ in _TIMES))


@dataclass(frozen=True, eq=False)
class Plane:
    """One frame of pixels.

    Parameters
    ----------
    path, frame
        The file and the frame's number in it, from 0.
    shape
        Rows and columns.
    position
        LPS millimetres of the first pixel's centre; ``None`` if not recorded.
    directions
        3x2: unit vectors (LPS) along a row (x) and down a column (y); ``None`` if not recorded.
    spacing
        Millimetres between rows (y) and between columns (x); ``None`` if unknown.
    thickness
        Slice thickness in millimetres; ``None`` if not recorded.
    slope, intercept
        ``value = slope * number + intercept``; ``None`` where the header gives none.
    transfer_syntax, stored_dtype, stored_range
        How the pixels are coded, the type of a decoded number, the smallest and largest there may be.
    marks
        What may tell this frame from others at the same place.
    """

    path: Path
    frame: int
    shape: tuple[int, int]
    position: FloatArray | None
    directions: FloatArray | None
    spacing: tuple[float, float] | None
    thickness: float | None
    slope: float | None
    intercept: float | None
    instance: int
    uid: str
    localizer: bool
    transfer_syntax: str
    stored_dtype: np.dtype[Any]
    stored_range: tuple[int, int]
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def normal(self) -> FloatArray:
        """Unit vector at right angles to the plane, so that x, y and it are right-handed."""
        assert self.directions is not None
        return np.cross(self.directions[:, 0], self.directions[:, 1])


def planes_of(header: Header) -> list[Plane]:
    """Every frame of a file in its own order.

    Raises
    ------
    InputError
        If the header describes another number of frames than the file holds.
    """
    per_frame = items(header.data, "PerFrameFunctionalGroupsSequence")
    shared = items(header.data, "SharedFunctionalGroupsSequence")
    if per_frame and len(per_frame) != header.frames:
        raise InputError(
            f"{header.path.name}: describes {len(per_frame)} frames but holds {header.frames}; export the file again."
        )
    if per_frame:
        return [_plane(header, k, _Groups(header.data, own, shared)) for k, own in enumerate(per_frame)]
    groups = _Groups(header.data, None, shared)
    if header.frames > 1:
        groups.placed = False
    return [_plane(header, k, groups) for k in range(header.frames)]


class _Groups:
    """Looks an element up in the frame's own group, then in the shared one, then in the file itself."""

    def __init__(self, data: Any, own: Any, shared: list[Any]) -> None:
        self.data, self.places = data, [g for g in (own, *shared[:1]) if g is not None]
        self.placed = True

    def item(self, sequence: str) -> Any:
        """The item that holds a group of elements; the file itself for old kinds of headers."""
        for place in self.places:
            if found := items(place, sequence):
                return found[0]
        return self.data


def _plane(header: Header, frame: int, groups: _Groups) -> Plane:
    measures = groups.item("PixelMeasuresSequence")
    values = groups.item("PixelValueTransformationSequence")
    position = numbers(groups.item("PlanePositionSequence"), "ImagePositionPatient") if groups.placed else ()
    kind = text(groups.data, "ImageType")
    return Plane(
        header.path,
        frame,
        (header.rows, header.columns),
        np.array(position) if len(position) == 3 and np.isfinite(position).all() else None,
        _directions(numbers(groups.item("PlaneOrientationSequence"), "ImageOrientationPatient")),
        _spacing(numbers(measures, "PixelSpacing")),
        number(measures, "SliceThickness"),
        number(values, "RescaleSlope"),
        number(values, "RescaleIntercept"),
        int(number(groups.data, "InstanceNumber") or 0),
        text(groups.data, "SOPInstanceUID"),
        "LOCALIZER" in kind.upper(),
        header.transfer_syntax,
        header.stored_dtype,
        header.stored_range,
        _marks(groups),
    )


def _marks(groups: _Groups) -> dict[str, str]:
    found: dict[str, str] = {}
    for keyword, name, group in (*_CONTRASTS, *_TIMES):
        if group and not groups.places:
            group = ""
        value = text(groups.item(group) if group else groups.data, keyword)
        if value and name not in found:
            found[name] = value
    return found


def _directions(values: tuple[float, ...]) -> FloatArray | None:
    """Unit vectors, or ``None`` if the six numbers are missing or are no two directions at right angles."""
    if len(values) != 6 or not np.isfinite(values).all():
        return None
    pair = np.array(values).reshape(2, 3).T
    lengths = np.linalg.norm(pair, axis=0)
    if lengths.min() < 0.9 or lengths.max() > 1.1 or abs(float(pair[:, 0] @ pair[:, 1])) > 1e-2:
        return None
    return np.asarray(pair / lengths)


def _spacing(values: tuple[float, ...]) -> tuple[float, float] | None:
    return (values[0], values[1]) if len(values) >= 2 and min(values[:2]) > 0 and np.isfinite(values).all() else None
