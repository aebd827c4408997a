"""Labels out of a DICOM segmentation, whichever program wrote it.

The file holds only the slices that are not empty, one frame for each segment in them (or one for all, in a label
map). The grid is what their positions say: slices that were left out between others are there and empty, those
before the first and after the last are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import Geometry, InputError, Label, LabelTable, Provenance, Segmentation, Step
from napari_medseg.case.geometry import FloatArray
from napari_medseg.case.labels import Colour
from napari_medseg.io.dicom.codecs import decoded_frames
from napari_medseg.io.dicom.header import Header, damage, items, number, numbers, quietly, read_header, text
from napari_medseg.io.dicom.planes import Plane, planes_of
from napari_medseg.io.label_volumes import dtype_for, lps

MAKER = "napari-medseg"
UNSPECIFIC = ("SCT", "85756007")
_TRACKED = re.compile(r"label (\d+)")
_SAME_PLACE_MM = 0.01
_SAME_DIRECTION = 1e-3
_ROUNDED = 0.1
_MOST_VOXELS = 1 << 34


def read_segmentation(path: Path) -> Segmentation:
    """The labels in a DICOM segmentation, on the part of the source's grid that the file describes.

    Segment numbers are the ids, unless this package wrote the file and noted others.

    Raises
    ------
    InputError
        If the file is no DICOM segmentation, holds probabilities or overlapping segments, or does not lie in a
        patient on a regular grid.
    """
    with quietly():
        header = read_header(path, segmentation=True)
        kind = text(header.data, "SegmentationType").upper()
        if kind not in ("BINARY", "LABELMAP"):
            raise InputError(
                f"{path.name}: holds {kind.lower() or 'unnamed'} segments, not labels; "
                "accepted are binary segments and label maps."
            )
        planes = planes_of(header)
        geometry, heights = _grid(planes, _stated_step(header), path.name)
        ids = _ids(header, path.name)
        data = (
            _from_label_map(header, heights, geometry.shape)
            if kind == "LABELMAP"
            else _from_segments(header, heights, geometry.shape, ids)
        )
        ours = text(header.data, "Manufacturer") == MAKER
        table = _table(header, ids, ours=ours, instances=ours and kind == "LABELMAP")
        name = (text(header.data, "ContentDescription") if ours else "") or path.stem
    history = Provenance().with_step(Step.now("import", format="DICOM segmentation"))
    return Segmentation(data, geometry, table, history, name)


# -- place --------------------------------------------------------------------------------------


def _grid(planes: Sequence[Plane], stated: float | None, name: str) -> tuple[Geometry, list[int]]:
    """The grid that holds all frames, and the index along z of each."""
    first = planes[0]
    if any(p.position is None or p.directions is None or p.spacing is None for p in planes):
        raise InputError(
            f"{name}: its frames have no place in a patient, as in slides and pictures; "
            "accepted are segmentations of volumes."
        )
    assert first.directions is not None and first.spacing is not None
    turned = np.abs(np.array([p.directions for p in planes]) - first.directions).max()
    if turned > _SAME_DIRECTION or not np.allclose(np.array([p.spacing for p in planes]), first.spacing, rtol=1e-4):
        raise InputError(f"{name}: its frames differ in orientation or spacing; accepted is one regular grid.")
    positions = np.array([p.position for p in planes])
    along = positions @ first.normal
    apart = np.diff(np.sort(along))
    gaps = apart[apart > _SAME_PLACE_MM]
    # without a second slice nothing but the header tells how far apart slices are
    size = _step_size(gaps, stated, name) if len(gaps) else stated or first.thickness or min(first.spacing)
    origin, step = positions[int(np.argmin(along))], first.normal * size
    indices = np.round((along - along.min()) / size).astype(int)
    if len(gaps):
        lines = np.stack([np.ones(len(indices)), indices], axis=1)
        (origin, step), *_ = np.linalg.lstsq(lines, positions, rcond=None)
        off = float(np.linalg.norm(positions - origin - indices[:, None] * step, axis=1).max())
        if off > _ROUNDED * size + _SAME_PLACE_MM:
            raise InputError(f"{name}: its slices lie up to {off:.2g} mm off a straight, even stack; accepted is one.")
    affine = np.eye(4)
    affine[:3, 0] = first.directions[:, 0] * first.spacing[1]
    affine[:3, 1] = first.directions[:, 1] * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, origin
    shape = (int(indices.max()) + 1, *first.shape)
    if int(np.prod(shape, dtype=np.int64)) > _MOST_VOXELS:
        raise InputError(f"{name}: describes {shape[0]} slices of {first.shape}, more than can be opened at once.")
    try:
        return Geometry.from_xyz_affine(shape, lps(affine)), indices.tolist()
    except ValueError as error:
        raise InputError(f"{name}: the spacing or positions are not usable; accepted is a regular grid.") from error


def _stated_step(header: Header) -> float | None:
    """Millimetres between slices as the header gives them."""
    for group in items(header.data, "SharedFunctionalGroupsSequence")[:1]:
        for measures in items(group, "PixelMeasuresSequence")[:1]:
            step = number(measures, "SpacingBetweenSlices")
            return step if step and step > 0 else None
    return None


def _step_size(gaps: FloatArray, stated: float | None, name: str) -> float:
    """Millimetres between neighbouring slices, of which some may be left out."""
    smallest = float(gaps.min())
    # the smallest gap may be a little off: the others say how much
    refined = float(np.median(gaps / np.round(gaps / smallest)))
    for size in (stated, refined):
        if size is None:
            continue
        counts = np.round(gaps / size)
        if counts.min() >= 1 and np.abs(gaps / size - counts).max() <= 2 * _ROUNDED:
            return float(gaps.sum() / counts.sum())
    raise InputError(f"{name}: its slices are unevenly spaced, from {smallest:.2g} mm on; accepted is an even stack.")


# -- frames -------------------------------------------------------------------------------------


def _from_label_map(header: Header, heights: Sequence[int], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if len(set(heights)) != len(heights):
        raise InputError(f"{header.path.name}: several label maps lie in one plane; accepted is one.")
    data = np.zeros(shape, header.stored_dtype)
    for z, pixels in zip(heights, _frames(header), strict=True):
        data[z] = pixels
    return data


def _from_segments(
    header: Header, heights: Sequence[int], shape: tuple[int, ...], ids: dict[int, int]
) -> npt.NDArray[Any]:
    data = np.zeros(shape, dtype_for(max(ids.values(), default=0), header.path.name))
    for z, label, pixels in zip(heights, _frame_ids(header, ids), _frames(header), strict=True):
        inside = pixels != 0
        if ((data[z] != 0) & (data[z] != label) & inside).any():
            raise InputError(
                f"{header.path.name}: its segments overlap; accepted are segments that share no voxel, "
                "or a label map of them."
            )
        data[z][inside] = label
    return data


def _frame_ids(header: Header, ids: dict[int, int]) -> list[int]:
    """The label of each frame."""
    shared = items(header.data, "SharedFunctionalGroupsSequence")[:1]
    found = []
    for group in items(header.data, "PerFrameFunctionalGroupsSequence"):
        marks = [m for place in (group, *shared) for m in items(place, "SegmentIdentificationSequence")]
        segment = int(number(marks[0], "ReferencedSegmentNumber") or 0) if marks else 0
        if segment not in ids:
            raise InputError(f"{header.path.name}: a frame belongs to no segment in its list; export the file again.")
        found.append(ids[segment])
    return found


def _frames(header: Header) -> Iterable[npt.NDArray[Any]]:
    rows, columns = header.rows, header.columns
    try:
        for pixels in decoded_frames(header.path, header.frames, header.transfer_syntax):
            yield pixels.reshape(rows, columns)
    except (RuntimeError, *damage()) as error:
        raise InputError(
            f"{header.path.name}: its frames cannot be decoded, the file is damaged or its compression not what the "
            "header says; export it again, best uncompressed."
        ) from error


# -- names --------------------------------------------------------------------------------------


def _ids(header: Header, name: str) -> dict[int, int]:
    """The label id of each segment number."""
    segments = items(header.data, "SegmentSequence")
    own = [int(number(s, "SegmentNumber") or 0) for s in segments]
    noted = [_TRACKED.fullmatch(text(s, "TrackingID")) for s in segments]
    if len(set(own)) != len(own) or any(k < 0 for k in own):
        raise InputError(f"{name}: two of its segments have the same number; export the file again.")
    ids = [int(match[1]) for match in noted if match]
    ours = text(header.data, "Manufacturer") == MAKER and len(set(ids)) == len(own) and 0 not in ids
    return dict(zip(own, ids if ours else own, strict=True))


def _table(header: Header, ids: dict[int, int], *, ours: bool, instances: bool) -> LabelTable:
    labels = [
        _label(segment, ids[k], ours=ours)
        for segment in items(header.data, "SegmentSequence")
        if (k := int(number(segment, "SegmentNumber") or 0)) and ids[k]
    ]
    if instances and labels:
        first = labels[0]
        kind = Label(1, first.name.removesuffix(f" {first.id}"), terminology=first.terminology)
        return LabelTable((kind,), instances=True)
    return LabelTable(tuple(sorted(labels, key=lambda label: label.id)))


def _label(segment: Any, label: int, *, ours: bool) -> Label:
    # a segment's label has room for 64 letters, and none for some: we put names that do not fit into the description
    name = (text(segment, "SegmentDescription") if ours else "") or text(segment, "SegmentLabel")
    terminology = None
    for code in items(segment, "SegmentedPropertyTypeCodeSequence")[:1]:
        value = text(code, "CodeValue") or text(code, "LongCodeValue")
        known = text(code, "CodingSchemeDesignator"), value, text(code, "CodeMeaning")
        terminology = known if all(known) and known[:2] != UNSPECIFIC else None
    colour = _colour(numbers(segment, "RecommendedDisplayCIELabValue"))
    name = name or f"label {label}"
    return Label(label, name, colour, terminology) if colour else Label(label, name, terminology=terminology)


def _colour(stored: tuple[float, ...]) -> Colour | None:
    """Red, green and blue of a CIELab colour in the 16-bit numbers of DICOM (PS3.3 C.10.7.1.1)."""
    if len(stored) != 3:
        return None
    from skimage.color import lab2rgb

    lightness, a, b = (v / 0xFFFF for v in stored)
    colour = lab2rgb([[[100 * lightness, 255 * a - 128, 255 * b - 128]]])[0, 0]
    red, green, blue = (round(255 * min(1.0, max(0.0, float(v)))) for v in colour)
    return red, green, blue
