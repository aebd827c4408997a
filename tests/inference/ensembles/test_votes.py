from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_medseg.case import InputError
from napari_medseg.inference.ensembles.staple import staple
from napari_medseg.inference.ensembles.votes import majority_vote, mean_probabilities


def blocks_of(count, shape=(3, 4), largest=3):
    return st.lists(hnp.arrays(np.int32, shape, elements=st.integers(0, largest)), min_size=count, max_size=count)


def vote_by_counting(blocks):
    """The definition, voxel by voxel: `Counter` keeps the order in which ids first came."""
    return np.array([Counter(v).most_common(1)[0][0] for v in zip(*(b.ravel().tolist() for b in blocks), strict=True)])


def test_the_vote_by_hand():
    first = np.array([1, 1, 1, 5, 0], np.uint16)
    second = np.array([1, 2, 2, 6, 0], np.uint16)
    third = np.array([2, 2, 3, 5, 7], np.uint16)
    winner = majority_vote([first, second, third])
    assert winner.tolist() == [1, 2, 1, 5, 0]
    assert winner.dtype == np.uint16


def test_of_tied_ids_the_one_whose_model_is_listed_first_wins():
    blocks = [np.array([v]) for v in (9, 4, 7, 7, 4)]
    assert majority_vote(blocks).tolist() == [4]
    assert majority_vote([blocks[k] for k in (0, 2, 1, 3, 4)]).tolist() == [7]


@given(st.integers(1, 6).flatmap(blocks_of))
def test_the_vote_is_that_of_counting_voxel_by_voxel(blocks):
    assert majority_vote(blocks).ravel().tolist() == vote_by_counting(blocks).tolist()


@given(blocks_of(4))
def test_without_ties_the_order_of_the_models_does_not_matter(blocks):
    counts = np.stack([np.sum([b == i for b in blocks], 0) for i in range(4)])
    clear = (counts == counts.max(0)).sum(0) == 1
    results = [majority_vote(list(order))[clear] for order in permutations(blocks)]
    assert all(np.array_equal(r, results[0]) for r in results)


def test_ids_of_any_size_are_kept_exactly():
    high = np.iinfo(np.uint64).max
    blocks = [np.array([high, high - 1], np.uint64), np.array([high - 1, high - 1], np.uint64)]
    assert majority_vote([*blocks, blocks[1]]).tolist() == [high - 1, high - 1]
    assert majority_vote([blocks[0], blocks[0], blocks[1]]).tolist() == [high, high - 1]


def test_dtypes_that_differ_meet_in_the_smallest_that_holds_both():
    winner = majority_vote([np.array([200], np.uint8), np.array([-1], np.int8), np.array([-1], np.int8)])
    assert winner.dtype == np.int16
    assert winner.tolist() == [-1]


def test_the_vote_changes_none_of_its_inputs():
    blocks = [np.array([1, 2]), np.array([3, 3]), np.array([3, 3])]
    assert majority_vote(blocks).tolist() == [3, 3]
    assert blocks[0].tolist() == [1, 2]


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [np.zeros(3, int), np.zeros(4, int)],
        [np.zeros(3)],
        [np.zeros(3, np.uint64), np.zeros(3, np.int64)],
    ],
)
@pytest.mark.parametrize("function", [majority_vote, staple])
def test_what_cannot_be_combined_is_refused(blocks, function):
    with pytest.raises(InputError):
        function(blocks)


def test_mean_probabilities_by_hand():
    blocks = [np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), np.array([[0.5, 0.5], [0.5, 0.5]], np.float16)]
    mean = mean_probabilities(blocks)
    assert mean.dtype == np.float32
    assert mean.tolist() == [[0.25, 0.75], [0.75, 0.25]]
    assert mean_probabilities(blocks, [3, 1]).tolist() == [[0.125, 0.875], [0.875, 0.125]]
    assert mean_probabilities(blocks, [0, 2]).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_a_model_of_weight_0_does_not_spread_values_that_are_no_numbers():
    assert mean_probabilities([np.array([0.5]), np.array([np.nan])], [1, 0]).tolist() == [0.5]
    assert np.isnan(mean_probabilities([np.array([0.5]), np.array([np.nan])])).all()


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [0, 0], [2, -1], [1, np.nan], [[1, 1]]])
def test_weights_that_make_no_mean_are_refused(weights):
    with pytest.raises(InputError, match="accepted is one number a model"):
        mean_probabilities([np.zeros((2, 3))] * 2, weights)
