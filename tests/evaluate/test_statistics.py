"""Paired statistics: textbook numbers, every sign drawn by hand, scipy, and known distributions."""

import json
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from napari_medseg.case import InputError
from napari_medseg.evaluate.statistics import signed_rank as signed_rank_module
from napari_medseg.evaluate.statistics.bootstrap import bootstrap_interval
from napari_medseg.evaluate.statistics.models import compare_models, rank_models
from napari_medseg.evaluate.statistics.signed_rank import corrected, fewest_cases, signed_rank, smallest_p

INF, NAN = math.inf, math.nan


def by_all_signs(differences, pratt=False):
    """The signed-rank test by definition: every one of the 2^n ways to draw the signs."""
    d = np.asarray(differences, float)
    ranks = stats.rankdata(np.abs(d if pratt else d[d != 0]))
    signs = np.sign(d if pratt else d[d != 0])
    ranks, signs = ranks[signs != 0], signs[signs != 0]
    found = ranks[signs > 0].sum()
    sums = np.array([np.dot(ranks, draw) for draw in product((0, 1), repeat=len(ranks))])
    return min(1.0, 2 * min((sums <= found + 1e-9).mean(), (sums >= found - 1e-9).mean()))


def test_signed_rank_of_a_textbook():
    """Siegel 1956, nursery school: W = 4 of 8, two-sided p between 0.05 and 0.06 (exact 14 / 256)."""
    school = [82, 69, 73, 43, 58, 56, 76, 85]
    home = [63, 42, 74, 37, 51, 43, 80, 82]
    found = signed_rank(school, home)
    assert (found.negative, found.positive, found.cases, found.exact) == (4, 32, 8, True)
    assert found.p == pytest.approx(14 / 256)


def test_ten_differences_of_one_sign_are_exact():
    found = signed_rank(list(range(1, 11)), [0] * 10)
    assert found.p == pytest.approx(2 / 1024, rel=1e-12)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=10), st.booleans())
def test_p_is_exact_also_with_ties_and_zeros(differences, pratt):
    found = signed_rank(differences, [0] * len(differences), zero_method="pratt" if pratt else "wilcox")
    assert found.zeros == differences.count(0)
    expected = by_all_signs(differences, pratt) if any(differences) else 1.0
    assert found.p == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [6, 15, 40])
def test_without_ties_p_equals_scipy(count):
    rng = np.random.default_rng(count)
    first, second = rng.random(count), rng.random(count) + 0.1
    found = signed_rank(first, second)
    expected = stats.wilcoxon(first, second, method="exact")
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert min(found.positive, found.negative) == expected.statistic


@pytest.mark.parametrize("zero_method", ["wilcox", "pratt"])
def test_many_cases_use_the_normal_approximation(zero_method):
    rng = np.random.default_rng(0)
    first = rng.integers(0, 30, 400).astype(float)
    second = np.roll(first, 1)
    found = signed_rank(first, second, zero_method=zero_method)
    assert not found.exact and found.zeros > 0
    assert found.p == pytest.approx(
        stats.wilcoxon(first, second, zero_method=zero_method, method="asymptotic").pvalue, rel=1e-9
    )


def test_the_exact_and_the_normal_p_meet(monkeypatch):
    rng = np.random.default_rng(1)
    first = np.round(rng.normal(0.1, 1, 250), 1)
    exact = signed_rank(first, np.zeros(250))
    monkeypatch.setattr(signed_rank_module, "EXACT_CASES", 10)
    normal = signed_rank(first, np.zeros(250))
    assert exact.exact and not normal.exact
    assert exact.p == pytest.approx(normal.p, rel=0.02)


def test_rounding_does_not_break_ties_or_make_differences():
    # 0.9 - 0.8, 0.8 - 0.7 and 0.7 - 0.6 differ in their last bits only
    found = signed_rank([0.9, 0.8, 0.6, 0.1 + 0.2], [0.8, 0.7, 0.7, 0.3])
    assert found.zeros == 1 and (found.positive, found.negative) == (4, 2)


def test_infinite_scores_rank_highest_and_nan_is_left_out():
    first = [INF, 3, 5, INF, NAN, 2, 1]
    second = [1, 1, INF, INF, 4, NAN, 0]
    found = signed_rank(first, second)
    # differences inf, 2, -inf, 0, 1: the infinite ones share ranks 3 and 4
    assert (found.cases, found.left_out, found.zeros, found.infinite) == (5, 2, 1, 2)
    assert (found.positive, found.negative) == (3.5 + 2 + 1, 3.5)
    assert found.p == pytest.approx(by_all_signs([9, 2, -9, 1]))


def test_nothing_and_no_difference():
    assert math.isnan(signed_rank([], []).p)
    assert signed_rank([NAN], [1]).to_dict()["p"] is None
    same = signed_rank([1, 2, 3], [1, 2, 3])
    assert same.p == 1 and same.zeros == 3
    with pytest.raises(InputError, match="3 and 2 scores"):
        signed_rank([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="Zero rule"):
        signed_rank([1], [2], zero_method="zsplit")


@pytest.mark.parametrize("cases", range(1, 12))
def test_smallest_p_is_that_of_one_sign(cases):
    assert smallest_p(cases) == pytest.approx(signed_rank(list(range(1, cases + 1)), [0] * cases).p)


@pytest.mark.parametrize(("alpha", "cases"), [(0.05, 6), (0.01, 8), (0.0625, 5), (0.5, 2)])
def test_fewest_cases(alpha, cases):
    assert fewest_cases(alpha) == cases
    assert smallest_p(cases) <= alpha < smallest_p(cases - 1)


def test_holm_of_the_textbook():
    # Holm's steps for four tests: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 may not be below 0.06
    assert corrected([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert corrected([0.6, 0.9]) == pytest.approx((1, 1))


def test_benjamini_hochberg_of_the_first_paper():
    """Benjamini & Hochberg 1995, section 3.2: of 15 tests the four smallest pass at 0.05; by Bonferroni three."""
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1,
    ]
    found = corrected(p, "bh")
    assert sum(v <= 0.05 for v in found) == 4
    assert sum(v <= 0.05 for v in corrected(p)) == 3
    assert found[3] == pytest.approx(0.0095 * 15 / 4)


@given(st.lists(st.floats(0, 1) | st.just(NAN), max_size=8))
def test_holm_by_its_rule(p):
    found = np.array(corrected(p))
    made = sorted(v for v in p if not math.isnan(v))
    for value, result in zip(p, found, strict=True):
        if math.isnan(value):
            assert math.isnan(result)
        else:
            steps = [(len(made) - k) * v for k, v in enumerate(made) if v <= value]
            assert result == pytest.approx(min(1, max(steps)))
    none = corrected(p, "none")
    assert np.array_equal(none, np.array(p, float), equal_nan=True)


def test_corrections_that_make_no_sense():
    with pytest.raises(InputError, match="'bonferoni'"):
        corrected([0.1], "bonferoni")
    with pytest.raises(InputError, match=r"p of 1\.2"):
        corrected([0.1, 1.2])


def test_mean_interval_is_bca():
    values = np.random.default_rng(0).gamma(2, 3, 30)
    found = bootstrap_interval(values, resamples=4999, seed=3)
    expected = stats.bootstrap((values,), np.mean, n_resamples=4999, method="BCa", rng=np.random.default_rng(3))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval))
    assert found.estimate == pytest.approx(values.mean()) and found.method == "BCa"
    assert found == bootstrap_interval(values, resamples=4999, seed=3)
    assert found.low != bootstrap_interval(values, resamples=4999, seed=4).low


def test_median_interval_is_that_of_all_resamples():
    """The median of a resample of 11 is at most the k-th value if 6 draws or more are: a binomial chance."""
    values = np.sort(np.random.default_rng(5).normal(size=11))
    chance = np.array([stats.binom.sf(5, 11, k / 11) for k in range(1, 12)])
    expected = values[np.searchsorted(chance, 0.025)], values[np.searchsorted(chance, 0.975)]
    found = bootstrap_interval(values[::-1], "median", resamples=20000)
    assert (found.low, found.high) == expected and found.method == "percentile"


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(11)
    inside = 0
    for _ in range(200):
        found = bootstrap_interval(rng.normal(2, 1, 25), resamples=499)
        inside += found.low <= 2 <= found.high
    assert 175 <= inside <= 199


def test_median_interval_with_infinite_values():
    values = [1.0, 2, 3, 4, 5, 6, 7, INF, INF, INF]
    found = bootstrap_interval(values, "median")
    assert found.estimate == 5.5 and math.isfinite(found.low) and found.high == INF
    assert found.to_dict()["high"] == "inf"
    mean = bootstrap_interval(values)
    assert mean.estimate == INF and math.isnan(mean.low) and "3 of 10 values are infinite" in mean.note
    torn = bootstrap_interval([INF, -INF] * 5, "median")
    assert math.isnan(torn.low) and "both signs" in torn.note


def test_intervals_that_say_why_there_is_none():
    few = bootstrap_interval([1, 2, 3, 4, 5, NAN])
    assert (few.cases, few.left_out, few.method) == (5, 1, "none")
    assert math.isnan(few.low) and few.estimate == 3 and few.note.startswith("5 cases: too few")
    same = bootstrap_interval([2.0] * 8)
    assert (same.low, same.high) == (2, 2) and "same value" in same.note
    assert json.loads(json.dumps(bootstrap_interval([]).to_dict(), allow_nan=False))["estimate"] is None
    for kwargs in ({"statistic": "mode"}, {"confidence": 1.0}, {"resamples": 5}):
        with pytest.raises(InputError, match="No interval"):
            bootstrap_interval([1, 2], **kwargs)


def dice_of_three(cases=12, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.uniform(0.6, 0.95, cases)
    return {
        "U-Net": (hard - 0.03 + rng.normal(0, 0.004, cases)).tolist(),
        "SegFormer": hard.tolist(),
        "SegResNet": (hard + rng.normal(0, 0.004, cases)).tolist(),
    }


def test_models_are_compared_pair_by_pair():
    scores = dice_of_three()
    found = compare_models(scores)
    assert [(p.first, p.second) for p in found.pairs] == [
        ("U-Net", "SegFormer"),
        ("U-Net", "SegResNet"),
        ("SegFormer", "SegResNet"),
    ]
    p = [stats.wilcoxon(scores[pair.first], scores[pair.second], method="exact").pvalue for pair in found.pairs]
    assert [pair.p for pair in found.pairs] == pytest.approx(p)
    assert p[0] == p[1] == 2 / 2**12
    assert [pair.corrected_p for pair in found.pairs] == pytest.approx([3 * p[0], 3 * p[0], p[2]])
    assert [pair.better for pair in found.pairs] == ["SegFormer", "SegResNet", None]
    first = found.pairs[0]
    difference = np.subtract(scores["U-Net"], scores["SegFormer"])
    assert first.difference.estimate == pytest.approx(np.median(difference))
    assert difference.min() <= first.difference.low < first.difference.high < 0
    assert first.median_first == pytest.approx(np.median(scores["U-Net"])) and first.notes == ()
    assert found.notes == ()


def test_lower_and_zero_turn_the_winner_around():
    scores = {"A": [1.0, 2, 3, 4, 5, 6, 7], "B": [-2.0, -4, -6, -8, -10, -12, -14]}
    assert compare_models(scores, better="higher").pairs[0].better == "A"
    assert compare_models(scores, better="lower").pairs[0].better == "B"
    signed = compare_models(scores, better="zero").pairs[0]
    assert signed.better == "A" and signed.median_second == 8 and signed.difference.estimate == -4


def test_one_reference_makes_fewer_comparisons():
    found = compare_models(dice_of_three(), reference="U-Net")
    assert [(p.first, p.second) for p in found.pairs] == [("SegFormer", "U-Net"), ("SegResNet", "U-Net")]
    assert found.pairs[0].corrected_p == pytest.approx(2 * found.pairs[0].p)
    assert compare_models(dice_of_three(), correction="none").pairs[0].corrected_p == found.pairs[0].p


def test_too_few_cases_say_what_can_be_said():
    found = compare_models(dice_of_three(5))
    for pair in found.pairs:
        assert math.isnan(pair.p) and math.isnan(pair.corrected_p) and math.isnan(pair.difference.low)
        assert pair.better is None and math.isfinite(pair.median_first)
        assert pair.notes == (
            "5 cases: the smallest p a two-sided signed-rank test can give is 0.0625; 6 or more are needed for 0.05.",
        )


def test_what_correction_puts_out_of_reach_is_said():
    found = compare_models(dice_of_three(6))
    assert found.pairs[0].p == 0.03125 and found.pairs[0].better is None
    assert "3 comparisons of at most 6 cases" in found.notes[0] and "0.09375" in found.notes[0]
    assert compare_models(dice_of_three(6), correction="none").notes == ()
    assert compare_models(dice_of_three(6), reference="U-Net").notes != ()
    assert compare_models(dice_of_three(7), reference="U-Net").notes == ()


def test_undefined_and_infinite_scores_are_counted_and_said():
    first = [3.0, 4, 5, 6, 7, 8, INF, NAN]
    second = [2.0, 2, 2, 2, 2, NAN, 2, 2]
    pair = compare_models({"A": first, "B": second}, better="lower").pairs[0]
    assert (pair.cases, pair.left_out, pair.infinite) == (6, 2, 1)
    assert pair.notes == (
        "2 cases left out, where a score is not defined.",
        "1 case with an infinite difference, which counts as the largest.",
    )
    assert pair.p == 0.03125 and pair.better == "B"
    assert pair.median_first == 5.5 and pair.difference.estimate == 3.5
    few = compare_models({"A": first[2:], "B": second[2:]}).pairs[0]
    assert math.isnan(few.p) and few.notes[-1].startswith("4 cases: the smallest p")


def test_equal_cases_are_said():
    pair = compare_models({"A": [1.0, 2, 3, 4, 5, 6, 7], "B": [1.0, 2, 3, 4, 5, 7, 8]}).pairs[0]
    assert pair.zeros == 5 and pair.p == 0.5
    assert pair.notes == ("2 cases of 7 with a difference: the smallest p is 0.5.",)
    same = compare_models({"A": [1.0] * 7, "B": [1.0] * 7}).pairs[0]
    assert same.p == 1 and same.better is None and same.difference.low == 0


def test_ranks_with_ties():
    scores = {"A": [0.9, 0.8, 0.7, NAN], "B": [0.8, 0.8, 0.1 + 0.2, 1], "C": [0.7, 0.9, 0.3, 1]}
    found = rank_models(scores)
    # ranks A 1 2.5 1, B 2 2.5 2.5, C 3 1 2.5
    assert [(r.name, r.first_places) for r in found.rows] == [("A", 2), ("C", 1), ("B", 0)]
    assert [r.mean_rank for r in found.rows] == pytest.approx([4.5 / 3, 6.5 / 3, 7 / 3])
    assert (found.cases, found.left_out) == (3, 1)
    turned = rank_models(scores, better="lower")
    assert [r.name for r in turned.rows] == ["B", "C", "A"]
    assert sum(r.mean_rank for r in turned.rows) == pytest.approx(6)


def test_ranks_of_infinite_scores_and_of_none():
    found = rank_models({"A": [INF, 2], "B": [5, 1]}, better="lower")
    assert [(r.name, r.mean_rank, r.first_places) for r in found.rows] == [("B", 1, 2), ("A", 2, 0)]
    nothing = rank_models({"A": [NAN], "B": [1.0]})
    assert nothing.cases == 0 and math.isnan(nothing.rows[0].mean_rank)


def test_records_are_json():
    record = compare_models({"A": [INF] * 7, "B": [1.0] * 7, "C": [NAN] * 7}).to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record | json.loads(json.dumps(record))
    assert record["pairs"][0]["difference"]["estimate"] == "inf"
    assert record["pairs"][1]["p"] is None and record["pairs"][1]["cases"] == 0
    assert record["ranks"]["rows"][0]["mean_rank"] is None


@pytest.mark.parametrize(
    ("scores", "kwargs", "words"),
    [
        ({"A": [1.0]}, {}, "two or more models"),
        ({"A": [1.0, 2], "B": [1.0]}, {}, "A 2, B 1"),
        ({"A": [], "B": []}, {}, "A 0, B 0"),
        ({"A": [1.0], "B": [1.0]}, {"better": "neither"}, "'neither'"),
        ({"A": [1.0], "B": [1.0]}, {"reference": "C"}, "Model C is none"),
        ({"A": [1.0], "B": [1.0]}, {"alpha": 0}, "alpha of 0"),
        ({"A": [1.0], "B": [1.0]}, {"correction": "x"}, "Correction 'x'"),
    ],
)
def test_what_cannot_be_compared_is_refused(scores, kwargs, words):
    with pytest.raises(InputError, match=words):
        compare_models(scores, **kwargs)
