"""PNG, JPEG and BMP: pixels as Pillow and scikit-image see them; label ids survive."""

import numpy as np
import pytest
import skimage.io
from PIL import Image

from napari_medseg.case import Geometry, InputError, Label, LabelTable, Provenance, Segmentation, Step
from napari_medseg.io import open_images, open_segmentation, raster, write_segmentation

RNG = np.random.default_rng(0)


def save(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)


@pytest.mark.parametrize("ending", ["png", "bmp"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (1, 1)])
def test_plain_pictures(tmp_path, ending, shape):
    array = RNG.integers(0, 256, shape).astype("uint8")
    save(tmp_path / f"a.{ending}", array)
    (image,) = open_images(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(image.levels[0], array)
    assert image.axes == "yxc"[: len(shape)]
    assert image.intensity == ("RGB" if len(shape) == 3 else "arbitrary")
    assert image.geometry.spacing is None
    assert image.warnings == ()


def test_dots_per_inch_are_no_spacing(tmp_path):
    save(tmp_path / "a.png", np.zeros((4, 5), "uint8"), dpi=(5080, 5080))
    assert raster.read(tmp_path / "a.png")[0].geometry.unit is None


def test_sixteen_bits_stay_sixteen_bits(tmp_path):
    import imagecodecs

    grey = RNG.integers(0, 65536, (20, 30)).astype("uint16")
    save(tmp_path / "g.png", grey)
    (image,) = raster.read(tmp_path / "g.png")
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image.levels[0], grey)
    colours = RNG.integers(0, 65536, (20, 30, 4)).astype("uint16")
    for count in (3, 4):
        (tmp_path / "c.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(colours[..., :count])))
        (image,) = raster.read(tmp_path / "c.png")
        assert (image.axes, image.intensity) == ("yxc", "RGB")
        np.testing.assert_array_equal(image.levels[0], colours[..., :3])
        assert len(image.warnings) == count - 3


def test_transparency_palette_and_one_bit(tmp_path):
    rgba = RNG.integers(0, 256, (20, 30, 4)).astype("uint8")
    save(tmp_path / "a.png", rgba)
    (image,) = raster.read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.levels[0], rgba[..., :3])
    assert image.warnings == ("Its transparency (alpha) is ignored.",)

    save(tmp_path / "la.png", rgba[..., :2])
    (image,) = raster.read(tmp_path / "la.png")
    np.testing.assert_array_equal(image.levels[0], rgba[..., 0])

    picture = Image.fromarray(rgba[..., 0], mode="P")
    picture.putpalette(RNG.integers(0, 256, 768).astype("uint8").tobytes())
    picture.save(tmp_path / "p.png")
    (image,) = raster.read(tmp_path / "p.png")
    np.testing.assert_array_equal(image.levels[0], np.asarray(picture.convert("RGB")))
    np.testing.assert_array_equal(raster.read_segmentation(tmp_path / "p.png").data, rgba[..., 0])

    bits = rgba[..., 0] > 100
    save(tmp_path / "b.png", bits)
    (image,) = raster.read(tmp_path / "b.png")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image.levels[0], bits)
    np.testing.assert_array_equal(raster.read_segmentation(tmp_path / "b.png").data, bits)


def test_ink_jpeg_is_converted_and_said(tmp_path):
    array = np.zeros((16, 16, 3), "uint8") + np.array([200, 30, 30], "uint8")
    save(tmp_path / "a.jpg", array, "CMYK", quality=95)
    (image,) = raster.read(tmp_path / "a.jpg")
    assert np.abs(np.asarray(image.levels[0]).astype(int) - array).max() <= 3
    assert "CMYK" in image.warnings[0]


@pytest.mark.parametrize(
    ("orientation", "turn"), [(6, lambda a: np.rot90(a, -1)), (2, np.fliplr), (3, lambda a: a[::-1, ::-1])]
)
def test_camera_orientation_is_applied(tmp_path, orientation, turn):
    array = np.zeros((16, 24), "uint8")
    array[:8, :8] = 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(tmp_path / "a.jpg", exif=exif, quality=100)
    (image,) = raster.read(tmp_path / "a.jpg")
    assert np.abs(np.asarray(image.levels[0]).astype(int) - turn(array)).max() <= 3


def test_content_decides_not_the_ending(tmp_path):
    array = RNG.integers(0, 256, (20, 30, 3)).astype("uint8")
    save(tmp_path / "a.jpg", array, format="PNG")
    (image,) = raster.read(tmp_path / "a.jpg")
    np.testing.assert_array_equal(image.levels[0], array)


def test_huge_pictures_are_refused_with_advice(tmp_path, monkeypatch):
    save(tmp_path / "a.png", np.zeros((200, 200), "uint8"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"^a\.png: too large .* pyramidal TIFF"):
        raster.read(tmp_path / "a.png")


# -- labels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [1, 255, 256, 65535])
def test_labels_come_back_exactly(tmp_path, top):
    labels = RNG.choice(np.array([0, 1, top], "int64"), (20, 30))
    labels[3, 4] = top
    affine = np.array([[0, 0.1, 0.7, 5], [0, -0.7, 0.1, 3], [1, 0, 0, 0], [0, 0, 0, 1]])
    table = LabelTable((Label(1, "Größe", (1, 2, 3), ("SCT", "1", "x")),))
    history = Provenance("cd" * 32).with_step(Step("edit", "2026-01-01T00:00:00+00:00", {"voxels": 3}))
    meant = Segmentation(labels, Geometry((20, 30), affine, "mm", "patient"), table, history, "cells")
    write_segmentation(meant, tmp_path / "a.png")
    found = open_segmentation(tmp_path / "a.png")
    np.testing.assert_array_equal(found.data, labels)
    np.testing.assert_array_equal(found.geometry.affine, affine)
    assert (found.table, found.provenance, found.name) == (table, history, "cells")
    assert found.data.dtype == (np.uint8 if top < 256 else np.uint16)
    np.testing.assert_array_equal(skimage.io.imread(tmp_path / "a.png"), labels)


@pytest.mark.parametrize(
    ("labels", "name", "words"),
    [
        (np.full((3, 4), 70_000), "a.png", "65535; use .tif or .zarr"),
        (np.full((3, 4), -1), "a.png", "label -1 is not within"),
        (np.ones((2, 3, 4), int), "a.png", "one flat picture"),
        (np.ones((3, 4), int), "a.jpg", "only PNG keeps label ids"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, name, words):
    with pytest.raises(InputError, match=words):
        write_segmentation(Segmentation(labels, Geometry.from_spacing(labels.shape, None)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_no_labels(tmp_path):
    save(tmp_path / "a.png", np.zeros((4, 5, 3), "uint8"))
    save(tmp_path / "b.jpg", np.zeros((4, 5), "uint8"))
    with pytest.raises(InputError, match="holds colours"):
        raster.read_segmentation(tmp_path / "a.png")
    with pytest.raises(InputError, match="JPEG changes label ids"):
        raster.read_segmentation(tmp_path / "b.jpg")
