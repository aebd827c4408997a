"""Labels that are not in memory get the same boundary scores to the bit, and are read sparingly."""

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from napari_medseg.evaluate.surfaces import boundary_scores, slabs
from napari_medseg.evaluate.surfaces.slabs import slabs_of

SPACING = (2.5, 0.7, 1.1)


def labels(shape, seed):
    """Smooth shapes of the ids 0 to 3 that reach over the whole array and its edges."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return np.digitize(noise, np.quantile(noise, [0.4, 0.6, 0.8])).astype(np.uint16)


class Recorded:
    """An array with chunks that is nothing but sliceable, and remembers what was asked of it."""

    def __init__(self, array, chunks):
        self.array, self.chunks, self.asked = array, chunks, []
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key):
        self.asked.append(key)
        return self.array[key]


@pytest.mark.parametrize("elements", ["voxels", "surfels"])
@pytest.mark.parametrize("read_bytes", [1, 2000, 1 << 26])
@pytest.mark.parametrize("chunks", [(1, 1, 30), (3, 5, 7), (4, 19, 2), (100, 100, 100), (13, 1, 1)])
def test_chunked_equals_in_memory(chunks, read_bytes, elements, monkeypatch):
    candidate, reference = labels((13, 19, 17), 1), labels((13, 19, 17), 2)
    options = {"tolerance": 1.2, "elements": elements}
    expected = boundary_scores(candidate, reference, [0, 1, 2, 3, 9], SPACING, **options)
    monkeypatch.setattr(slabs, "_READ_BYTES", read_bytes)
    monkeypatch.setattr(slabs, "_CACHE_BYTES", 700)
    apart = Recorded(candidate, chunks), Recorded(reference, chunks[::-1])
    found = boundary_scores(*apart, [0, 1, 2, 3, 9], SPACING, **options)
    assert repr(found) == repr(expected)
    assert expected[1]["hd"] > 0


def test_dask_and_zarr_equal_numpy(tmp_path):
    candidate, reference = labels((13, 19, 17), 1), labels((13, 19, 17), 2)
    store = zarr.create_array(str(tmp_path / "labels.zarr"), shape=candidate.shape, dtype="u2", chunks=(4, 4, 4))
    store[:] = candidate
    lazy = da.from_array(reference, chunks=((2, 7, 4), (19,), (5, 5, 6, 1)))
    expected = boundary_scores(candidate, reference, [1, 2, 3], SPACING, tolerance=1)
    assert boundary_scores(store, lazy, [1, 2, 3], SPACING, tolerance=1) == expected


def test_views_of_numpy_in_any_order_equal_a_copy():
    candidate, reference = labels((12, 14, 16), 1), labels((12, 14, 16), 2)
    expected = boundary_scores(candidate[::2, ::-1], reference[::2, ::-1].copy(), [1, 3], SPACING, tolerance=1)
    turned = np.asfortranarray(candidate)[::2, ::-1]
    assert boundary_scores(turned, reference[::2, ::-1], [1, 3], SPACING, tolerance=1) == expected


@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    chunk=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    read_bytes=st.integers(1, 300),
    cache_bytes=st.integers(1, 60),
)
def test_cores_cover_the_array_once_and_their_neighbours_are_there(shape, chunk, read_bytes, cache_bytes):
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    seen = np.zeros(shape, int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, "_READ_BYTES", read_bytes)
        patch.setattr(slabs, "_CACHE_BYTES", cache_bytes)
        for slab in slabs_of(Recorded(array, tuple(chunk[: len(shape)]))):
            seen[slab.core] += 1
            around = tuple(
                slice(max(0, c.start - 1), min(n, c.stop + 1)) for c, n in zip(slab.core, shape, strict=True)
            )
            np.testing.assert_array_equal(slab.labels[slab.inside], array[slab.core])
            first = tuple(a.start - o for a, o in zip(around, slab.origin, strict=True))
            assert min(first) >= 0
            held = tuple(slice(f, f + a.stop - a.start) for f, a in zip(first, around, strict=True))
            np.testing.assert_array_equal(slab.labels[held], array[around])
    assert (seen == 1).all()


def test_no_chunk_is_read_twice_where_a_layer_of_chunks_may_be_read_at_once():
    array = Recorded(labels((20, 16, 12), 1), (4, 5, 6))
    boundary_scores(array, array.array, [1], SPACING, tolerance=1)
    read = np.zeros(array.shape, int)
    for key in array.asked:
        read[key] += 1
    assert (read == 1).all()


def test_never_more_is_read_at_once_than_allowed(monkeypatch):
    monkeypatch.setattr(slabs, "_READ_BYTES", 4 * 4 * 8 * 2)
    array = Recorded(labels((20, 16, 24), 1), (4, 4, 4))
    list(slabs_of(array))
    sizes = [tuple(k.stop - k.start for k in key) for key in array.asked]
    # a row of two chunks and the voxel beside it on each side
    assert {size[0] for size in sizes} == {4}
    assert max(size[1] for size in sizes) == 6
    assert max(size[2] for size in sizes) == 10


@pytest.mark.slow
def test_memory_follows_the_boundary_and_not_the_labels():
    """Balls in 2 GiB of labels each that exist nowhere as a whole."""
    import tracemalloc

    shape, radius = (1024, 1024, 2048), 100

    class Ball:
        dtype, chunks = np.dtype(np.uint8), (64, 256, 256)

        def __init__(self, centre):
            self.shape, self.centre = shape, centre

        def __getitem__(self, key):
            found = np.zeros([k.stop - k.start for k in key], np.uint8)
            box = [
                slice(max(k.start, c - radius), max(k.start, min(k.stop, c + radius + 1)))
                for k, c in zip(key, self.centre, strict=True)
            ]
            away = [(k - c) ** 2 for k, c in zip(np.ogrid[tuple(box)], self.centre, strict=True)]
            part = tuple(slice(b.start - k.start, b.stop - k.start) for b, k in zip(box, key, strict=True))
            found[part] = away[0] + away[1] + away[2] < radius**2
            return found

    tracemalloc.start()
    found = boundary_scores(Ball((500, 500, 1000)), Ball((503, 500, 1000)), [1], (1, 1, 1), tolerance=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[1]["hd"] == 3.0
    assert found[1]["surface_dice"] == 1.0
    assert peak < 1 << 29
