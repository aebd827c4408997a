import uuid
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_medseg.case import InputError, MedicalImage, Modality
from napari_medseg.io import dicom, open_images
from napari_medseg.io.dicom import codecs
from tests.io.dicom_cases import AXIAL, MR, SECRET, dataset, enhanced, save, sequence, volume, write_series
from tests.io.volume_cases import rotation, sitk_to_ras

REAL = Path(pydicom.__file__).parent / "data" / "test_files"
OBLIQUE = tuple(np.round(rotation((17, -23, 41))[:, :2].T.ravel(), 8))
ORIENTATIONS = {
    "axial": AXIAL,
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": OBLIQUE,
    "flipped": (-1, 0, 0, 0, 1, 0),
    "upside down": (1, 0, 0, 0, -1, 0),
}


def opened(path) -> MedicalImage:
    [image] = dicom.read(Path(path))
    return image


def by_itk(folder):
    """The series as ITK's own reader of DICOM sorts and places it."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


# -- series -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_voxel_lies_where_itk_puts_it(tmp_path, name):
    pixels = volume()
    image = opened(write_series(tmp_path, pixels, ORIENTATIONS[name]))
    other = by_itk(tmp_path)
    assert (image.axes, image.shape) == ("zyx", (5, 6, 8))
    assert (image.geometry.frame, image.geometry.unit) == ("patient", "mm")
    np.testing.assert_allclose(image.geometry.spacing, (2.5, 0.75, 0.5), atol=1e-6)
    values = np.asarray(image.levels[0])
    np.testing.assert_array_equal(values, pixels.astype(int) - 1024)
    to_itk = sitk_to_ras(other)
    for z, y, x in [(0, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 7), (3, 2, 6)]:
        world = image.geometry.index_to_world((z, y, x))
        point = [float(v) for v in world * (-1, -1, 1)]
        assert other.GetPixel(other.TransformPhysicalPointToIndex(point)) == values[z, y, x]
        np.testing.assert_allclose(to_itk(other.TransformPhysicalPointToContinuousIndex(point)), world, atol=1e-6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.floats(0.05, 5)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
)
def test_any_grid_is_placed_as_the_standard_says(tmp_path, angles, spacing, origin, shape):
    folder = tmp_path / str(uuid.uuid4())
    turned = np.round(rotation(angles)[:, :2].T.ravel(), 8)
    write_series(folder, volume(*shape), tuple(turned), spacing[:2], spacing[2], origin)
    image = opened(folder)
    row, column = turned.reshape(2, 3)
    for z, y, x in np.ndindex(shape):
        lps = np.array(origin) + x * spacing[1] * row + y * spacing[0] * column + z * spacing[2] * np.cross(row, column)
        np.testing.assert_allclose(image.geometry.index_to_world((z, y, x)), lps * (-1, -1, 1), atol=1e-5)
        assert image.levels[0][z, y, x] == 100 * z + 10 * y + x - 1024


def test_what_the_standard_says_about_one_voxel(tmp_path):
    image = opened(write_series(tmp_path, volume()))
    # PS3.3 C.7.6.2.1.1: position + x times column spacing along the row + y times row spacing down the column
    lps = np.array((-10 + 3 * 0.5, 20 + 2 * 0.75, 30 + 4 * 2.5))
    np.testing.assert_allclose(image.geometry.index_to_world((4, 2, 3)), lps * (-1, -1, 1))
    assert image.levels[0][4, 2, 3] == 423 - 1024


def test_spacing_is_from_positions_not_from_thickness(tmp_path):
    assert opened(write_series(tmp_path, volume(), step=1.25)).geometry.spacing[0] == pytest.approx(1.25)


def test_hounsfield_units_in_the_smallest_type(tmp_path):
    image = opened(write_series(tmp_path, volume(dtype=np.uint16), BitsStored=12, HighBit=11))
    assert (image.modality, image.intensity, image.dtype) == (Modality.CT, "HU", np.dtype(np.int16))
    assert image.levels[0][0, 0, 0] == -1024
    image = opened(write_series(tmp_path / "b", volume(), RescaleSlope=0.5))
    assert image.dtype == np.float32
    assert image.levels[0][1, 0, 1] == 101 * 0.5 - 1024


def test_scaling_may_differ_from_slice_to_slice(tmp_path):
    slopes = (1.0, 2.0, 0.5, 4.0, 3.0)
    image = opened(write_series(tmp_path, volume(), RescaleSlope=lambda k: slopes[k], RescaleIntercept=0))
    np.testing.assert_allclose(np.asarray(image.levels[0]), volume() * np.array(slopes)[:, None, None])


def test_ct_without_scaling_is_not_called_hounsfield(tmp_path):
    image = opened(write_series(tmp_path, volume(), RescaleSlope=None, RescaleIntercept=None))
    assert image.intensity == "arbitrary"
    assert any("Hounsfield" in w for w in image.warnings)


def test_only_what_is_looked_at_is_decoded(tmp_path, monkeypatch):
    from napari_medseg.io.dicom import frames

    image = opened(write_series(tmp_path, volume()))
    decoded = []
    whole = frames.decode
    monkeypatch.setattr(frames, "decode", lambda path, *rest: decoded.append(path) or whole(path, *rest))
    np.testing.assert_array_equal(
        image.read((slice(3, 4), slice(1, 3), slice(2, 5)))[0, 0], volume()[3, 1:3, 2:5].astype(int) - 1024
    )
    assert len(decoded) == 1


def test_folders_of_any_depth_with_other_files_between(tmp_path):
    write_series(tmp_path / "a" / "b", volume())
    write_series(tmp_path / "c", volume(3), SeriesInstanceUID="1.2.9", SeriesNumber=7)
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "a" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    first, second = open_images(tmp_path)
    assert (first.name, second.name) == ("CT series 3", "CT series 7")
    assert (first.shape[0], second.shape[0]) == (5, 3)
    assert not first.warnings


def test_a_single_file_of_a_series_is_that_slice(tmp_path):
    write_series(tmp_path, volume(), shuffle=False)
    image = opened(tmp_path / "f003.dcm")
    assert image.shape == (1, 6, 8)
    assert image.geometry.spacing[0] == 9.0
    np.testing.assert_allclose(image.geometry.index_to_world((0, 0, 0)), (10, -20, 30 + 3 * 2.5))


def test_missing_slices_split_the_volume_and_are_named(tmp_path):
    images = dicom.read(write_series(tmp_path, volume(), heights=[0, 2.5, 5, 12.5, 15]))
    assert [i.name for i in images] == ["CT series 3, part 1 of 2", "CT series 3, part 2 of 2"]
    assert [i.shape[0] for i in images] == [3, 2]
    assert images[1].geometry.index_to_world((0, 0, 0))[2] == pytest.approx(30 + 12.5)
    assert all(any("from 35.0 to 42.5 mm" in w for w in i.warnings) for i in images)
    assert images[1].levels[0][0, 0, 0] == 300 - 1024


def test_two_spacings_become_two_stacks(tmp_path):
    images = dicom.read(write_series(tmp_path, volume(9), heights=[0, 1, 2, 3, 4, 8, 12, 16, 20]))
    assert [i.shape[0] for i in images] == [5, 4]
    assert [round(i.geometry.spacing[0], 6) for i in images] == [1, 4]


def test_wholly_uneven_slices_are_refused_with_their_positions(tmp_path):
    heights = [0, 1, 2.7, 5.1, 8.8, 9.2, 14, 20, 21.3]
    with pytest.raises(InputError, match=r"unevenly spaced, at 30, 31, 32.7, .* and 1 more mm"):
        dicom.read(write_series(tmp_path, volume(9), heights=heights))


@pytest.mark.parametrize(("step", "digits", "said"), [(0.625, 1, True), (2.3333, 2, False), (1.3333, 1, True)])
def test_positions_rounded_by_the_scanner_are_even(tmp_path, step, digits, said):
    image = opened(write_series(tmp_path, volume(9), heights=[round(k * step, digits) for k in range(9)]))
    assert image.shape[0] == 9
    assert image.geometry.spacing[0] == pytest.approx(round(8 * step, digits) / 8)
    assert any("away from even spacing" in w for w in image.warnings) == said


@pytest.mark.parametrize("count", [4, 30])
@pytest.mark.parametrize("missing", [1, -2])
def test_one_missing_slice_is_found_wherever_it_is(tmp_path, count, missing):
    heights = [float(k) for k in range(count + 1)]
    del heights[missing]
    images = dicom.read(write_series(tmp_path, volume(count), heights=heights))
    assert len(images) == 2
    assert sum(i.shape[0] for i in images) == count
    for image in images:
        for z in range(image.shape[0]):
            slice_number = int(image.levels[0][z, 0, 0] + 1024) // 100
            assert image.geometry.index_to_world((z, 0, 0))[2] == pytest.approx(30 + heights[slice_number])


def test_tilted_gantry_is_kept_as_shear_and_said(tmp_path):
    image = opened(write_series(tmp_path, volume(), shear=(0, 0.9, 0)))
    np.testing.assert_allclose(image.geometry.index_to_world((4, 0, 0)), (10, -(20 + 4 * 0.9), 40))
    assert any("19.8 degrees" in w for w in image.warnings)


def test_slices_that_jump_sideways_are_named(tmp_path):
    folder = write_series(tmp_path, volume(), shuffle=False)
    moved = pydicom.dcmread(folder / "f002.dcm")
    moved.ImagePositionPatient = [-3.0, 20.0, 35.0]
    moved.save_as(folder / "f002.dcm")
    image = opened(folder)
    assert any("Slices at 35 mm lie up to 7.00 mm off" in w for w in image.warnings)


def test_mixed_orientations_are_separate(tmp_path):
    write_series(tmp_path, volume(4), AXIAL, prefix="a")
    write_series(tmp_path, volume(3), ORIENTATIONS["coronal"], prefix="b")
    images = dicom.read(tmp_path)
    assert sorted(i.shape[0] for i in images) == [3, 4]
    assert all(any("mixes 2 orientations" in w for w in i.warnings) for i in images)


def test_the_localizer_is_an_image_of_its_own(tmp_path):
    write_series(tmp_path, volume(4), prefix="a")
    write_series(
        tmp_path, volume(1), ORIENTATIONS["coronal"], prefix="b", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    assert sorted(i.shape[0] for i in dicom.read(tmp_path)) == [1, 4]
    assert not any(i.warnings for i in dicom.read(tmp_path))


def test_copies_are_left_out_with_a_word(tmp_path):
    folder = write_series(tmp_path, volume())
    (folder / "copy.dcm").write_bytes((folder / "f000.dcm").read_bytes())
    image = opened(folder)
    assert image.shape[0] == 5
    assert any("1 files are copies" in w for w in image.warnings)


def test_echoes_are_separate_images(tmp_path):
    for echo in (1, 2):
        write_series(tmp_path, volume() + 1000 * echo, prefix=f"e{echo}", EchoNumbers=echo, Modality="MR",
                     SOPClassUID=MR, RescaleIntercept=0)  # fmt: skip
    images = dicom.read(tmp_path)
    assert [i.name for i in images] == ["MR series 3, echo 1", "MR series 3, echo 2"]
    assert [int(i.levels[0][2, 1, 1]) for i in images] == [1211, 2211]


def test_times_become_a_time_axis(tmp_path):
    for t in range(3):
        write_series(tmp_path, volume() + 1000 * t, prefix=f"t{t}", TriggerTime=40.0 * t, RescaleIntercept=0)
    image = opened(tmp_path)
    assert (image.axes, image.shape) == ("tzyx", (3, 5, 6, 8))
    assert image.seconds_per_frame == pytest.approx(0.04)
    np.testing.assert_array_equal(np.asarray(image.levels[0])[2, 4], volume()[4] + 2000)


def test_echoes_in_time(tmp_path):
    for t in range(2):
        for echo in (1, 2):
            pixels = volume() + 1000 * t + 2000 * echo
            write_series(tmp_path, pixels, prefix=f"{t}{echo}", EchoNumbers=echo, TemporalPositionIdentifier=t + 1)
    images = dicom.read(tmp_path)
    assert [i.axes for i in images] == ["tzyx", "tzyx"]
    assert int(images[1].levels[0][1, 2, 3, 4]) == 234 + 1000 + 4000 - 1024


def test_slices_at_one_place_that_nothing_tells_apart(tmp_path):
    image_folder = write_series(tmp_path, volume(), heights=[0, 2.5, 5, 5, 7.5])
    image = opened(image_folder)
    assert image.shape[0] == 4
    assert any("one plane, at 35 mm" in w for w in image.warnings)


def test_slices_side_by_side_in_one_plane_are_no_volume(tmp_path):
    image = opened(write_series(tmp_path, volume(3), heights=[0, 0, 0], shear=(50, 0, 0), shuffle=False))
    assert image.shape[0] == 1
    assert any("one plane, at 30 mm" in w for w in image.warnings)


def test_a_cut_slice_is_a_gap_not_a_shift(tmp_path):
    folder = write_series(tmp_path, volume(6), shuffle=False)
    whole = (folder / "f002.dcm").read_bytes()
    (folder / "f002.dcm").write_bytes(whole[:-10])
    images = dicom.read(folder)
    assert [i.shape[0] for i in images] == [2, 3]
    assert all(any("left out" in w for w in i.warnings) for i in images)


def test_slices_without_places_are_piled_up_and_said(tmp_path):
    image = opened(write_series(tmp_path, volume(), shuffle=False, ImagePositionPatient=None))
    assert image.shape == (5, 6, 8)
    assert image.geometry.spacing is None
    assert any("no positions" in w for w in image.warnings)


def test_compressed_and_plain_slices_of_one_series_make_one_volume(tmp_path):
    from pydicom.pixels import compress
    from pydicom.uid import RLELossless

    folder = write_series(tmp_path, volume(), shuffle=False)
    data = pydicom.dcmread(folder / "f002.dcm")
    compress(data, RLELossless, generate_instance_uid=False)
    data.BitsStored, data.HighBit = 12, 11
    data.save_as(folder / "f002.dcm")
    np.testing.assert_array_equal(np.asarray(opened(folder).levels[0]), volume().astype(int) - 1024)


def test_many_threads_decode_at_once_and_leave_pydicom_as_it_was(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from pydicom import config

    before = config.settings.reading_validation_mode
    image = opened(write_series(tmp_path, volume(12)))
    with ThreadPoolExecutor(4) as pool:
        planes = list(pool.map(lambda k: np.asarray(image.levels[0][k]), range(12)))
    np.testing.assert_array_equal(np.stack(planes), volume(12).astype(int) - 1024)
    assert config.settings.reading_validation_mode == before


# -- multi-frame --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_enhanced_frames_are_sorted_and_placed(tmp_path, name):
    order = np.array([3, 0, 4, 1, 2])
    save(enhanced(volume()[order], 2.5 * order, ORIENTATIONS[name]), tmp_path / "e.dcm")
    image = opened(tmp_path / "e.dcm")
    np.testing.assert_array_equal(np.asarray(image.levels[0]), volume() * 2 - 5)
    row, column = np.array(ORIENTATIONS[name]).reshape(2, 3)
    lps = np.array((-10, 20, 30)) + 7 * 0.5 * row + 5 * 0.75 * column + 4 * 2.5 * np.cross(row, column)
    np.testing.assert_allclose(image.geometry.index_to_world((4, 5, 7)), lps * (-1, -1, 1), atol=1e-6)


def test_enhanced_time_points(tmp_path):
    pixels = np.concatenate([volume(), volume() + 1000])
    data = enhanced(pixels, [2.5 * (k % 5) for k in range(10)])
    for k, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].TemporalPositionIndex = k // 5 + 1
    save(data, tmp_path / "e.dcm")
    image = opened(tmp_path / "e.dcm")
    assert image.shape == (2, 5, 6, 8)
    np.testing.assert_array_equal(np.asarray(image.levels[0])[1], (volume() + 1000) * 2 - 5)


def test_frames_without_a_description_are_refused(tmp_path):
    data = enhanced(volume(), [0, 1, 2, 3])
    with pytest.raises(InputError, match=r"^e.dcm: describes 4 frames but holds 5"):
        dicom.read(save(data, tmp_path / "e.dcm"))


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [({"FrameTime": 40}, 0.04), ({"CineRate": 20}, 0.05), ({"FrameTimeVector": [0, 30, 50]}, 0.04), ({}, None)],
)
def test_clips(tmp_path, fields, seconds):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 6, 8, 3)).astype(np.uint8)
    save(dataset(pixels, "1.2.840.10008.5.1.4.1.1.3.1", "US", **fields), tmp_path / "c.dcm")
    image = opened(tmp_path / "c.dcm")
    assert (image.axes, image.intensity, image.modality) == ("tyxc", "RGB", Modality.US)
    assert image.seconds_per_frame == (None if seconds is None else pytest.approx(seconds))
    np.testing.assert_array_equal(np.asarray(image.levels[0]), pixels)


def us_region(kind=1, unit=3, delta=0.02):
    return sequence(
        RegionSpatialFormat=kind, PhysicalUnitsXDirection=unit, PhysicalUnitsYDirection=unit,
        PhysicalDeltaX=delta, PhysicalDeltaY=2 * delta,
    )[0]  # fmt: skip


def test_ultrasound_spacing_from_its_one_region(tmp_path):
    pixels = np.zeros((6, 8), np.uint8)
    one = dataset(pixels, "1.2.840.10008.5.1.4.1.1.6.1", "US", SequenceOfUltrasoundRegions=[us_region()])
    image = opened(save(one, tmp_path / "a.dcm"))
    np.testing.assert_allclose(image.geometry.spacing, (0.4, 0.2))
    assert image.geometry.frame == "image"
    two = dataset(pixels, modality="US", SequenceOfUltrasoundRegions=[us_region(), us_region()])
    assert opened(save(two, tmp_path / "b.dcm")).geometry.spacing is None
    doppler = dataset(pixels, modality="US", SequenceOfUltrasoundRegions=[us_region(), us_region(3, 4)])
    image = opened(save(doppler, tmp_path / "c.dcm"))
    np.testing.assert_allclose(image.geometry.spacing, (0.4, 0.2))
    assert any("other regions" in w for w in image.warnings)


# -- pictures -----------------------------------------------------------------------------------


def test_detector_spacing_is_not_the_patients(tmp_path):
    picture = dataset(np.zeros((6, 8), np.uint16), modality="DX", ImagerPixelSpacing=[0.1, 0.2])
    image = opened(save(picture, tmp_path / "a.dcm"))
    assert image.geometry.spacing is None
    assert image.modality is Modality.OT
    assert any("detector" in w and "0.1 x 0.2" in w for w in image.warnings)
    picture.PixelSpacing = [0.3, 0.4]
    assert opened(save(picture, tmp_path / "b.dcm")).geometry.spacing == (0.3, 0.4)


def test_inverted_brightness_is_said(tmp_path):
    picture = dataset(volume(1)[0], modality="CR", PhotometricInterpretation="MONOCHROME1")
    assert any("MONOCHROME1" in w for w in opened(save(picture, tmp_path / "a.dcm")).warnings)


def test_slides_go_to_the_slide_reader(tmp_path, monkeypatch):
    from napari_medseg.case import Geometry
    from napari_medseg.io import wsi

    asked = []

    def slide(path):
        asked.append(path)
        return [MedicalImage((np.zeros((4, 4, 3), np.uint8),), "yxc", Geometry.from_spacing((4, 4), None))]

    monkeypatch.setattr(wsi, "read", slide)
    for name in ("a.dcm", "b.dcm"):
        tiles = np.zeros((2, 4, 4, 3), np.uint8)
        save(dataset(tiles, "1.2.840.10008.5.1.4.1.1.77.1.6", "SM"), tmp_path / name)
    assert opened(tmp_path).identifiers_present
    assert asked == [tmp_path / "a.dcm"]


def test_modality_lookup_table(tmp_path):
    picture = dataset(np.array([[0, 1], [2, 3]], np.uint8), modality="CR")
    picture.ModalityLUTSequence = sequence(LUTDescriptor=[4, 0, 16], LUTData=[5, 50, 500, 5000], ModalityLUTType="US")
    picture.ModalityLUTSequence[0]["LUTDescriptor"].VR = "US"
    picture.ModalityLUTSequence[0]["LUTData"].VR = "US"
    image = opened(save(picture, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(np.asarray(image.levels[0]), [[5, 50], [500, 5000]])


@pytest.mark.parametrize("code", ["CT", "MR", "US", "ES", "XC", "OP", "SM", "PT", "XA"])
def test_modalities(tmp_path, code):
    image = opened(save(dataset(np.zeros((6, 8), np.uint8), modality=code), tmp_path / "a.dcm"))
    assert image.modality is (Modality(code) if code not in ("PT", "XA") else Modality.OT)
    assert image.name == f"{code} series 3"


# -- privacy ------------------------------------------------------------------------------------


def test_identifiers_are_noticed_and_never_kept(tmp_path):
    folder = write_series(
        tmp_path, volume(), SeriesDescription=f"Head of {SECRET.upper()}", ProtocolName="zz-9912 follow-up",
        InstitutionName="Hospital of Nowhere", BodyPartExamined="HEAD", WindowCenter=[40, 400], WindowWidth=[80, 1500],
    )  # fmt: skip
    image = opened(folder)
    assert image.identifiers_present
    everything = f"{image.name} {image.details} {image.warnings} {image.source.format}".lower()
    for secret in (SECRET.lower(), "jane", "zz-9912", "nowhere"):
        assert secret not in everything
    assert image.details["body_part"] == "HEAD"
    assert (image.details["window_centre"], image.details["window_width"]) == ([40.0, 400.0], [80.0, 1500.0])
    assert image.details["series_number"] == 3


def test_no_identifiers(tmp_path):
    folder = write_series(tmp_path, volume(), PatientName="", PatientID=None, SeriesDescription="Head 5 mm")
    image = opened(folder)
    assert not image.identifiers_present
    assert image.details["series_description"] == "Head 5 mm"


def test_strange_values_are_not_quoted_in_python_warnings(tmp_path):
    folder = write_series(tmp_path, volume(2), shuffle=False)
    file = folder / "f000.dcm"
    file.write_bytes(file.read_bytes().replace(b"ZZ-9912", b"\xff\xfe\x01-912"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dicom.read(folder)


# -- real files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["CT_small", "MR_small", "693_J2KI", "examples_overlay", "MR_small_RLE", "MR_small_jpeg_ls_lossless",
     "MR_small_jp2klossless", "MR_small_bigendian", "MR_small_implicit"],
)  # fmt: skip
def test_real_slices_match_itk(name):
    image, other = opened(REAL / f"{name}.dcm"), sitk.ReadImage(str(REAL / f"{name}.dcm"))
    np.testing.assert_array_equal(np.asarray(image.levels[0]), sitk.GetArrayFromImage(other))
    for z, y, x in [(0, 0, 0), (0, 31, 17)]:
        np.testing.assert_allclose(image.geometry.index_to_world((z, y, x)), sitk_to_ras(other)((x, y, z)), atol=1e-5)
    assert image.dtype.isnative


def test_real_slice_with_a_wrong_sign_bit_has_air_at_minus_a_thousand():
    image = opened(REAL / "J2K_pixelrep_mismatch.dcm")
    assert image.intensity == "HU"
    values = np.asarray(image.levels[0])
    assert values.min() == -2000
    assert -1050 < np.median(values[values > -1900][values[values > -1900] < -500]) < -950


def test_real_12_bit_jpeg_matches_itk():
    image, other = opened(REAL / "JPGExtended.dcm"), sitk.ReadImage(str(REAL / "JPGExtended.dcm"))
    np.testing.assert_array_equal(np.asarray(image.levels[0]), sitk.GetArrayFromImage(other)[0])


def test_real_deflated_file():
    image = opened(REAL / "image_dfl.dcm")
    np.testing.assert_array_equal(np.asarray(image.levels[0]), pydicom.dcmread(REAL / "image_dfl.dcm").pixel_array)


def test_real_ultrasound_clip():
    image = opened(REAL / "examples_ybr_color.dcm")
    assert (image.axes, image.shape) == ("tyxc", (30, 240, 320, 3))
    assert image.seconds_per_frame == pytest.approx(1 / 30, rel=1e-3)
    np.testing.assert_allclose(image.geometry.spacing, (0.5104970559, 0.5104970559))
    other = sitk.GetArrayFromImage(sitk.ReadImage(str(REAL / "examples_ybr_color.dcm")))
    # two JPEG decoders round colours differently
    assert np.abs(np.asarray(image.levels[0])[7].astype(int) - other[7]).mean() < 2


def test_real_palette_picture():
    image, other = opened(REAL / "examples_palette.dcm"), sitk.ReadImage(str(REAL / "examples_palette.dcm"))
    found = np.asarray(image.levels[0])
    assert found.shape == (350, 800, 3)
    raw = pydicom.dcmread(REAL / "examples_palette.dcm")
    red = np.frombuffer(raw.RedPaletteColorLookupTableData, "<u2")
    index = raw.pixel_array
    np.testing.assert_array_equal(found[..., 0], red[index] >> 8)
    assert other.GetSize()[:2] == (800, 350)


@pytest.mark.parametrize("name", ["SC_rgb_rle", "SC_rgb_jpeg_gdcm", "SC_rgb_small_odd", "SC_ybr_full_422_uncompressed"])
def test_real_colours(name):
    image, other = opened(REAL / f"{name}.dcm"), sitk.ReadImage(str(REAL / f"{name}.dcm"))
    seen = sitk.GetArrayFromImage(other)
    tolerance = 3 if "ybr" in name else 0
    assert np.abs(np.asarray(image.levels[0]).astype(int) - seen.reshape(image.shape)).max() <= tolerance


def test_real_folder_of_everything():
    images = dicom.read(REAL / "dicomdirtests" / "98892001")
    by_name = {i.name: i for i in images}
    assert by_name["CT series 5"].shape == (5, 16, 16)
    assert by_name["CT series 5"].geometry.spacing[0] == pytest.approx(5 / 2)
    assert all(i.identifiers_present for i in images)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MR_truncated.dcm", "cut short, 8130 of 8192"),
        ("rtstruct.dcm", "radiotherapy structures"),
        ("rtplan.dcm", "radiotherapy plan"),
        ("rtdose.dcm", "radiotherapy dose"),
        ("liver_1frame.dcm", "is a segmentation"),
        ("test-SR.dcm", "report"),
        ("waveform_ecg.dcm", "report or annotation"),
        ("SC_rgb_jpeg.dcm", "not stored in the way"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "cannot be decoded"),
        ("dicomdirtests/DICOMDIR", "open the folder"),
        ("README.txt", "not a DICOM file"),
    ],
)
def test_what_is_no_image_is_one_sentence(name, words):
    with pytest.raises(InputError, match=words) as caught:
        dicom.read(REAL / name)
    message = str(caught.value)
    assert message.startswith(f"{Path(name).name}: ")
    assert "\n" not in message
    assert str(REAL) not in message


# -- compressed pixels --------------------------------------------------------------------------


def lossless(folder, pixels, signed, bits):
    """A file in lossless JPEG, encoded by a library that neither reader here uses for decoding."""
    import imagecodecs
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLosslessSV1

    data = dataset(pixels, "1.2.840.10008.5.1.4.1.1.7", "OT", BitsStored=bits, HighBit=bits - 1)
    data.PixelRepresentation = int(signed)
    frames = pixels if pixels.ndim == 3 else pixels[np.newaxis]
    mask = 2**bits - 1
    coded = [
        imagecodecs.ljpeg_encode((f.astype(np.int64) & mask).astype(np.uint16), bitspersample=bits) for f in frames
    ]
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.PixelData = encapsulate(coded)
    data["PixelData"].is_undefined_length = True
    return save(data, folder / "l.dcm")


@pytest.mark.parametrize(("signed", "bits"), [(False, 16), (False, 12), (True, 16), (True, 12)])
def test_lossless_jpeg(tmp_path, signed, bits):
    pixels = volume(1, 16, 24, np.int16 if signed else np.uint16)[0] * 5
    pixels = pixels - 300 if signed else pixels
    image = opened(lossless(tmp_path, pixels, signed, bits))
    np.testing.assert_array_equal(np.asarray(image.levels[0]), pixels)


def test_frames_of_a_lossless_clip(tmp_path):
    pixels = volume(4, 16, 24, np.uint16)
    image = opened(lossless(tmp_path, pixels, False, 16))
    assert image.axes == "tyx"
    np.testing.assert_array_equal(np.asarray(image.levels[0]), pixels)


@pytest.mark.parametrize(
    "name", ["MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "J2K_pixelrep_mismatch", "693_J2KI"]
)
def test_stand_in_decoders_agree(name):
    file = REAL / f"{name}.dcm"
    syntax = str(pydicom.dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    np.testing.assert_array_equal(codecs._by_imagecodecs(file, 0, syntax), codecs.decoded_frame(file, 0, syntax))


def test_damaged_jpeg_does_not_end_the_process(tmp_path):
    """GDCM aborts on some of these; a decoder that does must not be asked."""
    whole = (REAL / "SC_rgb_small_odd_jpeg.dcm").read_bytes()
    random = np.random.default_rng(11)
    for _ in range(300):
        raw = np.frombuffer(whole, np.uint8).copy()
        at = random.integers(len(raw) - 700, len(raw), 6)
        raw[at] = random.integers(0, 256, 6)
        (tmp_path / "v.dcm").write_bytes(raw.tobytes())
        try:
            np.asarray(opened(tmp_path / "v.dcm").levels[0])
        except InputError as error:
            assert str(error).startswith("v.dcm: ")


def test_what_is_missing_is_said(monkeypatch):
    import imagecodecs

    assert codecs.readable() == dict.fromkeys(("JPEG", "JPEG Lossless", "JPEG-LS", "JPEG 2000", "RLE"), True)
    monkeypatch.setattr(imagecodecs.JPEGSOF3, "available", False)
    assert [name for name, there in codecs.readable().items() if not there] == ["JPEG Lossless"]


def test_gdcm_is_never_asked(monkeypatch):
    """Not even where it is installed, and would be the first that pydicom asks."""
    from pydicom.pixels import get_decoder

    asked = []
    for name in ("693_J2KI", "SC_rgb_jpeg_gdcm", "MR_small_jpeg_ls_lossless", "examples_ybr_color", "JPGExtended"):
        decoder = get_decoder(
            pydicom.dcmread(REAL / f"{name}.dcm", stop_before_pixels=True).file_meta.TransferSyntaxUID
        )
        others = {k: v for k, v in decoder._available.items() if k != "gdcm"}
        monkeypatch.setattr(decoder, "_available", {"gdcm": lambda *a: asked.append(a), **others})
        np.asarray(opened(REAL / f"{name}.dcm").levels[0])
    assert not asked


def test_unknown_compression_is_named_as_such(tmp_path):
    from pydicom.encaps import encapsulate

    data = dataset(volume(1)[0])
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.52"
    data.PixelData = encapsulate([b"\xff\xd8" + b"\0" * 40])
    data["PixelData"].is_undefined_length = True
    with pytest.raises(InputError, match=r"^v.dcm: .*cannot be decoded"):
        dicom.read(save(data, tmp_path / "v.dcm"))
