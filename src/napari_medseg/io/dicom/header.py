"""What a DICOM file says before its pixels: what it is, whether it is whole, and what may be shown of it."""

from __future__ import annotations

import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from napari_medseg.case import InputError, Modality

SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
DIRECTORY = "1.2.840.10008.1.3.10"
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_KINDS = {
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
    "1.2.840.10008.5.1.4.1.1.481.3": "a set of radiotherapy structures",
    "1.2.840.10008.5.1.4.1.1.481.5": "a radiotherapy plan",
    **dict.fromkeys(_SEGMENTATIONS, "a segmentation"),
    "1.2.840.10008.5.1.4.1.1.104.1": "a PDF document",
    DIRECTORY: "the index of a folder",
}
_MPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in range(100, 109))
DEFLATED = "1.2.840.10008.1.2.1.99"
_PIXEL_TAGS = {(0x7FE0, 0x0008): 32, (0x7FE0, 0x0009): 64, (0x7FE0, 0x0010): None}
_quiet = threading.RLock()
_ALLOCATED = (1, 8, 16, 32, 64)
_UNDEFINED = 0xFFFFFFFF
_ACCEPTED = "accepted are DICOM images such as CT, MR or ultrasound"

_IDENTIFIERS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientBirthTime", "PatientAddress", "PatientTelephoneNumbers",
    "PatientBirthName", "PatientMotherBirthName", "OtherPatientIDs", "OtherPatientNames", "OtherPatientIDsSequence",
    "MedicalRecordLocator", "InsurancePlanIdentification", "MilitaryRank", "ResponsiblePerson", "AccessionNumber",
    "ReferringPhysicianName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "OperatorsName",
    "InstitutionName", "InstitutionAddress", "PatientComments",
)  # fmt: skip
_SHOWN = {
    "SeriesDescription": "series_description", "ProtocolName": "protocol", "BodyPartExamined": "body_part",
    "Manufacturer": "manufacturer", "ManufacturerModelName": "model", "MagneticFieldStrength": "field_strength_tesla",
    "RepetitionTime": "repetition_time_ms", "EchoTime": "echo_time_ms", "InversionTime": "inversion_time_ms",
    "FlipAngle": "flip_angle_degrees", "KVP": "kvp", "ConvolutionKernel": "convolution_kernel",
    "ContrastBolusAgent": "contrast_agent", "SliceThickness": "slice_thickness_mm",
    "SpacingBetweenSlices": "spacing_between_slices_mm", "PhotometricInterpretation": "photometric_interpretation",
    "Units": "units", "RescaleType": "rescale_type", "PixelPaddingValue": "pixel_padding_value",
}  # fmt: skip
_MODALITIES = {m.value: m for m in Modality if m is not Modality.FL} | {"IVUS": Modality.US, "OPT": Modality.OP}


def damage() -> Any:
    """What pydicom raises when a value, or a whole file, is not what the standard promises."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        BytesLengthException, InvalidDicomError, ValueError, TypeError, KeyError, AttributeError, IndexError,
        NotImplementedError, EOFError, OSError, zlib.error, OverflowError, struct.error, AssertionError,
    )  # fmt: skip


@dataclass(frozen=True)
class Header:
    """A DICOM image file, its pixels not yet decoded.

    `data` is pydicom's dataset without pixels; `float_bits` is 32 or 64 for float pixels, else ``None``.
    """

    path: Path
    data: Any
    transfer_syntax: str
    float_bits: int | None = None

    @property
    def series(self) -> str:
        """Which series the file belongs to."""
        return text(self.data, "SeriesInstanceUID")

    @property
    def is_slide(self) -> bool:
        """Whether this is one level of a whole-slide image."""
        return text(self.data, "SOPClassUID") == SLIDE

    @property
    def frames(self) -> int:
        """Number of frames."""
        return max(1, int(number(self.data, "NumberOfFrames") or 1))

    @property
    def rows(self) -> int:
        """Height in pixels."""
        return int(number(self.data, "Rows") or 0)

    @property
    def columns(self) -> int:
        """Width in pixels."""
        return int(number(self.data, "Columns") or 0)

    @property
    def photometric(self) -> str:
        """How numbers become brightness or colour."""
        return text(self.data, "PhotometricInterpretation")

    @property
    def is_colour(self) -> bool:
        """Whether decoded pixels are red, green and blue."""
        return int(number(self.data, "SamplesPerPixel") or 1) == 3 or self.photometric == "PALETTE COLOR"

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of one decoded sample."""
        if self.float_bits:
            return np.dtype(f"f{self.float_bits // 8}")
        size = max(8, int(number(self.data, "BitsAllocated") or 0))
        return np.dtype(f"{'i' if number(self.data, 'PixelRepresentation') == 1 else 'u'}{size // 8}")

    @property
    def stored_range(self) -> tuple[int, int]:
        """Smallest and largest number that the stored bits can hold."""
        bits = int(number(self.data, "BitsStored") or number(self.data, "BitsAllocated") or 1)
        return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if self.stored_dtype.kind == "i" else (0, 2**bits - 1)

    @property
    def modality(self) -> Modality:
        """The modality, `Modality.OT` for all that have no meaning of their own here."""
        return _MODALITIES.get(text(self.data, "Modality"), Modality.OT)


# -- values that may be missing or wrong --------------------------------------------------------


def numbers(data: Any, keyword: str) -> tuple[float, ...]:
    """All numbers of an element; empty if it is missing, empty or not all finite numbers."""
    try:
        value = data.get(keyword)
        if value is None or value == "":
            return ()
        found = tuple(float(v) for v in ([value] if isinstance(value, (str, int, float)) else value))
        return found if all(math.isfinite(v) for v in found) else ()
    except damage():
        return ()


def number(data: Any, keyword: str) -> float | None:
    """The first number of an element, or ``None``."""
    found = numbers(data, keyword)
    return found[0] if found else None


def text(data: Any, keyword: str) -> str:
    """The element as text, empty if missing."""
    try:
        value = data.get(keyword)
        return "" if value is None else str(value).strip()
    except damage():
        return ""


def items(data: Any, keyword: str) -> list[Any]:
    """The items of a sequence; empty if missing."""
    try:
        value = data.get(keyword)
        return [] if value is None else list(value)
    except damage():
        return []


@contextmanager
def quietly() -> Iterator[None]:
    """Without pydicom's warnings: they quote values, which may identify a patient."""
    from pydicom.config import disable_value_validation

    # both are settings of the whole process: two threads in here at once would restore each other's
    with _quiet, disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# -- the file -----------------------------------------------------------------------------------


def looks_like_dicom(path: Path) -> bool:
    """Whether the content starts as DICOM does, with or without its preamble."""
    with path.open("rb") as stream:
        head = stream.read(132)
    return head[128:] == b"DICM" or (head[:2] in (b"\x08\x00", b"\x02\x00") and head[3:4] == b"\x00")


def is_segmentation(path: Path) -> bool:
    """Whether a file that exists says in its first bytes that it is a DICOM segmentation."""
    from pydicom.filereader import read_file_meta_info

    try:
        with quietly():
            return text(read_file_meta_info(path), "MediaStorageSOPClassUID") in _SEGMENTATIONS
    except damage():
        return False


def read_header(path: Path, *, segmentation: bool = False) -> Header:
    """The header of a DICOM image (or `segmentation`), after checking that all its pixels are there.

    Raises
    ------
    InputError
        If it is no DICOM file, no image, or its pixels are missing, cut short or video.
    """
    from pydicom import dcmread

    try:
        if not looks_like_dicom(path):
            raise InputError(f"{path.name}: not a DICOM file although its name or place says so; {_ACCEPTED}.")
        with quietly(), path.open("rb") as stream:
            data = dcmread(stream, stop_before_pixels=True, force=True)
            _refuse_other_kinds(path, data, segmentation)
            return _checked(path, data, stream)
    except FileNotFoundError as error:
        raise InputError(f"{path.name}: there is no such file.") from error
    except PermissionError as error:
        message = f"{path.name}: no permission to read it; ask its owner or copy it to a folder of yours."
        raise InputError(message) from error
    except damage() as error:
        raise InputError(f"{path.name}: the DICOM header is damaged or cut short; export the file again.") from error


def _refuse_other_kinds(path: Path, data: Any, segmentation: bool) -> None:
    kind = text(data, "SOPClassUID") or text(getattr(data, "file_meta", {}), "MediaStorageSOPClassUID")
    if segmentation:
        if kind not in _SEGMENTATIONS:
            raise InputError(f"{path.name}: holds no DICOM segmentation; open it as an image.")
        return
    modality = text(data, "Modality")
    word = _KINDS.get(kind)
    if kind == DIRECTORY:
        raise InputError(f"{path.name}: is the index of a DICOM folder, not an image; open the folder instead.")
    if word is None and modality in ("SR", "PR", "KO", "ECG", "AU", "DOC", "REG", "FID"):
        word = "a report or annotation"
    if word:
        raise InputError(f"{path.name}: is {word}, not an image; {_ACCEPTED}.")


def _checked(path: Path, data: Any, stream: IO[bytes]) -> Header:
    from pydicom.uid import UID

    syntax = text(getattr(data, "file_meta", {}), "TransferSyntaxUID")
    implicit, little = data.original_encoding
    if not syntax:
        syntax = {(True, True): "1.2.840.10008.1.2", (False, True): "1.2.840.10008.1.2.1"}.get(
            (implicit, little), "1.2.840.10008.1.2.2"
        )
    if syntax in _MPEG:
        raise InputError(f"{path.name}: holds an MPEG video; accepted are DICOM still frames, or the video as .mp4.")
    if syntax == DEFLATED:
        # the whole dataset is compressed: there is no place of the pixels in the file to look at
        return _measured(Header(path, data, syntax))
    tag, length = pixel_element(stream, implicit, little)
    if tag not in _PIXEL_TAGS:
        raise InputError(f"{path.name}: holds no pixels; {_ACCEPTED}.")
    header = _measured(Header(path, data, syntax, _PIXEL_TAGS[tag]))
    there = path.stat().st_size - stream.tell()
    if length == _UNDEFINED:
        if _count_fragments(stream, there) < header.frames:
            raise InputError(
                f"{path.name}: the file is cut short, the compressed pixels of {header.frames} frames are not all "
                "there; copy or export it again."
            )
        return header
    if UID(syntax).is_private is False and UID(syntax).is_compressed:
        raise InputError(
            f"{path.name}: the pixels are not stored in the way that the header names ({UID(syntax).name}); "
            "export the file again."
        )
    expected = _native_bytes(header)
    if min(length, there) < expected:
        raise InputError(
            f"{path.name}: the file is cut short, {min(length, there)} of {expected} bytes of pixels are there; "
            "copy or export it again."
        )
    return header


def _measured(header: Header) -> Header:
    name = header.path.name
    if header.rows < 1 or header.columns < 1:
        raise InputError(f"{name}: gives no image size; {_ACCEPTED}.")
    allocated = number(header.data, "BitsAllocated")
    stored = number(header.data, "BitsStored") or allocated
    if allocated not in _ALLOCATED or stored is None or not 1 <= stored <= allocated:
        raise InputError(f"{name}: gives {stored} of {allocated} bits a pixel; accepted are 8, 16, 32 or 64 bits.")
    if (samples := number(header.data, "SamplesPerPixel") or 1) not in (1, 3):
        raise InputError(f"{name}: gives {samples:g} numbers a pixel; accepted are 1 and 3 (red, green, blue).")
    return header


def _native_bytes(header: Header) -> int:
    """Bytes that uncompressed pixels take."""
    bits = int(number(header.data, "BitsAllocated") or 0)
    samples = int(number(header.data, "SamplesPerPixel") or 1)
    pixels = header.rows * header.columns * header.frames
    if header.photometric == "YBR_FULL_422":
        return pixels * 2 * bits // 8
    return (pixels * samples * bits + 7) // 8


def pixel_element(stream: IO[bytes], implicit: bool, little: bool) -> tuple[tuple[int, int], int]:
    """Tag and length of the element where reading stopped; the stream then stands at its value."""
    order = "<" if little else ">"
    head = stream.read(8)
    if len(head) < 8:
        return (0, 0), 0
    group, element = struct.unpack(f"{order}HH", head[:4])
    raw = head[4:] if implicit else stream.read(4)
    return (group, element), int(struct.unpack(f"{order}L", raw)[0])


def _count_fragments(stream: IO[bytes], there: int) -> int:
    """How many whole compressed fragments follow the offset table; 0 if the last one is cut."""
    count, start = -1, stream.tell()
    while len(head := stream.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) != (0xFFFE, 0xE000):
            break
        if stream.tell() - start + length > there:
            return 0
        stream.seek(length, 1)
        count += 1
    return max(0, count)


# -- what may be shown --------------------------------------------------------------------------


def identifiers_present(data: Any) -> bool:
    """Whether any element that names a person or their care is filled in."""
    return any(text(data, keyword) not in ("", "[]") for keyword in _IDENTIFIERS)


def details(header: Header) -> dict[str, Any]:
    """Plain facts about the series, without any that repeat what identifies the patient."""
    secret = [
        part.lower()
        for keyword in ("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "AccessionNumber")
        for part in text(header.data, keyword).replace("^", " ").replace("=", " ").split()
        if len(part) > 2
    ]
    found: dict[str, Any] = {}
    for keyword, name in _SHOWN.items():
        words = text(header.data, keyword)
        if words and not any(s in words.lower() for s in secret):
            values = numbers(header.data, keyword)
            found[name] = values[0] if len(values) == 1 and keyword not in ("SeriesDescription",) else words
    for keyword, name in (("WindowCenter", "window_centre"), ("WindowWidth", "window_width")):
        if values := numbers(header.data, keyword):
            found[name] = list(values)
    found["transfer_syntax"] = _syntax_name(header.transfer_syntax)
    return found


def _syntax_name(uid: str) -> str:
    from pydicom.uid import UID

    return str(UID(uid).name)
