"""Object scores against the papers' formulas as plain loops, dense matrices of scipy, and hand calculations."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from skimage.metrics import contingency_table

from napari_medseg.adapt.scores import panoptic_quality
from napari_medseg.case import InputError
from napari_medseg.evaluate.objects.assignment import heaviest_matching, largest_matching
from napari_medseg.evaluate.objects.scores import (
    METRICS,
    f1_at,
    match_objects,
    merged_objects,
    object_scores,
    split_objects,
)
from napari_medseg.evaluate.pairs import count_pairs

_LABELS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.int64, shape, elements=st.integers(0, 5))] * 2)
)


def scored(candidate, reference, **options):
    return object_scores(count_pairs(np.asarray(candidate), np.asarray(reference)), **options)


# --- the papers, as loops over masks ---------------------------------------------------------------------------------


def _masks(labels):
    return {k: labels == k for k in np.unique(labels).tolist() if k}


def _iou(a, b):
    return (a & b).sum() / (a | b).sum()


def looped_aji(candidate, reference):
    """Kumar et al. 2017, Algorithm 1."""
    candidates, references = _masks(candidate), _masks(reference)
    intersections = unions = 0
    used = set()
    for nucleus in references.values():
        best = max(candidates, key=lambda j, g=nucleus: (_iou(g, candidates[j]), -j), default=None)
        if best is None or not (nucleus & candidates[best]).any():
            unions += nucleus.sum()
            continue
        intersections += (nucleus & candidates[best]).sum()
        unions += (nucleus | candidates[best]).sum()
        used.add(best)
    unions += sum(mask.sum() for j, mask in candidates.items() if j not in used)
    return intersections / unions if unions else 1.0


def looped_pq(candidate, reference):
    """Kirillov et al. 2019, equation 1: PQ, SQ, RQ."""
    candidates, references = _masks(candidate), _masks(reference)
    matched = [v for g in references.values() for p in candidates.values() if (v := _iou(g, p)) > 0.5]
    false = len(candidates) - len(matched) + len(references) - len(matched)
    if not candidates and not references:
        return 1.0, math.nan, 1.0
    halves = len(matched) + 0.5 * false
    return sum(matched) / halves, sum(matched) / len(matched) if matched else math.nan, len(matched) / halves


def looped_parts(whole, part):
    """Ids of `whole` with more than half of two or more objects of `part` (Matula et al. 2015)."""
    held = {k: sum((w & p).sum() * 2 > p.sum() for p in _masks(part).values()) for k, w in _masks(whole).items()}
    return [k for k, number in held.items() if number >= 2]


def dense_iou(candidate, reference):
    """IoU of every pair from scikit-image's contingency table, ``(reference, candidate)``."""
    table = contingency_table(reference.ravel(), candidate.ravel()).toarray()
    rows, columns = table.sum(1)[:, None], table.sum(0)[None]
    iou = table / np.maximum(rows + columns - table, 1)
    return iou[1:][rows[1:, 0] > 0][:, np.flatnonzero(columns[0, 1:]) + 1]


def dense_f1(iou, threshold):
    """Most matches of a dense matrix."""
    rows, columns = linear_sum_assignment(iou > threshold, maximize=True)
    matched = (iou[rows, columns] > threshold).sum()
    return 2 * matched / sum(iou.shape) if sum(iou.shape) else 1.0


# --- random cases ----------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(_LABELS)
def test_aji_and_pq_are_those_of_the_papers(labels):
    candidate, reference = labels
    scores = scored(candidate, reference)
    assert scores["aji"] == pytest.approx(looped_aji(candidate, reference), abs=1e-12)
    assert [scores[k] for k in ("pq", "sq", "rq")] == pytest.approx(looped_pq(candidate, reference), nan_ok=True)
    assert scores["pq"] == pytest.approx(panoptic_quality(candidate, reference))


@settings(max_examples=120, deadline=None)
@given(_LABELS, st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75]))
def test_matches_are_those_of_a_dense_assignment(labels, threshold):
    candidate, reference = labels
    pairs = count_pairs(candidate, reference)
    iou = dense_iou(candidate, reference)
    assert f1_at(pairs, [threshold]) == {threshold: pytest.approx(dense_f1(iou, threshold))}
    matches = match_objects(pairs, threshold)
    assert (matches.iou > threshold).all()
    for own, alone, ids in (
        (matches.candidate, matches.spurious, np.unique(candidate)),
        (matches.reference, matches.missed, np.unique(reference)),
    ):
        assert sorted([*own, *alone]) == [k for k in ids.tolist() if k]
    # as many as possible, and of those the highest total IoU
    weights = np.where(iou > threshold, 100 + iou, 0)
    rows, columns = linear_sum_assignment(weights, maximize=True)
    assert matches.iou.sum() == pytest.approx(iou[rows, columns][weights[rows, columns] > 0].sum())
    for c, r, value in zip(matches.candidate, matches.reference, matches.iou, strict=True):
        assert value == pytest.approx(_iou(candidate == c, reference == r))


@settings(max_examples=120, deadline=None)
@given(_LABELS)
def test_aji_plus_is_that_of_a_dense_assignment(labels):
    candidate, reference = labels
    iou = dense_iou(candidate, reference)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    pairs = [(r, c) for r, c in zip(rows, columns, strict=True) if iou[r, c] > 0]
    # two matchings of equal IoU may give two values of AJI+: the value is compared where only one is best
    assume(all(_best_without(iou, pair) < iou[rows, columns].sum() - 1e-9 for pair in pairs))
    references, candidates = list(_masks(reference).values()), list(_masks(candidate).values())
    shared = sum((references[r] & candidates[c]).sum() for r, c in pairs)
    unions = sum((references[r] | candidates[c]).sum() for r, c in pairs)
    unions += sum(m.sum() for k, m in enumerate(references) if k not in {r for r, _ in pairs})
    unions += sum(m.sum() for k, m in enumerate(candidates) if k not in {c for _, c in pairs})
    assert scored(candidate, reference)["aji_plus"] == pytest.approx(shared / unions if unions else 1.0)


def _best_without(iou, pair):
    weights = iou.copy()
    weights[pair] = 0
    rows, columns = linear_sum_assignment(weights, maximize=True)
    return weights[rows, columns].sum()


@settings(max_examples=60, deadline=None)
@given(_LABELS)
def test_splits_and_merges_are_each_other_seen_from_the_other_side(labels):
    candidate, reference = labels
    pairs, turned = count_pairs(candidate, reference), count_pairs(reference, candidate)
    assert split_objects(pairs).tolist() == looped_parts(reference, candidate)
    assert merged_objects(pairs).tolist() == looped_parts(candidate, reference)
    assert split_objects(pairs).tolist() == merged_objects(turned).tolist()
    ours, theirs = object_scores(pairs, threshold=0.2), object_scores(turned, threshold=0.2)
    for key in ("pq", "sq", "rq", "object_f1", "matched_objects"):
        assert ours[key] == pytest.approx(theirs[key], nan_ok=True)
    assert ours["object_sensitivity"] == pytest.approx(theirs["object_precision"], nan_ok=True)
    assert ours["splits"] == theirs["merges"]


@settings(max_examples=60, deadline=None)
@given(_LABELS, st.permutations([1, 7, 2**31, 2**40 + 1, 2**63 - 1]), st.permutations(range(10, 15)))
def test_ids_are_only_names(labels, huge, small):
    candidate, reference = labels
    plain = scored(candidate, reference)
    renamed = scored(np.array([0, *huge])[candidate], np.array([0, *small])[reference])
    # AJI and AJI+ may choose another of equal partners when ids change their order
    for key in plain.keys() - {"aji", "aji_plus"}:
        assert renamed[key] == pytest.approx(plain[key], nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
        lambda shape: hnp.arrays(np.int64, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5]))
    )
)
def test_matchings_equal_the_dense_ones(weights):
    # small whole numbers: many ties
    rows, columns = np.nonzero(weights)
    chosen = heaviest_matching(rows, columns, weights[rows, columns].astype(float))
    assert len(set(rows[chosen])) == len(set(columns[chosen])) == len(chosen)
    best = linear_sum_assignment(weights, maximize=True)
    assert weights[rows[chosen], columns[chosen]].sum() == weights[best].sum()

    most = largest_matching(rows, columns, weights[rows, columns] / 5)
    assert len(set(rows[most])) == len(set(columns[most])) == len(most)
    best = linear_sum_assignment(np.where(weights, 100 + weights, 0), maximize=True)
    assert len(most) == (weights[best] > 0).sum()
    assert weights[rows[most], columns[most]].sum() == weights[best].sum()


def test_long_chains_are_matched():
    # each reference overlaps the candidate at its place a little less than the next one: all hang together
    n = 3000
    rows, columns = np.repeat(np.arange(n), 2)[1:], np.repeat(np.arange(n), 2)[:-1]
    weights = np.random.default_rng(0).permutation(2 * n - 1) / (2 * n)
    chosen = heaviest_matching(rows, columns, weights)
    # along a path the best matching follows from the edges before
    best = [0.0, weights[0]]
    for weight in weights[1:]:
        best.append(max(best[-1], best[-2] + weight))
    assert weights[chosen].sum() == pytest.approx(best[-1])


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_by_hand():
    reference = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3]])
    candidate = np.array([[5, 5, 5, 0, 0, 7, 7, 7, 7, 7, 0, 0]])
    scores = scored(candidate, reference)
    # 1 with 5: 3 of 4; 2 with 7: 4 of 5; 3 is missed
    assert scores["aji"] == scores["aji_plus"] == pytest.approx((3 + 4) / (4 + 5 + 2))
    assert scores["pq"] == pytest.approx((0.75 + 0.8) / (2 + 0.5))
    assert (scores["sq"], scores["rq"]) == (pytest.approx(0.775), pytest.approx(2 / 2.5))
    assert (scores["object_sensitivity"], scores["object_precision"]) == (pytest.approx(2 / 3), 1.0)
    assert [scores[k] for k in ("reference_objects", "candidate_objects", "object_count_difference")] == [3, 2, -1]
    assert [scores[k] for k in ("matched_objects", "missed_objects", "spurious_objects")] == [2, 1, 0]
    strict = scored(candidate, reference, threshold=0.75)
    # 0.75 does not exceed 0.75; PQ stays at its own threshold
    assert (strict["matched_objects"], strict["object_f1"]) == (1, pytest.approx(2 / 5))
    assert strict["pq"] == scores["pq"]
    assert list(scores) == [m.key for m in METRICS]
    matches = match_objects(count_pairs(candidate, reference))
    assert (matches.candidate.tolist(), matches.reference.tolist()) == ([5, 7], [1, 2])
    assert (matches.missed.tolist(), matches.spurious.tolist()) == ([3], [])
    assert matches.iou.tolist() == [0.75, 0.8]


def test_a_candidate_serves_several_objects_in_aji_but_not_in_aji_plus():
    reference = np.array([[1, 1, 1, 2, 2, 2, 2]])
    candidate = np.full_like(reference, 9)
    scores = scored(candidate, reference)
    assert scores["aji"] == pytest.approx((3 + 4) / (7 + 7))
    assert scores["aji_plus"] == pytest.approx(4 / (7 + 3))
    assert (scores["merges"], scores["splits"]) == (1, 0)


def test_split():
    reference = np.array([[1] * 10])
    candidate = np.array([[3] * 5 + [4] * 3 + [0] * 2])
    pairs = count_pairs(candidate, reference)
    assert split_objects(pairs).tolist() == [1]
    assert merged_objects(pairs).tolist() == []
    # half of the second part lies outside: it is no longer mostly inside
    outside = count_pairs(np.array([[3] * 5 + [4] * 6]), np.array([[1] * 8 + [0] * 3]))
    assert split_objects(outside).tolist() == []


def test_a_tie_at_exactly_one_half_is_no_match():
    reference = np.array([[1, 1, 1, 1]])
    candidate = np.array([[2, 2, 3, 3]])
    scores = scored(candidate, reference)
    assert (scores["pq"], scores["matched_objects"]) == (0, 0)
    assert math.isnan(scores["sq"])
    assert scored(candidate, reference, threshold=0.49)["matched_objects"] == 1
    # of equal candidates AJI takes the smaller id: 2 of 4, and 2 voxels of the other
    assert scores["aji"] == pytest.approx(2 / 6)


def test_below_one_half_as_many_as_possible_are_matched():
    # reference 1 prefers candidate 9 (0.4 to 0.33), but then reference 2 would go without
    reference = np.array([[1] * 6 + [2] * 4])
    candidate = np.array([[8] * 2 + [9] * 4 + [9] * 4])
    # 1-9: 4 of 10; 1-8: 2 of 6; 2-9: 4 of 8
    pairs = count_pairs(candidate, reference)
    matches = match_objects(pairs, 0.3)
    assert list(zip(matches.reference.tolist(), matches.candidate.tolist(), strict=True)) == [(1, 8), (2, 9)]
    assert f1_at(pairs, (0.3, 0.45, 0.5)) == {0.3: 1.0, 0.45: 0.5, 0.5: 0.0}


def test_empty_sides():
    nothing, one = np.zeros((3, 3), int), np.eye(3, dtype=int)
    both = scored(nothing, nothing)
    assert [both[k] for k in ("aji", "aji_plus", "pq", "rq", "object_f1")] == [1.0] * 5
    assert all(math.isnan(both[k]) for k in ("sq", "object_sensitivity", "object_precision"))
    assert f1_at(count_pairs(nothing, nothing), [0.5]) == {0.5: 1.0}
    missed = scored(nothing, one)
    assert [missed[k] for k in ("aji", "aji_plus", "pq", "rq", "object_f1", "object_sensitivity")] == [0.0] * 6
    assert math.isnan(missed["object_precision"]) and missed["missed_objects"] == 1
    invented = scored(one, nothing)
    assert [invented[k] for k in ("aji", "aji_plus", "pq", "rq", "object_f1", "object_precision")] == [0.0] * 6
    assert math.isnan(invented["object_sensitivity"]) and invented["object_count_difference"] == 1
    assert scored(np.ones((2, 2), int), np.ones((2, 2), int))["pq"] == 1.0


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_thresholds_out_of_range_are_refused(threshold):
    pairs = count_pairs(np.ones(2, int), np.ones(2, int))
    for call in (
        lambda: object_scores(pairs, threshold=threshold),
        lambda: f1_at(pairs, [threshold]),
        lambda: match_objects(pairs, threshold),
    ):
        with pytest.raises(InputError, match="use 0 or more and less than 1"):
            call()
