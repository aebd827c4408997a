"""Counting pairs of ids against a plain loop, scikit-image, and hand calculations."""

from collections import Counter

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import contingency_table

from napari_medseg.case import CancelledError, InputError
from napari_medseg.evaluate import pairs as room
from napari_medseg.evaluate.pairs import Confusion, count_pairs, shared_boxes
from napari_medseg.jobs import Progress

_SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=9)


def _looped(candidate, reference):
    return Counter(zip(np.asarray(candidate).ravel().tolist(), np.asarray(reference).ravel().tolist(), strict=True))


def _as_dict(pairs):
    rows = zip(pairs.candidate.tolist(), pairs.reference.tolist(), pairs.voxels.tolist(), strict=True)
    return {(c, r): n for c, r, n in rows}


def _zarr(array, chunks):
    stored = zarr.create_array(store={}, shape=array.shape, dtype=array.dtype, chunks=chunks)
    stored[...] = array
    return stored


def test_by_hand():
    candidate = np.array([[0, 0, 1, 1], [0, 2, 2, 1]], np.uint8)
    reference = np.array([[0, 7, 7, 7], [0, 2, 7, 0]], np.int16)
    pairs = count_pairs(candidate, reference)
    assert _as_dict(pairs) == {(0, 0): 2, (0, 7): 1, (1, 0): 1, (1, 7): 2, (2, 2): 1, (2, 7): 1}
    assert pairs.candidate_voxels == {1: 3, 2: 2}
    assert pairs.reference_voxels == {2: 1, 7: 4}
    assert pairs.confusion(2) == Confusion(true_positive=1, false_positive=1, false_negative=0, true_negative=6)
    assert pairs.confusion_any() == Confusion(true_positive=4, false_positive=1, false_negative=1, true_negative=2)
    assert pairs.confusion(99) == Confusion(0, 0, 0, 8)


@settings(max_examples=40, deadline=None)
@given(
    _SHAPES.flatmap(
        lambda shape: st.tuples(
            hnp.arrays(st.sampled_from([np.uint8, np.int32, np.dtype(">u2")]), shape, elements=st.integers(0, 3)),
            hnp.arrays(np.int64, shape, elements=st.sampled_from([0, 1, 5, 2**40, 2**63 - 1])),
        )
    ),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_equals_a_loop_and_scikit_image(arrays, piece, chunk):
    candidate, reference = arrays
    expected = _looped(candidate, reference)
    with pytest.MonkeyPatch.context() as patch:
        # borders of runs, pieces and boxes everywhere, and partial sums merged again and again
        patch.setattr(room, "_PIECE_VOXELS", piece)
        patch.setattr(room, "_BOX_VOXELS", 3 * piece)
        patch.setattr(room, "_MERGE_AT", piece)
        pairs = count_pairs(da.from_array(candidate, chunks=chunk), reference)
    assert _as_dict(pairs) == expected
    assert list(_as_dict(pairs)) == sorted(expected)
    ranks = np.unique(reference, return_inverse=True)
    table = contingency_table(candidate.astype(np.int64).ravel(), ranks[1].ravel()).toarray()
    assert {(c, int(ranks[0][r])): int(table[c, r]) for c, r in zip(*np.nonzero(table), strict=True)} == _as_dict(pairs)


def test_stored_arrays_of_different_chunks_agree():
    generator = np.random.default_rng(3)
    candidate = np.kron(generator.integers(0, 5, (9, 11)), np.ones((13, 7), int)).astype(np.uint16)
    reference = np.roll(candidate, (4, 2), (0, 1)).astype(np.int64) * 10**12
    expected = _looped(candidate, reference)
    for first in (candidate, candidate.T.copy().T, _zarr(candidate, (16, 32)), da.from_array(candidate, (20, 7))):
        for second in (reference, _zarr(reference, (50, 3)), da.from_array(reference, ((1, 100, 16), (70, 7)))):
            assert _as_dict(count_pairs(first, second)) == expected


class _Watched:
    """An array that notes which parts are read."""

    def __init__(self, array, chunks):
        self._array, self.chunks, self.read = array, chunks, []
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, region):
        self.read.append(region)
        return self._array[region]


def test_only_boxes_of_whole_chunks_are_held(monkeypatch):
    monkeypatch.setattr(room, "_BOX_VOXELS", 64 * 64 * 2)
    watched = _Watched(np.zeros((256, 256), np.uint8), (32, 32))
    count_pairs(watched, _Watched(np.zeros((256, 256), np.uint8), (64, 16)))
    sizes = [tuple(s.stop - s.start for s in region) for region in watched.read]
    assert sum(a * b for a, b in sizes) == 256 * 256
    assert all(a * b <= 64 * 64 * 2 and a % 64 == 0 and b % 32 == 0 for a, b in sizes)


@given(_SHAPES, st.data())
def test_boxes_cover_every_voxel_once(shape, data):
    chunks = tuple(data.draw(st.integers(1, 6)) for _ in shape)
    seen = np.zeros(shape, int)
    for box in shared_boxes(da.zeros(shape, chunks=chunks), np.zeros(shape), data.draw(st.integers(1, 200))):
        seen[box] += 1
    assert (seen == 1).all()


def test_empty_arrays_and_masks():
    assert len(count_pairs(np.zeros((0, 4), int), np.zeros((0, 4), int)).voxels) == 0
    assert _as_dict(count_pairs(np.array([True, False]), np.array([True, True]))) == {(0, 1): 1, (1, 1): 1}


@pytest.mark.parametrize(
    ("candidate", "reference", "words"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "the shape \\(2, 3\\) and the reference \\(3, 2\\)"),
        (np.zeros(3), np.zeros(3, int), "candidate holds float64"),
        (np.zeros(3, int), np.array([0, -4, -1]), "reference holds the id -4"),
        (np.array([0, 2**63 + 9], np.uint64), np.zeros(2, int), "candidate holds the id 9223372036854775817"),
    ],
)
def test_what_cannot_be_counted_is_refused(candidate, reference, words):
    with pytest.raises(InputError, match=words):
        count_pairs(candidate, reference)


def test_progress_and_cancel(monkeypatch):
    monkeypatch.setattr(room, "_BOX_VOXELS", 16)
    seen = []
    progress = Progress(seen.append)
    count_pairs(np.zeros((8, 16), int), np.zeros((8, 16), int), progress=progress)
    assert (seen[-1].done, seen[-1].total) == (8, 8)
    progress.cancel()
    with pytest.raises(CancelledError):
        count_pairs(np.zeros((8, 16), int), np.zeros((8, 16), int), progress=progress)
