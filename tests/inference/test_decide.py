import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import ndimage

from napari_medseg.case import AxisMap
from napari_medseg.inference.decide import ClassDecision, InstanceDecision, activate, decide
from napari_medseg.inference.grid import WorkGrid
from tests.inference.fakes import Identity, make_model


class Collected:
    """Label rows put together; complains about gaps and repetitions."""

    def __init__(self, shape):
        self.labels = np.full(shape, -1, np.int64)

    def __call__(self, first, rows):
        part = self.labels[first : first + len(rows)]
        assert (part == -1).all()
        part[:] = rows


def in_pieces(data, maps):
    """Feed `maps` row by row in random pieces."""
    pieces = []
    first = 0
    while first < maps.shape[1]:
        rows = data.draw(st.integers(1, maps.shape[1] - first))
        pieces.append((first, maps[:, first : first + rows]))
        first += rows
    return pieces


def grid_of(shape, image_shape):
    factors = tuple(i / w for i, w in zip(image_shape, shape, strict=True))
    return WorkGrid(shape, factors, AxisMap.identity(len(shape)), 0, factors, image_shape)


@given(st.data(), st.sampled_from(((12, 9), (6, 9), (24, 18), (5, 4), (36, 9))))
def test_class_labels_do_not_depend_on_how_rows_arrive(data, image_shape):
    shape = (12, 9)
    maps = torch.from_numpy(np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32))
    model = make_model(Identity(), names=("a", "b"))
    results = []
    for pieces in ([(0, maps)], in_pieces(data, maps)):
        collected = Collected(image_shape)
        decision = ClassDecision(model, grid_of(shape, image_shape), image_shape, collected)
        for first, rows in pieces:
            decision.add(first, rows)
        decision.close()
        results.append(collected.labels)
    assert results[0].min() >= 0
    assert np.array_equal(results[0], results[1])


def test_enlarged_classes_are_the_winner_of_interpolated_probabilities():
    maps = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 7, 8)).astype(np.float32))
    expected = torch.nn.functional.interpolate(
        torch.softmax(maps, 0)[None], scale_factor=2, mode="bilinear", align_corners=False
    )[0].argmax(0)
    collected = Collected((14, 16))
    decision = ClassDecision(make_model(Identity()), grid_of((7, 8), (14, 16)), (14, 16), collected)
    decision.add(0, maps)
    decision.close()
    assert np.array_equal(collected.labels, expected.numpy())


class Pieces:
    """Every connected piece of foreground is an object; none is larger than the margin."""

    margin = 8

    def decode(self, maps):
        return ndimage.label(maps[0] > 0.5)[0]


@given(st.data(), st.integers(5, 30), st.integers(0, 10_000))
def test_objects_do_not_depend_on_blocks_or_pieces(data, block, seed):
    random = np.random.default_rng(seed)
    foreground = np.zeros((40, 33), np.float32)
    for _ in range(25):
        y, x = random.integers(0, 37), random.integers(0, 30)
        foreground[y : y + random.integers(1, 4), x : x + random.integers(1, 4)] = 1
    whole, count = ndimage.label(foreground)
    # chained pieces may grow beyond the margin that the decoder promises
    assume(all(s.stop - s.start <= 8 for box in ndimage.find_objects(whole) for s in box))
    model = make_model(Identity(), instances=Pieces(), activation="none")
    collected = Collected((40, 33))
    decision = InstanceDecision(model, grid_of((40, 33), (40, 33)), (40, 33), collected, block=block)
    for first, rows in in_pieces(data, torch.from_numpy(foreground)[None]):
        decision.add(first, rows)
    decision.close()
    labels = collected.labels
    assert decision.next_id == count + 1
    assert sorted(set(np.unique(labels)) - {0}) == list(range(1, count + 1))
    # the same objects under other numbers: a one-to-one match, nothing cut, nothing twice
    pairs = {(a, b) for a, b in zip(whole.ravel().tolist(), labels.ravel().tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_objects_on_another_grid_keep_their_ids():
    foreground = np.zeros((20, 20), np.float32)
    foreground[2:5, 2:5] = 1
    foreground[12:15, 10:14] = 1
    collected = Collected((40, 40))
    model = make_model(Identity(), instances=Pieces(), activation="none")
    decision = InstanceDecision(model, grid_of((20, 20), (40, 40)), (40, 40), collected, first_id=7, block=9)
    decision.add(0, torch.from_numpy(foreground)[None])
    decision.close()
    expected = np.kron(ndimage.label(foreground)[0], np.ones((2, 2), int))
    assert np.array_equal(collected.labels, np.where(expected > 0, expected + 6, 0))


def test_activation_and_decision_by_hand():
    maps = torch.tensor([[[0.0, 2.0]], [[1.0, -3.0]]])
    assert activate(maps, "softmax")[0, 0, 0] == pytest.approx(1 / (1 + np.e))
    assert activate(maps, "sigmoid")[1, 0, 0] == pytest.approx(np.e / (1 + np.e))
    assert activate(maps, "none") is maps
    assert decide(maps, None).tolist() == [[1, 0]]
    assert decide(torch.tensor([[[0.4, 0.6]], [[0.7, 0.1]]]), 0.65).tolist() == [[2, 0]]
    assert decide(torch.tensor([[[0.5, 0.49]]]), 0.5).tolist() == [[1, 0]]
