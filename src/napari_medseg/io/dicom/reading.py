"""DICOM files and folders: every series as an image of its own, with its place in the patient.

Slices are ordered and spaced by their positions. Patient identifiers are noticed, never kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.case import Geometry, InputError, MedicalImage, Modality, Source
from napari_medseg.case.image import Intensity
from napari_medseg.io.dicom.frames import FrameArray, value_dtype
from napari_medseg.io.dicom.header import (
    Header,
    details,
    identifiers_present,
    items,
    looks_like_dicom,
    number,
    numbers,
    quietly,
    read_header,
    text,
)
from napari_medseg.io.dicom.planes import Plane, planes_of
from napari_medseg.io.dicom.series import Stack, stacks_of

_STACKED_WITHOUT_PLACE = ("CT", "MR", "PT")
_CM = 3
_TISSUE = 1


def read(path: Path) -> list[MedicalImage]:
    """Every image in a DICOM file or in a folder, at any depth and in any order of files.

    Raises
    ------
    InputError
        If a single file cannot be used, or nothing in a folder can.
    """
    # values are converted when they are asked for: all of it has to be quiet
    with quietly():
        if path.is_file() or not path.exists():
            return _named(_images([read_header(path)], path.name))
        return _read_folder(path)


def _read_folder(path: Path) -> list[MedicalImage]:
    headers: list[Header] = []
    problems: list[InputError] = []
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        try:
            if looks_like_dicom(file) and not _is_index(file):
                headers.append(read_header(file))
        except InputError as problem:
            problems.append(problem)
        except OSError as error:
            problems.append(InputError(f"{file.name}: cannot be read ({error.strerror}); copy it again."))
    images: list[MedicalImage] = []
    series: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        series[header.series].append(header)
    for members in series.values():
        try:
            images += _images(members, path.name)
        except InputError as problem:
            problems.append(problem)
    if not images:
        if problems:
            raise problems[0]
        raise InputError(f"{path.name}: there are no DICOM images in this folder; accepted are CT, MR, US and others.")
    if problems:
        note = (
            f"{len(problems)} DICOM files or series in this folder are no images or cannot be read and were left out."
        )
        images = [replace(image, warnings=(*image.warnings, note)) for image in images]
    return _named(sorted(images, key=lambda image: (image.modality, image.details.get("series_number", 0))))


def _is_index(file: Path) -> bool:
    return file.name.upper().startswith("DICOMDIR")


def _named(images: list[MedicalImage]) -> list[MedicalImage]:
    """The images with different names."""
    seen: dict[str, int] = {}
    found = []
    for image in images:
        seen[image.name] = seen.get(image.name, 0) + 1
        count = seen[image.name]
        found.append(image if count == 1 else replace(image, name=f"{image.name} ({count})"))
    return found


# -- one series ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Flat:
    """Frames without a place in the patient that make one picture, clip or pile."""

    planes: tuple[tuple[Plane, ...], ...]
    geometry: Geometry
    axes: str
    seconds_per_frame: float | None = None
    warnings: tuple[str, ...] = ()


def _images(headers: list[Header], name: str) -> list[MedicalImage]:
    if headers[0].is_slide:
        from napari_medseg.io import wsi

        known = any(identifiers_present(h.data) for h in headers)
        slides = wsi.read(headers[0].path)
        return [replace(s, identifiers_present=s.identifiers_present or known) for s in slides]
    by_path = {h.path: h for h in headers}
    placed: dict[tuple[Any, ...], list[Plane]] = defaultdict(list)
    flat: list[tuple[Header, list[Plane]]] = []
    for header in headers:
        planes = planes_of(header)
        if all(p.position is not None and p.directions is not None for p in planes):
            placed[_coding(header)] += planes
        else:
            flat.append((header, planes))
    images: list[MedicalImage] = []
    for planes in placed.values():
        label = f"{name}: series {int(number(by_path[planes[0].path].data, 'SeriesNumber') or 0)}"
        stacks = stacks_of(planes, name if len(headers) == 1 else label)
        images += [_image(by_path, s, "tzyx" if len(s.planes) > 1 else "zyx", s.suffix) for s in stacks]
    return images + [_image(by_path, pile, pile.axes, "") for pile in _piles(flat)]


def _coding(header: Header) -> tuple[Any, ...]:
    """What the frames of one array must share."""
    return (header.photometric, header.is_colour, header.float_bits, bool(items(header.data, "ModalityLUTSequence")))


def _image(headers: Mapping[Path, Header], stack: Stack | _Flat, axes: str, suffix: str) -> MedicalImage:
    header = headers[stack.planes[0][0].path]
    axes += "c" if header.is_colour else ""
    array = FrameArray(stack.planes, axes, header, value_dtype(header, stack.planes))
    # an unknown compression or damaged pixels should be known now, not at the first slice
    array.frame(stack.planes[0][0])
    paths = tuple(dict.fromkeys(p.path for moment in stack.planes for p in moment))
    intensity, notes = _meaning(header, stack.planes)
    number_of_series = number(header.data, "SeriesNumber")
    base = header.modality.value if header.modality is not Modality.OT else text(header.data, "Modality") or "DICOM"
    name = base if number_of_series is None else f"{base} series {int(number_of_series)}"
    facts = details(header)
    if number_of_series is not None:
        facts["series_number"] = int(number_of_series)
    return MedicalImage(
        levels=(array,),
        axes=axes,
        geometry=stack.geometry,
        modality=header.modality,
        intensity=intensity,
        name=f"{name}, {suffix}" if suffix else name,
        source=Source("DICOM", paths),
        channels=("red", "green", "blue") if header.is_colour else (),
        seconds_per_frame=stack.seconds_per_frame,
        details=facts,
        identifiers_present=any(identifiers_present(headers[p].data) for p in paths),
        warnings=(*stack.warnings, *notes),
    )


def _meaning(header: Header, planes: Sequence[Sequence[Plane]]) -> tuple[Intensity, list[str]]:
    """What the numbers mean, and what to know about them."""
    notes: list[str] = []
    if text(header.data, "BurnedInAnnotation").upper() == "YES":
        notes.append("The pixels contain written annotations, which may identify the patient.")
    if header.is_colour:
        return "RGB", notes
    if header.photometric == "MONOCHROME1":
        notes.append("Low values are meant to be shown bright (MONOCHROME1); the numbers are kept as they are.")
    if header.modality is not Modality.CT:
        return "arbitrary", notes
    scaled = all(p.slope is not None and p.intercept is not None for moment in planes for p in moment)
    if scaled and text(header.data, "RescaleType").upper() in ("", "HU"):
        return "HU", notes
    notes.append("The values are not said to be Hounsfield units; windows and models for CT may not fit.")
    return "arbitrary", notes


# -- frames without a place ---------------------------------------------------------------------


def _piles(flat: Iterable[tuple[Header, list[Plane]]]) -> list[_Flat]:
    """Clips and pictures one by one; slices of a scanner that lost their places as one pile."""
    found: list[_Flat] = []
    lost: dict[tuple[Any, ...], list[tuple[Header, Plane]]] = defaultdict(list)
    for header, planes in flat:
        if len(planes) == 1 and text(header.data, "Modality") in _STACKED_WITHOUT_PLACE:
            lost[(planes[0].shape, *_coding(header))].append((header, planes[0]))
        elif len(planes) == 1:
            geometry, notes = _picture_geometry(header, planes[0])
            found.append(_Flat(((planes[0],),), geometry, "yx", None, tuple(notes)))
        else:
            geometry, notes = _picture_geometry(header, planes[0])
            clip = tuple((plane,) for plane in planes)
            found.append(_Flat(clip, geometry, "tyx", _frame_seconds(header), tuple(notes)))
    for members in lost.values():
        members.sort(key=lambda m: m[1].instance)
        header, first = members[0]
        geometry, notes = _picture_geometry(header, first)
        if len(members) == 1:
            found.append(_Flat(((first,),), geometry, "yx", None, tuple(notes)))
            continue
        grid = Geometry.from_spacing((len(members), *first.shape), None)
        note = "The slices have no positions: they are piled up by number; order, spacing and orientation are unknown."
        found.append(_Flat((tuple(p for _, p in members),), grid, "zyx", None, (note,)))
    return found


def _picture_geometry(header: Header, plane: Plane) -> tuple[Geometry, list[str]]:
    """The grid of a picture: x right, y down; millimetres only if they are millimetres in the patient."""
    notes: list[str] = []
    spacing = plane.spacing
    regions = items(header.data, "SequenceOfUltrasoundRegions")
    if regions:
        spacing = _ultrasound_spacing(regions) or spacing
        if spacing and len(regions) > 1:
            notes.append("The spacing holds for the tissue part of the picture only; it shows other regions as well.")
    if spacing is None:
        detector = numbers(header.data, "ImagerPixelSpacing") or numbers(header.data, "NominalScannedPixelSpacing")
        if len(detector) >= 2:
            notes.append(
                f"Only the spacing on the detector is recorded ({detector[0]:g} x {detector[1]:g} mm), not that in the "
                "patient; sizes are in pixels."
            )
        else:
            notes.append("The spacing of the pixels is not recorded; sizes are in pixels.")
        return Geometry.from_spacing(plane.shape, None), notes
    try:
        return Geometry.from_spacing(plane.shape, spacing, "mm"), notes
    except ValueError as error:
        message = f"{plane.path.name}: the spacing {spacing} mm is not usable; accepted are positive lengths."
        raise InputError(message) from error


def _ultrasound_spacing(regions: list[Any]) -> tuple[float, float] | None:
    """Millimetres between rows and columns if exactly one two-dimensional region is measured in centimetres."""
    found = []
    for region in regions:
        units = {number(region, "PhysicalUnitsXDirection"), number(region, "PhysicalUnitsYDirection")}
        x, y = number(region, "PhysicalDeltaX"), number(region, "PhysicalDeltaY")
        if number(region, "RegionSpatialFormat") == _TISSUE and units == {_CM} and x and y:
            found.append((abs(y) * 10, abs(x) * 10))
    return found[0] if len(found) == 1 else None


def _frame_seconds(header: Header) -> float | None:
    """Seconds between the frames of a clip."""
    if (milliseconds := number(header.data, "FrameTime")) and milliseconds > 0:
        return milliseconds / 1000
    vector = numbers(header.data, "FrameTimeVector")[1:]
    if vector and float(np.mean(vector)) > 0:
        return float(np.mean(vector)) / 1000
    rate = number(header.data, "CineRate") or number(header.data, "RecommendedDisplayFrameRate")
    return 1 / rate if rate and rate > 0 else None
