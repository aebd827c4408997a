import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from napari_medseg.case import InputError
from napari_medseg.evaluate.errors import BoundaryDistance
from napari_medseg.evaluate.errors import distance as room
from tests.evaluate.errors.test_error_maps import Counting


def expected(candidate, reference, spacing, reach):
    """By scipy's transform of the whole, one label of the reference after the other."""
    found = np.zeros(reference.shape)
    for label in np.unique(reference):
        here = (reference == label) & (candidate != reference)
        other = reference != label
        distance = distance_transform_edt(~other, spacing) if other.any() else np.full(reference.shape, np.inf)
        found[here] = np.minimum(distance, reach)[here] * (1 if label == 0 else -1)
    return found


def test_by_hand():
    reference = np.zeros((1, 7), np.uint8)
    reference[0, 2:5] = 1
    candidate = np.array([[1, 1, 1, 0, 1, 0, 1]], np.uint8)

    found = BoundaryDistance(candidate, reference, (3.0, 0.5))[...]

    # two and one step too far, nothing where both agree, two steps inside
    np.testing.assert_allclose(found, [[1.0, 0.5, 0, -1.0, 0, 0, 1.0]])


def test_to_the_nearest_other_label_in_the_unit_of_the_spacing():
    reference = np.array([[1, 1, 2, 2, 2, 0, 0]])
    candidate = np.array([[1, 2, 2, 2, 1, 2, 2]])

    np.testing.assert_allclose(BoundaryDistance(candidate, reference, (1, 2))[...], [[0, -2, 0, 0, -2, 2, 4]])
    np.testing.assert_allclose(BoundaryDistance(candidate, reference, (1, 2), label=2)[...], [[0, 2, 0, 0, -2, 2, 4]])
    np.testing.assert_allclose(BoundaryDistance(candidate, reference, (1, 2), instances=True)[...][0, 1:5], 0)


@pytest.mark.parametrize("looked_up_share", [0.0, 2.0])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_equals_the_transform_of_the_whole_however_it_is_sliced(looked_up_share, seed, data):
    rng = np.random.default_rng(seed)
    shape = data.draw(st.sampled_from([(23, 31), (9, 17, 21), (5, 1, 40)]))
    spacing = tuple(data.draw(st.sampled_from([0.4, 1.0, 3.5])) for _ in shape)
    reach = data.draw(st.sampled_from([1.0, 6.0, 1e9]))
    # mostly one label, so that boundaries are far away
    reference = (rng.random(shape) < data.draw(st.sampled_from([0.0, 0.003, 0.05, 0.99]))).astype(np.uint8)
    reference += (rng.random(shape) < 0.01) * np.uint8(1)
    candidate = np.where(rng.random(shape) < 0.2, rng.integers(0, 3, shape), reference)
    truth = expected(candidate, reference, spacing, reach)
    if reach > 1e6:
        truth = np.clip(truth, -reach, reach)
    before = room._LOOKED_UP_SHARE
    room._LOOKED_UP_SHARE = looked_up_share
    try:
        lazy = BoundaryDistance(candidate, reference, spacing, reach=reach)
        np.testing.assert_allclose(lazy[...], truth, rtol=1e-5)
        k = data.draw(st.integers(0, shape[0] - 1))
        np.testing.assert_allclose(lazy[k], truth[k], rtol=1e-5)
        np.testing.assert_allclose(lazy[..., -1:2:-3], truth[..., -1:2:-3], rtol=1e-5)
    finally:
        room._LOOKED_UP_SHARE = before


def test_in_volumes_the_nearest_boundary_may_lie_in_another_slice():
    reference = np.zeros((3, 1, 9), np.uint8)
    reference[1] = 1
    reference[0, 0, 8] = 1
    candidate = reference.copy()
    candidate[0, 0, 3] = 1

    assert BoundaryDistance(candidate, reference, (2.0, 1, 1))[0, 0, 3] == 2
    assert BoundaryDistance(candidate, reference, (2.0, 1, 1), in_plane=True)[0, 0, 3] == 5
    assert BoundaryDistance(candidate, reference, (1, 1), axes="tyx")[0, 0, 3] == 5


def test_without_a_spacing_it_counts_pixels_and_without_a_boundary_it_says_the_reach():
    candidate, reference = np.zeros((4, 4), int), np.zeros((4, 4), int)
    candidate[0, 0] = 1

    assert BoundaryDistance(candidate, reference, None)[0, 0] == room.REACH_STEPS
    reference[0, 3] = 1
    assert BoundaryDistance(candidate, reference, None)[0, 0] == 3


def test_only_a_window_around_the_errors_is_read():
    reference = np.zeros((40, 400, 400), np.uint8)
    reference[:, :200] = 1
    candidate = reference.copy()
    candidate[20, 200:203, 100] = 1
    reads = Counting(reference, (40, 400, 400))
    lazy = BoundaryDistance(candidate, reads, (3.0, 1, 1))
    # read as it is, without whole chunks
    lazy.labels = (candidate, reads)

    assert lazy[20, 202, 100] == 3
    assert reads.voxels < 7 * 17 * 17 + 7 * 19 * 17


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, float("nan"))])
def test_refuses_a_spacing_that_is_none(spacing):
    labels = np.zeros((3, 3), int)
    with pytest.raises(InputError, match="positive number"):
        BoundaryDistance(labels, labels, spacing)
