"""TIFF: pixels as tifffile, Pillow and SimpleITK see them; labels come back exactly."""

import json

import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from napari_medseg.case import Geometry, InputError, Label, LabelTable, Provenance, Segmentation, Step
from napari_medseg.io import open_segmentation, tiff, write_segmentation

RNG = np.random.default_rng(0)


def pixels(shape, dtype="uint8"):
    return RNG.integers(0, 250, shape).astype(dtype)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (pixels((20, 30)), {}),
        (pixels((20, 30), "uint16"), {"byteorder": ">"}),
        (pixels((20, 30), "int16"), {"compression": "zlib", "predictor": True}),
        (pixels((20, 30), "float64"), {}),
        (pixels((20, 30), "float32"), {"tile": (16, 16)}),
        (pixels((1, 1)), {}),
        (np.eye(20, 30, dtype=bool), {}),
    ],
)
def test_grey_pages_read_as_pillow_does(tmp_path, array, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, **options)
    (image,) = tiff.read(path)
    assert image.axes == "yx"
    assert image.dtype.isnative
    assert image.geometry.spacing is None
    np.testing.assert_array_equal(image.levels[0], array)
    # Pillow knows no 64-bit floats, and turns one-bit pictures round
    if array.dtype not in (np.float64, bool):
        with Image.open(path) as picture:
            np.testing.assert_array_equal(image.levels[0], np.asarray(picture))


def test_sixteen_bit_colours_stay_sixteen_bit(tmp_path):
    array = pixels((20, 30, 3), "uint16") * 200
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    (image,) = tiff.read(tmp_path / "a.tif")
    assert (image.axes, image.intensity, image.dtype) == ("yxc", "RGB", np.uint16)
    np.testing.assert_array_equal(image.levels[0], array)


def test_separate_planes_become_channels_last(tmp_path):
    array = pixels((3, 20, 30))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig="separate")
    (image,) = tiff.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.levels[0], np.moveaxis(array, 0, -1))


def test_transparency_is_dropped_and_said(tmp_path):
    array = pixels((20, 30, 4))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    (image,) = tiff.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.levels[0], array[..., :3])
    assert any("alpha" in said for said in image.warnings)


def test_ink_is_converted_as_pillow_does(tmp_path):
    array = pixels((20, 30, 4))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="separated")
    (image,) = tiff.read(tmp_path / "a.tif")
    expected = np.asarray(Image.fromarray(array, mode="CMYK").convert("RGB")).astype(int)
    assert np.abs(np.asarray(image.levels[0]).astype(int) - expected).max() <= 1
    assert any("CMYK" in said for said in image.warnings)


def test_palette_and_white_is_zero(tmp_path):
    indices = pixels((20, 30))
    lookup = RNG.integers(0, 256, (3, 256)).astype("uint16") * 257
    tifffile.imwrite(tmp_path / "p.tif", indices, photometric="palette", colormap=lookup)
    (image,) = tiff.read(tmp_path / "p.tif")
    np.testing.assert_array_equal(image.levels[0], (lookup // 257).astype("uint8").T[indices])
    np.testing.assert_array_equal(tiff.read_segmentation(tmp_path / "p.tif").data, indices)
    tifffile.imwrite(tmp_path / "w.tif", indices, photometric="miniswhite")
    (image,) = tiff.read(tmp_path / "w.tif")
    np.testing.assert_array_equal(image.levels[0], 255 - indices)


def test_stack_of_pages_is_depth(tmp_path):
    array = pixels((5, 20, 30), "uint16")
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, photometric="minisblack")
    (image,) = tiff.read(tmp_path / "a.tif")
    assert image.axes == "zyx"
    assert image.warnings
    np.testing.assert_array_equal(image.read((slice(1, 3), slice(4, 9), slice(0, 30)))[0], array[1:3, 4:9])


def test_imagej_hyperstack(tmp_path):
    array = pixels((2, 3, 4, 20, 30), "uint16")
    record = {"axes": "TZCYX", "spacing": 3.0, "unit": "um", "finterval": 0.5}
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, resolution=(4.0, 2.0), metadata=record)
    (image,) = tiff.read(tmp_path / "a.tif")
    assert image.axes == "tzyxc"
    np.testing.assert_array_equal(image.levels[0], np.moveaxis(array, 2, -1))
    assert image.geometry.unit == "um"
    assert image.geometry.spacing == pytest.approx((3.0, 0.5, 0.25))
    assert image.seconds_per_frame == 0.5


def test_ome_pyramid_with_channels(tmp_path):
    array = pixels((2, 3, 256, 256), "uint16")
    record = {
        "axes": "ZCYX",
        "PhysicalSizeX": 650.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.65,
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeZ": 0.002,
        "PhysicalSizeZUnit": "mm",
        "Channel": {"Name": ["DAPI", "CD3", "CD8"]},
    }
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(array, subifds=1, tile=(64, 64), metadata=record, photometric="minisblack")
        writer.write(array[..., ::2, ::2], subfiletype=1, tile=(64, 64), photometric="minisblack")
    (image,) = tiff.read(tmp_path / "a.ome.tif")
    assert image.axes == "zyxc"
    assert image.channels == ("DAPI", "CD3", "CD8")
    assert [lv.shape for lv in image.levels] == [(2, 256, 256, 3), (2, 128, 128, 3)]
    assert image.geometry.spacing == pytest.approx((2.0, 0.65, 0.65))
    np.testing.assert_array_equal(image.levels[0][1, 10:20, 5:90:7], np.moveaxis(array, 1, -1)[1, 10:20, 5:90:7])
    np.testing.assert_array_equal(image.levels[1], np.moveaxis(array, 1, -1)[:, ::2, ::2])


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((20000, 10000), "CENTIMETER", (1.0, 0.5)),
        ((300, 300), "INCH", None),
        ((72, 72), "INCH", None),
        ((2, 2), "NONE", None),
    ],
)
def test_print_resolution_is_no_spacing(tmp_path, resolution, unit, expected):
    tifffile.imwrite(tmp_path / "a.tif", pixels((20, 30)), resolution=resolution, resolutionunit=unit, metadata=None)
    (image,) = tiff.read(tmp_path / "a.tif")
    assert image.geometry.spacing == (pytest.approx(expected) if expected else None)


def test_generic_pyramid_is_a_slide(tmp_path):
    array = pixels((512, 384, 3))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for n in range(3):
            writer.write(
                array[:: 2**n, :: 2**n],
                tile=(128, 128),
                photometric="rgb",
                resolution=(20000, 20000),
                resolutionunit="CENTIMETER",
                subfiletype=int(n > 0),
                metadata=None,
            )
    (image,) = tiff.read(tmp_path / "a.tif")
    assert [lv.shape for lv in image.levels] == [(512, 384, 3), (256, 192, 3), (128, 96, 3)]
    assert (image.modality, image.intensity) == ("SM", "stain RGB")
    np.testing.assert_array_equal(image.levels[2], array[::4, ::4])


def test_pages_of_different_size_are_different_images(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels((20, 30)), metadata=None)
        writer.write(pixels((25, 31)), metadata=None)
    images = tiff.read(tmp_path / "a.tif")
    assert [i.shape for i in images] == [(20, 30), (25, 31)]
    assert [i.name for i in images] == ["a 1", "a 2"]


# -- labels ------------------------------------------------------------------------------------------

TABLE = LabelTable((Label(1, "liver", (10, 20, 30), ("SCT", "10200004", "Liver")), Label(300, "µ-tumour <x>")))
HISTORY = Provenance("ab" * 32).with_step(Step("segment", "2026-01-01T00:00:00+00:00", {"model": "m"}))


def oblique(shape):
    a = np.radians(25)
    affine = np.array([[0, -np.sin(a), np.cos(a), -80.5], [0, np.cos(a), np.sin(a), 3], [-2.5, 0, 0, 7], [0, 0, 0, 1]])
    affine[:3, 2] *= 0.7
    return Geometry(shape, affine, "mm", "patient")


def test_labels_come_back_exactly(tmp_path):
    labels = RNG.choice(np.array([0, 1, 300], "uint16"), (4, 30, 40))
    meant = Segmentation(labels, oblique(labels.shape), TABLE, HISTORY, "organs")
    path = tmp_path / "a.tif"
    write_segmentation(meant, path)
    found = open_segmentation(path)
    np.testing.assert_array_equal(found.data, labels)
    np.testing.assert_array_equal(found.geometry.affine, meant.geometry.affine)
    assert (found.geometry.frame, found.geometry.unit) == ("patient", "mm")
    assert (found.table, found.provenance, found.name) == (TABLE, HISTORY, "organs")
    # others see the ids and the steps
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))), labels)
    np.testing.assert_array_equal(tifffile.imread(path), labels)
    with tifffile.TiffFile(path) as file:
        record = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (record["PhysicalSizeZ"], record["PhysicalSizeXUnit"]) == (2.5, "mm")
    assert record["PhysicalSizeX"] == pytest.approx(0.7)
    with pytest.raises(InputError, match="already exists"):
        write_segmentation(meant, path)


def test_large_flat_labels_are_tiled_and_exact(tmp_path):
    labels = np.zeros((1100, 1500), "int64")
    labels[500:1090, 700:1499] = 70_000
    labels[0, 0] = 2
    meant = Segmentation(labels, Geometry.from_spacing(labels.shape, None))
    write_segmentation(meant, tmp_path / "a.ome.tif")
    found = open_segmentation(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(found.data, labels)
    assert found.geometry.spacing is None
    assert found.data.chunks == (512, 512)
    np.testing.assert_array_equal(np.asarray(tifffile.imread(tmp_path / "a.ome.tif")), labels)


def test_video_labels_keep_time(tmp_path):
    labels = RNG.choice(np.array([0, 3], "uint8"), (5, 20, 30))
    meant = Segmentation(labels, Geometry.from_spacing((20, 30), None), axes="tyx", seconds_per_frame=0.04)
    write_segmentation(meant, tmp_path / "a.tif")
    found = open_segmentation(tmp_path / "a.tif")
    assert (found.axes, found.seconds_per_frame) == ("tyx", 0.04)
    np.testing.assert_array_equal(found.data, labels)


def test_labels_that_do_not_fit_are_refused(tmp_path):
    labels = np.full((3, 3), 2**40, "int64")
    with pytest.raises(InputError, match="32 bits"):
        write_segmentation(Segmentation(labels, Geometry.from_spacing((3, 3), None)), tmp_path / "a.tif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("array", [pixels((20, 30, 3)), pixels((20, 30), "float32")])
def test_pictures_are_no_labels(tmp_path, array):
    tifffile.imwrite(tmp_path / "a.tif", array)
    with pytest.raises(InputError, match=r"^a\.tif: .*integers"):
        tiff.read_segmentation(tmp_path / "a.tif")


def test_damaged_private_record_is_said(tmp_path):
    labels = np.ones((9, 9), "uint8")
    for text in ("{", json.dumps({"geometry": {}})):
        record = {"axes": "YX", "MapAnnotation": {"Namespace": "medseg", "medseg": text}}
        tifffile.imwrite(tmp_path / "a.tif", labels, ome=True, metadata=record)
        with pytest.raises(InputError, match=r"^a\.tif: its medseg annotation"):
            tiff.read_segmentation(tmp_path / "a.tif")


# -- records of other programs -----------------------------------------------------------------------


def test_aperio_description_in_a_tiff(tmp_path):
    text = "Aperio Image Library v11\n64x64|AppMag = 40|MPP = 0.25"
    tifffile.imwrite(
        tmp_path / "a.tif", pixels((64, 64, 3)), photometric="rgb", tile=(32, 32), description=text, metadata=None
    )
    (image,) = tiff.read(tmp_path / "a.tif")
    assert image.geometry.spacing == (0.25, 0.25)
    assert (image.objective_power, image.modality) == (40.0, "SM")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}, None),
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.4}, (0.4, 0.5)),
        (
            {"PhysicalSizeX": 3.0, "PhysicalSizeXUnit": "pixel", "PhysicalSizeY": 3.0, "PhysicalSizeYUnit": "pixel"},
            None,
        ),
    ],
)
def test_partial_ome_spacing_is_unknown(tmp_path, record, expected):
    tifffile.imwrite(tmp_path / "a.tif", pixels((20, 30)), ome=True, metadata={"axes": "YX", **record})
    (image,) = tiff.read(tmp_path / "a.tif")
    assert image.geometry.spacing == (pytest.approx(expected) if expected else None)
    assert len(image.warnings) == ("PhysicalSizeX" in record and "PhysicalSizeY" not in record)


def test_ome_with_two_images_keeps_each_ones_spacing(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        for k, step in enumerate((0.5, 2.0)):
            record = {"axes": "YX", "PhysicalSizeX": step, "PhysicalSizeY": step}
            writer.write(pixels((20 + k, 30)), metadata=record)
    images = tiff.read(tmp_path / "a.ome.tif")
    assert [i.geometry.spacing for i in images] == [(0.5, 0.5), (2.0, 2.0)]
    with pytest.raises(InputError, match="holds 2 images"):
        tiff.read_segmentation(tmp_path / "a.ome.tif")


def test_ome_record_that_is_damaged_or_hostile(tmp_path):
    good = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}</OME>'
    bomb = good.replace("<OME", '<!DOCTYPE x [<!ENTITY a "b">]><OME', 1)
    for text in (bomb.format("&a;"), good.format("<Image>")):
        tifffile.imwrite(tmp_path / "a.tif", pixels((20, 30)), description=text, metadata=None)
        with pytest.raises(InputError, match=r"^a\.tif: "):
            tiff.read(tmp_path / "a.tif")


@pytest.mark.parametrize("photometric", ["cielab", "ycbcr"])
def test_colours_that_are_not_converted_are_refused(tmp_path, photometric):
    tifffile.imwrite(tmp_path / "a.tif", pixels((20, 30, 3)), photometric=photometric, metadata=None)
    with pytest.raises(InputError, match="accepted are grey, RGB and CMYK"):
        tiff.read(tmp_path / "a.tif")


# one strip is what tifffile makes of three planes today; it will not go on doing so unasked
@pytest.mark.filterwarnings("ignore:<tifffile.TiffWriter.write> data with shape:DeprecationWarning")
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_one_strip_is_mapped_not_read_whole(tmp_path, byteorder):
    array = pixels((3, 700, 900), byteorder + "u2")
    tifffile.imwrite(tmp_path / "a.tif", array, byteorder=byteorder, metadata={"axes": "ZYX"})
    (image,) = tiff.read(tmp_path / "a.tif")
    assert image.levels[0].chunks == (1, 512, 512)
    np.testing.assert_array_equal(image.levels[0], array)
    np.testing.assert_array_equal(image.levels[0][1, 600:, ::-3], array[1, 600:, ::-3])
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(content[:-4000])
    with pytest.raises(InputError, match=r"^b\.tif: "):
        tiff.read(tmp_path / "b.tif")
