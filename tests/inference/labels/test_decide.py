import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_medseg.case import AxisMap, MedsegError
from napari_medseg.inference.inputs.grid import WorkGrid
from napari_medseg.inference.labels.decide import ClassDecision, activate, background_maps, decide
from napari_medseg.inference.tiles.units import _window_of_box
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


def whole(shape):
    return tuple(slice(0, n) for n in shape)


@given(st.data(), st.sampled_from(((12, 9), (6, 9), (24, 18), (5, 4), (36, 9))))
def test_class_labels_do_not_depend_on_how_rows_arrive(data, image_shape):
    shape = (12, 9)
    maps = torch.from_numpy(np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32))
    model = make_model(Identity(), names=("a", "b"))
    results = []
    for pieces in ([(0, maps)], in_pieces(data, maps)):
        collected = Collected(image_shape)
        decision = ClassDecision(
            model, grid_of(shape, image_shape), image_shape, whole(image_shape), whole(shape), 1000, collected
        )
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
    grid = grid_of((7, 8), (14, 16))
    decision = ClassDecision(make_model(Identity()), grid, (14, 16), whole((14, 16)), whole((7, 8)), 1000, collected)
    decision.add(0, maps)
    decision.close()
    assert np.array_equal(collected.labels, expected.numpy())


@given(st.data(), st.sampled_from(((12, 9), (6, 9), (24, 18), (5, 4), (36, 9))), st.integers(1, 9))
def test_a_box_is_decided_as_that_part_of_the_whole(data, image_shape, break_every):
    """With only the maps that its window holds, and the same to the last bit."""
    shape = (12, 9)
    maps = torch.from_numpy(np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32))
    model, grid = make_model(Identity(), names=("a", "b")), grid_of(shape, image_shape)
    kept = []

    def run(box, window):
        decision = ClassDecision(
            model, grid, image_shape, box, window, break_every, lambda *_: None, lambda f, p: kept.append(p.clone())
        )
        rows = maps[(slice(None), *window)]
        decision.add(window[0].start, rows)
        result = torch.cat(kept, 1)
        kept.clear()
        return result

    everything = run(whole(image_shape), whole(shape))
    low = [data.draw(st.integers(0, n - 1)) for n in image_shape]
    low[0] = low[0] // break_every * break_every
    box = tuple(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(low, image_shape, strict=True))
    part = run(box, _window_of_box(grid, box, shape))
    assert torch.allclose(part, everything[(slice(None), *box)], atol=1e-6)


def test_activation_and_decision_by_hand():
    maps = torch.tensor([[[0.0, 2.0]], [[1.0, -3.0]]])
    assert activate(maps, "softmax")[0, 0, 0] == pytest.approx(1 / (1 + np.e))
    assert activate(maps, "sigmoid")[1, 0, 0] == pytest.approx(np.e / (1 + np.e))
    assert activate(maps, "none") is maps
    assert decide(maps, None).tolist() == [[1, 0]]
    assert decide(torch.tensor([[[0.4, 0.6]], [[0.7, 0.1]]]), 0.65).tolist() == [[2, 0]]
    assert decide(torch.tensor([[[0.5, 0.49]]]), 0.5).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("activation", "threshold", "channels"),
    [
        ("softmax", None, 3),
        ("sigmoid", 0.5, 1),
        ("sigmoid", 0.5, 3),
        ("none", None, 2),
        ("none", 0.3, 1),
        ("none", -2.0, 1),
    ],
)
def test_where_no_tile_lies_there_is_background(activation, threshold, channels):
    model = make_model(Identity(), activation=activation, threshold=threshold, out_channels=channels)
    maps = background_maps(model)[:, None, None]
    assert decide(activate(maps, activation), threshold).tolist() == [[0]]


@given(st.integers(1, 20), st.integers(0, 1000))
def test_the_first_of_equal_channels_wins(channels, seed):
    values = np.random.default_rng(seed).integers(0, 3, (channels, 4, 5)).astype(np.float32)
    assert np.array_equal(decide(torch.from_numpy(values), None), values.argmax(0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_wherever_they_lie(bad):
    maps = torch.zeros(2, 3, 4)
    maps[1, 2, 3] = bad
    with pytest.raises(MedsegError, match="no numbers"):
        activate(maps, "softmax")
    large = torch.full((2, 300, 300), 3e38)
    assert activate(large, "none") is large
