"""Lazy arrays slice exactly as numpy does, and read no more than is asked for."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from napari_medseg.case import AxisMap
from napari_medseg.io import lazy, tiff
from napari_medseg.io.lazy import LazyArray, PixelMap
from napari_medseg.io.shrunk import Shrunk, box_mean, with_coarser_levels


class Held(LazyArray):
    """An array in memory that counts what is read of it."""

    def __init__(self, array, chunks=None):
        super().__init__(array.shape, array.dtype, chunks or array.shape)
        self.array, self.largest = array, 0

    def _read(self, region):
        block = self.array[region]
        assert block.size
        self.largest = max(self.largest, block.size)
        return block


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_slicing_is_numpys(data):
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=4, max_side=9))
    array = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    key = data.draw(arrays.basic_indices(shape, allow_newaxis=False))
    chunks = tuple(data.draw(st.integers(1, 5)) for _ in shape)
    whole, pieces = Held(array), Held(array, chunks)
    np.testing.assert_array_equal(whole[key], array[key])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy, "_STRIDED_BYTES", 0)
        np.testing.assert_array_equal(pieces[key], array[key])


def test_lists_of_integers_pick_along_their_axis():
    array = np.arange(120).reshape(4, 5, 6)
    held = Held(array)
    np.testing.assert_array_equal(held[1:, [4, 0, 0], ::2], array[1:][:, [4, 0, 0], ::2])
    np.testing.assert_array_equal(held[..., [True, False] * 3], array[..., [True, False] * 3])
    np.testing.assert_array_equal(held[..., -1], array[..., -1])
    assert len(held) == 4
    assert held.size == 120
    assert held.nbytes == 120 * array.itemsize
    assert "(4, 5, 6)" in repr(held)
    np.testing.assert_array_equal(np.asarray(held, dtype="f4"), array)
    with pytest.raises(ValueError, match="without a copy"):
        np.array(held, copy=False)


@pytest.mark.parametrize("key", [5, -5, (0, 0, 0, 0), (..., ...), "a", 1.5, ([[0]],)])
def test_wrong_indices_are_refused(key):
    with pytest.raises(IndexError):
        Held(np.zeros((4, 5, 6)))[key]


def test_sparse_reads_hold_no_more_than_a_chunk():
    held = Held(np.zeros((3000, 3000, 8)), (100, 100, 8))
    assert held[::500, ::500].shape == (6, 6, 8)
    assert held.largest <= 100 * 100 * 8


def test_axes_are_rearranged_without_reading():
    array = np.arange(60).reshape(3, 4, 5)
    held = Held(array, (2, 2, 2))
    turn = AxisMap((2, 0, 1), (True, False, True))
    view = turn.apply(held)
    assert held.largest == 0
    np.testing.assert_array_equal(np.asarray(view), turn.apply(array))


def test_pixel_map_keeps_the_grid():
    array = np.arange(24, dtype="u1").reshape(4, 6)
    table = np.stack([np.arange(256), np.arange(256) * 2, 255 - np.arange(256)], -1).astype("u1")
    colours = PixelMap(Held(array), lambda block: table[block], 2, 3, "u1")
    np.testing.assert_array_equal(colours, table[array])
    np.testing.assert_array_equal(colours[1:3, ::2, 2], table[array][1:3, ::2, 2])


def test_napari_takes_them_for_layer_data():
    protocols = pytest.importorskip("napari.layers._data_protocols")
    protocols.assert_protocol(Held(np.zeros((4, 5))))


# -- computed levels ---------------------------------------------------------------------------------


def test_box_means_by_hand():
    np.testing.assert_array_equal(box_mean(np.array([[0, 2, 5], [4, 6, 7]], "u1"), (2, 2)), [[3, 6]])
    np.testing.assert_allclose(box_mean(np.array([[0, 2, 5.5]], "f4"), (2, 2)), [[1, 5.5]])


def test_shrunk_is_the_mean_of_boxes():
    array = np.random.default_rng(0).integers(0, 256, (1030, 1201, 3)).astype("u1")
    coarse = Shrunk(Held(array, (256, 256, 3)), "yxc")
    assert coarse.shape == (258, 301, 3)
    expected = array[:1028, :1200].reshape(257, 4, 300, 4, 3).mean(axis=(1, 3), dtype="f4")
    np.testing.assert_array_equal(coarse[:257, :300], np.rint(expected))
    np.testing.assert_array_equal(coarse[200:257:5, 10:290, 1], np.rint(expected)[200:257:5, 10:290, 1])
    np.testing.assert_array_equal(coarse[-1, -1], np.rint(array[1028:, 1200:].mean(axis=(0, 1), dtype="f4")))


def test_only_large_pictures_without_a_pyramid_get_levels(tmp_path):
    small, large = Held(np.zeros((8192, 10), "u1")), Held(np.zeros((9000, 10), "u1"))
    assert len(with_coarser_levels([small], "yx")) == 1
    assert [lv.shape for lv in with_coarser_levels([large], "yx")] == [(9000, 10), (2250, 3), (563, 1)]
    assert len(with_coarser_levels([large, small], "yx")) == 2
    array = np.zeros((9000, 64), "u1")
    array[4000:5000] = 200
    tifffile.imwrite(tmp_path / "a.tif", array, tile=(512, 64), compression="zlib")
    (image,) = tiff.read(tmp_path / "a.tif")
    assert image.spatial_shape(1) == (2250, 16)
    np.testing.assert_array_equal(image.levels[1][990:1260, 3], array[3960:5040:4, 12])
