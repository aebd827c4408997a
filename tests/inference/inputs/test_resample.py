import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_medseg.inference.inputs.resample import RowNeeds, Taps, nearest

factors = st.sampled_from((0.25, 1 / 3, 0.5, 0.8, 1.0, 1.25, 2.0, 3.7))


def resampled(values, begin, stop, factor):
    taps = Taps.between(begin, stop, factor, len(values))
    return taps.apply(values[taps.first : taps.first + taps.count], 0)


@given(st.integers(2, 30), st.sampled_from((2, 3, 4)))
def test_enlarging_is_torchs_linear_interpolation(size, times):
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], scale_factor=times, mode="linear", align_corners=False
    )[0, 0].numpy()
    assert resampled(values, 0, size * times, 1 / times) == pytest.approx(theirs, abs=1e-5)


@given(st.integers(2, 30), st.sampled_from((2, 3)))
def test_reducing_is_torchs_antialiased_interpolation_away_from_the_edge(size, times):
    # torch leaves out samples beyond the edge where we repeat the last one
    values = np.random.default_rng(size).normal(size=(1, 1, size * times, 4)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(values), size=(size, 4), mode="bilinear", align_corners=False, antialias=True
    )[0, 0].numpy()
    ours = resampled(values[0, 0], 0, size, float(times))
    assert ours[1:-1] == pytest.approx(theirs[1:-1], abs=1e-5)


@given(st.integers(1, 30), factors, st.data())
def test_a_part_is_the_same_as_the_part_of_the_whole(size, factor, data):
    values = np.random.default_rng(1).normal(size=size).astype(np.float32)
    outputs = max(1, round(size / factor))
    low = data.draw(st.integers(0, outputs - 1))
    high = data.draw(st.integers(low + 1, outputs))
    whole = resampled(values, 0, outputs, factor)
    assert resampled(values, low, high, factor) == pytest.approx(whole[low:high], abs=1e-5)


@given(st.integers(1, 30), factors)
def test_weights_sum_to_one_and_needs_are_what_is_used(size, factor):
    outputs = max(1, round(size / factor))
    needs = RowNeeds.of(outputs, factor, size)
    for k in range(outputs):
        taps = Taps.between(k, k + 1, factor, size)
        if taps.weights is not None:
            assert taps.weights.sum() == pytest.approx(1.0, abs=1e-5)
        assert taps.first >= needs.start[k]
        assert taps.first + taps.count <= needs.stop[k]


def test_needs_answer_from_where_and_how_far():
    needs = RowNeeds.of(8, 0.5, 4)
    assert needs.ready_before(4) == 8
    # output 2 sits at input 0.75 and looks at inputs 0 and 1
    assert needs.ready_before(2) == 3
    assert needs.ready_before(1) == 1
    assert needs.start.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


def test_a_linear_ramp_stays_on_the_line():
    ramp = np.arange(10, dtype=np.float32)
    fine = resampled(ramp, 0, 20, 0.5)
    assert fine[1:-1] == pytest.approx((np.arange(1, 19) + 0.5) * 0.5 - 0.5)
    coarse = resampled(ramp, 0, 5, 2.0)
    assert coarse[1:-1] == pytest.approx([2.5, 4.5, 6.5])


def test_nearest_takes_the_closest_input():
    assert nearest(6, 0.5, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest(3, 2.0, 6).tolist() == [0, 2, 4]


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_torch_and_numpy_agree(factor):
    values = np.random.default_rng(0).normal(size=(2, 12, 3)).astype(np.float32)
    taps = Taps.between(0, round(12 / factor), factor, 12)
    by_torch = taps.apply_torch(torch.from_numpy(values), 1).numpy()
    assert by_torch == pytest.approx(taps.apply(values, 1), abs=1e-6)
