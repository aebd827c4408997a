"""Objects: what blocks, columns, units and resuming must not change."""

import numpy as np
import pytest
import torch
import zarr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_medseg.case import Geometry, MedsegError
from napari_medseg.inference.labels.objects import ObjectDecision, paste
from napari_medseg.inference.labels.settle import ObjectSettler, Settling
from napari_medseg.inference.labels.strips import Strips
from napari_medseg.inference.ledger import Ledger, UnitRecord
from napari_medseg.inference.tiles import units
from napari_medseg.inference.tiles.plan import TilePlan
from napari_medseg.io.ome_zarr import LabelFrame, LabelGroup, open_root
from tests.inference.fakes import Identity, Pieces, make_model
from tests.inference.labels.test_decide import grid_of, in_pieces


def scattered(seed, shape=(40, 33)):
    random = np.random.default_rng(seed)
    foreground = np.zeros(shape, np.float32)
    for _ in range(25):
        y, x = random.integers(0, shape[0] - 3), random.integers(0, shape[1] - 3)
        foreground[y : y + random.integers(1, 4), x : x + random.integers(1, 4)] = 1
    return foreground


def labels_of(folder, foreground, image_shape, block, column_blocks, order, data=None, part=None):
    """Objects of a foreground map through units, strips and settling, computed in `order` of columns."""
    grid = grid_of(foreground.shape, image_shape)
    plan = TilePlan(foreground.shape, (8, 8), 0.0)
    part = part or tuple(slice(0, n) for n in image_shape)
    window = tuple(slice(0, n) for n in foreground.shape) if image_shape != foreground.shape else part
    partition = units.partition_objects(plan, [(0, None)], window, Pieces.margin, column_blocks, block=block)
    group = LabelGroup(
        open_root(folder / "a.zarr", "0.5"), LabelFrame(Geometry.from_spacing(image_shape, None), dtype="u4")
    )
    strips = Strips(folder / "strips")
    ledger = Ledger.start(folder / "ledger", {})
    settling = Settling(ObjectSettler(group, lambda _: (), strips, grid, image_shape, part), partition, ledger)
    model = make_model(Identity(), instances=Pieces(), activation="none")
    runs = list(partition.streams(range(len(partition.units))))
    for k in order(len(runs)):
        run, window = runs[k], units.window_of(runs[k])
        left = list(run)

        def keep(reach, ids, number, left=left):
            unit = left.pop(0)
            ledger.add(unit.number, UnitRecord(unit.tiles, 0, strips.save(unit.number, reach, ids), number))
            settling.advance()

        decision = ObjectDecision(model, [u.core for u in run], window, keep, block=block)
        maps = torch.from_numpy(foreground)[None][(slice(None), *window)]
        for first, rows in in_pieces(data, maps) if data else [(0, maps)]:
            decision.add(window[0].start + first, rows)
        assert not left
    assert settling.done
    assert ledger.require_complete(partition.tiles)["done"] == partition.tiles
    return np.asarray(group.array[:]), settling._settler.voxels


@settings(max_examples=40)
@given(st.data(), st.integers(17, 30), st.integers(1, 3), st.integers(0, 10_000), st.booleans())
def test_objects_do_not_depend_on_blocks_columns_pieces_or_order(
    tmp_path_factory, data, block, column_blocks, seed, backwards
):
    foreground = scattered(seed)
    whole, count = ndimage.label(foreground)
    # chained pieces may grow beyond the margin that the decoder promises
    assume(all(s.stop - s.start <= 8 for box in ndimage.find_objects(whole) for s in box))
    order = (lambda n: range(n - 1, -1, -1)) if backwards else range
    labels, voxels = labels_of(
        tmp_path_factory.mktemp("o"), foreground, foreground.shape, block, column_blocks, order, data
    )
    assert sorted(set(np.unique(labels)) - {0}) == list(range(1, count + 1)) == sorted(voxels)
    # the same objects under other numbers: a one-to-one match, nothing cut, nothing twice
    pairs = {(a, b) for a, b in zip(whole.ravel().tolist(), labels.ravel().tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    # ids follow the blocks, whatever the columns: one column gives the same numbers
    one, _ = labels_of(tmp_path_factory.mktemp("o"), foreground, foreground.shape, block, 100, range)
    assert np.array_equal(labels, one)


def test_objects_on_another_grid_keep_their_ids(tmp_path):
    foreground = np.zeros((40, 40), np.float32)
    foreground[2:5, 2:5] = foreground[12:15, 10:14] = foreground[30:33, 35:39] = 1
    labels, voxels = labels_of(tmp_path, foreground, (80, 80), 20, 1, range)
    expected = np.kron(ndimage.label(foreground)[0], np.ones((2, 2), int))
    assert np.array_equal(labels, expected)
    assert voxels == {1: 36, 2: 48, 3: 48}


def test_of_a_region_the_objects_whose_centre_lies_in_it_are_labelled(tmp_path):
    foreground = np.zeros((40, 40), np.float32)
    foreground[8:11, 2:5] = foreground[18:21, 20:23] = 1
    part = (slice(9, 30), slice(0, 22))
    labels, voxels = labels_of(tmp_path, foreground, (40, 40), 20, 1, range, part=part)
    expected = np.zeros((40, 40), int)
    expected[9:11, 2:5] = 1
    expected[18:21, 20:22] = 2
    assert np.array_equal(labels, expected)
    assert voxels == {1: 6, 2: 6}


def test_later_objects_lie_on_top():
    target = np.zeros((4, 4), np.uint32)
    box = (slice(10, 14), slice(10, 14))
    paste(target, box, np.full((3, 3), 1, np.uint32), (slice(9, 12), slice(9, 12)), 0)
    paste(target, box, np.full((2, 2), 2, np.uint32), (slice(11, 13), slice(11, 13)), 5)
    assert target.tolist() == [[1, 1, 0, 0], [1, 7, 7, 0], [0, 7, 7, 0], [0, 0, 0, 0]]
    paste(target, box, np.full((2, 2), 9, np.uint32), (slice(0, 2), slice(0, 2)), 0)
    assert 9 not in target


def test_a_strip_that_changed_is_noticed(tmp_path):
    strips = Strips(tmp_path)
    ids = np.arange(12, dtype=np.uint32).reshape(3, 4)
    reach = (slice(5, 8), slice(1, 5))
    total = strips.save(3, reach, ids)
    found, again = strips.load(3, total)
    assert found == reach
    assert np.array_equal(again, ids)
    assert strips.is_there(3, total)
    file = tmp_path / "3.strip"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert not strips.is_there(3, total)
    with pytest.raises(MedsegError, match="changed"):
        strips.load(3, total)
    assert not strips.is_there(4, 0)


def test_a_store_that_does_not_keep_what_is_written_is_noticed(tmp_path, monkeypatch):
    foreground = scattered(0)
    monkeypatch.setattr(zarr.Array, "__setitem__", lambda self, index, value: None)
    with pytest.raises(MedsegError, match="differ from those decided"):
        labels_of(tmp_path, foreground, foreground.shape, 20, 1, range)
