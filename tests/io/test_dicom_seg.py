"""DICOM segmentations, judged by highdicom, by pydicom frame by frame, and by SimpleITK's reading of the source."""

import logging
import sys

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from napari_medseg.case import (
    Geometry,
    InputError,
    Label,
    LabelTable,
    MedsegError,
    Provenance,
    Segmentation,
    Step,
)
from napari_medseg.describe import describe_labels
from napari_medseg.io import dicom, open_images, open_segmentation, write_segmentation
from napari_medseg.io.formats import format_of, label_format
from tests.io.dicom_cases import AXIAL, SECRET, dataset, enhanced, save, sequence, volume, write_series

OBLIQUE = tuple(np.round(np.array([[0.8, 0.6, 0], [-0.36, 0.48, 0.8]]).ravel(), 8))
ORIENTATIONS = {
    "axial": AXIAL,
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": OBLIQUE,
    "flipped": (-1, 0, 0, 0, 1, 0),
    "upside down": (1, 0, 0, 0, -1, 0),
}
NAMED = {"StudyInstanceUID": "1.2.3.1", "FrameOfReferenceUID": "1.2.3.2", "StudyDate": "20200102"}
TABLE = LabelTable(
    (
        Label(2, "liver, left", (10, 200, 30), ("SCT", "10200004", "Liver")),
        Label(5, "Läsion \\ 病变"),
        Label(9, "long " * 20 + "name"),
        Label(11, "absent"),
    )
)
MODEL = Step("segment", "2026-01-02T03:04:05+00:00", {"model": {"id": "ct_liver", "version": "1.2.0"}})
EDIT = Step("edit", "2026-01-02T03:05:05+00:00", {"by": "hand"})


def blobs():
    """Labels without symmetry on 7 slices of which the first, the fourth and the last are empty."""
    labels = np.zeros((7, 6, 8), np.uint16)
    labels[1:3, 1:3, 2:5] = 2
    labels[4:6, 3:6, :4] = 5
    labels[5, 0, 7] = labels[2, 5, 6] = 9
    return labels


def series(folder, orientation=AXIAL, count=7, **values):
    return write_series(folder, volume(count), orientation, **(NAMED | values))


def labels_on(folder, data=None, table=TABLE, steps=(MODEL,)):
    [image] = open_images(folder)
    history = Provenance(None, tuple(steps))
    return Segmentation(blobs() if data is None else data, image.geometry, table, history, "organs")


def ras(lps):
    return np.array(lps) * (-1, -1, 1)


def centroids(segmentation):
    return {k: segmentation.geometry.index_to_world(e.centroid) for k, e in segmentation.extents().items()}


def centroids_in_source(folder, labels):
    """World (RAS) centroids by SimpleITK: the voxels of each label are found in the series by their values."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    values = sitk.GetArrayFromImage(image) + 1024
    found = {}
    for label in np.unique(labels[labels > 0]):
        z, y, x = np.nonzero(np.isin(values, volume(len(labels))[labels == label]))
        index = [float(x.mean()), float(y.mean()), float(z.mean())]
        found[int(label)] = ras(image.TransformContinuousIndexToPhysicalPoint(index))
    return found


def centroids_by_frame(path):
    """World (RAS) centroids of each segment from the positions and pixels of its frames alone."""
    data = pydicom.dcmread(path)
    shared = data.SharedFunctionalGroupsSequence[0]
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    dy, dx = shared.PixelMeasuresSequence[0].PixelSpacing
    points = {}
    for frame, pixels in zip(data.PerFrameFunctionalGroupsSequence, data.pixel_array, strict=True):
        segment = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        y, x = np.nonzero(pixels)
        points.setdefault(segment, []).append(origin + x[:, None] * dx * row + y[:, None] * dy * column)
    return {k: ras(np.concatenate(v).mean(0)) for k, v in points.items()}


def centroids_by_highdicom(path):
    seg = hd.seg.segread(path)
    volume_ = seg.get_volume(combine_segments=True)
    return {
        int(k): ras(volume_.map_indices_to_reference(np.argwhere(volume_.array == k).mean(0)[None])[0])
        for k in np.unique(volume_.array[volume_.array > 0])
    }


# -- place --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_labels_lie_where_other_libraries_see_them(tmp_path, name):
    folder = series(tmp_path / "ct", ORIENTATIONS[name])
    written = labels_on(folder)
    write_segmentation(written, tmp_path / "seg.dcm", like=folder)
    meant = centroids_in_source(folder, written.data)
    by_number = {1: meant[2], 2: meant[5], 3: meant[9]}
    for found in (centroids_by_frame(tmp_path / "seg.dcm"), centroids_by_highdicom(tmp_path / "seg.dcm")):
        assert sorted(found) == [1, 2, 3]
        for k, where in by_number.items():
            np.testing.assert_allclose(found[k], where, atol=1e-4)
    back = open_segmentation(tmp_path / "seg.dcm")
    for k, where in centroids(back).items():
        np.testing.assert_allclose(where, meant[k], atol=1e-4)
    np.testing.assert_array_equal(back.data, written.data[1:6])


def test_each_frame_names_the_slice_it_was_drawn_on(tmp_path):
    folder = series(tmp_path / "ct", OBLIQUE)
    write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder)
    places = {str(d.SOPInstanceUID): d.ImagePositionPatient for d in map(pydicom.dcmread, folder.iterdir())}
    data = pydicom.dcmread(tmp_path / "seg.dcm")
    for frame in data.PerFrameFunctionalGroupsSequence:
        [source] = frame.DerivationImageSequence[0].SourceImageSequence
        assert frame.PlanePositionSequence[0].ImagePositionPatient == places[source.ReferencedSOPInstanceUID]
    assert len(data.PerFrameFunctionalGroupsSequence) == 2 + 2 + 2


def test_a_tilted_gantry_keeps_its_places(tmp_path):
    folder = series(tmp_path / "ct", shear=(0, 0.4, 0))
    written = labels_on(folder)
    write_segmentation(written, tmp_path / "seg.dcm", like=folder)
    back = open_segmentation(tmp_path / "seg.dcm")
    meant, frames = centroids(written), centroids_by_frame(tmp_path / "seg.dcm")
    for k, (label, where) in enumerate(centroids(back).items(), start=1):
        np.testing.assert_allclose(where, meant[label], atol=1e-4)
        np.testing.assert_allclose(frames[k], meant[label], atol=1e-4)


def test_rounded_positions_are_no_obstacle(tmp_path):
    heights = [round(0.93 * k, 1) for k in range(7)]
    folder = series(tmp_path / "ct", heights=heights)
    written = labels_on(folder)
    write_segmentation(written, tmp_path / "seg.dcm", like=folder)
    np.testing.assert_array_equal(open_segmentation(tmp_path / "seg.dcm").data, written.data[1:6])


@pytest.mark.parametrize("wrong", [None, 0.1, 7.0])
def test_a_scanner_that_misstates_the_distance_of_slices(tmp_path, wrong):
    folder = series(tmp_path / "ct", SpacingBetweenSlices=wrong, SliceThickness=None)
    write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder)
    assert open_segmentation(tmp_path / "seg.dcm").geometry.spacing == pytest.approx((2.5, 0.75, 0.5))


@pytest.mark.parametrize("slices", [[3], [1, 4], [0, 6]])
def test_slices_far_apart(tmp_path, slices):
    folder = series(tmp_path / "ct")
    data = np.zeros((7, 6, 8), np.uint8)
    data[slices, 1:3, 2:5] = 2
    written = labels_on(folder, data)
    write_segmentation(written, tmp_path / "seg.dcm", like=folder)
    back = open_segmentation(tmp_path / "seg.dcm")
    assert back.data.shape[0] == slices[-1] - slices[0] + 1
    assert back.geometry.spacing == pytest.approx((2.5, 0.75, 0.5))
    np.testing.assert_allclose(centroids(back)[2], centroids(written)[2], atol=1e-6)


def test_one_slice(tmp_path):
    folder = series(tmp_path / "ct", count=1)
    written = labels_on(folder, blobs()[1:2])
    write_segmentation(written, tmp_path / "seg.dcm", like=next(folder.iterdir()))
    back = open_segmentation(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(back.data, written.data)
    # a slice of its own is as thick as its header says
    assert back.geometry.is_close(written.geometry)
    assert back.geometry.spacing == pytest.approx((9.0, 0.75, 0.5))


def test_an_enhanced_file_with_its_frames_in_any_order(tmp_path):
    order = [4, 0, 6, 2, 1, 5, 3]
    data = enhanced(volume(7)[order], [2.5 * k for k in order], **NAMED)
    file = save(data, tmp_path / "mr" / "enhanced.dcm")
    written = labels_on(file)
    write_segmentation(written, tmp_path / "seg.dcm", like=file)
    meant, frames = centroids(written), centroids_by_frame(tmp_path / "seg.dcm")
    for k, label in enumerate(meant, start=1):
        np.testing.assert_allclose(frames[k], meant[label], atol=1e-4)
    np.testing.assert_array_equal(open_segmentation(tmp_path / "seg.dcm").data, written.data[1:6])


def test_the_series_is_found_among_others(tmp_path):
    folder = series(tmp_path / "study" / "thin")
    series(tmp_path / "study" / "other", count=5, SeriesInstanceUID="1.2.3.7", SeriesNumber=8)
    write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=tmp_path / "study")
    data = pydicom.dcmread(tmp_path / "seg.dcm")
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.4"


def test_two_series_on_one_grid_are_told_apart_by_the_image_of_the_labels(tmp_path):
    series(tmp_path / "study" / "a")
    second = series(tmp_path / "study" / "b", SeriesInstanceUID="1.2.3.7", SeriesNumber=8)
    labels = labels_on(second)
    with pytest.raises(InputError, match=r"2 images have the labels' grid \(CT series 3, CT series 8\)"):
        write_segmentation(labels, tmp_path / "seg.dcm", like=tmp_path / "study")
    known = Provenance(dicom.read(second)[0].source.sha256(), (MODEL,))
    labels = Segmentation(labels.data, labels.geometry, labels.table, known)
    write_segmentation(labels, tmp_path / "seg.dcm", like=tmp_path / "study")
    assert pydicom.dcmread(tmp_path / "seg.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.7"


# -- names, kinds and history -------------------------------------------------------------------


def test_names_colours_codes_and_ids_come_back(tmp_path):
    folder = series(tmp_path / "ct")
    write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder)
    back = open_segmentation(tmp_path / "seg.dcm")
    assert back.table == TABLE
    assert back.name == "organs"
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    first = seg.get_segment_description(1)
    assert (first.segment_label, first.segmented_property_type.value) == ("liver, left", "10200004")
    assert hd.color.CIELabColor.from_dicom_value(list(first.RecommendedDisplayCIELabValue)).to_rgb() == (10, 200, 30)
    assert seg.get_segment_description(2).SegmentLabel == "Läsion / 病变"
    assert seg.segmentation_type.value == "BINARY"


@pytest.mark.parametrize(
    ("steps", "kind"), [((MODEL,), "AUTOMATIC"), ((MODEL, EDIT), "SEMIAUTOMATIC"), ((EDIT,), "MANUAL")]
)
def test_the_model_and_the_hand_are_named(tmp_path, steps, kind):
    folder = series(tmp_path / "ct")
    write_segmentation(labels_on(folder, steps=steps), tmp_path / "seg.dcm", like=folder)
    first = hd.seg.segread(tmp_path / "seg.dcm").get_segment_description(1)
    assert first.algorithm_type.value == kind
    if kind != "MANUAL":
        [algorithm] = first.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("ct_liver", "1.2.0")


def test_instances_become_one_label_map(tmp_path):
    folder = series(tmp_path / "ct")
    data = blobs()
    data[data == 9] = 60001
    table = LabelTable((Label(1, "nodule"),), instances=True)
    write_segmentation(labels_on(folder, data, table), tmp_path / "seg.dcm", like=folder)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert seg.segmentation_type.value == "LABELMAP"
    assert sorted(seg.segment_numbers) == [2, 5, 60001]
    back = open_segmentation(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(back.data, data[1:6])
    assert back.table == table
    meant = centroids_in_source(folder, data)
    for k, where in centroids_by_highdicom(tmp_path / "seg.dcm").items():
        np.testing.assert_allclose(where, meant[k], atol=1e-4)


def test_labels_of_nothing_yet(tmp_path):
    folder = series(tmp_path / "ct")
    write_segmentation(labels_on(folder, np.zeros((7, 6, 8), np.uint8)), tmp_path / "seg.dcm", like=folder)
    back = open_segmentation(tmp_path / "seg.dcm")
    assert (back.data.shape, int(back.data.max()), len(back.table)) == ((7, 6, 8), 0, 4)
    with pytest.raises(InputError, match=r"^none\.dcm: there are no labels to write"):
        write_segmentation(
            labels_on(folder, np.zeros((7, 6, 8), np.uint8), LabelTable()), tmp_path / "none.dcm", like=folder
        )


# the test writes a sex that the standard does not know
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS:UserWarning")
def test_the_patient_of_the_source_is_in_the_file_and_nowhere_else(tmp_path, capfd, caplog):
    # highdicom logs names that are not in the usual form
    folder = series(tmp_path / "ct", PatientName=SECRET, SpecificCharacterSet="ISO_IR 100", PatientSex="?")
    with caplog.at_level(logging.DEBUG):
        write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder)
        back = open_segmentation(tmp_path / "seg.dcm")
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientName == SECRET
    assert SECRET not in caplog.text + "".join(capfd.readouterr())
    assert SECRET not in str(describe_labels(back)) + str(back.provenance)


def test_letters_of_another_character_set_survive(tmp_path):
    folder = series(tmp_path / "ct", PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100")
    write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder)
    assert str(pydicom.dcmread(tmp_path / "seg.dcm").PatientName) == "Müller^Jörg"


# -- other programs' files ----------------------------------------------------------------------


def foreign(tmp_path, kind="BINARY", pixels=None, **options):
    """A segmentation as highdicom writes it for others."""
    folder = series(tmp_path / "ct")
    source = sorted((pydicom.dcmread(f) for f in folder.iterdir()), key=lambda d: -d.ImagePositionPatient[2])
    for data in source:
        data.PatientBirthDate = data.PatientSex = data.AccessionNumber = data.StudyID = data.StudyTime = ""
    labels = np.zeros((7, 6, 8), np.uint8)
    labels[1, 2, 3], labels[4, 5, 6] = 1, 2
    code = hd.sr.CodedConcept("85756007", "SCT", "Tissue")
    described = [hd.seg.SegmentDescription(k, f"part {k}", code, code, "MANUAL") for k in (1, 2)]
    return hd.seg.Segmentation(
        source, labels if pixels is None else pixels, kind, described, generate_uid(), 5, generate_uid(), 1,
        "Somebody", "Something", "1", "0", **options,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_files_of_other_programs(tmp_path, kind):
    foreign(tmp_path, kind).save_as(tmp_path / "other.dcm")
    back = open_segmentation(tmp_path / "other.dcm")
    assert [label.name for label in back.table] == ["part 1", "part 2"]
    # the source was given from above: slice 4 of 7 lies two slices over the lowest
    assert back.data.shape == (4, 6, 8)
    assert (back.data[3, 2, 3], back.data[0, 5, 6]) == (1, 2)
    np.testing.assert_allclose(back.geometry.index_to_world((0, 5, 6)), ras((-10 + 3, 20 + 3.75, 30 + 5)), atol=1e-6)


def test_a_compressed_label_map(tmp_path):
    from pydicom.uid import RLELossless

    foreign(tmp_path, "LABELMAP", transfer_syntax_uid=RLELossless).save_as(tmp_path / "other.dcm")
    assert open_segmentation(tmp_path / "other.dcm").data[3, 2, 3] == 1


def test_what_is_no_map_of_labels_is_refused(tmp_path):
    both = np.zeros((7, 6, 8, 2), np.uint8)
    both[2, 3, 4] = 1
    foreign(tmp_path / "o", pixels=both).save_as(tmp_path / "over.dcm")
    with pytest.raises(InputError, match=r"^over\.dcm: its segments overlap"):
        open_segmentation(tmp_path / "over.dcm")
    foreign(tmp_path / "p", "FRACTIONAL").save_as(tmp_path / "prob.dcm")
    with pytest.raises(InputError, match=r"^prob\.dcm: holds fractional segments, not labels"):
        open_segmentation(tmp_path / "prob.dcm")


def test_damaged_files_are_refused_in_one_sentence(tmp_path):
    whole = foreign(tmp_path)
    whole.save_as(tmp_path / "whole.dcm")
    raw = (tmp_path / "whole.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(raw[:-5])
    with pytest.raises(InputError, match=r"^cut\.dcm: the file is cut short"):
        open_segmentation(tmp_path / "cut.dcm")
    whole.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence = sequence(ReferencedSegmentNumber=7)
    whole.save_as(tmp_path / "lost.dcm")
    with pytest.raises(InputError, match=r"^lost\.dcm: a frame belongs to no segment"):
        open_segmentation(tmp_path / "lost.dcm")


@pytest.mark.parametrize(
    ("moved", "words"), [((0, 0, 1.1), "slices are unevenly spaced"), ((3, 0, 0), "mm off a straight, even stack")]
)
def test_slices_on_no_even_stack_are_refused(tmp_path, moved, words):
    pixels = np.zeros((7, 6, 8), np.uint8)
    pixels[2:5, 1, 1] = (1, 2, 1)
    whole = foreign(tmp_path, "LABELMAP", pixels)
    place = whole.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    place.ImagePositionPatient = [a + b for a, b in zip(place.ImagePositionPatient, moved, strict=True)]
    whole.save_as(tmp_path / "bent.dcm")
    with pytest.raises(InputError, match=rf"^bent\.dcm: .*{words}"):
        open_segmentation(tmp_path / "bent.dcm")


# -- what cannot be written ---------------------------------------------------------------------


def test_without_the_source_series(tmp_path):
    folder = series(tmp_path / "ct")
    with pytest.raises(InputError, match="--like DICOM_DIR"):
        write_segmentation(labels_on(folder), tmp_path / "seg.dcm")
    with pytest.raises(InputError, match="no such file"):
        write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=tmp_path / "gone")


def test_another_grid(tmp_path):
    labels = labels_on(series(tmp_path / "ct"))
    other = series(tmp_path / "other", spacing=(0.8, 0.5))
    with pytest.raises(InputError, match=r"7 x 6 x 8 voxels of 2.5 x 0.75 x 0.5 mm.*7 x 6 x 8 voxels of 2.5 x 0.8 x"):
        write_segmentation(labels, tmp_path / "seg.dcm", like=other)
    assert not list(tmp_path.glob("*seg.dcm"))


def test_pictures_and_clips(tmp_path):
    picture = save(dataset(volume()[0], **NAMED), tmp_path / "xray.dcm")
    [image] = open_images(picture)
    labels = Segmentation(np.ones(image.shape, np.uint8), image.geometry, TABLE)
    with pytest.raises(InputError, match="axes y x in the image frame"):
        write_segmentation(labels, tmp_path / "seg.dcm", like=picture)
    clip = Segmentation(np.ones((3, 6, 8), np.uint8), Geometry.from_spacing((6, 8), None), TABLE, axes="tyx")
    with pytest.raises(InputError, match="axes t y x in the image frame"):
        write_segmentation(clip, tmp_path / "seg.dcm", like=picture)


def test_a_series_that_cannot_be_referred_to(tmp_path):
    folder = series(tmp_path / "ct", FrameOfReferenceUID=None)
    with pytest.raises(InputError, match="lacks FrameOfReferenceUID"):
        write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder)


def test_too_many_instances(tmp_path):
    folder = series(tmp_path / "ct")
    data = blobs().astype(np.int32)
    data[data == 9] = 70000
    table = LabelTable((Label(1, "nodule"),), instances=True)
    with pytest.raises(InputError, match="ids up to 70000 are more than the 65535"):
        write_segmentation(labels_on(folder, data, table), tmp_path / "seg.dcm", like=folder)
    with pytest.raises(InputError, match="negative id -1"):
        write_segmentation(labels_on(folder, -(data > 0).astype(np.int32)), tmp_path / "seg.dcm", like=folder)


def test_what_is_there_is_kept(tmp_path):
    folder = series(tmp_path / "ct")
    (tmp_path / "seg.dcm").write_bytes(b"mine")
    with pytest.raises(InputError, match="already exists"):
        write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder)
    write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder, overwrite=True)
    assert open_segmentation(tmp_path / "seg.dcm").data.any()


def test_a_file_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch):
    from napari_medseg.io.dicom_seg import exporting

    folder = series(tmp_path / "ct")
    whole = exporting.read_segmentation

    def shifted(path):
        found = whole(path)
        found.data[:] = np.roll(found.data, 1, axis=2)
        return found

    monkeypatch.setattr(exporting, "read_segmentation", shifted)
    with pytest.raises(MedsegError, match="differ from the labels; nothing was kept"):
        write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder)
    assert [p.name for p in tmp_path.iterdir()] == ["ct"]


def test_without_highdicom_the_install_command_is_named(tmp_path, monkeypatch):
    folder = series(tmp_path / "ct")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"pip install 'napari-medseg\[export\]'"):
        write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder)


# -- which module reads it ----------------------------------------------------------------------


def test_the_content_says_which_kind_of_dicom_file_it_is(tmp_path):
    folder = series(tmp_path / "ct")
    write_segmentation(labels_on(folder), tmp_path / "seg.dcm", like=folder)
    (tmp_path / "seg").write_bytes((tmp_path / "seg.dcm").read_bytes())
    assert label_format("new.dcm").module == "dicom_seg"
    assert {format_of(tmp_path / n).module for n in ("seg.dcm", "seg")} == {"dicom_seg"}
    assert {format_of(f).module for f in folder.iterdir()} == {"dicom"}
    with pytest.raises(InputError, match=r"^seg\.dcm: is a segmentation, not an image"):
        open_images(tmp_path / "seg.dcm")
    with pytest.raises(InputError, match="labels are not read from DICOM files"):
        open_segmentation(next(folder.iterdir()))
