import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from hypothesis import assume, given
from hypothesis import strategies as st

from napari_medseg.inference.inputs.mosaic import MosaicDecisions, MosaicLayout, MosaicReader, pack, unpack
from napari_medseg.inference.labels.decide import decide


@st.composite
def layouts(draw):
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    depth = draw(st.one_of(st.sampled_from((1, 2, 47, 48)), st.integers(1, 20)))
    gutter = draw(st.integers(0, 3))
    if draw(st.booleans()):
        return MosaicLayout.near_square(depth, height, width, exact=draw(st.booleans()), gutter=gutter)
    rows, columns = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    assume(rows * columns >= depth)
    return MosaicLayout(depth, height, width, rows, columns, gutter)


def numbered(layout, channels=2, dtype=np.float32):
    """A volume in which no two voxels are equal and none is 0."""
    shape = (channels, layout.depth, layout.height, layout.width)
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)


def slices_of(volume):
    def read(plane, start, shape):
        (y, x), (height, width) = start, shape
        return np.asarray(volume[:, plane, y : y + height, x : x + width], np.float32)

    return read


class Rows:
    """A decision that notes its rows and when it was made and closed."""

    def __init__(self, plane, said, shape):
        self.plane, self.said = plane, said
        self.maps = torch.full(shape, torch.nan)
        said.append(("made", plane))

    def add(self, first, maps):
        assert torch.isnan(self.maps[:, first : first + maps.shape[1]]).all()
        self.maps[:, first : first + maps.shape[1]] = maps

    def close(self):
        self.said.append(("closed", self.plane))


def test_six_slices_in_two_rows_read_like_text():
    volume = np.broadcast_to(np.arange(6)[:, None, None], (6, 2, 2))
    mosaic = pack(volume, MosaicLayout(6, 2, 2, rows=2, columns=3))
    assert mosaic.tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2


def test_the_gutter_lies_between_tiles_only():
    volume = np.broadcast_to(np.arange(1, 4)[:, None, None], (3, 1, 2))
    mosaic = pack(volume, MosaicLayout(3, 1, 2, rows=2, columns=2, gutter=1), fill=9)
    assert mosaic.tolist() == [[1, 1, 9, 2, 2], [9] * 5, [3, 3, 9, 9, 9]]


@pytest.mark.parametrize(
    ("slices", "exact", "grid", "shape"),
    [
        ((144, 144, 144), False, (12, 12), (1728, 1728)),
        ((48, 80, 80), False, (7, 7), (560, 560)),
        ((48, 80, 80), True, (8, 6), (640, 480)),
        ((64, 512, 512), False, (8, 8), (4096, 4096)),
        ((64, 512, 512), True, (8, 8), (4096, 4096)),
        ((88, 512, 512), True, (11, 8), (5632, 4096)),
        ((47, 80, 80), True, (7, 7), (560, 560)),
        ((1, 80, 80), False, (1, 1), (80, 80)),
        ((1, 10, 100), False, (1, 1), (10, 100)),
        ((3, 100, 10), False, (1, 3), (100, 30)),
    ],
)
def test_near_square_layouts_by_hand(slices, exact, grid, shape):
    layout = MosaicLayout.near_square(*slices, exact=exact)
    assert (layout.rows, layout.columns) == grid
    assert layout.shape == shape


@given(st.integers(1, 600), st.integers(40, 80), st.integers(40, 80), st.booleans())
def test_near_square_layouts_hold_all_slices_are_not_long_and_waste_no_row(depth, height, width, exact):
    layout = MosaicLayout.near_square(depth, height, width, exact=exact)
    assert (layout.rows - 1) * layout.columns < depth <= layout.rows * layout.columns
    assert depth < 3 or max(layout.shape) <= 2 * min(layout.shape)


@given(layouts())
def test_tiles_and_slices_are_inverse(layout):
    for row in range(layout.rows):
        for column in range(layout.columns):
            plane = layout.slice_at(row, column)
            if plane is None:
                assert row * layout.columns + column >= layout.depth
            else:
                step = layout.height + layout.gutter, layout.width + layout.gutter
                assert layout.tile_of(plane) == (row * step[0], column * step[1])
    planes = [layout.slice_at(r, c) for r in range(layout.rows) for c in range(layout.columns)]
    assert planes[: layout.depth] == list(range(layout.depth))


@given(layouts(), st.sampled_from((np.uint8, np.int16, np.uint32, np.float32, np.float64)), st.booleans())
def test_unpacking_gives_back_the_volume(layout, dtype, with_channels):
    volume = numbered(layout, dtype=dtype)
    volume = volume if with_channels else volume[0]
    mosaic = pack(volume, layout)
    assert mosaic.shape == (*volume.shape[:-3], *layout.shape)
    assert mosaic.dtype == volume.dtype
    again = unpack(mosaic, layout)
    assert again.dtype == volume.dtype
    assert np.array_equal(again, volume)


@pytest.mark.parametrize("depth", [1, 47, 48])
def test_any_kind_of_array_packs_alike(depth, tmp_path):
    layout = MosaicLayout.near_square(depth, 5, 7, gutter=2)
    volume = numbered(layout, dtype=np.int32)
    turned = np.ascontiguousarray(volume.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    assert not turned.flags.c_contiguous
    stored = zarr.create_array(tmp_path / "v.zarr", shape=volume.shape, chunks=(1, 4, 3, 4), dtype=volume.dtype)
    stored[...] = volume
    expected = pack(volume, layout, fill=-1)
    assert (expected == -1).sum() == expected.size - volume.size
    for source in (turned, stored, da.from_array(volume, chunks=(1, 3, 5, 2)), np.flip(np.flip(volume, 1).copy(), 1)):
        assert np.array_equal(pack(source, layout, fill=-1), expected)
        whole = MosaicReader(slices_of(source), layout, 2, fill=-1).read((0, 0), layout.shape)
        assert whole.dtype == np.float32
        assert np.array_equal(whole, expected)


@given(layouts(), st.data())
def test_a_region_of_the_mosaic_is_what_packing_would_give(layout, data):
    volume = numbered(layout)
    asked = []

    def read(plane, start, shape):
        asked.append(shape[0] * shape[1])
        assert start[0] + shape[0] <= layout.height and start[1] + shape[1] <= layout.width
        return slices_of(volume)(plane, start, shape)

    low = [data.draw(st.integers(0, n - 1)) for n in layout.shape]
    size = [data.draw(st.integers(1, n - b)) for n, b in zip(layout.shape, low, strict=True)]
    region = MosaicReader(read, layout, 2, fill=-3).read(tuple(low), tuple(size))
    expected = pack(volume, layout, fill=-3)[:, low[0] : low[0] + size[0], low[1] : low[1] + size[1]]
    assert np.array_equal(region, expected)
    assert sum(asked) == (expected[0] != -3).sum()


@given(layouts(), st.data())
def test_each_slice_gets_its_rows_and_is_closed_before_the_next_is_made(layout, data):
    volume = torch.from_numpy(numbered(layout))
    mosaic = torch.from_numpy(pack(volume.numpy(), layout, fill=np.nan))
    said, made = [], []

    def make(plane):
        made.append(Rows(plane, said, volume[:, 0].shape))
        return made[-1]

    decisions = MosaicDecisions(layout, make)
    first = 0
    while first < layout.shape[0]:
        rows = data.draw(st.integers(1, layout.shape[0] - first))
        decisions.add(first, mosaic[:, first : first + rows])
        first += rows
    decisions.close()
    assert said == [(word, plane) for plane in range(layout.depth) for word in ("made", "closed")]
    assert torch.equal(torch.stack([m.maps for m in made], 1), volume)


def test_only_one_row_of_tiles_waits():
    layout = MosaicLayout(12, 4, 3, rows=4, columns=3, gutter=1)
    decisions = MosaicDecisions(layout, lambda plane: Rows(plane, [], (1, 4, 3)))
    for row in range(layout.shape[0]):
        decisions.add(row, torch.zeros(1, 1, layout.shape[1]))
        assert sum(maps.shape[1] for _, maps in decisions._waiting) <= 3


def test_missing_repeated_and_misshapen_rows_are_refused():
    layout = MosaicLayout(2, 2, 2, rows=1, columns=2)
    decisions = MosaicDecisions(layout, lambda plane: Rows(plane, [], (1, 2, 2)))
    with pytest.raises(ValueError, match="do not follow row 0"):
        decisions.add(1, torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="width 3"):
        decisions.add(0, torch.zeros(1, 1, 3))
    decisions.add(0, torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="do not follow row 1"):
        decisions.add(0, torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="only 1 came"):
        decisions.close()


@pytest.mark.parametrize("values", [(5, 2, 2, 2, 2), (0, 2, 2, 1, 1), (1, 2, 2, 1, 1, -1), (1, 0, 2, 1, 1)])
def test_impossible_layouts_are_refused(values):
    with pytest.raises(ValueError):
        MosaicLayout(*values)


def test_what_does_not_fit_is_refused():
    layout = MosaicLayout(3, 2, 2, rows=2, columns=2)
    with pytest.raises(ValueError, match="does not fit"):
        pack(np.zeros((2, 2, 2)), layout)
    with pytest.raises(ValueError, match="is not one of"):
        unpack(np.zeros((4, 5)), layout)
    with pytest.raises(ValueError, match="uint8 cannot hold the fill value -1"):
        pack(np.zeros((3, 2, 2), np.uint8), layout, fill=-1)
    with pytest.raises(ValueError, match="does not lie inside"):
        MosaicReader(slices_of(np.zeros((1, 3, 2, 2))), layout, 1).read((3, 0), (2, 1))
    for outside in (-1, 3):
        with pytest.raises(ValueError, match="is not one of the 3"):
            layout.tile_of(outside)
    with pytest.raises(ValueError, match="tile 2, 0"):
        layout.slice_at(2, 0)


class Labels:
    """Decides the winner of each row as it comes."""

    def __init__(self, target):
        self.target = target

    def add(self, first, maps):
        self.target[first : first + maps.shape[1]] = decide(maps, None)

    def close(self):
        pass


def by_mosaic(network, volume, layout):
    """Maps ``(c, z, y, x)`` and labels ``(z, y, x)``, decided three rows of the mosaic at a time."""
    mosaic = MosaicReader(slices_of(volume), layout, volume.shape[0]).read((0, 0), layout.shape)
    with torch.inference_mode():
        maps = network(torch.from_numpy(mosaic)[None])[0]
    labels = np.full(volume.shape[1:], 255, np.uint8)
    decisions = MosaicDecisions(layout, lambda plane: Labels(labels[plane]))
    for first in range(0, layout.shape[0], 3):
        decisions.add(first, maps[:, first : first + 3])
    decisions.close()
    return unpack(maps.numpy(), layout), labels


def slice_by_slice(network, volume):
    with torch.inference_mode():
        maps = network(torch.from_numpy(volume).transpose(0, 1)).transpose(0, 1)
    return maps.numpy(), decide(maps, None)


def noise(layout, channels=2):
    return np.random.default_rng(7).normal(size=(channels, layout.depth, layout.height, layout.width)).astype("f4")


@pytest.mark.parametrize("gutter", [0, 4])
def test_a_network_of_single_pixels_gives_the_same_as_slice_by_slice(gutter):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 8, 1, bias=False), torch.nn.Tanh(), torch.nn.Conv2d(8, 3, 1, bias=False)
    )
    layout = MosaicLayout.near_square(11, 9, 8, gutter=gutter)
    volume = noise(layout)
    maps, labels = by_mosaic(network, volume, layout)
    expected_maps, expected = slice_by_slice(network, volume)
    assert np.allclose(maps, expected_maps, atol=1e-6)
    assert np.array_equal(labels, expected)
    assert len(np.unique(labels)) == 3


def test_a_network_of_3x3_pixels_differs_only_at_the_seams():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 3, 3, padding=1)
    layout = MosaicLayout(11, 9, 8, rows=3, columns=4)
    volume = noise(layout)
    maps, labels = by_mosaic(network, volume, layout)
    expected_maps, expected = slice_by_slice(network, volume)
    differs = np.abs(maps - expected_maps).max(0) > 1e-5
    assert not differs[:, 1:-1, 1:-1].any()
    # slice 5 has a filled tile on each of its four sides; slice 0 lies in the corner of the mosaic
    ring = np.ones((9, 8), bool)
    ring[1:-1, 1:-1] = False
    assert np.array_equal(differs[5], ring)
    assert not differs[0, 0, :-1].any() and not differs[0, :-1, 0].any()
    assert np.array_equal(labels[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1])


def test_a_gutter_as_wide_as_the_network_sees_takes_the_seams_away():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 3, 3, padding=1)
    layout = MosaicLayout(11, 9, 8, rows=3, columns=4, gutter=1)
    volume = noise(layout)
    maps, labels = by_mosaic(network, volume, layout)
    expected_maps, expected = slice_by_slice(network, volume)
    assert np.allclose(maps, expected_maps, atol=1e-6)
    assert np.array_equal(labels, expected)
