import bz2
import gzip
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_medseg.case import Geometry, InputError, LabelTable, Segmentation
from napari_medseg.io import itk, open_segmentation
from tests.io.volume_cases import (
    AFFINES,
    HISTORY,
    TABLE,
    affine_of,
    blob_labels,
    centroids_ras,
    rotation,
    segmentation,
    sitk_to_ras,
)

ENDINGS = [".nrrd", ".mha"]


def opened(path):
    [image] = itk.read(path)
    return image


def sitk_volume(data_zyx, affine_ras_xyz, vector=False):
    image = sitk.GetImageFromArray(data_zyx, isVector=vector)
    lps = np.diag((-1, -1, 1, 1)) @ affine_ras_xyz
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing([float(v) for v in spacing])
    image.SetDirection([float(v) for v in (lps[:3, :3] / spacing).ravel()])
    image.SetOrigin([float(v) for v in lps[:3, 3]])
    return image


def nrrd(path, data_zyx, *fields, encoding="raw", pack=bytes, kind="short", dtype="<i2", body=None, sizes=None):
    sizes = sizes or " ".join(str(n) for n in reversed(data_zyx.shape))
    lines = [
        f"type: {kind}",
        f"dimension: {len(sizes.split())}",
        f"sizes: {sizes}",
        "endian: little",
        f"encoding: {encoding}",
    ]
    head = "\n".join(["NRRD0005", "# a comment", *lines, *fields, "", ""]).encode()
    path.write_bytes(head + (pack(np.ascontiguousarray(data_zyx, dtype).tobytes()) if body is None else body))
    return path


DATA = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
LPS = (
    "space: left-posterior-superior",
    "space directions: (2,0,0) (0,3,0) (0,0,4)",
    "space origin: (10,20,30)",
)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nhdr", ".mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_voxel_lies_where_itk_puts_it(tmp_path, name, ending, packed):
    path = tmp_path / f"v{ending}"
    sitk.WriteImage(sitk_volume(DATA, AFFINES[name]), str(path), packed)
    image, other = opened(path), sitk.ReadImage(str(path))
    assert (image.axes, image.geometry.frame, image.geometry.unit) == ("zyx", "patient", "mm")
    np.testing.assert_allclose(image.geometry.xyz_affine, AFFINES[name], atol=1e-9)
    np.testing.assert_array_equal(np.asarray(image.levels[0]), sitk.GetArrayFromImage(other))
    for z, y, x in [(0, 0, 0), (2, 0, 0), (0, 3, 0), (0, 0, 4), (1, 2, 3)]:
        np.testing.assert_allclose(image.geometry.index_to_world((z, y, x)), sitk_to_ras(other)((x, y, z)), atol=1e-9)
        assert int(image.levels[0][z, y, x]) == other.GetPixel(x, y, z)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_kind_of_number(tmp_path, ending, dtype):
    data = (np.arange(60).reshape(3, 4, 5) - (0 if dtype[0] == "u" else 30)).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(data), str(tmp_path / f"v{ending}"))
    image = opened(tmp_path / f"v{ending}")
    assert image.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(image.levels[0]), data)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(ENDINGS),
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.floats(0.05, 20)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.tuples(*[st.sampled_from((-1, 1))] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
)
def test_labels_come_back_to_the_same_place(tmp_path, ending, angles, spacing, origin, flips, shape):
    affine = affine_of(rotation(angles) @ np.diag(flips), spacing, origin)
    labels = np.random.default_rng(1).integers(0, 4, shape).astype(np.uint8)
    written = Segmentation(labels, Geometry.from_xyz_affine(shape, affine))
    itk.write_segmentation(written, tmp_path / f"l{ending}", overwrite=True)
    other = sitk.ReadImage(str(tmp_path / f"l{ending}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(other), labels)
    corner = [n - 1 for n in shape]
    np.testing.assert_allclose(written.geometry.index_to_world(corner), sitk_to_ras(other)(corner[::-1]), atol=1e-6)
    assert itk.read_segmentation(tmp_path / f"l{ending}").geometry.is_close(written.geometry)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_written_labels_reopened_by_itk(tmp_path, name, ending):
    path, labels = tmp_path / f"labels{ending}", segmentation(AFFINES[name])
    itk.write_segmentation(labels, path, overwrite=False)
    other = sitk.ReadImage(str(path))
    meant = centroids_ras(labels.data, lambda p: labels.geometry.index_to_world(p[::-1]))
    seen = centroids_ras(sitk.GetArrayFromImage(other), sitk_to_ras(other))
    assert meant.keys() == seen.keys() == {1, 3, 7}
    for label, place in meant.items():
        np.testing.assert_allclose(seen[label], place, atol=1e-6)
    assert other.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    back = itk.read_segmentation(path)
    assert (back.table, back.provenance, back.name) == (TABLE, HISTORY, "my labels")


def test_a_long_history_fits_into_metaimage(tmp_path):
    names = LabelTable.from_names([f"structure number {k} with a long name" for k in range(1, 400)])
    labels = Segmentation(blob_labels((5, 6, 9)), Geometry.from_xyz_affine((5, 6, 9), AFFINES["axial"]), names)
    itk.write_segmentation(labels, tmp_path / "l.mha", overwrite=False)
    assert itk.read_segmentation(tmp_path / "l.mha").table == names
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "l.mha"))), labels.data)


def test_slicer_sees_names_and_colours(tmp_path):
    itk.write_segmentation(segmentation(AFFINES["axial"]), tmp_path / "l.seg.nrrd", overwrite=False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(tmp_path / "l.seg.nrrd"))
    reader.ReadImageInformation()
    assert reader.GetMetaData("Segment0_Name") == "liver, left"
    assert reader.GetMetaData("Segment1_LabelValue") == "3"
    assert [round(255 * float(v)) for v in reader.GetMetaData("Segment0_Color").split()] == [10, 20, 30]


def test_slicers_own_names_are_read(tmp_path):
    keys = ["Segment0_Name:=kidney", "Segment0_LabelValue:=2", "Segment0_Color:=1 0.5 0", "Segment1_Name:=rib"]
    entry = "General list~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~^^~Other list~^^~^^|"
    keys.append(f"Segment0_Tags:=Segmentation.Status:inprogress|TerminologyEntry:{entry}")
    nrrd(tmp_path / "s.seg.nrrd", np.array([[[0, 1], [2, 2]]]), *LPS, *keys, "Segment1_LabelValue:=1")
    labels = open_segmentation(tmp_path / "s.seg.nrrd")
    assert {e.id: e.name for e in labels.table} == {2: "kidney", 1: "rib"}
    assert labels.table.colour(2) == (255, 128, 0)
    assert {e.id: e.terminology for e in labels.table} == {2: ("SCT", "64033007", "Kidney"), 1: None}


def test_overlapping_segments_are_refused(tmp_path):
    directions = "space directions: none (2,0,0) (0,3,0) (0,0,4)"
    layers = np.zeros((2, 2, 2, 2), np.int16)
    nrrd(tmp_path / "s.seg.nrrd", layers, LPS[0], directions, "kinds: list domain domain domain", "Segment0_Name:=a")
    with pytest.raises(InputError, match=r"^s.seg.nrrd: .*several layers"):
        itk.read_segmentation(tmp_path / "s.seg.nrrd")


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("LAS", (-1, 1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
    ],
)
def test_nrrd_spaces(tmp_path, space, signs):
    image = opened(nrrd(tmp_path / "v.nrrd", DATA, f"space: {space}", *LPS[1:]))
    np.testing.assert_allclose(image.geometry.index_to_world((1, 1, 1)), np.array((12, 23, 34)) * signs)
    if space != "LAS":  # ITK gets the mirror of LAS wrong in some versions
        other = sitk.ReadImage(str(tmp_path / "v.nrrd"))
        np.testing.assert_allclose(image.geometry.index_to_world((1, 1, 1)), sitk_to_ras(other)((1, 1, 1)))


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("raw", bytes),
        ("gzip", gzip.compress),
        ("bz2", bz2.compress),
        ("ascii", lambda b: " ".join(str(v) for v in np.frombuffer(b, "<i2")).encode()),
    ],
)
def test_nrrd_encodings(tmp_path, encoding, pack):
    path = nrrd(tmp_path / "v.nrrd", DATA, *LPS, encoding=encoding, pack=pack)
    np.testing.assert_array_equal(np.asarray(opened(path).levels[0]), DATA)


def test_big_endian_is_turned_round(tmp_path):
    head = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\nendian: big\n" + "\n".join(LPS) + "\n\n"
    (tmp_path / "v.nrrd").write_bytes(head.encode() + DATA.astype(">i2").tobytes())
    assert opened(tmp_path / "v.nrrd").dtype.isnative
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "v.nrrd").levels[0]), DATA)
    meta = (
        "NDims = 3\nDimSize = 5 4 3\nElementSpacing = 1 2 3\nBinaryDataByteOrderMSB = True\nElementType = MET_SHORT\n"
    )
    (tmp_path / "v.mha").write_bytes((meta + "ElementDataFile = LOCAL\n").encode() + DATA.astype(">i2").tobytes())
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "v.mha").levels[0]), DATA)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "v.mha"))), DATA)


def test_shear_is_kept(tmp_path):
    path = nrrd(tmp_path / "v.nrrd", DATA, LPS[0], "space directions: (2,0,0) (0,3,0) (0,1,4)", LPS[2])
    np.testing.assert_allclose(opened(path).geometry.index_to_world((2, 0, 0)), (-10, -22, 38))


def test_no_spacing_is_unknown(tmp_path):
    image = opened(nrrd(tmp_path / "v.nrrd", DATA))
    assert image.geometry.spacing is None
    assert image.warnings
    meta = b"NDims = 3\nDimSize = 5 4 3\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "v.mha").write_bytes(meta + DATA.tobytes())
    assert opened(tmp_path / "v.mha").geometry.spacing is None


def test_spacings_without_a_space_say_so(tmp_path):
    image = opened(nrrd(tmp_path / "v.nrrd", DATA, "spacings: 2 3 4"))
    assert image.geometry.spacing == (4.0, 3.0, 2.0)
    assert any("left and right" in w for w in image.warnings)


def test_micrometres_become_millimetres(tmp_path):
    image = opened(nrrd(tmp_path / "v.nrrd", DATA, *LPS, 'space units: "um" "um" "um"'))
    np.testing.assert_allclose(image.geometry.spacing, (0.004, 0.003, 0.002))


def test_vector_pixels_are_channels(tmp_path):
    data = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    for ending in ENDINGS:
        sitk.WriteImage(sitk_volume(data, AFFINES["oblique"], vector=True), str(tmp_path / f"v{ending}"))
        image = opened(tmp_path / f"v{ending}")
        assert (image.axes, image.intensity, len(image.channels)) == ("zyxc", "RGB", 3)
        np.testing.assert_array_equal(np.asarray(image.levels[0]), data)
        np.testing.assert_allclose(image.geometry.xyz_affine, AFFINES["oblique"], atol=1e-9)


def test_flat_pictures(tmp_path):
    flat = sitk.GetImageFromArray(DATA[0])
    flat.SetSpacing((0.5, 0.25))
    flat.SetOrigin((3.0, 4.0))
    for ending in ENDINGS:
        sitk.WriteImage(flat, str(tmp_path / f"v{ending}"))
        image = opened(tmp_path / f"v{ending}")
        assert (image.axes, image.geometry.frame, image.geometry.spacing) == ("yx", "image", (0.25, 0.5))
        np.testing.assert_allclose(image.geometry.index_to_world((2, 4)), (3 + 4 * 0.5, 4 + 2 * 0.25, 0))
        np.testing.assert_array_equal(np.asarray(image.levels[0]), DATA[0])


def test_a_slice_in_space_keeps_its_place(tmp_path):
    path = nrrd(tmp_path / "v.nrrd", DATA[0], LPS[0], "space directions: (0,2,0) (0,0,3)", LPS[2])
    image = opened(path)
    assert (image.axes, image.shape) == ("zyx", (1, 4, 5))
    np.testing.assert_allclose(image.geometry.index_to_world((0, 3, 4)), (-10, -(20 + 8), 30 + 9))
    np.testing.assert_array_equal(np.asarray(image.levels[0])[0], DATA[0])


def test_time_axis(tmp_path):
    data = np.arange(2 * 60, dtype=np.int16).reshape(2, 3, 4, 5)
    path = nrrd(tmp_path / "v.nrrd", data, LPS[0], LPS[1] + " none", LPS[2], "kinds: domain domain domain time")
    image = opened(path)
    assert image.axes == "tzyx"
    np.testing.assert_array_equal(np.asarray(image.levels[0]), data)
    four = sitk.GetImageFromArray(data, isVector=False)
    sitk.WriteImage(four, str(tmp_path / "v.mha"))
    assert opened(tmp_path / "v.mha").axes == "tzyx"


@pytest.mark.parametrize("ending", ENDINGS)
def test_time_series_of_labels(tmp_path, ending):
    labels = segmentation(AFFINES["oblique"], (4, 5, 6, 9), seconds_per_frame=0.25)
    itk.write_segmentation(labels, tmp_path / f"l{ending}", overwrite=False)
    back = itk.read_segmentation(tmp_path / f"l{ending}")
    assert back.axes == "tzyx"
    np.testing.assert_array_equal(np.asarray(back.data), labels.data)
    other = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"l{ending}")))
    if ending == ".nrrd":
        other = np.moveaxis(other, -1, 0)  # ITK calls the time points components
    np.testing.assert_array_equal(other, labels.data)
    if ending == ".nrrd":
        assert back.seconds_per_frame == 0.25


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("unit", ["mm", "um", None])
def test_labels_on_a_picture_come_back_as_they_were(tmp_path, ending, unit):
    grid = Geometry.from_spacing((6, 9), None if unit is None else (0.5, 0.25), unit, "image", (10.0, 20.0, 0.0))
    labels = Segmentation(blob_labels((1, 6, 9))[0], grid, TABLE)
    itk.write_segmentation(labels, tmp_path / f"l{ending}", overwrite=False)
    back = itk.read_segmentation(tmp_path / f"l{ending}")
    assert back.axes == "yx"
    assert back.geometry.is_close(grid)
    if unit:
        place = sitk.ReadImage(str(tmp_path / f"l{ending}")).TransformContinuousIndexToPhysicalPoint((8.0, 5.0, 0.0))
        scale = 1.0 if unit == "mm" else 1e-3
        np.testing.assert_allclose(place[:2], (scale * (10 + 8 * 0.25), scale * (20 + 5 * 0.5)), rtol=1e-9)


@pytest.mark.parametrize("ending", [".mha", ".mhd"])
def test_metaimage_that_keeps_the_fields_of_a_nifti(tmp_path, ending):
    source = Path(nibabel.__file__).parent / "tests/data/anatomical.nii"
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.ReadImage(str(source)), str(path))
    assert b"dim[0] = " in path.read_bytes()
    image, other = opened(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(np.asarray(image.levels[0]), sitk.GetArrayFromImage(other))
    for z, y, x in [(0, 0, 0), (24, 0, 0), (0, 40, 0), (0, 0, 32), (11, 22, 30)]:
        there = np.array(other.TransformIndexToPhysicalPoint((x, y, z))) * (-1, -1, 1)
        np.testing.assert_allclose(image.geometry.index_to_world((z, y, x)), there, atol=1e-6)


def test_lines_of_text_are_no_metaimage(tmp_path):
    (tmp_path / "a.mha").write_text("a = 1\nb[0] = 2\n")
    (tmp_path / "b.mha").write_text("ObjectType = Image\nNDims = 3\nfile notes = two\nlines\n")
    with pytest.raises(InputError, match=r"^a\.mha: not a NRRD or MetaImage"):
        itk.read(tmp_path / "a.mha")
    with pytest.raises(InputError, match=r"^b\.mha: .*no field 'ElementDataFile'"):
        itk.read(tmp_path / "b.mha")


def test_detached_data(tmp_path):
    for k in range(3):
        (tmp_path / f"s{k}.raw").write_bytes(DATA[k].astype("<i2").tobytes())
    (tmp_path / "all.raw.gz").write_bytes(gzip.compress(DATA.tobytes()))
    nrrd(tmp_path / "a.nhdr", DATA, *LPS, "data file: LIST", body=b"s0.raw\ns1.raw\ns2.raw\n")
    written = (tmp_path / "a.nhdr").read_bytes()
    (tmp_path / "a2.nhdr").write_bytes(written.replace(b"LIST\n\n", b"LIST\n"))
    nrrd(tmp_path / "b.nhdr", DATA, *LPS, "data file: s%d.raw 0 2 1", body=b"")
    nrrd(tmp_path / "c.nhdr", DATA, *LPS, "data file: all.raw.gz", encoding="gzip", body=b"")
    meta = "NDims = 3\nDimSize = 5 4 3\nElementSpacing = 1 1 2\nElementType = MET_SHORT\nElementDataFile = "
    (tmp_path / "d.mhd").write_text(meta + "s%d.raw 0 2 1\n")
    (tmp_path / "e.mhd").write_text(meta + "LIST\ns0.raw\ns1.raw\ns2.raw\n")
    for name in ("a.nhdr", "a2.nhdr", "b.nhdr", "c.nhdr", "d.mhd", "e.mhd"):
        np.testing.assert_array_equal(np.asarray(opened(tmp_path / name).levels[0]), DATA)


@pytest.mark.parametrize("named", ["../secret.raw", "/secret.raw"])
def test_data_outside_the_folder_is_refused(tmp_path, named):
    nrrd(tmp_path / "a.nhdr", DATA, *LPS, f"data file: {named}", body=b"")
    with pytest.raises(InputError, match=r"^a.nhdr: .*outside its own folder"):
        itk.read(tmp_path / "a.nhdr")


def test_skips(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"line one\nline two\nxyz" + DATA.tobytes())
    nrrd(tmp_path / "a.nhdr", DATA, *LPS, "data file: a.raw", "line skip: 2", "byte skip: 3", body=b"")
    nrrd(tmp_path / "b.nhdr", DATA, *LPS, "data file: a.raw", "byte skip: -1", body=b"")
    for name in ("a.nhdr", "b.nhdr"):
        np.testing.assert_array_equal(np.asarray(opened(tmp_path / name).levels[0]), DATA)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["data file: gone.raw"], "missing"),
        (["type: block"], "block"),
        (["encoding: hex"], "hex"),
        (["sizes: 5 4"], "sizes"),
        (["sizes: 5 4 three"], "number"),
        (["space directions: (2,0,0) (2,0,0) (0,0,4)"], "regular grid"),
        (["sizes: 5 4 300"], "cut short"),
    ],
)
def test_damaged_headers_are_one_sentence(tmp_path, fields, words):
    with pytest.raises(InputError, match=f"^v.nrrd: .*{words}") as caught:
        itk.read(nrrd(tmp_path / "v.nrrd", DATA, *LPS, *fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_cut_compressed_files_are_found_on_opening(tmp_path, ending):
    data = np.random.default_rng(0).integers(0, 1000, (8, 40, 40)).astype(np.int16)
    sitk.WriteImage(sitk_volume(data, AFFINES["axial"]), str(tmp_path / f"w{ending}"), True)
    whole = (tmp_path / f"w{ending}").read_bytes()
    (tmp_path / f"v{ending}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=f"^v{ending}: "):
        itk.read(tmp_path / f"v{ending}")


def test_whole_zlib_stream_is_read(tmp_path):
    meta = "NDims = 3\nDimSize = 5 4 3\nElementSpacing = 1 1 2\nCompressedData = True\nElementType = MET_SHORT\n"
    (tmp_path / "v.mha").write_bytes((meta + "ElementDataFile = LOCAL\n").encode() + zlib.compress(DATA.tobytes()))
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "v.mha").levels[0]), DATA)


def test_labels_are_not_split_over_two_files(tmp_path):
    for name, other in (("l.nhdr", ".nrrd"), ("l.mhd", ".mha")):
        with pytest.raises(InputError, match=f"use {other}"):
            itk.write_segmentation(segmentation(AFFINES["axial"]), tmp_path / name, overwrite=False)
    assert list(tmp_path.iterdir()) == []
