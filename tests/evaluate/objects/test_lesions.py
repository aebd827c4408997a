"""Lesion detection against plain loops over scipy's and scikit-image's components, and hand calculations."""

import math

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.measure import label as connected_labels
from skimage.measure import regionprops

from napari_medseg.case import CancelledError, InputError
from napari_medseg.evaluate.objects import components as room
from napari_medseg.evaluate.objects.components import connected_components
from napari_medseg.evaluate.objects.lesions import METRICS, find_lesions, lesion_scores
from napari_medseg.jobs import Progress

_RANK = {4: 1, 8: 2, 6: 1, 18: 2, 26: 3}
_MASKS = st.integers(2, 3).flatmap(
    lambda ndim: hnp.array_shapes(min_dims=ndim, max_dims=ndim, max_side=7).flatmap(
        lambda shape: st.tuples(*[hnp.arrays(np.bool_, shape, elements=st.sampled_from([True, False, False]))] * 2)
    )
)


def looped_scores(candidate, reference, voxel_volume, minimum_volume, minimum_overlap, connectivity):
    """The rules as loops over scipy's components."""
    neighbours = ndimage.generate_binary_structure(reference.ndim, _RANK[connectivity])
    lesions, number = ndimage.label(reference, neighbours)
    guesses, guessed = ndimage.label(candidate, neighbours)
    found = missed = wrong = 0
    for k in range(1, number + 1):
        lesion = lesions == k
        if lesion.sum() * voxel_volume < minimum_volume:
            continue
        if (lesion & candidate).sum() / lesion.sum() > minimum_overlap:
            found += 1
        else:
            missed += 1
    for k in range(1, guessed + 1):
        guess = guesses == k
        wrong += guess.sum() * voxel_volume >= minimum_volume and not (guess & reference).any()
    return {
        "lesion_sensitivity": found / (found + missed) if found + missed else math.nan,
        "lesion_precision": found / (found + wrong) if found + wrong else math.nan,
        "lesion_f1": 2 * found / (2 * found + missed + wrong) if found + missed + wrong else 1.0,
        "lesion_false_positives": wrong,
        "lesions_counted": found + missed,
        "lesions_found": found,
        "lesions_missed": missed,
    }


@settings(max_examples=120, deadline=None)
@given(_MASKS, st.data())
def test_scores_equal_loops_over_scipys_components(masks, data):
    candidate, reference = masks
    connectivity = data.draw(st.sampled_from([4, 8] if reference.ndim == 2 else [6, 18, 26]))
    volume, overlap = data.draw(st.sampled_from([0, 2, 3, 8])), data.draw(st.sampled_from([0, 0.2, 0.25, 0.5]))
    thickness = data.draw(st.integers(1, 8))
    with pytest.MonkeyPatch.context() as patch:
        # borders between slabs everywhere
        patch.setattr(room, "_SLAB_VOXELS", thickness * int(np.prod(reference.shape[1:])))
        scores = lesion_scores(
            candidate,
            reference.astype(np.uint8),
            (0.5, 2.0, 1.0)[: reference.ndim],
            minimum_volume=volume,
            minimum_overlap=overlap,
            connectivity=connectivity,
        )
    # both products of the spacing are 1
    expected = looped_scores(candidate, reference, 1.0, volume, overlap, connectivity)
    assert scores == pytest.approx(expected, nan_ok=True)
    assert list(scores) == [m.key for m in METRICS]


@settings(max_examples=80, deadline=None)
@given(_MASKS, st.data())
def test_components_equal_scikit_images_however_thick_the_slabs(masks, data):
    candidate, reference = masks
    connectivity = data.draw(st.sampled_from([4, 8] if reference.ndim == 2 else [6, 18, 26]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_SLAB_VOXELS", data.draw(st.integers(1, 8)) * int(np.prod(reference.shape[1:])))
        found = connected_components(candidate, reference, connectivity=connectivity)[0]
    regions = regionprops(connected_labels(candidate, connectivity=_RANK[connectivity]), reference.astype(float))
    expected = sorted(
        (r.bbox, r.area, r.image_intensity[r.image].sum(), *(round(c, 6) for c in r.centroid)) for r in regions
    )
    rows = sorted(
        ((*low, *high), voxels, covered, *(round(c, 6) for c in centroid))
        for low, high, voxels, covered, centroid in zip(
            found.low.tolist(),
            found.high.tolist(),
            found.voxels.tolist(),
            found.covered.tolist(),
            found.centroid.tolist(),
            strict=True,
        )
    )
    assert rows == expected


def test_lazy_arrays_give_what_arrays_in_memory_give(monkeypatch):
    generator = np.random.default_rng(5)
    noise = ndimage.gaussian_filter(generator.standard_normal((40, 30, 35)), 2)
    reference = (noise > 0.08).astype(np.uint8)
    candidate = np.roll(reference, (1, -2, 3), (0, 1, 2))
    expected = find_lesions(candidate, reference, (3, 1, 1)).rows(minimum_overlap=0.2)
    assert len(expected) > 20
    monkeypatch.setattr(room, "_SLAB_VOXELS", 9 * 30 * 35)
    stored = zarr.create_array(store={}, shape=reference.shape, dtype=reference.dtype, chunks=(4, 16, 16))
    stored[...] = reference
    assert find_lesions(da.from_array(candidate, (6, 30, 9)), stored, (3, 1, 1)).rows(minimum_overlap=0.2) == expected


# --- by hand ---------------------------------------------------------------------------------------------------------


def _spec_case():
    """Lesions of 10, 5 and 1 voxels, 2, 1 and 0 of them predicted."""
    reference, candidate = np.zeros((5, 12), np.uint8), np.zeros((5, 12), np.uint8)
    reference[0, :10] = reference[2, :5] = reference[4, 8] = 1
    candidate[0, :2] = candidate[2, 0] = 1
    return candidate, reference


def test_cut_offs_of_the_paper():
    candidate, reference = _spec_case()
    lesions = find_lesions(candidate, reference, None)
    table = lesions.table((0, 2), (0, 0.2))
    assert table[0, 0]["lesion_sensitivity"] == pytest.approx(2 / 3)
    # 2 of 10 and 1 of 5 are not more than 20 %
    assert table[0, 0.2]["lesion_sensitivity"] == 0
    assert table[2, 0]["lesion_sensitivity"] == 1
    assert (table[2, 0]["lesions_counted"], table[0, 0]["lesions_missed"]) == (2, 1)
    assert lesions.unit == "px"
    rows = lesions.rows(minimum_volume=2, minimum_overlap=0.19)
    assert [(r.side, r.volume, r.overlap, r.counted, r.detected) for r in rows] == [
        ("reference", 10, 0.2, True, True),
        ("reference", 5, 0.2, True, True),
        ("reference", 1, 0.0, False, False),
        ("candidate", 2, 1.0, True, True),
        ("candidate", 1, 1.0, False, True),
    ]
    assert rows[0].box == (slice(0, 1), slice(0, 10)) and rows[0].centroid == (0, 4.5)


def test_false_positives_touch_no_lesion_and_are_not_too_small():
    reference, candidate = np.zeros((3, 20), np.uint8), np.zeros((3, 20), np.uint8)
    reference[0, :4] = 1
    reference[0, 6] = 1  # below the cut-off, but a component that touches it is no invention
    candidate[0, 3] = candidate[0, 6:9] = candidate[2, 0:3] = candidate[2, 10] = 1
    scores = lesion_scores(candidate, reference, None, minimum_volume=2)
    assert [scores[k] for k in ("lesions_counted", "lesions_found", "lesion_false_positives")] == [1, 1, 1]
    assert scores["lesion_precision"] == 0.5
    assert scores["lesion_f1"] == pytest.approx(2 / 3)
    assert lesion_scores(candidate, reference, None)["lesion_false_positives"] == 2


def test_diagonal_neighbours_are_one_lesion_unless_asked_otherwise():
    plane = np.eye(4, dtype=np.uint8)
    assert lesion_scores(plane, plane, None)["lesions_counted"] == 1
    assert lesion_scores(plane, plane, None, connectivity=4)["lesions_counted"] == 4
    stack = np.zeros((2, 2, 2), np.uint8)
    stack[0, 0, 0] = stack[1, 1, 1] = 1
    assert lesion_scores(stack, stack, None)["lesions_counted"] == 1
    assert lesion_scores(stack, stack, None, connectivity=18)["lesions_counted"] == 2


def test_pictures_with_odd_sides():
    # cc3d 4.1 gives the background at the end of a line of a bool picture to a component now and then
    generator = np.random.default_rng(0)
    for side in (3, 5, 101):
        for _ in range(30):
            mask = generator.random((side, side)) < 0.1
            lesions = find_lesions(mask, mask, None)
            assert lesions.reference.voxels.sum() == mask.sum()
            assert len(lesions.reference) == ndimage.label(mask, np.ones((3, 3)))[1]


def test_slices_on_their_own():
    reference = np.zeros((3, 4, 4), np.uint8)
    reference[:, 0, 0] = reference[0, 1, 1] = 1
    found = find_lesions(reference, reference, (5, 1, 1), per_slice=True)
    assert [(r.volume, r.box[0]) for r in found.rows() if r.side == "reference"] == [
        (10, slice(0, 1)),
        (5, slice(1, 2)),
        (5, slice(2, 3)),
    ]


def test_volumes_follow_the_spacing_and_one_class_is_picked():
    labels = np.zeros((4, 10, 10), np.uint8)
    labels[0:2, :5, :5] = 3
    labels[2, :5, :5] = 1
    # 50 voxels of 3.3 x 0.57 x 0.57 mm
    volume = 50 * 3.3 * 0.57 * 0.57
    lesions = find_lesions(labels, labels, (3.3, 0.57, 0.57), label=3)
    assert [r.volume for r in lesions.rows()] == [pytest.approx(volume)] * 2
    assert lesions.unit == "mm"
    assert lesions.scores(minimum_volume=volume)["lesions_counted"] == 1
    assert lesions.scores(minimum_volume=volume * 1.001)["lesions_counted"] == 0
    # any id: both touch
    assert [r.volume for r in find_lesions(labels, labels, None).rows()] == [75, 75]


def test_empty_sides():
    nothing, one = np.zeros((3, 3), int), np.eye(3, dtype=int)
    both = lesion_scores(nothing, nothing, None)
    assert both["lesion_f1"] == 1 and both["lesion_false_positives"] == 0
    assert math.isnan(both["lesion_sensitivity"]) and math.isnan(both["lesion_precision"])
    missed = lesion_scores(nothing, one, None)
    assert missed["lesion_f1"] == missed["lesion_sensitivity"] == 0 and math.isnan(missed["lesion_precision"])
    invented = lesion_scores(one, nothing, None)
    assert invented["lesion_f1"] == invented["lesion_precision"] == 0 and math.isnan(invented["lesion_sensitivity"])
    assert find_lesions(np.zeros((0, 4), int), np.zeros((0, 4), int), None).rows() == []


def test_long_images_keep_their_boxes():
    strip = np.zeros((2, 70_000), np.uint8)
    strip[:, 66_000:69_999] = 1
    assert find_lesions(strip, strip, None).rows()[0].box == (slice(0, 2), slice(66_000, 69_999))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spacing": (1, 1)}, "spacing \\(1, 1\\) does not fit"),
        ({"spacing": (1, 0, 1)}, "one length above 0"),
        ({"connectivity": 8}, "use one of 6, 18, 26"),
        ({"minimum_volume": -1}, "volume cut-off of -1"),
        ({"minimum_overlap": 1.0}, "overlap cut-off of 1.0"),
        ({"candidate": np.zeros((2, 2), int)}, "bring them onto one grid"),
        ({"candidate": np.zeros((2, 2, 2))}, "float64"),
    ],
)
def test_what_cannot_be_scored_is_refused(options, words):
    stack = np.ones((2, 2, 2), int)
    call = {"candidate": stack, "reference": stack, "spacing": None} | options
    with pytest.raises(InputError, match=words):
        lesion_scores(call.pop("candidate"), call.pop("reference"), call.pop("spacing"), **call)


def test_other_dimensions_are_refused():
    with pytest.raises(InputError, match="these labels have 4"):
        lesion_scores(np.ones((1, 2, 2, 2), int), np.ones((1, 2, 2, 2), int), None)
    with pytest.raises(InputError, match="A picture has no slices"):
        lesion_scores(np.ones((2, 2), int), np.ones((2, 2), int), None, per_slice=True)


def test_cancel():
    progress = Progress()
    progress.cancel()
    with pytest.raises(CancelledError):
        lesion_scores(np.ones((2, 2), int), np.ones((2, 2), int), None, progress=progress)
