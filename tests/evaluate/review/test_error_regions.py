import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_medseg.case import InputError
from napari_medseg.evaluate.review import Error, ErrorRegion, RegionRules, error_regions, ranked
from napari_medseg.evaluate.review.runs import Runs


def by_scipy(candidate, reference, structure):
    """Voxels of every region, one pair of labels after the other."""
    found = set()
    pairs = {(int(r), int(c)) for r, c in zip(reference.ravel(), candidate.ravel(), strict=True) if r != c}
    for r, c in pairs:
        numbers, count = ndimage.label((reference == r) & (candidate == c), structure)
        flat = numbers.ravel()
        found |= {(r, c, tuple(np.flatnonzero(flat == k).tolist())) for k in range(1, count + 1)}
    return found


def voxels_of(region, shape):
    return tuple(np.ravel_multi_index(tuple(region.runs.points(shape).T), shape).tolist())


def test_by_hand():
    reference = np.zeros((5, 8), np.uint8)
    reference[1:4, 1:4] = 1
    candidate = reference.copy()
    candidate[1, 1:4] = 0  # three voxels missed, a row at the edge
    candidate[2, 4:7] = 1  # three too many
    candidate[3, 2] = 2  # one of another class

    missed, extra, wrong = error_regions(candidate, reference, (2.0, 0.5), unit="um")

    assert (missed.id, missed.error, missed.reference_label, missed.candidate_label) == (1, Error.FALSE_NEGATIVE, 1, 0)
    assert (missed.voxels, missed.size, missed.size_unit) == (3, 3.0, "um2")
    assert missed.box == ((1, 2), (1, 4))
    assert missed.centre == (1, 2)
    # the middle voxel is two columns from outside, and one row
    assert (missed.distance, missed.distance_unit) == (1.0, "um")
    assert (extra.error, extra.label, extra.box, extra.centre) == (Error.FALSE_POSITIVE, 1, ((2, 3), (4, 7)), (2, 5))
    assert extra.distance == 1.5
    assert (wrong.error, wrong.reference_label, wrong.candidate_label) == (Error.WRONG_CLASS, 1, 2)
    assert wrong.distance == pytest.approx(1.0)


def test_the_centre_lies_inside_a_hollow_region():
    reference = np.zeros((9, 9), np.uint8)
    reference[1:8, 1:8] = 1
    candidate = np.zeros((9, 9), np.uint8)
    candidate[2:7, 2:7] = 1

    (ring,) = error_regions(candidate, reference, None)

    assert reference[ring.centre] == 1
    assert candidate[ring.centre] == 0
    assert ring.centre == (1, 4)
    assert (ring.size, ring.size_unit, ring.distance_unit) == (24.0, "px", "px")


def test_a_false_positive_is_measured_to_its_own_class():
    reference = np.array([[1, 0, 0, 0, 0, 2]])
    candidate = np.array([[1, 0, 0, 0, 1, 2]])
    assert error_regions(candidate, reference, (1, 1))[0].distance == 4


SHAPES = st.sampled_from([(7, 11), (5, 6, 7), (3, 1, 9)])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=SHAPES, data=st.data())
def test_blocks_of_any_shape_give_the_regions_of_the_whole(seed, shape, data):
    rng = np.random.default_rng(seed)
    high = data.draw(st.sampled_from([2, 3]))
    offset = data.draw(st.sampled_from([0, 0, 70_000, 2**61]))
    candidate, reference = rng.integers(0, high, (2, *shape))
    candidate, reference = (np.where(a > 0, a + offset, 0) for a in (candidate, reference))
    connectivity = data.draw(st.sampled_from([8, 4] if len(shape) == 2 else [26, 18, 6]))
    block = tuple(data.draw(st.integers(1, n)) for n in shape)
    uncertainty = rng.random(shape)
    spacing = tuple(rng.uniform(0.3, 3, len(shape)))

    keywords = {"connectivity": connectivity, "uncertainty": uncertainty}
    whole = error_regions(candidate, reference, spacing, block=shape, **keywords)
    blocks = error_regions(candidate, reference, spacing, block=block, **keywords)

    assert blocks == whole
    assert [voxels_of(r, shape) for r in blocks] == [voxels_of(r, shape) for r in whole]
    rank = {8: 2, 4: 1, 26: 3, 18: 2, 6: 1}[connectivity]
    truth = by_scipy(candidate, reference, ndimage.generate_binary_structure(len(shape), rank))
    assert {(r.reference_label, r.candidate_label, voxels_of(r, shape)) for r in whole} == truth
    for region in whole:
        flat = list(voxels_of(region, shape))
        assert region.uncertainty == pytest.approx(uncertainty.ravel()[flat].mean(), abs=2e-6)
        points = np.stack(np.unravel_index(flat, shape), -1)
        assert region.box == tuple(zip(points.min(0).tolist(), (points.max(0) + 1).tolist(), strict=True))
        away = (((points - points.mean(0)) * spacing) ** 2).sum(1)
        here = (((np.array(region.centre) - points.mean(0)) * spacing) ** 2).sum()
        assert np.ravel_multi_index(region.centre, shape) in flat
        assert here == pytest.approx(away.min(), abs=1e-9)
        other = (
            reference == region.candidate_label if not region.reference_label else reference != region.reference_label
        )
        if other.any():
            distances = ndimage.distance_transform_edt(~other, spacing).ravel()[flat]
            assert region.distance == pytest.approx(min(distances.max(), 64 * min(spacing)), rel=1e-5)


def test_stored_labels_in_awkward_chunks():
    rng = np.random.default_rng(5)
    candidate, reference = rng.integers(0, 2, (2, 20, 33, 17)).astype(np.uint8)
    stored = [
        zarr.create_array({}, shape=a.shape, chunks=c, dtype=a.dtype)
        for a, c in ((candidate, (7, 5, 9)), (reference, (3, 33, 4)))
    ]
    stored[0][:], stored[1][:] = candidate, reference

    assert error_regions(*stored, (1, 1, 1), block=(6, 7, 5)) == error_regions(candidate, reference, (1, 1, 1))


def test_frames_of_a_video_do_not_connect():
    reference = np.zeros((3, 4, 4), np.uint8)
    candidate = np.ones((3, 4, 4), np.uint8)

    frames = error_regions(candidate, reference, (1, 1), axes="tyx")

    assert [r.box[0] for r in frames] == [(0, 1), (1, 2), (2, 3)]
    assert frames[1].centre[0] == 1
    assert frames[0].size_unit == "mm2"
    assert len(error_regions(candidate, reference, (1, 1, 1))) == 1


def test_small_regions_are_left_out_after_they_were_joined():
    reference = np.zeros((1, 10), np.uint8)
    candidate = np.array([[1, 1, 1, 1, 0, 1, 0, 1, 1, 0]], np.uint8)

    found = error_regions(candidate, reference, None, min_voxels=2, block=(1, 2))

    assert [r.voxels for r in found] == [4, 2]


def test_unknown_uncertainty_does_not_count():
    candidate, reference = np.ones((1, 4), int), np.zeros((1, 4), int)
    map_ = np.array([[0.5, np.nan, 0.25, np.inf]])

    assert error_regions(candidate, reference, None, uncertainty=map_)[0].uncertainty == pytest.approx(0.375)
    assert error_regions(candidate, reference, None, uncertainty=map_ * np.nan)[0].uncertainty is None
    assert error_regions(candidate, reference, None)[0].uncertainty is None


def test_equal_labels_have_no_regions():
    labels = np.arange(12).reshape(3, 4)
    assert error_regions(labels, labels, (1, 1)) == ()


def region(number, **values):
    fields = {"error": Error.FALSE_NEGATIVE, "reference_label": 1, "candidate_label": 0, "voxels": 1, "size": 1.0}
    return ErrorRegion(number, **{**fields, "size_unit": "mm3", "box": (), "centre": (), **values})


def test_ranking():
    small = region(1, size=1.0, voxels=1, distance=9.0)
    large = region(2, size=5.0, voxels=5, distance=2.0, uncertainty=0.1)
    twin = region(3, size=5.0, voxels=5, uncertainty=0.7, reference_label=2, candidate_label=3)
    regions = [twin, large, small]

    def order(*arguments):
        return [r.id for r in ranked(regions, *arguments)]

    assert order("size") == [2, 3, 1]
    assert order("distance") == [1, 2, 3]
    assert order("uncertainty") == [3, 2, 1]
    assert order("weight") == [2, 3, 1]
    assert order("weight", {3: 2.0}) == [3, 2, 1]
    assert order("weight", {1: 4.0, 3: 2.0}) == [2, 1, 3]
    with pytest.raises(InputError, match="size, distance"):
        order("colour")


def test_records_come_back():
    found = error_regions(np.ones((2, 2), int), np.zeros((2, 2), int), (1, 2), unit="um")[0]
    assert ErrorRegion.from_dict(found.to_dict()) == found
    for rules in (RegionRules.of(3, (1, 2, 3.5)), RegionRules.of(3, None, axes="tyx", instances=True)):
        assert RegionRules.from_dict(rules.to_dict()) == rules
    assert RegionRules.of(2, None).unit is None


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"connectivity": 6}, "accepted: 8, 4"),
        ({"axes": "zyx"}, "do not name"),
        ({"match_iou": 0.2}, "0.5"),
        ({"uncertainty": np.zeros((3, 3))}, "uncertainty map"),
    ],
)
def test_refusals(keywords, words):
    labels = np.zeros((2, 2), int)
    with pytest.raises(InputError, match=words):
        error_regions(labels, labels, (1, 1), **keywords)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_overlap_of_runs(one, other):
    def runs(voxels):
        flat = np.array(sorted(voxels), np.int64)
        first = np.flatnonzero(np.diff(flat, prepend=-9) != 1)
        return Runs(flat[first], np.diff(first, append=len(flat)))

    assert runs(one).overlap(runs(other)) == len(one & other)
