"""Labels into a DICOM segmentation of the series that they were made on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg import __version__
from napari_medseg.case import Geometry, InputError, MedicalImage, MedsegError, Segmentation
from napari_medseg.case.geometry import FloatArray
from napari_medseg.io import dicom
from napari_medseg.io.dicom.frames import FrameArray
from napari_medseg.io.dicom.header import quietly
from napari_medseg.io.dicom.planes import Plane
from napari_medseg.io.dicom_seg.reading import MAKER, UNSPECIFIC, read_segmentation
from napari_medseg.io.label_volumes import lps
from napari_medseg.io.writing import refuse_existing, staged

_MOST_SEGMENTS = 65535
_LONG_STRING = 64
_SERIES_OFFSET = 1000
_LISTED = 4
# the standard wants these elements in the file, empty if the source does not have them
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")


def write_segmentation(
    segmentation: Segmentation, path: Path, *, overwrite: bool = False, like: Path | None = None
) -> None:
    """Write labels as a DICOM segmentation, then reopen the file and compare it voxel by voxel.

    Classes become binary segments, one for each label of the table; instances become one label map. Names,
    colours, terminology and the model that made the labels are kept, the rest of the history is not. Empty slices
    are left out, as usual.

    The standard requires that a segmentation repeats who the patient is and which study it belongs to: the file
    carries what the source series says of them, and is as identifiable as that series.

    Parameters
    ----------
    segmentation, path, overwrite
        What to write, where, and whether an existing file may be replaced.
    like
        Folder (or multi-frame file) of the DICOM series that the labels were made on.

    Raises
    ------
    InputError
        If highdicom is missing, `like` is missing or holds no series on the labels' grid, the labels are no volume,
        or there are none or more than 65535 of them.
    MedsegError
        If what was written does not read back the same; nothing is kept then.
    """
    refuse_existing(path, overwrite=overwrite)
    if like is None:
        raise InputError(
            f"{path.name}: a DICOM segmentation refers to the series it was made on; give its folder with "
            "--like DICOM_DIR, or in the window keep the DICOM image open."
        )
    if segmentation.axes != "zyx" or segmentation.geometry.frame != "patient":
        raise InputError(
            f"{path.name}: a DICOM segmentation is written for one volume in a patient, and these labels have axes "
            f"{' '.join(segmentation.axes)} in the {segmentation.geometry.frame} frame; use OME-Zarr or TIFF."
        )
    highdicom = _highdicom(path)
    with quietly(), _unlogged():
        source = _Source.of(_fitting(segmentation, like.expanduser()), like.name)
        segments = _Segments.of(segmentation, path.name)
        try:
            file = _file(highdicom, segmentation, source, segments)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise InputError(
                f"{like.name}: the headers of this series are not as the standard wants them, so no DICOM segmentation "
                "can refer to it; write NIfTI or NRRD instead."
            ) from error
        with staged(path, overwrite=overwrite) as temporary:
            file.save_as(temporary)
            _verify(segmentation, read_segmentation(temporary), source.apart, path.name)


def _highdicom(path: Path) -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise InputError(
            f"{path.name}: DICOM segmentations need highdicom; run pip install 'napari-medseg[export]'."
        ) from error
    return highdicom


@contextmanager
def _unlogged() -> Iterator[None]:
    """Without what highdicom logs: it quotes the patient's name."""
    log = logging.getLogger("highdicom")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


# -- the series ---------------------------------------------------------------------------------


def _fitting(segmentation: Segmentation, like: Path) -> MedicalImage:
    """The one image of `like` that has the labels' grid."""
    images = dicom.read(like)
    fitting = [i for i in images if i.axes in ("zyx", "zyxc") and i.geometry.is_close(segmentation.geometry)]
    if not fitting:
        there = "; ".join(f"{i.name}: {_words(i.geometry)}" for i in images[:_LISTED])
        more = f" and {len(images) - _LISTED} more" if len(images) > _LISTED else ""
        raise InputError(
            f"{like.name}: no series here has the grid of the labels, {_words(segmentation.geometry)}; "
            f"there is {there}{more}."
        )
    if len(fitting) > 1 and segmentation.provenance.image_sha256:
        same = [i for i in fitting if i.source.sha256() == segmentation.provenance.image_sha256]
        fitting = same or fitting
    if len(fitting) > 1:
        names = ", ".join(i.name for i in fitting)
        raise InputError(f"{like.name}: {len(fitting)} images have the labels' grid ({names}); give the folder of one.")
    return fitting[0]


def _words(geometry: Geometry) -> str:
    sizes = " x ".join(str(n) for n in geometry.shape)
    steps = " x ".join(f"{s:.4g}" for s in geometry.steps)
    origin = ", ".join(f"{v:.4g}" for v in geometry.origin)
    return f"{sizes} voxels of {steps} {geometry.unit or 'pixels'} from ({origin})"


@dataclass(frozen=True, eq=False)
class _Source:
    """The series: its headers, in which frame each slice of the labels lies, and how many frames there are.

    `apart` is how far its slices are from the even grid at most, in millimetres.
    """

    headers: list[Any]
    frames: npt.NDArray[np.int64]
    count: int
    apart: float

    @classmethod
    def of(cls, image: MedicalImage, name: str) -> _Source:
        """Read the headers of the image's files."""
        array = image.levels[0]
        assert isinstance(array, FrameArray)
        [planes] = array.planes
        headers = [_header(p) for p in dict.fromkeys(plane.path for plane in planes)]
        missing = sorted({k for h in headers for k in _NEEDED if not h.get(k)})
        if missing:
            raise InputError(
                f"{name}: the series lacks {', '.join(missing)}, which a DICOM segmentation must refer to; "
                "write NIfTI or NRRD instead."
            )
        count = len(planes)
        frames = np.arange(count)
        if len(headers) == 1 and "PerFrameFunctionalGroupsSequence" in headers[0]:
            count = int(headers[0].NumberOfFrames)
            frames = np.array([plane.frame for plane in planes])
        elif len(headers) != count:
            raise InputError(f"{name}: the volume lies in {len(headers)} multi-frame files; accepted is one.")
        _complete(headers, image.geometry)
        return cls(headers, frames, count, _unevenness(planes, image.geometry))


def _header(path: Path) -> Any:
    from pydicom import dcmread

    header = dcmread(path, stop_before_pixels=True, force=True)
    # text is turned into letters by the source's character set, before it is written in another one
    header.decode()
    return header


def _complete(headers: Sequence[Any], geometry: Geometry) -> None:
    """Make the headers (in memory) agree on what the segmentation takes from them."""
    for header in headers:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, "")
        if header.PatientSex not in ("M", "F", "O"):
            header.PatientSex = ""
    step = float(np.array(geometry.matrix)[:, 0] @ _normal(geometry))
    first = headers[0]
    if "PerFrameFunctionalGroupsSequence" in first:
        shared = first.SharedFunctionalGroupsSequence[0] if first.get("SharedFunctionalGroupsSequence") else {}
        measures = shared.get("PixelMeasuresSequence") or []
    else:
        measures = headers
        for header in headers:
            # slices of one series may differ in the last digit
            header.ImageOrientationPatient = first.ImageOrientationPatient
    for place in measures:
        if place.get("SliceThickness") is None:
            place.SliceThickness = round(abs(step), 6)
        # many scanners write something else here, and readers take it for the distance of the slices
        place.SpacingBetweenSlices = round(abs(step), 9)


def _normal(geometry: Geometry) -> FloatArray:
    directions = geometry.directions
    normal = np.cross(directions[:, 1], directions[:, 2])
    return np.asarray(normal / np.linalg.norm(normal))


def _unevenness(planes: Sequence[Plane], geometry: Geometry) -> float:
    """How far the slices lie from where the even grid puts them, in millimetres at most."""
    there = np.eye(4)[None].repeat(len(planes), 0)
    there[:, :3, 3] = [plane.position for plane in planes]
    positions = np.array([lps(t)[:3, 3] for t in there])
    index = np.zeros((len(planes), 3))
    index[:, 0] = np.arange(len(planes))
    return float(np.linalg.norm(geometry.index_to_world(index) - positions, axis=1).max())


# -- the segments -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Segments:
    """Ids of the labels, ascending, and the number of the segment that each becomes."""

    ids: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    kind: str

    @classmethod
    def of(cls, segmentation: Segmentation, name: str) -> _Segments:
        """Those listed (unless they are instances) and those present."""
        present: set[int] = set()
        for _, block in segmentation.blocks():
            present.update(int(v) for v in np.unique(block))
        instances = segmentation.table.instances
        wanted = sorted((present | (set() if instances else {e.id for e in segmentation.table})) - {0})
        if not wanted:
            raise InputError(f"{name}: there are no labels to write; a DICOM segmentation holds at least one.")
        if wanted[0] < 0:
            raise InputError(f"{name}: the labels hold the negative id {wanted[0]}; accepted are ids from 0 on.")
        if len(wanted) > _MOST_SEGMENTS or (instances and wanted[-1] > _MOST_SEGMENTS):
            raise InputError(
                f"{name}: {len(wanted)} labels with ids up to {wanted[-1]} are more than the {_MOST_SEGMENTS} segments "
                "a DICOM segmentation may hold; use OME-Zarr or NIfTI."
            )
        ids = np.array(wanted)
        return cls(ids, ids if instances else np.arange(1, len(ids) + 1), "LABELMAP" if instances else "BINARY")

    def frames(self, segmentation: Segmentation, source: _Source) -> npt.NDArray[Any]:
        """Segment numbers, (frame, y, x), in the order of the source's frames."""
        keys, numbers = np.append(0, self.ids), np.append(0, self.numbers)
        dtype = np.uint8 if numbers[-1] <= np.iinfo(np.uint8).max else np.uint16
        numbers = numbers.astype(dtype)
        found = np.zeros((source.count, *segmentation.geometry.shape[1:]), dtype)
        for (z, y, x), block in segmentation.blocks():
            depth, height, width = block.shape
            at = source.frames[z : z + depth]
            found[at, y : y + height, x : x + width] = numbers[np.searchsorted(keys, block)]
        return found


def _file(highdicom: Any, segmentation: Segmentation, source: _Source, segments: _Segments) -> Any:
    pixels = segments.frames(segmentation, source)
    described = [
        _description(highdicom, segmentation, int(label), int(k))
        for label, k in zip(segments.ids, segments.numbers, strict=True)
    ]
    number_of_series = source.headers[0].get("SeriesNumber")
    return highdicom.seg.Segmentation(
        source_images=source.headers,
        pixel_array=pixels,
        segmentation_type=segments.kind,
        segment_descriptions=described,
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_OFFSET + max(0, int(number_of_series or 0)),
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=__version__,
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=_line(segmentation.name),
        series_description=_line(f"{MAKER}: {segmentation.name}"),
        omit_empty_frames=bool(pixels.any()),
        specific_character_set="ISO_IR 192",
    )


def _description(highdicom: Any, segmentation: Segmentation, label: int, number: int) -> Any:
    from pydicom.sr.codedict import codes

    table = segmentation.table
    kind = table.labels[0] if table.instances else next((e for e in table if e.id == label), None)
    tissue = highdicom.sr.CodedConcept(UNSPECIFIC[1], UNSPECIFIC[0], "Tissue")
    category, meant = tissue, tissue
    if kind is not None and kind.terminology is not None:
        scheme, value, meaning = kind.terminology
        category = codes.SCT.AnatomicalStructure
        meant = highdicom.sr.CodedConcept(value, scheme, _line(meaning))
    how, algorithm = _algorithm(highdicom, segmentation)
    name = table.name(label)
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=_line(name) or f"label {label}",
        segmented_property_category=category,
        segmented_property_type=meant,
        algorithm_type=how,
        algorithm_identification=algorithm,
        tracking_id=f"label {label}",
        tracking_uid=highdicom.UID(),
        display_color=highdicom.color.CIELabColor.from_rgb(*table.colour(label)),
    )
    if name != _line(name):
        description.SegmentDescription = name
    return description


def _algorithm(highdicom: Any, segmentation: Segmentation) -> tuple[str, Any]:
    """How the labels came to be, and by which model."""
    from pydicom.sr.codedict import codes

    steps = segmentation.provenance.steps
    models = [(k, m) for k, s in enumerate(steps) if isinstance(m := s.details.get("model"), Mapping)]
    edits = [k for k, s in enumerate(steps) if s.action == "edit"]
    if not models and edits:
        return "MANUAL", None
    at, model = models[-1] if models else (len(steps), {})
    identified = highdicom.AlgorithmIdentificationSequence(
        name=_line(str(model.get("id", "not recorded"))),
        family=codes.cid7162.ArtificialIntelligence if models else codes.DCM.ManualProcessing,
        version=_line(str(model.get("version", "not recorded"))),
    )
    return ("AUTOMATIC" if models and not any(k > at for k in edits) else "SEMIAUTOMATIC"), identified


def _line(words: str) -> str:
    """Text as a DICOM "long string" can hold it."""
    return " ".join(words.replace("\\", "/").split())[:_LONG_STRING].strip()


# -- looking again ------------------------------------------------------------------------------


def _verify(written: Segmentation, reopened: Segmentation, apart: float, where: str) -> None:
    """Compare every voxel and its place with what a fresh look at the file gives; empty outer slices may be gone."""
    geometry, part = written.geometry, reopened.geometry
    first = int(np.round(geometry.world_to_index(part.origin)[0]))
    last = first + part.shape[0]
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in part.shape], indexing="ij"), -1)
    off = np.linalg.norm(
        part.index_to_world(corners) - geometry.index_to_world(corners + np.array((first, 0, 0))), axis=-1
    )
    if (
        part.shape[1:] != geometry.shape[1:]
        or first < 0
        or last > geometry.shape[0]
        or float(off.max()) > 2 * apart + 1e-3 * min(geometry.steps)
    ):
        raise MedsegError(f"{where}: the written grid does not match the labels' grid; nothing was kept.")
    for (z, y, x), block in written.blocks():
        depth, height, width = block.shape
        low, high = min(max(z, first), z + depth), max(min(z + depth, last), z)
        found = np.zeros_like(block)
        if high > low:
            inner = reopened.data[low - first : high - first, y : y + height, x : x + width]
            found[low - z : high - z] = inner
        if not np.array_equal(found, block):
            raise MedsegError(f"{where}: the written labels differ from the labels; nothing was kept.")
