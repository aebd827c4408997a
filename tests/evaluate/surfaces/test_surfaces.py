"""Boundary scores: numbers by hand, independent libraries, and what must hold for every pair of masks."""

import warnings
from itertools import product
from math import inf, isnan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_medseg.evaluate.surfaces import METRICS, boundary_scores
from napari_medseg.evaluate.surfaces import distances as distances_module

SPACING = (2.5, 0.7, 1.1)
KEYS = ["hd", "hd95", "assd", "surface_dice"]


def scores_of(candidate, reference, spacing, **options):
    """Scores of label 1."""
    return boundary_scores(candidate, reference, [1], spacing, **({"tolerance": 1.0} | options))[1]


def mask(shape, *parts):
    """Zeros with ones in `parts`."""
    made = np.zeros(shape, np.uint8)
    for part in parts:
        made[part] = 1
    return made


def adversaries():
    """Pairs of masks that have broken surface metrics elsewhere."""
    rng = np.random.default_rng(5)
    shape = (7, 9, 8)
    z, y, x = np.indices(shape)
    checkers = ((z + y + x) % 2).astype(np.uint8)
    everything = np.ones(shape, np.uint8)
    ball = ((z - 3) ** 2 + (y - 4) ** 2 + (x - 4) ** 2 < 9).astype(np.uint8)
    return {
        "one voxel each": (mask(shape, (0, 0, 0)), mask(shape, (6, 8, 7))),
        "one voxel in a ball": (mask(shape, (3, 4, 4)), ball),
        "full array": (everything, ball),
        "full arrays": (everything, everything),
        "at the border": (mask(shape, (slice(0, 3),)), mask(shape, (slice(None), slice(0, 4), slice(5, 8)))),
        "one slice thick": (mask(shape, (2, slice(1, 8), slice(1, 7))), mask(shape, (4, slice(2, 9), slice(0, 7)))),
        "checkerboard": (checkers, 1 - checkers),
        "checkerboard and ball": (checkers, ball),
        "several components": (mask(shape, (0, 0, 0), (6, 8, 7), (3, slice(2, 5))), mask(shape, (5, 1, 1), (1, 7, 6))),
        "dense noise": tuple((rng.random((2, *shape)) < 0.5).astype(np.uint8)),
        "sparse noise": tuple((rng.random((2, *shape)) < 0.03).astype(np.uint8)),
        "blobs": tuple(blobs(shape, seed) for seed in (1, 2)),
    }


def blobs(shape, seed):
    """Smooth random shapes."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).standard_normal(shape)
    return (gaussian_filter(noise, 1.5) > 0).astype(np.uint8)


def brute_force(candidate, reference, spacing):
    """Both directions' distances, by the definition and nothing else."""
    from scipy.spatial.distance import cdist

    def boundary(array):
        inside = np.pad(array == 1, 1)
        neighbours = [np.roll(inside, step, axis) for axis in range(array.ndim) for step in (-1, 1)]
        edge = inside & ~np.logical_and.reduce(neighbours)
        return (np.argwhere(edge) - 1) * np.asarray(spacing)

    table = cdist(boundary(candidate), boundary(reference))
    return table.min(axis=1), table.min(axis=0)


# -- by hand ------------------------------------------------------------------------------------


def test_two_single_voxels_lie_apart_by_the_spacing():
    found = scores_of(mask((5, 6, 7), (1, 1, 1)), mask((5, 6, 7), (3, 4, 5)), (3.0, 1.0, 0.5))
    apart = sqrt(6.0**2 + 3.0**2 + 2.0**2)
    assert found == {"hd": 7.0, "hd95": 7.0, "assd": apart, "surface_dice": 0.0}


def test_nested_cubes():
    outer, inner = mask((9, 9, 9), (slice(1, 8),) * 3), mask((9, 9, 9), (slice(2, 7),) * 3)
    found = scores_of(inner, outer, (1.0, 1.0, 1.0), percentile=50, tolerance=1.0)
    # cubes of edge 7 and 5: 218 and 98 boundary voxels; inner to outer 1 each; from the outer faces (6 x 25) 1,
    # from its edges (12 x 5) sqrt 2, from its corners (8) sqrt 3
    total = 98 + 150 + 60 * sqrt(2) + 8 * sqrt(3)
    assert found["hd"] == pytest.approx(sqrt(3), rel=1e-15)
    assert found["hd95"] == 1.0
    assert found["assd"] == pytest.approx(total / 316, rel=1e-14)
    assert found["surface_dice"] == pytest.approx((98 + 150) / 316, rel=1e-15)


@pytest.mark.parametrize("thickness", [1, 2])
def test_shifted_plates_reach_the_tolerance_exactly(thickness):
    plate, moved = mask((8, 4, 4), (slice(1, 1 + thickness),)), mask((8, 4, 4), (slice(4, 4 + thickness),))
    # three steps of 0.1 are 0.30000000000000004 in floating point
    at = scores_of(plate, moved, (0.1, 5.0, 5.0), tolerance=0.3)
    below = scores_of(plate, moved, (0.1, 5.0, 5.0), tolerance=0.29)
    assert at["hd"] == pytest.approx(0.3)
    assert at["assd"] == pytest.approx(0.3 if thickness == 1 else (0.3 + 0.2) / 2)
    assert at["surface_dice"] == 1.0
    assert below["surface_dice"] == (0.0 if thickness == 1 else 0.5)


def test_percentile_rules_differ_as_they_say():
    # candidate: 10 voxels on the reference's row; reference: the same 10 and one 9 steps away
    candidate, reference = mask((1, 40), (0, slice(0, 10))), mask((1, 40), (0, slice(0, 10)), (0, 18))
    larger = scores_of(candidate, reference, (1.0, 1.0), percentile=95)
    pooled = scores_of(candidate, reference, (1.0, 1.0), percentile=95, pooled=True)
    # of 11 distances the 95th percentile lies half way from the 10th to the 11th; of 21 at the 20th
    assert larger["hd95"] == pytest.approx(4.5)
    assert pooled["hd95"] == 0.0
    assert larger["hd"] == pooled["hd"] == 9.0
    assert scores_of(candidate, reference, (1.0, 1.0), percentile=100)["hd95"] == 9.0


def test_voxels_at_the_edge_of_the_array_are_boundary():
    # all 3 x 3 of the picture; only the middle is no boundary, and it is one from it
    found = scores_of(mask((3, 3), (slice(None),)), mask((3, 3), (1, 1)), (1.0, 1.0), tolerance=1.0)
    assert found["hd"] == pytest.approx(sqrt(2))
    assert found["assd"] == pytest.approx((1 + 4 + 4 * sqrt(2)) / 9)
    assert found["surface_dice"] == pytest.approx(5 / 9)


def test_empty_masks():
    empty, full = mask((4, 4)), mask((4, 4), (1, 1))
    for one_sided in (scores_of(empty, full, (1.0, 1.0)), scores_of(full, empty, (1.0, 1.0))):
        assert one_sided == {"hd": inf, "hd95": inf, "assd": inf, "surface_dice": 0.0}
    assert all(isnan(value) for value in scores_of(empty, empty, (1.0, 1.0)).values())


def test_labels_are_scored_one_by_one_and_unknown_ones_are_empty():
    candidate = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]], np.int16)
    reference = np.array([[0, 1, 1, 2, 2], [0, 1, 1, 2, 2]], np.int16)
    found = boundary_scores(candidate, reference, [2, 1, 70000, -1, 2], (1.0, 1.0), tolerance=0)
    assert list(found) == [2, 1, 70000, -1]
    assert found[2] == {"hd": 0.0, "hd95": 0.0, "assd": 0.0, "surface_dice": 1.0}
    assert found[1] == {"hd": 1.0, "hd95": 1.0, "assd": 0.5, "surface_dice": 0.5}
    assert all(isnan(v) for label in (70000, -1) for v in found[label].values())
    assert boundary_scores(candidate, reference, [], (1.0, 1.0), tolerance=0) == {}


def test_touching_labels_have_a_boundary_between_them():
    candidate = np.repeat(np.array([[1, 1, 1, 2, 2, 2]], np.uint8), 7, axis=0)
    reference = np.repeat(np.array([[1, 1, 1, 1, 1, 2]], np.uint8), 7, axis=0)
    found = boundary_scores(candidate, reference, [1], (1.0, 1.0), tolerance=0)[1]
    expected = brute_force(candidate, reference, (1.0, 1.0))
    assert found["hd"] == 2.0 == max(d.max() for d in expected)
    assert found["assd"] == pytest.approx(np.concatenate(expected).mean())


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_large_ids_are_told_apart(dtype):
    large = 2**60
    candidate, reference = np.full((3, 3), large, dtype), np.full((3, 3), large, dtype)
    reference[1, 1] = large + 1
    found = boundary_scores(candidate, reference, [large, large + 1], (1.0, 1.0), tolerance=0)
    assert found[large]["surface_dice"] == 1.0
    assert found[large + 1]["surface_dice"] == 0.0


def test_background_can_be_scored_like_any_label():
    candidate, reference = blobs((8, 9), 3), blobs((8, 9), 4)
    found = boundary_scores(candidate, reference, [0, 1], SPACING[:2], tolerance=1)
    swapped = boundary_scores(1 - candidate, 1 - reference, [1, 0], SPACING[:2], tolerance=1)
    assert found[0] == swapped[1]
    assert found[1] == swapped[0]


def test_masks_hold_the_ids_0_and_1():
    candidate, reference = blobs((8, 9), 3), blobs((8, 9), 4)
    as_bool = scores_of(candidate.astype(bool), reference.astype(bool), SPACING[:2])
    assert as_bool == scores_of(candidate, reference, SPACING[:2])


def test_metrics_describe_every_score():
    assert [metric.key for metric in METRICS] == KEYS
    assert [metric.quantity for metric in METRICS] == ["length", "length", "length", "ratio"]


# -- against the definition and other libraries -------------------------------------------------


@pytest.mark.parametrize("name", sorted(adversaries()))
def test_equals_the_definition_brought_out_by_brute_force(name):
    candidate, reference = adversaries()[name]
    one, other = brute_force(candidate, reference, SPACING)
    both = np.concatenate([one, other])
    found = scores_of(candidate, reference, SPACING, tolerance=1.6)
    assert found["hd"] == pytest.approx(both.max(), rel=1e-12)
    assert found["hd95"] == pytest.approx(max(np.percentile(one, 95), np.percentile(other, 95)), rel=1e-12)
    assert found["assd"] == pytest.approx(both.mean(), rel=1e-12)
    assert found["surface_dice"] == pytest.approx((both <= 1.6 + 1e-9).mean(), rel=1e-12)


@pytest.mark.parametrize("near_offsets", [1, 40])
@pytest.mark.parametrize("name", sorted(adversaries()))
def test_tree_and_neighbourhood_agree_to_the_bit(name, near_offsets, monkeypatch):
    candidate, reference = adversaries()[name]
    expected = scores_of(candidate, reference, SPACING)
    monkeypatch.setattr(distances_module, "_NEAR_OFFSETS", near_offsets)
    distances_module._offsets.cache_clear()
    try:
        assert scores_of(candidate, reference, SPACING) == expected
        monkeypatch.setattr(distances_module, "_MAP_BYTES", 0)
        monkeypatch.setattr(distances_module, "_MAP_BYTES_PER_ELEMENT", 0)
        assert scores_of(candidate, reference, SPACING) == expected
    finally:
        distances_module._offsets.cache_clear()


@pytest.mark.parametrize("name", sorted(adversaries()))
def test_equals_monai(name):
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    candidate, reference = adversaries()[name]
    one, other = (torch.from_numpy(side[None, None].astype(bool)) for side in (candidate, reference))
    shared = {"include_background": True, "spacing": SPACING}
    found = scores_of(candidate, reference, SPACING, tolerance=1.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {
            "hd": metrics.compute_hausdorff_distance(one, other, **shared),
            "hd95": metrics.compute_hausdorff_distance(one, other, percentile=95, **shared),
            "assd": metrics.compute_average_surface_distance(one, other, symmetric=True, **shared),
            "surface_dice": metrics.compute_surface_dice(one, other, class_thresholds=[1.4], **shared),
        }
    assert found == pytest.approx({key: float(value[0, 0]) for key, value in theirs.items()}, rel=1e-6)


@pytest.mark.parametrize("name", sorted(adversaries()))
def test_equals_simpleitk_on_the_boundaries(name):
    sitk = pytest.importorskip("SimpleITK")
    candidate, reference = adversaries()[name]

    def contour(array):
        # beyond the array is outside; the contour of ITK's filter itself stops at the edge
        image = sitk.GetImageFromArray(np.pad(array, 1))
        image.SetSpacing(SPACING[::-1])
        return sitk.LabelContour(image, fullyConnected=False)

    one, other = contour(candidate), contour(reference)
    # ITK measures from every voxel of a mask to the other mask, which is the same where masks are all boundary
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(one, other)
    gaps = []
    for here, there in ((one, other), (other, one)):
        field = sitk.SignedMaurerDistanceMap(there, squaredDistance=False, useImageSpacing=True)
        away = np.maximum(sitk.GetArrayFromImage(field), 0)
        gaps.append(away[sitk.GetArrayFromImage(here) == 1])
    found = scores_of(candidate, reference, SPACING, tolerance=1.6)
    assert found["hd"] == pytest.approx(hausdorff.GetHausdorffDistance(), rel=1e-6)
    assert found["assd"] == pytest.approx(np.concatenate(gaps).mean(), rel=1e-5, abs=1e-6)
    assert found["surface_dice"] == pytest.approx((np.concatenate(gaps) <= 1.6).mean(), rel=1e-6)


@pytest.mark.parametrize("name", sorted(adversaries()))
def test_equals_medpy_with_the_pooled_percentile(name):
    binary = pytest.importorskip("medpy.metric.binary")
    candidate, reference = adversaries()[name]
    found = scores_of(candidate, reference, SPACING, pooled=True)
    assert found["hd"] == pytest.approx(binary.hd(candidate, reference, SPACING), rel=1e-9)
    assert found["hd95"] == pytest.approx(binary.hd95(candidate, reference, SPACING), rel=1e-9)


# -- what must hold for every pair of masks -----------------------------------------------------

PAIRS = st.integers(2, 3).flatmap(
    lambda ndim: st.tuples(*[st.integers(1, 7)] * ndim).flatmap(
        lambda shape: st.tuples(*[hnp.arrays(np.uint8, shape, elements=st.integers(0, 2))] * 2)
    )
)


@given(PAIRS, st.tuples(*[st.floats(0.1, 9)] * 3), st.floats(0, 20), st.booleans())
def test_candidate_and_reference_may_change_places(pair, spacing, tolerance, pooled):
    spacing = spacing[: pair[0].ndim]
    options = {"tolerance": tolerance, "pooled": pooled}
    one = boundary_scores(*pair, [1, 2], spacing, **options)
    other = boundary_scores(*pair[::-1], [1, 2], spacing, **options)
    for label in (1, 2):
        assert one[label] == pytest.approx(other[label], rel=1e-12, nan_ok=True)
        if not isnan(one[label]["hd"]):
            assert one[label]["hd95"] <= one[label]["hd"] + 1e-12
            assert one[label]["assd"] <= one[label]["hd"] + 1e-12
            assert 0 <= one[label]["surface_dice"] <= 1


@given(PAIRS, st.tuples(*[st.floats(0.1, 9)] * 3), st.sampled_from([0.001, 0.25, 3.0, 1000.0]))
def test_distances_scale_with_the_spacing_and_with_nothing_else(pair, spacing, factor):
    spacing = spacing[: pair[0].ndim]
    small = boundary_scores(*pair, [1], spacing, tolerance=2.0)[1]
    large = boundary_scores(*pair, [1], tuple(s * factor for s in spacing), tolerance=2.0 * factor)[1]
    expected = {key: value if key == "surface_dice" else value * factor for key, value in small.items()}
    assert large == pytest.approx(expected, rel=1e-9, nan_ok=True)


@given(PAIRS, st.tuples(*[st.floats(0.1, 9)] * 3), st.integers(0, 5))
def test_scores_do_not_depend_on_the_order_of_axes_or_on_where_in_the_array(pair, spacing, room):
    spacing = spacing[: pair[0].ndim]
    here = boundary_scores(*pair, [1, 2], spacing, tolerance=1.0)
    turned = boundary_scores(*(side.T for side in pair), [1, 2], spacing[::-1], tolerance=1.0)
    moved = boundary_scores(*(np.pad(side, (room, 0)) for side in pair), [1, 2], spacing, tolerance=1.0)
    for label in (1, 2):
        assert turned[label] == pytest.approx(here[label], rel=1e-12, nan_ok=True)
        assert moved[label] == pytest.approx(here[label], rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("spacing", list(product([0.05, 1.0, 40.0], repeat=3)))
def test_a_mask_lies_nowhere_away_from_itself(spacing):
    array = blobs((6, 7, 8), 9)
    assert scores_of(array, array, spacing, tolerance=0) == {"hd": 0, "hd95": 0, "assd": 0, "surface_dice": 1}
