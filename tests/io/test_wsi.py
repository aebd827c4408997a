"""Whole slides: OpenSlide's pixels on a white ground, with micrometres a pixel, without the glass label."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from napari_medseg.case import InputError
from napari_medseg.io import open_images, wsi
from tests.io.picture_cases import aperio, smooth

SHARED = Path(__file__).parents[3] / "shared/data/wsi/CMU-1-Small-Region.svs"
RNG = np.random.default_rng(0)


def test_aperio_slide(tmp_path):
    array = aperio(tmp_path / "s.svs")
    (image,) = open_images(tmp_path / "s.svs")
    assert image.axes == "yxc"
    assert image.shape == (1100, 1500, 3)
    assert [lv.shape for lv in image.levels] == [(1100, 1500, 3), (275, 375, 3)]
    assert image.geometry.unit == "um"
    assert image.geometry.spacing == pytest.approx((0.499, 0.499))
    assert (image.objective_power, image.modality, image.intensity) == (20.0, "SM", "stain RGB")
    assert image.details["vendor"] == "aperio"
    assert image.identifiers_present is False
    assert image.warnings == ()
    region = (slice(300, 420), slice(1000, 1300))
    difference = np.abs(np.moveaxis(image.read(region), 0, -1).astype(int) - array[region])
    assert difference.max() <= 6
    coarse = np.asarray(image.levels[1][100:200, 50:250]).astype(int)
    assert np.abs(coarse - array[400:800:4, 200:1000:4]).max() <= 8


def test_slices_agree_with_openslide_in_all_forms(tmp_path):
    aperio(tmp_path / "s.svs")
    level = wsi.read(tmp_path / "s.svs")[0].levels[0]
    whole = np.asarray(openslide.OpenSlide(tmp_path / "s.svs").read_region((0, 0), 0, (1500, 1100)))[..., :3]
    np.testing.assert_array_equal(level, whole)
    np.testing.assert_array_equal(level[-20:, 5:900:7, 1], whole[-20:, 5:900:7, 1])
    np.testing.assert_array_equal(level[100, ::-50], whole[100, ::-50])
    np.testing.assert_array_equal(level.to_dask()[10:600:100].compute(), whole[10:600:100])
    with pytest.raises(IndexError):
        level[1100]


def test_threads_read_the_same(tmp_path):
    aperio(tmp_path / "s.svs")
    level = wsi.read(tmp_path / "s.svs")[0].levels[0]
    whole = np.asarray(level)
    starts = [(y, x) for y in range(0, 1000, 250) for x in range(0, 1400, 200)]
    with ThreadPoolExecutor(4) as pool:
        tiles = list(pool.map(lambda s: level[s[0] : s[0] + 200, s[1] : s[1] + 200], starts))
    for (y, x), tile in zip(starts, tiles, strict=True):
        np.testing.assert_array_equal(tile, whole[y : y + 200, x : x + 200])


def test_unknown_micrometres_are_said(tmp_path):
    aperio(tmp_path / "s.svs", mpp=None)
    (image,) = wsi.read(tmp_path / "s.svs")
    assert image.geometry.spacing is None
    assert "micrometres per pixel" in image.warnings[0]


def test_glass_label_is_reported_and_never_shown(tmp_path):
    aperio(tmp_path / "s.svs", label=True)
    assert "label" in openslide.OpenSlide(tmp_path / "s.svs").associated_images
    (image,) = wsi.read(tmp_path / "s.svs")
    assert image.identifiers_present is True
    assert len(image.levels) == 2


def test_generic_tiled_pyramid(tmp_path):
    array = smooth(900, 700)
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        for n in range(3):
            part = np.ascontiguousarray(array[:: 2**n, :: 2**n])
            writer.write(
                part, tile=(128, 128), photometric="rgb", compression="lzw", subfiletype=int(n > 0), metadata=None
            )
    (image,) = wsi.read(tmp_path / "s.tif")
    assert [lv.shape[:2] for lv in image.levels] == [(900, 700), (450, 350), (225, 175)]
    np.testing.assert_array_equal(image.levels[0], array)
    np.testing.assert_array_equal(image.levels[2], array[::4, ::4])


class _Transparent:
    """Stands in for a slide with an unscanned left half (alpha 0) and a half-covered last column."""

    level_dimensions = ((4, 2),)
    level_downsamples = (1.0,)
    properties = {openslide.PROPERTY_NAME_BACKGROUND_COLOR: "F0E0D0"}  # noqa: RUF012

    def read_region(self, corner, level, size):
        from PIL import Image

        rgba = np.zeros((2, 4, 4), "u1")
        rgba[:, 2:] = (100, 50, 0, 255)
        rgba[:, 3, 3] = 51
        return Image.fromarray(rgba).crop((*corner, corner[0] + size[0], corner[1] + size[1]))


def test_unscanned_parts_show_the_background():
    level = wsi.SlideLevel(_Transparent(), 0, "s")
    np.testing.assert_array_equal(level[0], [(240, 224, 208), (240, 224, 208), (100, 50, 0), (212, 189, 166)])


def test_slide_cut_short(tmp_path):
    aperio(tmp_path / "s.svs")
    content = (tmp_path / "s.svs").read_bytes()
    for share in (0.02, 0.5, 0.99):
        (tmp_path / "t.svs").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match=r"^t\.svs: "):
            wsi.read(tmp_path / "t.svs")


def test_text_is_no_slide(tmp_path):
    (tmp_path / "s.svs").write_text("hello")
    with pytest.raises(InputError, match=r"^s\.svs: holds plain text"):
        wsi.read(tmp_path / "s.svs")


@pytest.mark.skipif(not SHARED.exists(), reason="the shared slide is not here")
def test_real_aperio_slide():
    (image,) = wsi.read(SHARED)
    assert image.shape == (2967, 2220, 3)
    assert image.geometry.spacing == pytest.approx((0.499, 0.499))
    assert image.identifiers_present is True
    tile = image.read((slice(1000, 1256), slice(1000, 1256)))
    assert tile.shape == (3, 256, 256)
    expected = np.asarray(openslide.OpenSlide(SHARED).read_region((1000, 1000), 0, (256, 256)))[..., :3]
    np.testing.assert_array_equal(np.moveaxis(tile, 0, -1), expected)
