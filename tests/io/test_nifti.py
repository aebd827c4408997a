import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_medseg.case import Geometry, InputError, LabelTable, Segmentation
from napari_medseg.io import nifti, open_images, open_segmentation
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

NIBABEL_DATA = Path(nib.__file__).parent / "tests" / "data"


def save(path, data, affine=None, code=1, units=("mm", "sec"), **fields):
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine)
    image.set_sform(affine, code if affine is not None else 0)
    image.set_qform(affine, code if affine is not None else 0)
    image.header.set_xyzt_units(*units)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def opened(path):
    [image] = nifti.read(path)
    return image


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_every_voxel_lies_where_nibabel_and_itk_put_it(tmp_path, name, ending):
    data = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    path = save(tmp_path / f"v{ending}", data, AFFINES[name])
    image, other, itk = opened(path), nib.load(path), sitk.ReadImage(str(path))
    assert image.axes == "zyx"
    assert image.geometry.frame == "patient"
    assert image.geometry.unit == "mm"
    np.testing.assert_array_equal(np.asarray(image.levels[0]), data.transpose(2, 1, 0))
    for x, y, z in [(0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 5), (1, 2, 3)]:
        here = image.geometry.index_to_world((z, y, x))
        np.testing.assert_allclose(here, nib.affines.apply_affine(other.affine, (x, y, z)), atol=1e-5)
        np.testing.assert_allclose(here, sitk_to_ras(itk)((x, y, z)), atol=1e-4)
        assert int(image.levels[0][z, y, x]) == itk.GetPixel(x, y, z) == data[x, y, z]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.floats(0.05, 20)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.tuples(*[st.sampled_from((-1, 1))] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
)
def test_labels_come_back_to_the_same_place(tmp_path, angles, spacing, origin, flips, shape):
    affine = affine_of(rotation(angles) @ np.diag(flips), spacing, origin)
    labels = np.random.default_rng(1).integers(0, 4, shape).astype(np.uint8)
    written = Segmentation(labels, Geometry.from_xyz_affine(shape, affine))
    path = tmp_path / "l.nii"
    nifti.write_segmentation(written, path, overwrite=True)
    # and to an independent reader's eye
    np.testing.assert_allclose(nib.load(path).affine, affine, atol=1e-6 * max(1, *np.abs(origin)) + 1e-5)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj).T, labels)
    assert nifti.read_segmentation(path).geometry.is_close(written.geometry)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_written_labels_reopened_by_nibabel_and_itk(tmp_path, name, ending):
    path = tmp_path / f"labels{ending}"
    labels = segmentation(AFFINES[name])
    nifti.write_segmentation(labels, path, overwrite=False)
    meant = centroids_ras(labels.data, lambda p: labels.geometry.index_to_world(p[::-1]))
    by_nibabel = nib.load(path)
    seen = centroids_ras(np.asarray(by_nibabel.dataobj).T, lambda p: nib.affines.apply_affine(by_nibabel.affine, p))
    itk = sitk.ReadImage(str(path))
    seen_itk = centroids_ras(sitk.GetArrayFromImage(itk), sitk_to_ras(itk))
    assert meant.keys() == seen.keys() == seen_itk.keys() == {1, 3, 7}
    for label, place in meant.items():
        np.testing.assert_allclose(seen[label], place, atol=1e-4)
        np.testing.assert_allclose(seen_itk[label], place, atol=1e-3)
    assert by_nibabel.get_data_dtype() == np.uint8
    back = nifti.read_segmentation(path)
    assert back.table == TABLE
    assert back.provenance == HISTORY
    assert back.name == "my labels"


def test_shear_survives_because_the_qform_stays_out_of_it(tmp_path):
    affine = AFFINES["axial"].copy()
    affine[:3, 2] += (0, 0.9, 0)
    labels = segmentation(affine)
    nifti.write_segmentation(labels, tmp_path / "s.nii", overwrite=False)
    header = nib.load(tmp_path / "s.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
    np.testing.assert_allclose(nib.load(tmp_path / "s.nii").affine, affine, atol=1e-5)


def test_real_4d_brain_has_time():
    image = opened(NIBABEL_DATA / "functional.nii")
    reference = nib.load(NIBABEL_DATA / "functional.nii")
    assert image.axes == "tzyx"
    assert image.shape == (20, 3, 21, 17)
    assert image.seconds_per_frame == reference.header.get_zooms()[3]
    np.testing.assert_allclose(np.asarray(image.levels[0]).T, reference.get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(image.geometry.xyz_affine, reference.affine)
    assert image.dtype == np.float32


def test_scaling_is_applied_to_what_is_read(tmp_path):
    path = save(tmp_path / "v.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5), AFFINES["axial"])
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([0.5, -10], "<f4").tobytes()
    path.write_bytes(raw)
    image = opened(path)
    assert image.dtype == np.float32
    assert image.levels[0][2, 1, 1] == nib.load(path).get_fdata()[1, 1, 2] == 0.5 * (1 * 20 + 1 * 5 + 2) - 10


def test_32_bit_integers_are_scaled_in_double_precision(tmp_path):
    path = save(tmp_path / "v.nii", np.full((2, 2, 2), 2**30 + 1, np.int32), AFFINES["axial"])
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([2, 0], "<f4").tobytes()
    path.write_bytes(raw)
    assert opened(path).levels[0][0, 0, 0] == 2**31 + 2


def test_big_endian_gives_native_pixels(tmp_path):
    data = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    image = nib.Nifti1Image(data, AFFINES["oblique"], nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "b.nii")
    assert opened(tmp_path / "b.nii").dtype.isnative
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "b.nii").levels[0]).T, data)
    np.testing.assert_allclose(opened(tmp_path / "b.nii").geometry.xyz_affine, AFFINES["oblique"], atol=1e-5)


def test_unknown_spacing_stays_unknown(tmp_path):
    image = opened(save(tmp_path / "v.nii", np.ones((3, 4, 5), np.uint8), None, 0, ("unknown", "unknown")))
    assert image.geometry.spacing is None
    assert any("neither spacing nor orientation" in w for w in image.warnings)


def test_spacing_without_orientation_is_kept_and_said(tmp_path):
    path = save(tmp_path / "v.nii", np.ones((3, 4, 5), np.uint8), None, 0)
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array([2, 3, 4], "<f4").tobytes()
    path.write_bytes(raw)
    image = opened(path)
    assert image.geometry.spacing == (4.0, 3.0, 2.0)
    assert any("left and right may be swapped" in w for w in image.warnings)
    np.testing.assert_allclose(image.geometry.xyz_affine, nib.load(path).affine)


def test_missing_unit_is_millimetres_with_a_warning(tmp_path):
    image = opened(save(tmp_path / "v.nii", np.ones((3, 4, 5), np.uint8), AFFINES["axial"], 1, ("unknown", "unknown")))
    assert image.geometry.unit == "mm"
    assert any("millimetres are assumed" in w for w in image.warnings)


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1e-3), ("meter", 1e3)])
def test_other_units_become_millimetres(tmp_path, unit, factor):
    image = opened(save(tmp_path / "v.nii", np.ones((3, 4, 5), np.uint8), AFFINES["axial"], 1, (unit, "unknown")))
    np.testing.assert_allclose(image.geometry.xyz_affine[:3], factor * AFFINES["axial"][:3], rtol=1e-6)


def test_sform_wins_over_a_different_qform_and_says_so(tmp_path):
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), AFFINES["axial"])
    image.set_sform(AFFINES["axial"], 1)
    image.set_qform(AFFINES["sagittal"], 1)
    nib.save(image, tmp_path / "v.nii")
    found = opened(tmp_path / "v.nii")
    np.testing.assert_allclose(found.geometry.xyz_affine, AFFINES["axial"], atol=1e-5)
    assert any("sform" in w and "qform" in w for w in found.warnings)
    assert not opened(save(tmp_path / "w.nii", np.ones((3, 4, 5), np.uint8), AFFINES["oblique"])).warnings


def test_flat_sform_falls_back_to_the_qform(tmp_path):
    path = save(tmp_path / "v.nii", np.ones((3, 4, 5), np.uint8), AFFINES["axial"])
    raw = bytearray(path.read_bytes())
    raw[280:328] = bytes(48)
    path.write_bytes(raw)
    found = opened(path)
    np.testing.assert_allclose(found.geometry.xyz_affine, AFFINES["axial"], atol=1e-5)
    assert any("sform is damaged" in w for w in found.warnings)


def test_five_axes_are_channels(tmp_path):
    data = np.arange(2 * 3 * 4 * 1 * 3, dtype=np.float32).reshape(2, 3, 4, 1, 3)
    image = opened(save(tmp_path / "v.nii", data, AFFINES["axial"]))
    assert image.axes == "zyxc"
    assert len(image.channels) == 3
    np.testing.assert_array_equal(np.asarray(image.levels[0]), data[:, :, :, 0].transpose(2, 1, 0, 3))
    both = np.arange(2 * 3 * 4 * 5 * 2, dtype=np.float32).reshape(2, 3, 4, 5, 2)
    image = opened(save(tmp_path / "w.nii", both, AFFINES["axial"]))
    assert image.axes == "tzyxc"
    np.testing.assert_array_equal(np.asarray(image.levels[0]), both.transpose(3, 2, 1, 0, 4))


def test_spectral_axis_is_channels(tmp_path):
    image = opened(save(tmp_path / "v.nii", np.ones((2, 3, 4, 5), np.int16), AFFINES["axial"], 1, ("mm", "ppm")))
    assert image.axes == "zyxc"


def test_colour_volumes(tmp_path):
    colours = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    packed = colours.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    image = opened(save(tmp_path / "v.nii", packed, AFFINES["axial"]))
    assert (image.axes, image.intensity, image.channels) == ("zyxc", "RGB", ("red", "green", "blue"))
    np.testing.assert_array_equal(np.asarray(image.levels[0]), colours.transpose(2, 1, 0, 3))


def test_two_axes_become_one_slice(tmp_path):
    image = opened(save(tmp_path / "v.nii", np.arange(12, dtype=np.uint8).reshape(3, 4), AFFINES["axial"]))
    assert image.axes == "zyx"
    assert image.shape == (1, 4, 3)


def test_name_does_not_decide_whether_it_is_compressed(tmp_path):
    plain = save(tmp_path / "v.nii", np.arange(24, dtype=np.uint8).reshape(2, 3, 4), AFFINES["axial"])
    (tmp_path / "a.nii").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "b.nii.gz").write_bytes(plain.read_bytes())
    for name in ("a.nii", "b.nii.gz"):
        np.testing.assert_array_equal(
            np.asarray(opened(tmp_path / name).levels[0]), np.asarray(opened(plain).levels[0])
        )


def test_gzip_of_several_members_is_whole(tmp_path):
    plain = save(tmp_path / "v.nii", np.arange(24, dtype=np.uint8).reshape(2, 3, 4), AFFINES["axial"])
    raw = plain.read_bytes()
    (tmp_path / "m.nii.gz").write_bytes(gzip.compress(raw[:360]) + gzip.compress(raw[360:]))
    np.testing.assert_array_equal(
        np.asarray(opened(tmp_path / "m.nii.gz").levels[0]), np.asarray(opened(plain).levels[0])
    )


def test_some_nan_is_a_warning(tmp_path):
    data = np.ones((4, 5, 6), np.float32)
    data[:2] = np.nan
    image = opened(save(tmp_path / "v.nii", data, AFFINES["axial"]))
    assert any("NaN" in w for w in image.warnings)


# -- labels -------------------------------------------------------------------------------------


def test_foreign_labels_get_plain_names(tmp_path):
    path = save(tmp_path / "l.nii.gz", blob_labels((5, 6, 9)).T, AFFINES["coronal"])
    labels = open_segmentation(path)
    assert {e.id: e.name for e in labels.table} == {1: "label 1", 3: "label 3", 7: "label 7"}
    assert labels.provenance.steps[-1].action == "import"


def test_caret_label_table_gives_names_and_colours(tmp_path):
    image = nib.Nifti1Image(blob_labels((5, 6, 9)).T, AFFINES["axial"])
    table = (
        '<?xml version="1.0"?><CaretExtension><VolumeInformation Index="0"><LabelTable>'
        '<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0"><![CDATA[???]]></Label>'
        '<Label Key="1" Red="1" Green="0.5" Blue="0" Alpha="1"><![CDATA[spleen]]></Label>'
        '<Label Key="3" Red="0" Green="0" Blue="1" Alpha="1">left &amp; right</Label>'
        "</LabelTable></VolumeInformation></CaretExtension>"
    )
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, table.encode()))
    nib.save(image, tmp_path / "l.nii.gz")
    labels = nifti.read_segmentation(tmp_path / "l.nii.gz")
    assert [(e.id, e.name) for e in labels.table] == [(1, "spleen"), (3, "left & right"), (7, "label 7")]
    assert labels.table.colour(1) == (255, 128, 0)


def test_whole_floats_are_labels_and_that_is_recorded(tmp_path):
    labels = nifti.read_segmentation(save(tmp_path / "l.nii", blob_labels((5, 6, 9), np.float64).T, AFFINES["axial"]))
    assert labels.data.dtype == np.uint8
    assert labels.provenance.steps[-1].details["converted_from"] == "float64"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.full((2, 2, 2), 0.5, np.float32), "not whole numbers"),
        (np.array([[[1.0, np.nan]]], np.float32), "not whole numbers"),
        (np.full((2, 2, 2), -1, np.int16), "negative"),
        (np.ones((2, 2, 2, 1, 3), np.uint8), "channels"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path, data, words):
    with pytest.raises(InputError, match=f"^l.nii: .*{words}"):
        nifti.read_segmentation(save(tmp_path / "l.nii", data, AFFINES["axial"]))


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.int32), (2**31 - 1, np.int32)],
)
def test_the_smallest_type_that_holds_the_ids(tmp_path, largest, dtype):
    labels = np.zeros((2, 3, 4), np.uint64)
    labels[1, 2, 3] = largest
    grid = Geometry.from_xyz_affine((2, 3, 4), AFFINES["axial"])
    nifti.write_segmentation(Segmentation(labels, grid), tmp_path / "l.nii", overwrite=False)
    assert nib.load(tmp_path / "l.nii").get_data_dtype() == dtype
    assert int(np.asarray(nifti.read_segmentation(tmp_path / "l.nii").data).max()) == largest


@pytest.mark.parametrize("value", [2**31, -4])
def test_ids_that_no_tool_reads_are_refused_and_nothing_is_left(tmp_path, value):
    labels = Segmentation(np.full((2, 2, 2), value, np.int64), Geometry.from_xyz_affine((2, 2, 2), AFFINES["axial"]))
    with pytest.raises(InputError, match=r"^l.nii: "):
        nifti.write_segmentation(labels, tmp_path / "l.nii", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_instances_keep_their_class(tmp_path):
    grid = Geometry.from_xyz_affine((2, 3, 4), AFFINES["axial"])
    labels = np.arange(24, dtype=np.int32).reshape(2, 3, 4) * 100
    cells = Segmentation(labels, grid, LabelTable.from_names(["nucleus"], instances=True))
    nifti.write_segmentation(cells, tmp_path / "l.nii.gz", overwrite=False)
    back = nifti.read_segmentation(tmp_path / "l.nii.gz")
    assert back.table.instances
    assert back.table.name(2300) == "nucleus 2300"


def test_time_series_of_labels(tmp_path):
    labels = segmentation(AFFINES["oblique"], (4, 5, 6, 9), seconds_per_frame=0.25)
    nifti.write_segmentation(labels, tmp_path / "l.nii.gz", overwrite=False)
    back = nifti.read_segmentation(tmp_path / "l.nii.gz")
    assert (back.axes, back.seconds_per_frame) == ("tzyx", 0.25)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "l.nii.gz").dataobj).T, labels.data)


@pytest.mark.parametrize("unit", ["mm", "um", None])
def test_labels_on_a_picture_come_back_as_they_were(tmp_path, unit):
    spacing = None if unit is None else (0.5, 0.25)
    grid = Geometry.from_spacing((6, 9), spacing, unit, "image", (10.0, 20.0, 0.0))
    labels = Segmentation(blob_labels((1, 6, 9))[0], grid, TABLE)
    nifti.write_segmentation(labels, tmp_path / "l.nii", overwrite=False)
    back = nifti.read_segmentation(tmp_path / "l.nii")
    assert back.axes == "yx"
    assert back.geometry.is_close(grid)
    np.testing.assert_array_equal(back.data, labels.data)
    header = nib.load(tmp_path / "l.nii").header
    if unit is None:
        assert int(header["sform_code"]) == int(header["qform_code"]) == 0
        assert header.get_xyzt_units()[0] == "unknown"
    else:
        # an ITK viewer sees x to the right of the picture as towards the patient's left, y down as posterior
        itk = sitk.ReadImage(str(tmp_path / "l.nii"))
        scale = 1.0 if unit == "mm" else 1e-3
        place = itk.TransformContinuousIndexToPhysicalPoint((8.0, 5.0, 0.0))
        np.testing.assert_allclose(place[:2], (scale * (10 + 8 * 0.25), scale * (20 + 5 * 0.5)), rtol=1e-5)


def test_a_record_that_no_longer_fits_the_grid_is_not_believed(tmp_path):
    nifti.write_segmentation(segmentation(AFFINES["axial"]), tmp_path / "l.nii", overwrite=False)
    moved = nib.load(tmp_path / "l.nii")
    moved.set_sform(AFFINES["coronal"], 1)
    moved.set_qform(AFFINES["coronal"], 1)
    nib.save(moved, tmp_path / "m.nii")
    back = nifti.read_segmentation(tmp_path / "m.nii")
    np.testing.assert_allclose(back.geometry.xyz_affine, AFFINES["coronal"], atol=1e-5)
    assert back.table == TABLE


def test_lazy_labels_are_written_slab_by_slab(tmp_path, monkeypatch):
    import dask.array

    from napari_medseg.io import label_volumes

    monkeypatch.setattr(label_volumes, "_SLAB_VOXELS", 100)
    labels = segmentation(AFFINES["oblique"], (3, 5, 6, 9))
    lazy = Segmentation(dask.array.from_array(labels.data, chunks=(1, 2, 6, 9)), labels.geometry, TABLE)
    nifti.write_segmentation(lazy, tmp_path / "l.nii", overwrite=False)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "l.nii").dataobj).T, labels.data)


def test_an_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "l.nii"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="already exists"):
        nifti.write_segmentation(segmentation(AFFINES["axial"]), path, overwrite=False)
    assert path.read_bytes() == b"mine"
    nifti.write_segmentation(segmentation(AFFINES["axial"]), path, overwrite=True)
    assert open_images(path)[0].shape == (5, 6, 9)
    assert [p.name for p in tmp_path.iterdir()] == ["l.nii"]


# -- headers that are wrong in one place --------------------------------------------------------


def patched(path, at, content):
    raw = bytearray(save(path, np.ones((3, 4, 5), np.int16), AFFINES["axial"]).read_bytes())
    raw[at : at + len(content)] = content
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("at", "content", "words"),
    [
        (70, np.array([9999], "<i2").tobytes(), "unknown kind"),
        (112, np.array([2.0, np.nan], "<f4").tobytes(), "intercept"),
        (42, np.array([0], "<i2").tobytes(), "shape"),
        (42, np.array([-4], "<i2").tobytes(), "shape"),
        (42, np.array([4000], "<i2").tobytes(), "cut short"),
        (344, b"oops", "unknown kind"),
    ],
)
def test_one_wrong_field_is_one_sentence(tmp_path, at, content, words):
    with pytest.raises(InputError, match=f"^v.nii: .*{words}") as caught:
        nifti.read(patched(tmp_path / "v.nii", at, content))
    assert "\n" not in str(caught.value)


def test_unknown_unit_code_is_an_unknown_unit(tmp_path):
    image = opened(patched(tmp_path / "v.nii", 123, b"\x07"))
    assert any("millimetres are assumed" in w for w in image.warnings)


def test_damaged_qform_is_left_out(tmp_path):
    image = opened(patched(tmp_path / "v.nii", 256, np.array([9.0, 9.0, 9.0], "<f4").tobytes()))
    np.testing.assert_allclose(image.geometry.xyz_affine, AFFINES["axial"], atol=1e-5)
    assert any("qform" in w for w in image.warnings)


def test_identity_at_the_origin_is_doubted(tmp_path):
    image = opened(save(tmp_path / "v.nii", np.ones((3, 4, 5), np.int16), np.eye(4)))
    assert any("exactly 1 mm" in w for w in image.warnings)


def test_all_nan_is_found_without_reading_a_large_file_twice(tmp_path, monkeypatch):
    from napari_medseg.io import stored

    monkeypatch.setattr(stored, "_FULL_CHECK_BYTES", 10)
    data = np.ones((4, 5, 6), np.float32)
    data[:, :, 3] = np.nan
    assert any("NaN" in w for w in opened(save(tmp_path / "v.nii", data, AFFINES["axial"])).warnings)


def test_compressed_volumes_are_kept_only_within_bounds(tmp_path, monkeypatch):
    from napari_medseg.io import stored

    monkeypatch.setattr(stored, "_KEPT_BYTES", 200)
    stored._kept.clear()
    images = [
        opened(save(tmp_path / f"{k}.nii.gz", np.full((3, 4, 5), k, np.int16), AFFINES["axial"])) for k in range(3)
    ]
    for k in (0, 1, 2, 0):
        assert int(images[k].levels[0][0, 0, 0]) == k
        assert len(stored._kept) == 1


def test_a_damaged_record_of_names_is_one_sentence(tmp_path):
    nifti.write_segmentation(segmentation(AFFINES["axial"]), tmp_path / "l.nii", overwrite=False)
    raw = (tmp_path / "l.nii").read_bytes()
    (tmp_path / "l.nii").write_bytes(raw.replace(b'"colour"', b'"collar"'))
    with pytest.raises(InputError, match=r"^l.nii: the record of label names"):
        nifti.read_segmentation(tmp_path / "l.nii")


def test_arrays_can_be_sent_to_other_processes(tmp_path):
    import pickle

    for ending in (".nii", ".nii.gz"):
        image = opened(save(tmp_path / f"v{ending}", np.arange(60, dtype=np.int16).reshape(3, 4, 5), AFFINES["axial"]))
        again = pickle.loads(pickle.dumps(image.levels[0]))
        np.testing.assert_array_equal(np.asarray(again), np.asarray(image.levels[0]))
