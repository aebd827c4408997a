"""Volumes that are odd or broken: each is read right or refused in one sentence that names the file."""

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from napari_medseg.case import InputError, MedsegError
from napari_medseg.io import dicom, itk, nifti, open_images, open_segmentation, write_segmentation
from tests.io.dicom_cases import dataset, save, volume, write_series
from tests.io.volume_cases import AFFINES, segmentation

READERS = {"nii": nifti.read, "nii.gz": nifti.read, "nrrd": itk.read, "mha": itk.read, "dcm": dicom.read}
WRITTEN = ["nii", "nii.gz", "nrrd", "mha"]


def make(path, data_zyx):
    """A good file of the kind that the name asks for."""
    ending = path.name.split(".", 1)[1]
    if ending == "dcm":
        save(dataset(data_zyx[0]), path)
    elif ending.startswith("nii"):
        nib.save(nib.Nifti1Image(data_zyx.T, AFFINES["axial"]), path)
    else:
        image = sitk.GetImageFromArray(data_zyx)
        image.SetSpacing((0.5, 0.6, 0.7))
        sitk.WriteImage(image, str(path))
    return path


def refused(read, path, *words):
    """Assert a refusal of one plain sentence, and return it."""
    with pytest.raises(InputError) as caught:
        for image in read(path):
            np.asarray(image.levels[0])
    message = str(caught.value)
    assert message.startswith(f"{path.name}: ")
    assert "\n" not in message
    assert message.endswith(".")
    assert str(path.parent) not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.97])
def test_truncated(tmp_path, ending, part):
    noise = np.random.default_rng(0).integers(0, 3000, (6, 20, 30)).astype(np.int16)
    whole = make(tmp_path / f"w.{ending}", noise).read_bytes()
    (tmp_path / f"v.{ending}").write_bytes(whole[: int(part * len(whole))])
    refused(open_images, tmp_path / f"v.{ending}")


@pytest.mark.parametrize("ending", READERS)
def test_zero_bytes(tmp_path, ending):
    (tmp_path / f"v.{ending}").write_bytes(b"")
    refused(open_images, tmp_path / f"v.{ending}", "empty")
    refused(READERS[ending], tmp_path / f"v.{ending}")


@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize("content", [b"\0" * 4000, b"hello, this is text\n" * 200, bytes(range(256)) * 20])
def test_wrong_content(tmp_path, ending, content):
    (tmp_path / f"v.{ending}").write_bytes(content)
    refused(open_images, tmp_path / f"v.{ending}")


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("ending", READERS)
def test_wrong_ending(tmp_path, kind, ending):
    """A file under another format's name is refused, or read right where the content decides."""
    if kind == ending:
        return
    data = volume(2, 3, 4)
    path = tmp_path / f"v.{ending}"
    path.write_bytes(make(tmp_path / f"w.{kind}", data).read_bytes())
    try:
        [image] = open_images(path)
    except InputError:
        refused(open_images, path)
    else:
        np.testing.assert_array_equal(np.asarray(image.levels[0]), data)


@pytest.mark.parametrize("ending", ["nii", "nrrd", "mha", "dcm"])
def test_a_folder_instead_of_a_file(tmp_path, ending):
    folder = tmp_path / f"v.{ending}"
    folder.mkdir()
    refused(open_images, folder, "empty")
    (folder / "notes.txt").write_text("nothing")
    refused(open_images, folder)
    if ending != "dcm":
        refused(READERS[ending], folder, "folder")


@pytest.mark.parametrize("ending", READERS)
def test_a_missing_file(tmp_path, ending):
    refused(open_images, tmp_path / f"v.{ending}", "no such file")
    refused(READERS[ending], tmp_path / f"v.{ending}", "no such file")


@pytest.mark.parametrize("ending", READERS)
def test_no_permission(tmp_path, ending, monkeypatch):
    path = make(tmp_path / f"v.{ending}", volume(2, 3, 4))
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(open_images, path, "permission")


@pytest.mark.skipif(os.geteuid() == 0, reason="the super-user may read everything")
@pytest.mark.parametrize("ending", READERS)
def test_no_permission_for_readers(tmp_path, ending):
    path = make(tmp_path / f"v.{ending}", volume(2, 3, 4))
    path.chmod(0)
    refused(READERS[ending], path, "permission")


@pytest.mark.parametrize("ending", WRITTEN)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_but_nan(tmp_path, ending, dtype):
    refused(open_images, make(tmp_path / f"v.{ending}", np.full((4, 5, 6), np.nan, dtype)), "NaN")


@pytest.mark.parametrize("ending", WRITTEN)
def test_partly_nan_is_read_with_a_warning(tmp_path, ending):
    data = np.ones((4, 5, 6), np.float32)
    data[2, 3] = np.nan
    [image] = open_images(make(tmp_path / f"v.{ending}", data))
    assert any("NaN" in w for w in image.warnings)
    np.testing.assert_array_equal(np.asarray(image.levels[0]), data)


@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 6), (1, 1, 6)])
def test_one_pixel_and_one_slice(tmp_path, ending, shape):
    data = np.arange(1, 1 + np.prod(shape), dtype=np.int16).reshape(shape)
    [image] = open_images(make(tmp_path / f"v.{ending}", data))
    np.testing.assert_array_equal(np.asarray(image.levels[0]).reshape(shape), data)
    if ending != "dcm":
        assert image.axes == "zyx"


@pytest.mark.parametrize("ending", WRITTEN)
def test_double_precision_is_kept(tmp_path, ending):
    data = np.random.default_rng(0).normal(size=(3, 4, 5)) * 1e-12
    [image] = open_images(make(tmp_path / f"v.{ending}", data))
    assert image.dtype == np.float64
    np.testing.assert_array_equal(np.asarray(image.levels[0]), data)


@pytest.mark.parametrize("ending", WRITTEN)
def test_boolean_like_labels(tmp_path, ending):
    data = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(np.uint8)
    labels = open_segmentation(make(tmp_path / f"v.{ending}", data))
    assert [(e.id, e.name) for e in labels.table] == [(1, "label 1")]
    np.testing.assert_array_equal(labels.data, data)


def test_one_bit_nifti_is_refused(tmp_path):
    raw = bytearray(make(tmp_path / "w.nii", volume(2, 3, 4)).read_bytes())
    raw[70:74] = np.array([1, 1], "<i2").tobytes()
    (tmp_path / "v.nii").write_bytes(raw)
    refused(open_images, tmp_path / "v.nii", "unknown kind")


@pytest.mark.parametrize("shape", [(2, 3, 4, 1, 1, 5), (2, 3, 4, 2, 1, 2)])
def test_more_than_five_axes(tmp_path, shape):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "v.nii")
    refused(open_images, tmp_path / "v.nii", "axes")


def test_complex_numbers(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.complex64), np.eye(4)), tmp_path / "v.nii")
    refused(open_images, tmp_path / "v.nii", "complex")


def test_negative_spacing_is_read_as_nibabel_does(tmp_path):
    path = make(tmp_path / "v.nii", volume(3, 4, 5))
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array([-0.8, -1.3, 2.5], "<f4").tobytes()
    raw[252:256] = bytes(4)
    path.write_bytes(raw)
    [image] = open_images(path)
    np.testing.assert_allclose(image.geometry.xyz_affine, nib.load(path).affine, atol=1e-5)
    assert min(image.geometry.spacing) > 0


def test_negative_meta_spacing_and_strides(tmp_path):
    flipped = volume(3, 4, 5)[::-1, :, ::-1]
    image = sitk.GetImageFromArray(np.ascontiguousarray(flipped))
    image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, -1))
    sitk.WriteImage(image, str(tmp_path / "v.mha"))
    [found] = open_images(tmp_path / "v.mha")
    np.testing.assert_array_equal(np.asarray(found.levels[0])[::-1, :, ::-1], volume(3, 4, 5))


@pytest.mark.parametrize("ending", WRITTEN)
def test_labels_with_negative_strides_are_written_right(tmp_path, ending):
    labels = segmentation(AFFINES["oblique"])
    turned = labels.geometry.axis_map_to(("I", "A", "L"))
    flipped = type(labels)(turned.apply(labels.data), labels.geometry.rearranged(turned), labels.table)
    write_segmentation(flipped, tmp_path / f"l.{ending}")
    back = sitk.ReadImage(str(tmp_path / f"l.{ending}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), flipped.data)


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_rgba(tmp_path, ending):
    data = np.arange(3 * 4 * 5 * 4, dtype=np.uint8).reshape(3, 4, 5, 4)
    sitk.WriteImage(sitk.GetImageFromArray(data, isVector=True), str(tmp_path / f"v.{ending}"))
    [image] = open_images(tmp_path / f"v.{ending}")
    assert image.channels == ("red", "green", "blue", "alpha")
    np.testing.assert_array_equal(np.asarray(image.levels[0]), data)


def test_rgba_nifti(tmp_path):
    data = np.arange(5 * 4 * 3 * 4, dtype=np.uint8).reshape(5, 4, 3, 4)
    packed = data.view([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])[..., 0]
    nib.save(nib.Nifti1Image(packed, np.eye(4)), tmp_path / "v.nii.gz")
    [image] = open_images(tmp_path / "v.nii.gz")
    assert (image.axes, image.intensity) == ("zyxc", "RGB")
    np.testing.assert_array_equal(np.asarray(image.levels[0]), data.transpose(2, 1, 0, 3))


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
@pytest.mark.parametrize("part", [0.4, 0.6, 0.9])
def test_damage_inside_a_compressed_file_is_never_shown_as_pixels(tmp_path, ending, part):
    noise = np.random.default_rng(0).integers(0, 3000, (6, 20, 30)).astype(np.int16)
    path = make(tmp_path / f"v.{ending}", noise)
    if ending != "nii.gz":
        sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), True)
    raw = bytearray(path.read_bytes())
    raw[int(part * len(raw))] ^= 0x3C
    path.write_bytes(raw)
    refused(open_images, path, "damaged")


def test_a_file_that_goes_away_is_one_sentence(tmp_path):
    for ending in READERS:
        path = make(tmp_path / f"v.{ending}", volume(2, 3, 4))
        [image] = open_images(path)
        path.unlink()
        refused(lambda _, image=image: [image], path)


def test_gzip_with_the_wrong_length_at_its_end(tmp_path):
    packed = bytearray(gzip.compress(make(tmp_path / "w.nii", volume(2, 3, 4)).read_bytes()))
    packed[-4:] = b"\1\0\0\0"
    (tmp_path / "v.nii.gz").write_bytes(packed)
    refused(open_images, tmp_path / "v.nii.gz", "damaged")


def test_dicom_without_pixels(tmp_path):
    data = dataset(volume()[0])
    del data.PixelData
    refused(open_images, save(data, tmp_path / "v.dcm"), "no pixels")


def test_dicom_that_names_the_wrong_compression(tmp_path):
    path = save(dataset(volume()[0]), tmp_path / "v.dcm")
    import pydicom

    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    data["PixelData"].is_undefined_length = True
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 not really a picture "])
    data.save_as(path)
    refused(open_images, path, "cannot be decoded")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("BitsAllocated", 56, "bits"),
        ("BitsStored", 40, "bits"),
        ("SamplesPerPixel", 4, "numbers a pixel"),
        ("Rows", 0, "size"),
    ],
)
def test_dicom_with_an_impossible_pixel_description(tmp_path, field, value, words):
    refused(open_images, save(dataset(volume()[0], **{field: value}), tmp_path / "v.dcm"), words)


def test_dicom_with_impossible_spacing(tmp_path):
    tiny = dataset(volume()[0], modality="CR", PixelSpacing=[1e-12, 1e-12])
    refused(open_images, save(tiny, tmp_path / "a.dcm"), "spacing")
    tiny.ImagePositionPatient, tiny.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    refused(open_images, save(tiny, tmp_path / "b.dcm"), "spacing")


def test_damaged_deflated_dicom(tmp_path):
    from pydicom.data import get_testdata_file

    raw = bytearray(Path(get_testdata_file("image_dfl.dcm", download=False)).read_bytes())
    raw[len(raw) // 2 :] = b"\xff" * 50
    (tmp_path / "v.dcm").write_bytes(raw)
    refused(open_images, tmp_path / "v.dcm")


def test_dicom_video(tmp_path):
    import pydicom

    data = dataset(np.zeros((3, 6, 8, 3), np.uint8), modality="ES")
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    data.PixelData = pydicom.encaps.encapsulate([b"\0\0\0\1"])
    data["PixelData"].is_undefined_length = True
    refused(open_images, save(data, tmp_path / "v.dcm"), "MPEG")


def test_damaged_slice_inside_a_series_fails_in_one_sentence_when_it_is_looked_at(tmp_path):
    import pydicom
    from pydicom.pixels import compress
    from pydicom.uid import RLELossless

    folder = write_series(tmp_path, volume(), shuffle=False)
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        compress(data, RLELossless, generate_instance_uid=False)
        if file.name == "f002.dcm":
            data.PixelData = pydicom.encaps.encapsulate([b"\1\0\0\0" + b"\0" * 80])
            data["PixelData"].is_undefined_length = True
        data.save_as(file)
    [image] = open_images(folder)
    assert int(image.levels[0][0, 0, 1]) == 1 - 1024
    with pytest.raises(InputError, match=r"^f002.dcm: the pixels of frame 1 cannot be decoded"):
        np.asarray(image.levels[0])


@pytest.mark.parametrize("ending", READERS)
def test_random_damage_is_read_or_refused(tmp_path, ending):
    """Bytes changed anywhere in the file end in pixels or in a sentence, never in another error."""
    random = np.random.default_rng(sum(map(ord, ending)))
    whole = make(tmp_path / f"w.{ending}", volume(3, 4, 5)).read_bytes()
    path = tmp_path / f"v.{ending}"
    for _ in range(150):
        raw = np.frombuffer(whole, np.uint8).copy()
        places = random.integers(0, len(raw), random.integers(1, 12))
        raw[places] = random.integers(0, 256, len(places))
        path.write_bytes(raw[: random.integers(1, len(raw))].tobytes() if random.random() < 0.1 else raw.tobytes())
        for read in (open_images, open_segmentation) if ending != "dcm" else (open_images,):
            try:
                found = read(path)
                if read is open_images and np.prod(found[0].shape, dtype=float) < 1e7:
                    np.asarray(found[0].levels[0])
            except InputError as error:
                message = str(error)
                assert message.startswith(path.name) and "\n" not in message


def test_dicom_with_nonsense_in_its_numbers(tmp_path):
    path = save(dataset(volume()[0], PixelSpacing=[1, 1], ImagePositionPatient=[1, 2, 3]), tmp_path / "v.dcm")
    raw = path.read_bytes().replace(b"1\\2\\3 ", b"1\\x\\3 ")
    path.write_bytes(raw)
    [image] = open_images(path)
    assert image.geometry.frame == "image"


@pytest.mark.parametrize("ending", WRITTEN)
def test_a_failed_write_leaves_nothing_behind(tmp_path, ending, monkeypatch):
    from napari_medseg.io.itk import exporting as itk_exporting
    from napari_medseg.io.nifti import exporting as nifti_exporting

    def fails(*_):
        raise MedsegError("the written file differs")

    for module in (itk_exporting, nifti_exporting):
        monkeypatch.setattr(module, "verify", fails)
    with pytest.raises(MedsegError, match="differs"):
        write_segmentation(segmentation(AFFINES["axial"]), tmp_path / f"l.{ending}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", WRITTEN)
def test_no_folder_to_write_to(tmp_path, ending):
    with pytest.raises(InputError, match="no such folder"):
        write_segmentation(segmentation(AFFINES["axial"]), tmp_path / "gone" / f"l.{ending}")
