from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medseg.case import CancelledError, InputError
from napari_medseg.inference.ensembles import staple as staple_module
from napari_medseg.inference.ensembles.staple import staple
from napari_medseg.inference.ensembles.votes import majority_vote
from napari_medseg.jobs import Progress


def rated(truth, sensitivity, specificity, rng):
    """A rater of a binary truth who is right with the given probabilities."""
    right = rng.random(truth.shape) < np.where(truth == 1, sensitivity, specificity)
    return np.where(right, truth, 1 - truth).astype(np.uint8)


def warfield(blocks, steps):
    """Warfield 2004, equations 14, 18 and 19, in numpy: probability of foreground, sensitivities, specificities."""
    d = np.stack([b.ravel() for b in blocks]).astype(float)
    w = d.mean(0)
    prior = w.mean()
    for _ in range(steps):
        p = d @ w / w.sum()
        q = (1 - d) @ (1 - w) / (1 - w).sum()
        a = prior * np.prod(np.where(d == 1, p[:, None], 1 - p[:, None]), 0)
        b = (1 - prior) * np.prod(np.where(d == 1, 1 - q[:, None], q[:, None]), 0)
        w = a / (a + b)
    return w, p, q


def rohlfing(blocks, classes, steps):
    """Rohlfing 2004 started from the untied votes: winners ``(n,)`` and confusion ``(inputs, given, true)``."""
    given_ = np.stack([b.ravel() for b in blocks])
    one_hot = (given_[:, None] == np.array(classes)[None, :, None]).astype(float)
    votes = one_hot.sum(0)
    clear = (votes == votes.max(0)).sum(0) == 1
    seed = (votes == votes.max(0)) * clear
    confusion = np.einsum("kgn,tn->kgt", one_hot, seed)
    confusion /= np.maximum(confusion.sum(2, keepdims=True), 1)
    prior = one_hot.mean((0, 2))
    for _ in range(steps):
        w = prior[:, None] * np.prod(np.einsum("kgn,kgt->ktn", one_hot, confusion), 0)
        w /= np.where(w.sum(0) > 0, w.sum(0), 1)
        confusion = np.einsum("kgn,tn->kgt", one_hot, w)
        confusion /= confusion.sum(1, keepdims=True)
    return np.array(classes)[w.argmax(0)], confusion


@pytest.mark.parametrize("seed", range(3))
def test_staple_of_one_id_is_expectation_maximisation(seed):
    rng = np.random.default_rng(seed)
    truth = (rng.random((10, 12, 14)) < 0.3).astype(np.uint8)
    blocks = [rated(truth, p, q, rng) for p, q in ((0.9, 0.95), (0.8, 0.9), (0.95, 0.7), (0.7, 0.99))]
    found = staple([b * 7 for b in blocks])
    w, p, q = warfield(blocks, found.iterations)
    assert found.converged and found.ids == (0, 7)
    assert np.allclose(found.sensitivity[:, 0], p, atol=1e-9)
    assert np.allclose(found.specificity, q, atol=1e-9)
    assert np.abs(w - 0.5).min() > 1e-6
    assert np.array_equal(found.labels.ravel(), 7 * (w > 0.5))
    assert found.labels.dtype == np.uint8 and found.labels.shape == truth.shape
    assert np.allclose(found.confusion.sum(1), 1)


@pytest.mark.parametrize("seed", range(3))
def test_staple_of_several_ids_is_expectation_maximisation(seed):
    rng = np.random.default_rng(seed)
    classes = (0, 4, 300, 70000)
    truth = rng.choice(classes, 3000, p=(0.4, 0.3, 0.2, 0.1))
    blocks = [np.where(rng.random(3000) < p, truth, rng.choice(classes, 3000)) for p in (0.9, 0.8, 0.7, 0.6)]
    found = staple([b.reshape(10, 300) for b in blocks])
    labels, confusion = rohlfing(blocks, classes, found.iterations)
    assert found.converged and found.ids == classes
    assert np.allclose(found.confusion, confusion, atol=2e-4)
    assert np.array_equal(found.labels.ravel(), labels)
    # ties in the vote it starts from are what the filter gets wrong with codes that start at 0
    assert any(len(Counter(v)) == 4 for v in zip(*(b.tolist() for b in blocks), strict=True))


@pytest.mark.parametrize("ids", [(0, 1), (0, 2, 5), (3, 8)])
def test_perfect_agreement_gives_the_inputs_back(ids):
    truth = np.random.default_rng(0).choice(ids, (5, 6, 7))
    found = staple([truth] * 3)
    assert np.array_equal(found.labels, truth)
    occurs = [k for k, i in enumerate(found.ids) if i in ids]
    for matrix in found.confusion:
        assert np.allclose(matrix[np.ix_(occurs, occurs)], np.eye(len(occurs)))


@pytest.mark.parametrize("only", [0, 2])
def test_one_id_everywhere_is_agreed_on_and_says_nothing_of_the_other(only):
    found = staple([np.full((2, 3), only)] * 2, ids=[2])
    assert (found.labels == only).all()
    other = 0 if only else 1
    assert np.isnan(found.confusion[:, :, other]).all()
    assert (found.confusion[:, 1 - other, 1 - other] == 1).all()


def test_two_bad_raters_of_five_are_trusted_less_and_do_not_win():
    rng = np.random.default_rng(5)
    truth = (rng.random((20, 20, 20)) < 0.4).astype(np.uint8)
    # the bad two and one good make a majority, often a wrong one
    blocks = [rated(truth, 0.97, 0.97, rng) for _ in range(3)] + [rated(truth, 0.55, 0.55, rng) for _ in range(2)]
    found = staple(blocks)
    assert found.sensitivity[:3].min() > 0.94 > 0.6 > found.sensitivity[3:].max()
    wrong, wrong_vote = (found.labels != truth).sum(), (majority_vote(blocks) != truth).sum()
    assert wrong < wrong_vote / 3


def test_a_bad_rater_of_several_ids_is_trusted_less():
    rng = np.random.default_rng(6)
    truth = rng.integers(0, 4, 4000)
    blocks = [np.where(rng.random(4000) < p, truth, rng.integers(0, 4, 4000)) for p in (0.97, 0.95, 0.96, 0.2, 0.2)]
    found = staple(blocks)
    right = np.diagonal(found.confusion, axis1=1, axis2=2)
    assert right[:3].min() > 0.9 > 0.5 > right[3:].max()
    assert (found.labels != truth).sum() < (majority_vote(blocks) != truth).sum() / 2


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 100))
def test_the_order_of_the_raters_does_not_matter(order, seed):
    rng = np.random.default_rng(seed)
    truth = (rng.random(800) < 0.4).astype(np.uint8)
    blocks = [rated(truth, p, q, rng) for p, q in ((0.9, 0.95), (0.8, 0.9), (0.95, 0.7), (0.7, 0.99))]
    found, turned = staple(blocks), staple([blocks[k] for k in order])
    assert np.array_equal(found.labels, turned.labels)
    assert np.allclose(found.confusion[list(order)], turned.confusion, atol=1e-6)


def test_raters_of_one_id_who_contradict_each_other_leave_it_to_the_vote():
    blocks = [np.array([3, 3, 0, 0]), np.array([0, 0, 3, 3])]
    found = staple(blocks)
    assert found.labels.tolist() == majority_vote(blocks).tolist() == [3, 3, 0, 0]
    assert np.allclose(found.confusion, 0.5)


def test_voxels_that_no_id_explains_get_the_vote():
    agreed = np.tile([0, 1, 2, 3], 50)
    blocks = [np.append(agreed, last) for last in (3, 1, 2)]
    found = staple(blocks)
    assert np.array_equal(found.labels, np.append(agreed, 3))
    assert staple(blocks[::-1]).labels[-1] == 2


def test_ids_that_were_not_listed_and_too_few_raters_are_refused():
    block = np.array([0, 1, 2])
    with pytest.raises(InputError, match="Id 2 is not one of those to combine, 1"):
        staple([block] * 3, ids=[1])
    with pytest.raises(InputError, match="at least 3 segmentations for 2 ids and got 2"):
        staple([block] * 2)
    with pytest.raises(InputError, match="at least 2 segmentations for 1 id and got 1"):
        staple([np.array([0, 1, 1])])
    with pytest.raises(InputError, match="no voxels"):
        staple([block[:0]] * 3)
    with pytest.raises(InputError, match="Id -1 is below 0"):
        staple([block - 1] * 3)
    with pytest.raises(InputError, match="at most 250 ids apart and there are 251"):
        staple([np.arange(252)] * 3)


def test_the_most_ids_there_may_be_are_told_apart():
    truth = np.tile(np.arange(251), 4) * 1000
    found = staple([truth, truth, np.roll(truth, 1)])
    assert np.array_equal(found.labels, truth)
    assert found.confusion.shape == (3, 251, 251)


def test_staple_refuses_more_voxels_than_it_may_and_names_the_limit(monkeypatch):
    assert staple_module.STAPLE_VOXELS == 2**27 and staple_module.STAPLE_VOXELS_SEVERAL == 2**24
    monkeypatch.setattr(staple_module, "STAPLE_VOXELS", 2000)
    monkeypatch.setattr(staple_module, "STAPLE_VOXELS_SEVERAL", 1000)
    assert staple([np.arange(2000) % 2] * 3).iterations
    with pytest.raises(InputError, match="at most 2,000 voxels here; these have 2,001"):
        staple([np.arange(2001) % 2] * 3)
    assert staple([np.arange(1000) % 3] * 3).iterations
    with pytest.raises(InputError, match="at most 1,000 voxels here; these have 1,001"):
        staple([np.arange(1001) % 3] * 3)


def test_staple_that_is_stopped_early_says_so():
    rng = np.random.default_rng(0)
    truth = (rng.random(500) < 0.4).astype(np.uint8)
    blocks = [rated(truth, 0.8, 0.7, rng) for _ in range(3)]
    found = staple(blocks, max_iterations=2)
    assert found.iterations == 2 and not found.converged
    assert np.allclose(found.sensitivity[:, 0], warfield(blocks, 2)[1])


class Impatient(Progress):
    """Asks to stop at the third question."""

    asked = 0

    @property
    def cancelled(self):
        self.asked += 1
        if self.asked == 3:
            self.cancel()
        return super().cancelled


@pytest.mark.parametrize("ids", [2, 4])
def test_staple_stops_within_an_iteration_of_being_asked(ids):
    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, ids, 500) for _ in range(3)]
    assert staple(blocks).iterations > 4
    progress = Impatient()
    with pytest.raises(CancelledError):
        staple(blocks, progress=progress)
    assert progress.asked == 3
