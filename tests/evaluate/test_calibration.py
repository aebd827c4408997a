"""Calibration: numbers by hand, scikit-learn, torch, and the same in any pieces."""

import json
import math

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from napari_medseg.case import CancelledError, InputError
from napari_medseg.evaluate.calibration import probability_pairs
from napari_medseg.evaluate.calibration.quantiles import mass_edges
from napari_medseg.evaluate.calibration.scores import METRICS, calibration
from napari_medseg.evaluate.calibration.temperature import fit_temperature
from napari_medseg.jobs import Progress


def foreground(shape=(20, 30), seed=0):
    rng = np.random.default_rng(seed)
    p = rng.random(shape).astype(np.float32)
    return p, (rng.random(shape) < p**2).astype(np.uint8)


def class_maps(classes=4, shape=(12, 15), seed=0, sharpness=2.0):
    """Logits and references drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, sharpness, (classes, *shape))
    chance = softmax(logits, 0)
    return logits, (rng.random(shape) > np.cumsum(chance, 0)).sum(0).astype(np.int16)


def held(curve):
    rows = [(n, p, o) for n, p, o in zip(curve.voxels, curve.predicted, curve.observed, strict=True) if n]
    return np.array(rows).T


def test_foreground_by_hand():
    p = np.array([[0.1, 0.2, 0.2], [0.9, 0.7, 1.0]])
    reference = np.array([[0, 0, 3], [3, 0, 5]])
    found = calibration(p, reference, bin_count=2)
    # bins (0.1, 0.2, 0.2 | 1 of 3 true) and (0.9, 0.7, 1.0 | 2 of 3 true)
    assert found.curve.voxels == (3, 3) and found.curve.edges == (0, 0.5, 1)
    assert found.curve.predicted == pytest.approx((0.5 / 3, 2.6 / 3))
    assert found.curve.observed == pytest.approx((1 / 3, 2 / 3))
    assert found.curve.ece == pytest.approx((0.5 / 3 + 0.6 / 3) / 2)
    assert found.curve.mce == pytest.approx(0.2)
    assert found.brier == pytest.approx((0.01 + 0.04 + 0.64 + 0.01 + 0.49 + 0) / 6)
    only_five = calibration(p, reference, bin_count=2, ids=[5])
    assert only_five.curve.observed == pytest.approx((0, 1 / 3))


def test_classes_by_hand():
    p = np.array([[0.6, 0.1], [0.3, 0.1], [0.1, 0.8]])  # two voxels of three classes
    found = calibration(p[:, :, None], np.array([[0], [1]]), bin_count=5)
    assert found.curve.of == "confidence"
    # confidence 0.6, right, in (0.4, 0.6]; confidence 0.8, wrong, in (0.6, 0.8]
    assert found.curve.voxels == (0, 0, 1, 1, 0)
    assert found.curve.ece == pytest.approx((0.4 + 0.8) / 2) and found.curve.mce == pytest.approx(0.8)
    assert found.brier == pytest.approx((0.16 + 0.09 + 0.01 + 0.01 + 0.81 + 0.64) / 2)
    assert [c.of for c in found.classes] == [0, 1, 2]
    # class 1: 0.3 not true, 0.1 true
    assert found.classes[1].ece == pytest.approx((0.3 + 0.9) / 2)
    assert found.classwise_ece == pytest.approx(np.mean([(0.4 + 0.1) / 2, 0.6, (0.1 + 0.8) / 2]))


@pytest.mark.parametrize(("bins", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_curve_equals_scikit_learn(bins, strategy):
    # 601 numbers: with 10 bins all quantiles are numbers that occur
    p, reference = foreground((601, 1))
    found = calibration(p, reference, bins=bins)
    observed, predicted = calibration_curve(
        reference.ravel(), p.ravel().astype(np.float64), n_bins=10, strategy=strategy
    )
    _, mine_predicted, mine_observed = held(found.curve)
    assert mine_predicted == pytest.approx(predicted, rel=1e-9)
    assert mine_observed == pytest.approx(observed, rel=1e-12)
    assert found.brier == pytest.approx(brier_score_loss(reference.ravel(), p.ravel()), rel=1e-6)


@pytest.mark.parametrize("bins", ["width", "mass"])
def test_every_class_equals_scikit_learn(bins):
    logits, reference = class_maps(shape=(13, 37))
    p = softmax(logits, 0).astype(np.float32)
    found = calibration(p, reference, bins=bins)
    flat = p.reshape(4, -1).astype(np.float64)
    strategy = {"width": "uniform", "mass": "quantile"}[bins]
    rows = [(flat.max(0), flat.argmax(0) == reference.ravel()), *((flat[k], reference.ravel() == k) for k in range(4))]
    for curve, (row, truth) in zip((found.curve, *found.classes), rows, strict=True):
        observed, predicted = calibration_curve(truth, row, n_bins=10, strategy=strategy)
        _, mine_predicted, mine_observed = held(curve)
        assert mine_predicted == pytest.approx(predicted, rel=1e-9)
        assert mine_observed == pytest.approx(observed, rel=1e-12)
    one_hot = np.eye(4)[reference.ravel()]
    assert found.brier == pytest.approx(((flat.T - one_hot) ** 2).sum(1).mean(), rel=1e-9)


def test_torch_style_confidence_error():
    """Guo 2017's own evaluation code: bins (lower, upper] of the confidence."""
    logits, reference = class_maps(seed=3)
    p = softmax(logits, 0).astype(np.float32)
    confidence, right = p.max(0).astype(float).ravel(), (p.argmax(0) == reference).ravel()
    expected = 0.0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
    assert calibration(p, reference, bin_count=15).curve.ece == pytest.approx(expected, rel=1e-9)


def test_a_perfect_and_a_perfectly_wrong_map():
    reference = np.array([[0, 1], [1, 1]])
    perfect = calibration(reference.astype(np.float32), reference)
    assert perfect.scores == {"ece": 0, "mce": 0, "classwise_ece": 0, "brier": 0}
    wrong = calibration(1.0 - reference, reference)
    assert wrong.scores == {"ece": 1, "mce": 1, "classwise_ece": 1, "brier": 1}
    both = np.stack([reference, 1.0 - reference])
    assert calibration(both, reference).brier == 2


def test_mask_and_ignored_id_leave_out_and_count():
    p, reference = foreground((30, 20))
    reference[:3] = 255
    mask = np.zeros((30, 20), np.uint8)
    mask[:, 4:] = 2
    p[10, 0] = np.nan  # outside the mask: never looked at
    found = calibration(p, reference, mask=mask, ignore_id=255, ids=[1])
    expected = calibration(p[3:, 4:], reference[3:, 4:])
    assert found.scores == pytest.approx(expected.scores)
    assert found.voxels == 27 * 16 and found.left_out == 600 - 27 * 16


def test_background_flatters_which_a_mask_shows():
    p, reference = np.full((20, 20), 0.0), np.zeros((20, 20), int)
    p[:4], reference[:2] = 0.9, 1
    organ = np.zeros((20, 20), bool)
    organ[:4] = True
    assert calibration(p, reference).curve.ece == pytest.approx(0.4 * 0.2)
    assert calibration(p, reference, mask=organ).curve.ece == pytest.approx(0.4)


def test_ids_say_which_label_a_class_is():
    logits, reference = class_maps(3)
    names = np.array([0, 40, 7])
    p = softmax(logits, 0)
    found = calibration(p, names[reference], ids=[0, 40, 7])
    assert found.scores == calibration(p, reference).scores
    assert [c.of for c in found.classes] == [0, 40, 7]
    with pytest.raises(InputError, match="holds the id 40"):
        calibration(p, names[reference])


def test_nothing_to_compare_is_nan():
    found = calibration(np.zeros((4, 4)), np.zeros((4, 4), int), mask=np.zeros((4, 4)), bins="mass")
    assert all(math.isnan(v) for v in found.scores.values())
    assert found.voxels == 0 and found.left_out == 16
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["scores"] == {"ece": None, "mce": None, "classwise_ece": None, "brier": None}


@given(
    arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([0, 1e-30, 0.1, 0.25, 1 / 3, 0.5, 0.999, 1])),
    st.integers(1, 12),
)
def test_equal_mass_edges_are_the_quantiles_also_of_tied_numbers(p, bins):
    class Rows:
        curves = 1

        def count(self):
            return 1

        def rows(self):
            yield p[None, : len(p) // 2]
            yield p[None, len(p) // 2 :]

    (edges,) = mass_edges(Rows(), bins, Progress())
    expected = np.quantile(p.astype(np.float64), np.linspace(0, 1, bins + 1))
    assert edges[0] == p.min() and edges[-1] == p.max()
    for value in expected:
        assert np.abs(edges - value).min() <= 1e-14
    for value in edges:
        assert np.abs(expected - value).min() <= 1e-14
    assert (np.diff(edges) > 0).all() or len(edges) == 2


def test_tied_numbers_make_fewer_bins():
    p = np.array([[0.0] * 8 + [1.0, 0.6]])
    found = calibration(p, np.array([[0] * 8 + [1, 1]]), bins="mass", bin_count=4)
    assert sum(found.curve.voxels) == 10 and len(found.curve.voxels) < 4
    assert found.curve.ece == pytest.approx(0.04)


@pytest.mark.parametrize("bins", ["width", "mass"])
def test_in_pieces_and_over_cases_equals_the_whole(bins, monkeypatch):
    logits, reference = class_maps(shape=(9, 20, 21))
    p = softmax(logits, 0).astype(np.float32)
    whole = calibration(p, reference, bins=bins)
    monkeypatch.setattr(probability_pairs, "_PIECE_NUMBERS", 500)
    lazy = (da.from_array(p, chunks=(2, 4, 7, 20)), da.from_array(reference, chunks=(3, 5, 21)))
    cases = ([p[:, :4], p[:, 4:]], [reference[:4], reference[4:]])
    for maps, references in (lazy, cases):
        parts = calibration(maps, references, bins=bins)
        assert parts.curve.voxels == whole.curve.voxels and parts.curve.edges == whole.curve.edges
        assert np.array_equal(parts.curve.observed, whole.curve.observed, equal_nan=True)
        assert parts.scores == pytest.approx(whole.scores, rel=1e-12)


@pytest.mark.parametrize(
    ("p", "reference", "kwargs", "words"),
    [
        (np.full((2, 2), 1.5), np.zeros((2, 2), int), {}, "from 1.5 to 1.5"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), int), {}, "not finite"),
        (np.full((3, 2, 2), 0.9), np.zeros((2, 2), int), {}, "add up to 2.7"),
        (np.zeros((2, 3)), np.zeros((2, 2), int), {}, "shape"),
        (np.zeros((2, 2)), np.zeros((2, 2)), {}, "whole numbers"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), {"bin_count": 0}, "0 bins"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), {"mask": np.zeros((2, 3))}, "mask has the shape"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), {"ids": [1, 2]}, "one id"),
        (np.ones((1, 2, 2)), np.zeros((2, 2), int), {}, "two or more classes"),
        ([np.zeros((2, 2))], [np.zeros((2, 2), int)] * 2, {}, "1 maps, 2 references"),
    ],
)
def test_what_is_no_calibration_is_refused(p, reference, kwargs, words):
    with pytest.raises(InputError, match=words):
        calibration(p, reference, **kwargs)


@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")
@pytest.mark.parametrize("true_temperature", [0.6, 1.0, 2.5])
def test_temperature_of_drawn_labels_is_found(true_temperature):
    logits, reference = class_maps(4, (60, 70), seed=5)
    found = fit_temperature(logits * true_temperature, reference)
    assert found.temperature == pytest.approx(true_temperature, rel=0.06)
    assert not found.at_limit and found.nll_after <= found.nll_before
    flat = reference.ravel()
    p = softmax(logits * true_temperature, 0).reshape(4, -1).T
    assert found.nll_before == pytest.approx(log_loss(flat, p), rel=1e-6)
    scaled = found.probabilities(logits * true_temperature)
    assert found.nll_after == pytest.approx(log_loss(flat, scaled.reshape(4, -1).T.astype(float)), rel=1e-5)


def test_temperature_equals_a_fit_with_torch():
    import torch

    logits, reference = class_maps(3, (20, 25), seed=2)
    z, true = torch.from_numpy(logits * 3).reshape(3, -1).T, torch.from_numpy(reference.ravel().astype(np.int64))
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    fit = torch.optim.LBFGS([log_t], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-14)

    def loss():
        fit.zero_grad()
        value = torch.nn.functional.cross_entropy(z / log_t.exp(), true)
        value.backward()
        return value

    fit.step(loss)
    assert fit_temperature(logits * 3, reference).temperature == pytest.approx(log_t.exp().item(), rel=1e-5)


def test_temperature_repairs_an_overconfident_map():
    logits, reference = class_maps(2, (50, 60), seed=7)
    z = (logits[1] - logits[0]) * 4
    found = fit_temperature(z, reference)
    assert found.temperature == pytest.approx(4, rel=0.1)
    before, after = (calibration(p, reference).curve.ece for p in (expit(z), found.probabilities(z, foreground=True)))
    assert before > 0.08 and after < 0.03
    as_two_classes = fit_temperature(np.stack([np.zeros_like(z), z]), reference)
    assert as_two_classes.temperature == pytest.approx(found.temperature, rel=1e-6)


def test_temperature_in_pieces_with_a_mask(monkeypatch):
    logits, reference = class_maps(3, (20, 30))
    mask = np.arange(600).reshape(20, 30) % 3 > 0
    inside = fit_temperature(logits[:, mask][..., None], reference[mask][..., None])
    monkeypatch.setattr(probability_pairs, "_PIECE_NUMBERS", 200)
    parts = fit_temperature(da.from_array(logits, chunks=(3, 6, 30)), reference, mask=mask)
    assert parts.temperature == pytest.approx(inside.temperature, rel=1e-6)
    assert (parts.voxels, parts.left_out) == (400, 200)
    json.dumps(parts.to_dict(), allow_nan=False)


def test_temperature_at_its_limits_is_said():
    reference = np.array([[0, 1], [1, 0]])
    right = np.where(reference == 1, 5.0, -5.0)
    always = fit_temperature(right, reference)
    assert always.at_limit and always.temperature == pytest.approx(0.01)
    never = fit_temperature(-right, reference)
    assert never.at_limit and never.temperature == pytest.approx(100)
    with pytest.raises(InputError, match="no voxel"):
        fit_temperature(right, reference, mask=np.zeros((2, 2)))


def test_it_can_be_cancelled():
    progress = Progress()
    progress.cancel()
    for work in (calibration, fit_temperature):
        with pytest.raises(CancelledError):
            work(*foreground(), progress=progress)


def test_every_score_is_defined():
    assert tuple(calibration(*foreground()).scores) == tuple(m.key for m in METRICS)
