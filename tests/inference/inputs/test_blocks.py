import threading

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_medseg.inference.inputs import blocks
from napari_medseg.inference.inputs.blocks import BlockReader, in_blocks


class Counted:
    """An array that notes what is read of it."""

    def __init__(self, data, chunks):
        self.data, self.chunks = data, chunks
        self.shape, self.dtype = data.shape, data.dtype
        self.reads = []

    def __getitem__(self, index):
        self.reads.append(index)
        return self.data[index]


@given(st.data(), st.integers(0, 3))
def test_any_region_is_what_the_source_holds(data, leading):
    shape = tuple(data.draw(st.integers(1, 23)) for _ in range(3))
    source = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_BLOCK_BYTES", 4 * data.draw(st.integers(1, 300)))
        patch.setattr(blocks, "_KEPT_BYTES", 4 * data.draw(st.integers(1, 2000)))
        reader = BlockReader(Counted(source, chunks), (1, 2))
    for _ in range(4):
        index = []
        for axis, n in enumerate(shape):
            low = data.draw(st.integers(0, n - 1))
            whole = slice(low, data.draw(st.integers(low + 1, n)))
            index.append(low if axis < leading else whole)
        assert np.array_equal(reader[tuple(index)], source[tuple(index)])
        assert np.array_equal(reader[tuple(index[:2])], source[tuple(index[:2])])


def test_overlapping_tiles_read_every_pixel_once(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 64 * 64)
    source = Counted(np.random.default_rng(0).integers(0, 255, (200, 300), dtype=np.uint8), (32, 32))
    reader = BlockReader(source, (0, 1))
    for top in range(0, 160, 10):
        for left in range(0, 260, 10):
            reader[top : top + 50, left : left + 50]
    assert len(source.reads) == 4 * 5
    assert sum((a.stop - a.start) * (b.stop - b.start) for a, b in source.reads) == 200 * 300
    # blocks are whole chunks, several together
    assert all(a.start % 64 == b.start % 64 == 0 for a, b in source.reads)


def test_many_threads_read_a_block_once_and_what_fails_is_tried_again():
    source = Counted(np.ones((10, 10)), (10, 10))
    release, failing = threading.Event(), [True]
    whole = source.__class__.__getitem__

    class Slow(Counted):
        def __getitem__(self, index):
            release.wait(10)
            if failing:
                failing.clear()
                raise OSError("the disk is gone")
            return whole(self, index)

    slow = Slow(source.data, (10, 10))
    reader = BlockReader(slow, (0, 1))
    seen = []

    def read():
        try:
            seen.append(reader[0:3, 0:3].sum())
        except OSError as error:
            seen.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join(10)
    assert "the disk is gone" in seen
    assert reader[0:3, 0:3].sum() == 9
    assert len(slow.reads) == 1


def test_memory_follows_the_block_and_arrays_in_memory_are_left_alone(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(blocks, "_KEPT_BYTES", 500)
    reader = BlockReader(da.zeros((1000, 1000), dtype=np.uint8, chunks=(10, 10)), (0, 1))
    for row in range(0, 1000, 10):
        reader[row : row + 10, 0:200]
    assert len(reader._kept) <= 5
    data = np.zeros((3, 3))
    assert in_blocks(data, (0, 1)) is data
