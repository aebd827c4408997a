import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_medseg.inference.inputs.stacks import StackReader, stack_planes


class Volume:
    """Reads slices of an array ``(c, z, y, x)`` and remembers what was asked for."""

    def __init__(self, values):
        self.values = values
        self.asked = []

    def read(self, plane, start, shape):
        self.asked.append((plane, start, shape))
        (y, x), (height, width) = start, shape
        return self.values[:, plane, y : y + height, x : x + width].astype(np.float32)


def numbered(depth, channels=2, height=6, width=7):
    return np.arange(channels * depth * height * width).reshape(channels, depth, height, width)


def tiles():
    return [((y, x), (3, 4)) for y in (0, 3) for x in (0, 3)]


@pytest.mark.parametrize(
    ("plane", "count", "depth", "expected"),
    [
        (2, 1, 5, (2,)),
        (2, 3, 5, (1, 2, 3)),
        (0, 3, 5, (0, 0, 1)),
        (4, 5, 5, (2, 3, 4, 4, 4)),
        (0, 3, 1, (0, 0, 0)),
        (1, 7, 3, (0, 0, 0, 1, 2, 2, 2)),
    ],
)
def test_slices_of_a_stack_by_hand(plane, count, depth, expected):
    assert stack_planes(plane, count, depth) == expected


@given(st.integers(1, 9), st.sampled_from((1, 3, 5, 7)))
def test_stacks_are_windows_sliding_over_the_edge_padded_volume(depth, count):
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(np.arange(depth), count // 2, mode="edge"), count)
    assert [stack_planes(k, count, depth) for k in range(depth)] == [tuple(w) for w in windows.tolist()]


@pytest.mark.parametrize(("plane", "count", "depth"), [(0, 2, 3), (0, 0, 3), (0, -1, 3), (3, 3, 3), (-1, 3, 3)])
def test_an_even_number_of_slices_and_slices_outside_are_refused(plane, count, depth):
    with pytest.raises(ValueError):
        stack_planes(plane, count, depth)


def test_channels_are_ordered_slice_by_slice():
    volume = np.array([10, 20, 30, 11, 21, 31]).reshape(2, 3, 1, 1)
    reader = StackReader(Volume(volume).read, 3, 3)
    assert reader.read(1, (0, 0), (1, 1)).ravel().tolist() == [10, 11, 20, 21, 30, 31]
    assert reader.read(0, (0, 0), (1, 1)).ravel().tolist() == [10, 11, 10, 11, 20, 21]


@given(st.data(), st.integers(1, 6), st.sampled_from((1, 3, 5)))
def test_regions_equal_those_of_the_edge_padded_volume_in_any_order(data, depth, count):
    volume = numbered(depth)
    half = count // 2
    padded = np.pad(volume, ((0, 0), (half, half), (0, 0), (0, 0)), mode="edge")
    reader = StackReader(Volume(volume).read, count, depth, memory=data.draw(st.sampled_from((0, 100, 1 << 20))))
    for _ in range(6):
        plane = data.draw(st.integers(0, depth - 1))
        start, shape = data.draw(st.sampled_from(tiles()))
        (y, x), (height, width) = start, shape
        window = padded[:, plane : plane + count, y : y + height, x : x + width]
        expected = window.swapaxes(0, 1).reshape(-1, height, width)
        values = reader.read(plane, start, shape)
        assert values.dtype == np.float32
        assert np.array_equal(values, expected)


@pytest.mark.parametrize("tile_first", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_walking_through_the_volume_reads_every_region_once(tile_first, down):
    source = Volume(numbered(8))
    reader = StackReader(source.read, 5, 8)
    planes = range(7, -1, -1) if down else range(8)
    walk = [(p, t) for p in planes for t in tiles()]
    if tile_first:
        walk = [(p, t) for t in tiles() for p in planes]
    for plane, (start, shape) in walk:
        reader.read(plane, start, shape)
    assert sorted(source.asked) == sorted(set(source.asked))
    assert len(source.asked) == 8 * len(tiles())


def test_what_is_kept_stays_below_the_stated_memory():
    one = 2 * 3 * 4 * 4
    source = Volume(numbered(8))
    reader = StackReader(source.read, 3, 8, memory=5 * one)
    for plane in range(8):
        for start, shape in tiles():
            reader.read(plane, start, shape)
            assert sum(v.nbytes for v in reader._kept.values()) == reader._held <= 5 * one
    assert len(source.asked) > 8 * len(tiles())


def test_slices_that_left_the_stack_are_forgotten():
    reader = StackReader(Volume(numbered(8)).read, 3, 8)
    for plane in range(8):
        reader.read(plane, *tiles()[0])
        assert {region[0] for region in reader._kept} == set(stack_planes(plane, 3, 8))


def test_changing_what_was_read_does_not_change_what_is_read_next():
    volume = numbered(3)
    reader = StackReader(Volume(volume).read, 1, 3)
    reader.read(1, (0, 0), (6, 7))[:] = -1
    assert np.array_equal(reader.read(1, (0, 0), (6, 7)), volume[:, 1])
