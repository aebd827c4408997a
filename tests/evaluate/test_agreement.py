"""Agreement of several candidates: by hand, by definition with scipy, and against SimpleITK's filters."""

import json
import math
from collections import Counter

import dask.array as da
import numpy as np
import pytest
import SimpleITK as sitk
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from napari_medseg.case import CancelledError, InputError
from napari_medseg.evaluate.agreement import (
    majority,
    pairwise_dice,
    staple_consensus,
    tied_votes,
)
from napari_medseg.evaluate.errors import Disagreement as disagreement
from napari_medseg.evaluate.errors import VoteEntropy as vote_entropy
from napari_medseg.jobs import Progress


def drawn(count, shape=(10, 12, 14), classes=4, seed=0, right=0.6):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape)
    return [
        np.where(rng.random(shape) < right, truth, rng.integers(0, classes, shape)).astype(np.uint8)
        for _ in range(count)
    ]


def test_pairwise_dice_by_hand():
    a = np.array([[1, 1, 2, 0]])
    b = np.array([[1, 0, 2, 2]])
    c = np.array([[0, 0, 2, 0]])
    found = pairwise_dice([a, b, c], ["A", "B", "C"])
    assert found.ids == (1, 2)
    assert found.matrix(1) == pytest.approx(np.array([[1, 2 / 3, 0], [2 / 3, 1, 0], [0, 0, 1]]))
    assert found.matrix(2) == pytest.approx(np.array([[1, 2 / 3, 1], [2 / 3, 1, 2 / 3], [1, 2 / 3, 1]]))
    assert found.mean[0, 1] == pytest.approx(2 / 3) and found.mean[0, 2] == pytest.approx(0.5)
    assert found.mean_with_others == pytest.approx(((2 / 3 + 1 / 2) / 2, (2 / 3 + 1 / 3) / 2, (1 / 2 + 1 / 3) / 2))
    with pytest.raises(ValueError):
        found.matrix(3)


@given(st.integers(0, 99))
def test_pairwise_dice_equals_simpleitk(seed):
    candidates = drawn(3, (5, 6, 7), 3, seed)
    found = pairwise_dice(candidates)
    for a in range(3):
        for b in range(3):
            overlap = sitk.LabelOverlapMeasuresImageFilter()
            overlap.Execute(*(sitk.GetImageFromArray(candidates[k]) for k in (a, b)))
            for label in found.ids:
                assert found.matrix(label)[a, b] == pytest.approx(overlap.GetDiceCoefficient(label))


def test_a_class_that_two_of_three_lack():
    empty, full = np.zeros((3, 3), int), np.full((3, 3), 5)
    found = pairwise_dice([empty, full, empty])
    assert found.matrix(5).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    nothing = pairwise_dice([empty, empty])
    assert nothing.ids == () and np.isnan(nothing.mean).all()
    json.dumps(nothing.to_dict(), allow_nan=False)


def test_pairwise_dice_of_stored_labels_and_listed_ids(tmp_path):
    candidates = drawn(2, (20, 21, 22))
    stored = zarr.create_array(tmp_path / "a", shape=(20, 21, 22), chunks=(7, 8, 9), dtype=np.uint8)
    stored[:] = candidates[0]
    lazy = pairwise_dice([stored, da.from_array(candidates[1], chunks=6)], ids=[0, 2, 9])
    whole = pairwise_dice(candidates)
    assert lazy.ids == (2, 9)
    assert lazy.matrix(2).tolist() == whole.matrix(2).tolist()
    assert lazy.matrix(9).tolist() == [[1, 1], [1, 1]]
    assert json.loads(json.dumps(lazy.to_dict()))["dice"]["2"] == lazy.matrix(2).tolist()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_majority_equals_simpleitk_with_ties_marked(count):
    candidates = drawn(count, seed=count)
    voting = sitk.LabelVotingImageFilter()
    voting.SetLabelForUndecidedPixels(99)
    expected = sitk.GetArrayFromImage(voting.Execute([sitk.GetImageFromArray(c) for c in candidates]))
    assert np.array_equal(majority(candidates, tied=99), expected)
    assert np.array_equal(tied_votes(candidates), expected == 99)
    assert (expected == 99).any() and (expected != 99).any()


def test_ties_go_to_the_first_listed_of_the_tied_ids():
    votes = np.array([[[3, 3, 1]], [[2, 1, 2]], [[2, 1, 3]], [[3, 2, 0]]])
    # 3 2 2 3: tied 3 and 2, the first says 3. 3 1 1 2: 1. 1 2 3 0: all tied, the first says 1
    assert np.asarray(majority(list(votes))).tolist() == [[3, 1, 1]]
    assert np.asarray(majority(list(votes[::-1]))).tolist() == [[3, 1, 0]]
    assert np.asarray(tied_votes(list(votes))).tolist() == [[True, False, True]]


@given(st.integers(2, 6), st.integers(0, 50))
def test_entropy_and_disagreement_by_definition(count, seed):
    candidates = drawn(count, (6, 7), 4, seed, right=0.4)
    spread, apart = np.asarray(vote_entropy(candidates)), np.asarray(disagreement(candidates))
    for index in np.ndindex(6, 7):
        votes = list(Counter(c[index] for c in candidates).values())
        assert spread[index] == pytest.approx(entropy(votes, base=count), abs=1e-6)
        assert apart[index] == pytest.approx(1 - max(votes) / count, abs=1e-6)


def test_entropy_by_hand():
    one, two, three, four = (np.full((1, 1), k) for k in (1, 2, 3, 70000))
    assert np.asarray(vote_entropy([one, one])) == 0
    assert np.asarray(vote_entropy([one, two, three, four])) == pytest.approx(1)
    assert np.asarray(vote_entropy([one, one, two])) == pytest.approx(0.579, abs=5e-4)
    assert np.asarray(vote_entropy([one, one, four, four])) == pytest.approx(0.5)
    assert np.asarray(disagreement([one, one, two])) == pytest.approx(1 / 3)


class Watched:
    """An array that remembers what was read of it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, []

    def __getitem__(self, key):
        self.read.append(key)
        return self.array[key]


@pytest.mark.parametrize("of", [majority, tied_votes])
def test_maps_read_only_what_is_looked_at(of):
    candidates = drawn(3, (8, 40, 50))
    watched = [Watched(c) for c in candidates]
    found = of(watched)
    assert found.shape == (8, 40, 50) and all(not w.read for w in watched)
    part = found[3, 5:9]
    assert all(w.read == [(slice(3, 4), slice(5, 9), slice(0, 50))] for w in watched)
    whole = np.asarray(of(candidates))
    assert np.array_equal(part, whole[3, 5:9]) and part.dtype == found.dtype == whole.dtype
    assert np.array_equal(of(candidates).to_dask().rechunk((3, 17, 50)).compute(), whole)


def test_maps_of_stored_labels(tmp_path):
    candidates = drawn(3, (12, 30, 31))
    stored = zarr.create_array(tmp_path / "a", shape=(12, 30, 31), chunks=(5, 8, 9), dtype=np.uint8)
    stored[:] = candidates[0]
    mixed = [stored, da.from_array(candidates[1].astype(np.int32), chunks=7), candidates[2]]
    found = majority(mixed)
    assert found.chunks == (5, 8, 9) and found.dtype == np.int32
    assert np.array_equal(found, majority(candidates))


def test_masks_count_as_ids_0_and_1():
    masks = [c > 1 for c in drawn(3)]
    found = majority(masks)
    assert found.dtype == np.uint8 and np.array_equal(found, np.sum(masks, 0) >= 2)
    assert staple_consensus(masks).ids == (1,)


def test_staple_of_one_id_equals_simpleitk():
    candidates = [np.where(c > 1, 7, 0).astype(np.uint8) for c in drawn(4, seed=3, right=0.8)]
    names = ["A", "B", "C", "D"]
    found = staple_consensus(candidates, names)
    staple = sitk.STAPLEImageFilter()
    staple.SetForegroundValue(7)
    probability = sitk.GetArrayFromImage(staple.Execute([sitk.GetImageFromArray(c) for c in candidates]))
    assert np.array_equal(found.labels, np.where(probability > 0.5, 7, 0))
    assert np.ravel(found.sensitivity) == pytest.approx(staple.GetSensitivity(), abs=1e-6)
    assert found.specificity == pytest.approx(staple.GetSpecificity(), abs=1e-6)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["candidates"]["B"]["sensitivity"]["7"] == pytest.approx(found.sensitivity[1][0])
    assert record["converged"] is True


def test_staple_of_several_ids_equals_simpleitk():
    candidates = drawn(5, (20, 20, 20), 3, seed=1, right=0.8)
    # tied votes are what the filter itself gets wrong
    clear = ~np.asarray(tied_votes(candidates))
    candidates = [np.where(clear, c, 0).astype(np.uint8) for c in candidates]
    found = staple_consensus([da.from_array(c, chunks=9) for c in candidates])
    multi = sitk.MultiLabelSTAPLEImageFilter()
    expected = sitk.GetArrayFromImage(multi.Execute([sitk.GetImageFromArray(c) for c in candidates]))
    assert np.array_equal(found.labels, expected)
    for k in range(5):
        matrix = np.array(multi.GetConfusionMatrix(k)).reshape(4, 3)
        assert found.sensitivity[k] == pytest.approx(matrix.diagonal()[1:], abs=1e-3)
        assert found.specificity[k] == pytest.approx(matrix[0, 0], abs=1e-3)


def test_staple_trusts_the_better_candidate_and_refuses_what_does_not_fit():
    candidates = [np.where(c > 1, 1, 0) for c in (*drawn(3, right=0.95, seed=5), drawn(1, right=0.2, seed=5)[0])]
    found = staple_consensus(candidates)
    assert min(row[0] for row in found.sensitivity[:3]) > found.sensitivity[3][0] + 0.2

    class Huge:
        shape, dtype = (2000, 2000, 2000), np.dtype(np.uint8)

        def __getitem__(self, key):
            raise AssertionError("read although it does not fit")

    with pytest.raises(InputError, match="at most"):
        staple_consensus([Huge(), Huge(), Huge()])
    with pytest.raises(InputError, match="at least 3 segmentations"):
        staple_consensus(drawn(2))


@pytest.mark.parametrize("of", [pairwise_dice, majority, tied_votes, vote_entropy, disagreement, staple_consensus])
@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ([], "given was 0"),
        ([np.zeros((2, 2), int)], "given was 1"),
        ([np.zeros((2, 2), int), np.zeros((2, 3), int)], r"candidate 2 have the shape \(2, 3\)"),
        ([np.zeros((2, 2), int), np.zeros((2, 2))], "candidate 2 hold float64"),
    ],
)
def test_what_cannot_be_compared_is_refused(of, candidates, words):
    with pytest.raises(InputError, match=words):
        of(candidates)


def test_names_ids_and_kinds_that_do_not_fit_are_refused():
    candidates = drawn(2)
    for names in (["A"], ["A", "A"]):
        with pytest.raises(InputError, match="do not tell 2 candidates apart"):
            pairwise_dice(candidates, names)
    with pytest.raises(InputError, match="id 300 in labels of uint8"):
        majority(candidates, tied=300)
    with pytest.raises(InputError, match="int64, uint64"):
        majority([candidates[0].astype(np.int64), candidates[1].astype(np.uint64)])


def test_it_can_be_cancelled():
    progress = Progress()
    progress.cancel()
    for work in (pairwise_dice, staple_consensus):
        with pytest.raises(CancelledError):
            work(drawn(3), progress=progress)


def test_mean_of_two_is_their_dice():
    a, b = (np.array([[1, 1, 0]]), np.array([[1, 0, 0]]))
    assert pairwise_dice([a, b]).mean_with_others == pytest.approx((2 / 3, 2 / 3))
    assert math.isclose(pairwise_dice([a, b]).mean[0, 1], 2 / 3)
