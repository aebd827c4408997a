import math

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medseg.case import Geometry, InputError, Segmentation
from napari_medseg.evaluate.errors import (
    Category,
    Disagreement,
    ErrorCategories,
    RecentChunks,
    VoteEntropy,
    map_levels,
)
from napari_medseg.io.lazy import LazyArray


class Counting(LazyArray):
    """Labels that note every region that is read."""

    def __init__(self, labels, chunks):
        super().__init__(labels.shape, labels.dtype, chunks)
        self.labels = labels
        self.regions = []

    def _read(self, region):
        self.regions.append(region)
        return self.labels[region]

    @property
    def voxels(self):
        return sum(math.prod(r.stop - r.start for r in region) for region in self.regions)


def test_every_pair_of_two_classes_has_its_category():
    candidate = np.array([[0, 1, 1, 0, 2, 2]])
    reference = np.array([[0, 1, 0, 1, 1, 2]])

    every = ErrorCategories(candidate, reference)[...]
    of_one = ErrorCategories(candidate, reference, label=1)[...]
    of_two = ErrorCategories(candidate, reference, label=2)[...]

    assert every.tolist() == [[0, 1, 2, 3, 4, 1]]
    assert of_one.tolist() == [[0, 1, 2, 3, 3, 0]]
    assert of_two.tolist() == [[0, 0, 0, 0, 2, 1]]
    assert every.dtype == np.uint8


def test_ids_of_objects_are_not_classes():
    candidate, reference = np.array([[7, 7, 3, 0]], np.uint32), np.array([[1, 2, 0, 2]], np.int64)

    assert ErrorCategories(candidate, reference, instances=True)[...].tolist() == [[1, 1, 2, 3]]


KEYS = [
    (3,),
    (-1, slice(None), 2),
    (slice(None, None, -1), 4, slice(8, 1, -2)),
    (..., slice(None, None, -1)),
    (slice(2, 5), slice(0, 0), slice(None)),
    (0, 0, 0),
    (slice(None), [4, 1, 1], slice(3, 4)),
]


@pytest.mark.parametrize("key", KEYS)
def test_slices_like_numpy(key):
    rng = np.random.default_rng(0)
    candidate, reference = rng.integers(0, 3, (2, 6, 7, 9))
    lazy = ErrorCategories(Counting(candidate, (4, 3, 5)), reference)

    found = lazy[key]

    np.testing.assert_array_equal(found, ErrorCategories(candidate, reference)[()][key])
    assert found.shape == lazy[()][key].shape


def test_a_slice_reads_its_own_chunks_and_no_others():
    labels = np.random.default_rng(0).integers(0, 3, (64, 32, 32)).astype(np.uint8)
    candidate, reference = Counting(labels, (8, 16, 16)), Counting(labels[::-1], (8, 16, 16))
    shown = ErrorCategories(candidate, reference)

    assert candidate.voxels == reference.voxels == 0
    shown[20]
    assert candidate.voxels == reference.voxels == 8 * 32 * 32
    assert all(r[0] == slice(16, 24) for r in candidate.regions)
    shown[21]
    assert candidate.voxels == 8 * 32 * 32
    shown[20, 17, 3]
    assert candidate.voxels == 8 * 32 * 32


def test_a_large_part_is_not_kept():
    labels = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)
    source = Counting(labels, (1, 6, 6))
    kept = RecentChunks(source, budget=3 * 36)

    np.testing.assert_array_equal(kept[:], labels)
    np.testing.assert_array_equal(kept[:], labels)
    assert source.voxels == 2 * labels.size
    for z in (0, 1, 2, 3, 3, 2):
        np.testing.assert_array_equal(kept[z], labels[z])
    assert source.voxels == 2 * labels.size + 4 * labels[0].size
    assert sum(c.nbytes for c in kept._kept.values()) <= 3 * 36


def test_an_edit_shows_at_once_in_memory_and_after_forget_in_a_store():
    memory = np.zeros((8, 8), np.uint8)
    stored = zarr.create_array({}, shape=(8, 8), chunks=(4, 4), dtype=np.uint8, fill_value=0)
    reference = np.zeros((8, 8), np.uint8)
    shown, of_store = ErrorCategories(memory, reference), ErrorCategories(stored, reference)
    assert not shown[...].any()
    assert not of_store[...].any()

    memory[2, 3] = stored[2, 3] = 1
    assert shown[2, 3] == Category.FALSE_POSITIVE
    assert of_store[2, 3] == Category.BACKGROUND
    of_store.forget((slice(4, 8), slice(4, 8)))
    assert of_store[2, 3] == Category.BACKGROUND
    of_store.forget((slice(2, 3), slice(3, 4)))
    assert of_store[2, 3] == Category.FALSE_POSITIVE


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_votes_by_counting_them(data):
    n = data.draw(st.integers(2, 5))
    votes = np.array(data.draw(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=n, max_size=n)))

    entropy = VoteEntropy([v.reshape(2, 2) for v in votes])[...].reshape(-1)
    disagreement = Disagreement([v.reshape(2, 2) for v in votes])[...].reshape(-1)

    for k in range(4):
        shares = np.unique(votes[:, k], return_counts=True)[1] / n
        assert entropy[k] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(n), abs=1e-6)
        assert disagreement[k] == pytest.approx(1 - shares.max(), abs=1e-6)


def test_one_candidate_does_not_disagree_with_itself():
    with pytest.raises(InputError, match="two or more"):
        VoteEntropy([np.zeros((2, 2), int)])


def test_shapes_and_types_must_fit():
    with pytest.raises(InputError, match="one grid"):
        ErrorCategories(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(InputError, match="whole numbers"):
        ErrorCategories(np.zeros((2, 2)), np.zeros((2, 2), int))


def test_each_level_compares_its_own_labels():
    grid = Geometry.from_spacing((8, 8), (0.5, 0.5), "um")
    fine = np.zeros((2, 8, 8), np.uint8)
    fine[0, 3, 3] = 1
    first, second = (
        Segmentation(labels, grid, coarser=(labels[::2, ::2], labels[::4, ::4])[: 2 - k])
        for k, labels in enumerate(fine)
    )
    spacings = []

    def make(labels, spacing):
        spacings.append(spacing)
        return ErrorCategories(*labels)

    levels = map_levels([first, second], make)

    assert [level.shape for level in levels] == [(8, 8), (4, 4)]
    assert spacings == [(0.5, 0.5), (1.0, 1.0)]
    assert levels[0][3, 3] == Category.FALSE_POSITIVE
    # the level's labels skip that voxel
    assert not levels[1][...].any()
    moved = Segmentation(fine[1], Geometry.from_spacing((8, 8), (0.5, 0.5), "um", origin=(1, 0, 0)))
    with pytest.raises(InputError, match="different grids"):
        map_levels([first, moved], make)
