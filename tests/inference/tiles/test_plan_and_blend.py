import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map, dense_patch_slices

from napari_medseg.inference.tiles.blend import SlabAccumulator, importance
from napari_medseg.inference.tiles.plan import TilePlan


@st.composite
def plans(draw):
    ndim = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 20)) for _ in range(ndim))
    tile = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    margin = draw(st.integers(0, (min(tile) - 1) // 2))
    return TilePlan(shape, tile, draw(st.sampled_from((0.0, 0.25, 0.5, 0.75, 0.9))), margin=margin)


def all_tiles(plan):
    return [start for slab in plan.slabs for start in plan.in_slab(slab)]


def coverage(plan):
    covered = np.zeros(plan.shape, int)
    for start in all_tiles(plan):
        covered[plan.used(start)] += 1
    return covered


@given(plans())
def test_every_voxel_is_covered_and_no_tile_comes_twice(plan):
    tiles = all_tiles(plan)
    assert coverage(plan).min() >= 1
    assert len(tiles) == len(set(tiles)) == len(plan)


@given(plans())
def test_tiles_stay_inside_where_the_grid_is_large_enough(plan):
    for start in all_tiles(plan):
        for s, t, n in zip(start, plan.tile, plan.shape, strict=True):
            assert (s >= 0 and s + t <= n) if n >= t else (s <= 0 and s + t >= n)


@given(plans())
def test_rows_called_complete_are_never_touched_again(plan):
    slabs = plan.slabs
    for number in range(len(slabs)):
        assert all(s >= plan.complete_rows(number) for s in slabs[number + 1 :])
    assert plan.complete_rows(len(slabs) - 1) == plan.shape[0]


@given(plans(), st.data())
def test_a_window_keeps_exactly_the_tiles_that_touch_it(plan, data):
    window = []
    for n in plan.shape:
        low = data.draw(st.integers(0, n - 1))
        window.append(slice(low, data.draw(st.integers(low + 1, n))))
    part = plan.within(tuple(window))
    touching = [
        start
        for start in all_tiles(plan)
        if all(s < w.stop and s + t > w.start for s, t, w in zip(start, plan.tile, window, strict=True))
    ]
    assert all_tiles(part) == touching


@given(st.tuples(st.integers(8, 40), st.integers(8, 40)), st.sampled_from((0.0, 0.25, 0.5)))
def test_tiles_lie_where_monai_puts_them(shape, overlap):
    tile = (8, 8)
    interval = tuple(int(t * (1 - overlap)) if n > t else t for t, n in zip(tile, shape, strict=True))
    theirs = {tuple(s.start for s in patch) for patch in dense_patch_slices(shape, tile, interval)}
    assert set(all_tiles(TilePlan(shape, tile, overlap))) == theirs


@pytest.mark.parametrize(
    ("shape", "tile", "overlap"),
    [((4,), (2, 2), 0), ((4, 0), (2, 2), 0), ((4, 4), (2, 2), 1.0), ((4, 4), (2, 2), -0.1)],
)
def test_impossible_plans_are_refused(shape, tile, overlap):
    with pytest.raises(ValueError, match=r"tiles|overlap"):
        TilePlan(shape, tile, overlap)


def test_gaussian_weights_are_monais():
    theirs = compute_importance_map((9, 12), mode="gaussian", sigma_scale=0.125).numpy()
    ours = importance((9, 12), "gaussian")
    assert ours == pytest.approx(np.maximum(theirs / theirs.max(), 1e-3), abs=1e-4)
    assert (importance((3, 4), "constant") == 1).all()


@given(plans(), st.data())
def test_complete_rows_of_a_window_end_with_it(plan, data):
    low = data.draw(st.integers(0, plan.shape[0] - 1))
    rows = slice(low, data.draw(st.integers(low + 1, plan.shape[0])))
    part = plan.within((rows, *plan.bounds[1:]))
    ends = [part.complete_rows(k) for k in range(len(part.slabs))]
    assert part.first_row == low
    assert ends == sorted(ends)
    assert ends[-1] == rows.stop
    for number, slab in enumerate(part.slabs[1:]):
        assert ends[number] <= max(slab, low)


def blended(plan, whole, blending, dtype=torch.float32, background=0.0):
    """Tiles of one map, blended again."""
    channels = len(whole)
    sums = SlabAccumulator(torch.full((channels,), background), plan, importance(plan.tile, blending), dtype=dtype)
    rows = []
    for number, slab in enumerate(plan.slabs):
        for start in plan.in_slab(slab):
            tile = torch.zeros(channels, *plan.tile)
            inner = tuple(slice(max(0, -s), n - s) for s, n in zip(start, plan.shape, strict=True))
            outer = tuple(slice(max(0, s), s + t) for s, t in zip(start, plan.tile, strict=True))
            tile[(slice(None), *inner)] = whole[(slice(None), *outer)]
            sums.add(start, tile)
        while sums.first < plan.complete_rows(number):
            first, maps = sums.take(min(plan.complete_rows(number), sums.first + 2))
            assert first == plan.first_row + sum(r.shape[1] for r in rows)
            rows.append(maps)
        sums.settle()
    return torch.cat(rows, 1)


@given(plans(), st.sampled_from(("gaussian", "constant")), st.integers(1, 3))
def test_tiles_of_one_map_blend_back_to_that_map(plan, blending, channels):
    """No seams: what all tiles agree on comes out as it went in, for every stride and margin."""
    whole = torch.from_numpy(np.random.default_rng(0).normal(size=(channels, *plan.shape)).astype(np.float32))
    assert (blended(plan, whole, blending) - whole).abs().max() < 1e-5
    # short floats lose no more than they round
    assert (blended(plan, whole, blending, torch.float16) - whole).abs().max() < 4e-3 * whole.abs().max()


@given(plans(), st.data())
def test_a_window_blends_to_that_part_of_the_whole(plan, data):
    whole = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *plan.shape)).astype(np.float32))
    window = []
    for n in plan.shape:
        low = data.draw(st.integers(0, n - 1))
        window.append(slice(low, data.draw(st.integers(low + 1, n))))
    part = blended(plan.within(tuple(window)), whole, "gaussian")
    assert (part - whole[(slice(None), *window)]).abs().max() < 1e-5


def test_what_no_tile_covers_is_background():
    sums = SlabAccumulator(torch.tensor([5.0, -5.0]), TilePlan((4, 6), (4, 3), 0), importance((4, 3), "constant"))
    sums.add((0, 0), torch.ones(2, 4, 3))
    _, maps = sums.take(4)
    assert maps[:, 0].tolist() == [[1, 1, 1, 5, 5, 5], [1, 1, 1, -5, -5, -5]]
