import math

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as learned

from napari_medseg.evaluate.pairs import Confusion, count_pairs
from napari_medseg.evaluate.scoring.overlap import ACCURACY_METRICS, METRICS, accuracy_scores, overlap_scores


def scores_of(candidate, reference, label=1, voxel_volume=1.0):
    return overlap_scores(count_pairs(candidate, reference).confusion(label), voxel_volume)


def squares(shift):
    """Two 4x4 squares in a picture of 12x12, the candidate `shift` (y, x) further."""
    candidate, reference = np.zeros((2, 12, 12), np.uint8)
    reference[:4, :4] = 1
    candidate[shift[0] : shift[0] + 4, shift[1] : shift[1] + 4] = 1
    return candidate, reference


# -- by hand ------------------------------------------------------------------------------------


def test_two_squares_by_hand():
    scores = scores_of(*squares((0, 2)), voxel_volume=0.25)
    assert scores == {
        "dice": 0.5,
        "iou": 8 / 24,
        "sensitivity": 0.5,
        "specificity": 120 / 128,
        "precision": 0.5,
        "fpsr": 0.25,
        "fnsr": 0.25,
        "volume_candidate": 4.0,
        "volume_reference": 4.0,
        "volume_difference": 0.0,
        "relative_volume_difference": 0.0,
    }
    apart = scores_of(*squares((3, 4)))
    assert (apart["dice"], apart["iou"], apart["fpsr"], apart["fnsr"]) == (0.0, 0.0, 0.5, 0.5)


def test_volumes_are_signed():
    scores = overlap_scores(Confusion(30, 0, 10, 60), voxel_volume=0.5)
    assert (scores["volume_candidate"], scores["volume_reference"]) == (15.0, 20.0)
    assert (scores["volume_difference"], scores["relative_volume_difference"]) == (-5.0, -0.25)
    assert overlap_scores(Confusion(30, 20, 10, 60))["relative_volume_difference"] == 0.25


NAN = math.nan


@pytest.mark.parametrize(
    ("confusion", "expected"),
    [
        # both empty: they agree, and there is nothing to find or to be found
        ((0, 0, 0, 9), (1, 1, NAN, 1, NAN, 0, 0, 0, NAN)),
        # only the reference is empty
        ((0, 4, 0, 5), (0, 0, NAN, 5 / 9, 0, 1, 0, 4, NAN)),
        # only the candidate is empty
        ((0, 0, 4, 5), (0, 0, 0, 1, NAN, 0, 1, -4, -1)),
        # both cover everything
        ((9, 0, 0, 0), (1, 1, 1, NAN, 1, 0, 0, 0, 0)),
    ],
)
def test_empty_and_full_masks_follow_the_stated_rule(confusion, expected):
    scores = overlap_scores(Confusion(*confusion))
    keys = ("dice", "iou", "sensitivity", "specificity", "precision", "fpsr", "fnsr", "volume_difference")
    found = [scores[k] for k in (*keys, "relative_volume_difference")]
    assert found == pytest.approx(expected, nan_ok=True)


def test_accuracies_by_hand():
    reference = np.array([0] * 90 + [1] * 8 + [2] * 2)
    candidate = np.array([0] * 90 + [1] * 4 + [2] * 4 + [0] * 2)
    scores = accuracy_scores(count_pairs(candidate, reference))
    assert scores == {"global_accuracy": 0.94, "class_accuracy": (1 + 0.5 + 0) / 3}
    # an id that only the candidate holds is wrong, but no class of the reference
    assert accuracy_scores(count_pairs(np.array([0, 3]), np.array([0, 0]))) == {
        "global_accuracy": 0.5,
        "class_accuracy": 0.5,
    }


def test_every_number_has_a_definition():
    assert [m.key for m in METRICS] == list(overlap_scores(Confusion(1, 1, 1, 1)))
    assert [m.key for m in ACCURACY_METRICS] == list(
        accuracy_scores(count_pairs(np.eye(3, dtype=int), np.eye(3, dtype=int)))
    )
    assert all(m.definition and m.when_empty for m in (*METRICS, *ACCURACY_METRICS))


# -- identities ---------------------------------------------------------------------------------

COUNT = st.one_of(st.integers(0, 5), st.integers(0, 2**55))


@settings(max_examples=300)
@given(COUNT, COUNT, COUNT, COUNT)
def test_identities(both, extra, missing, neither):
    scores = overlap_scores(Confusion(both, extra, missing, neither))
    swapped = overlap_scores(Confusion(both, missing, extra, neither))
    assert scores["dice"] + scores["fpsr"] + scores["fnsr"] == pytest.approx(1, abs=1e-12)
    assert scores["dice"] == pytest.approx(2 * scores["iou"] / (1 + scores["iou"]), rel=1e-12)
    assert (scores["dice"], scores["iou"]) == (swapped["dice"], swapped["iou"])
    assert (scores["fpsr"], scores["fnsr"]) == (swapped["fnsr"], swapped["fpsr"])
    assert scores["precision"] == pytest.approx(swapped["sensitivity"], nan_ok=True)
    if both:
        harmonic = 2 / (1 / scores["precision"] + 1 / scores["sensitivity"])
        assert scores["dice"] == pytest.approx(harmonic, rel=1e-12)
    assert (scores["dice"] == 1) == (extra == missing == 0) or extra + missing < 1e-15 * both
    assert all(math.isnan(v) or 0 <= v <= 1 for k, v in scores.items() if "volume" not in k)


# -- other libraries ----------------------------------------------------------------------------


def adversarial():
    """Pairs of label pictures of three dimensions that are known to break implementations."""
    random = np.random.default_rng(5)
    shape = (7, 9, 11)
    empty, full = np.zeros(shape, np.uint8), np.ones(shape, np.uint8)
    dot, other_dot = empty.copy(), empty.copy()
    dot[0, 0, 0], other_dot[-1, -1, -1] = 1, 1
    sparse = (random.random(shape) < 0.02).astype(np.uint8)
    checks = (np.indices(shape).sum(axis=0) % 2).astype(np.uint8)
    classes = random.integers(0, 4, shape).astype(np.uint8)
    near = np.where(random.random(shape) < 0.1, random.integers(0, 4, shape), classes).astype(np.uint8)
    return {
        "classes": (near, classes),
        "noise": (random.integers(0, 4, shape).astype(np.uint8), classes),
        "dots apart": (dot, other_dot),
        "dot in full": (dot, full),
        "full over dot": (full, dot),
        "complementary": (checks, 1 - checks),
        "sparse": (sparse, np.roll(sparse, 1, 2)),
        "only the candidate": (full, empty),
        "only the reference": (empty, full),
        "both full": (full, full),
    }


@pytest.mark.parametrize(("candidate", "reference"), adversarial().values(), ids=adversarial())
def test_equal_to_scikit_learn(candidate, reference):
    pairs = count_pairs(candidate, reference)
    found = accuracy_scores(pairs)
    flat = reference.ravel(), candidate.ravel()
    assert found["global_accuracy"] == pytest.approx(learned.accuracy_score(*flat))
    ids = np.unique(reference).tolist()
    assert found["class_accuracy"] == pytest.approx(learned.recall_score(*flat, labels=ids, average="macro"))
    for label in range(1, 4):
        masks = (reference == label).ravel(), (candidate == label).ravel()
        scores = overlap_scores(pairs.confusion(label))
        expected = {
            "dice": learned.f1_score(*masks, zero_division=1.0),
            "iou": learned.jaccard_score(*masks, zero_division=1.0),
            "sensitivity": learned.recall_score(*masks, zero_division=np.nan),
            "precision": learned.precision_score(*masks, zero_division=np.nan),
            "specificity": learned.recall_score(*masks, pos_label=False, zero_division=np.nan),
        }
        for key, value in expected.items():
            assert scores[key] == pytest.approx(value, nan_ok=True), (label, key)


@pytest.mark.parametrize(("candidate", "reference"), adversarial().values(), ids=adversarial())
def test_equal_to_simpleitk(candidate, reference):
    measure = sitk.LabelOverlapMeasuresImageFilter()
    measure.Execute(sitk.GetImageFromArray(candidate), sitk.GetImageFromArray(reference))
    for label in np.union1d(candidate, reference)[1:].tolist():
        scores = scores_of(candidate, reference, label)
        # of ITK's two inputs, the first is its source and the second its target
        assert scores["dice"] == pytest.approx(measure.GetDiceCoefficient(label))
        assert scores["iou"] == pytest.approx(measure.GetJaccardCoefficient(label))
        if (reference == label).any():
            assert 1 - scores["sensitivity"] == pytest.approx(measure.GetFalseNegativeError(label))
        if (candidate == label).any():
            assert 1 - scores["precision"] == pytest.approx(measure.GetFalseDiscoveryRate(label))
        if (reference != label).any():
            assert 1 - scores["specificity"] == pytest.approx(measure.GetFalsePositiveError(label))


@pytest.mark.slow
def test_equal_to_monai():
    import torch
    from monai.metrics import compute_dice, compute_iou

    for candidate, reference in adversarial().values():
        both = [torch.from_numpy((a == 1).astype(np.float32))[None, None] for a in (candidate, reference)]
        scores = scores_of(candidate, reference)
        assert scores["dice"] == pytest.approx(float(compute_dice(*both, ignore_empty=False)))
        assert scores["iou"] == pytest.approx(float(compute_iou(*both, ignore_empty=False)))


@settings(max_examples=100, deadline=None)
@given(arrays(np.uint8, (2, 5, 6), elements=st.integers(0, 3)))
def test_any_picture_equals_scikit_learn(both):
    candidate, reference = both
    for label in range(1, 4):
        masks = (reference == label).ravel(), (candidate == label).ravel()
        assert scores_of(candidate, reference, label)["dice"] == pytest.approx(
            learned.f1_score(*masks, zero_division=1.0)
        )
