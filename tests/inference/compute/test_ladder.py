"""Out of memory on a device, injected: what is done about it, and that nothing else is taken for it."""

import numpy as np
import pytest
import torch

from napari_medseg.case import Geometry, MedicalImage, MedsegError
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.compute import ladder as ladder_module
from napari_medseg.inference.compute.ladder import Ladder, Rung
from napari_medseg.inference.tiles import engine as engine_module
from napari_medseg.inference.tiles.blend import SlabAccumulator
from tests.inference.fakes import Threshold, make_model


@pytest.fixture(autouse=True)
def _foot_of_the_ladder():
    ladder_module.forget_all()
    yield
    ladder_module.forget_all()


class Narrow:
    """Has room for so many values of tiles at a time."""

    def __init__(self, room, work=lambda tiles: torch.cat([-tiles, tiles], 1)):
        self.room, self.work, self.calls = room, work, []

    def __call__(self, tiles):
        self.calls.append(tuple(tiles.shape))
        if tiles.numel() > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.work(tiles)


def climbing(runner, *, half=None, on_cpu=None, divisible_by=(4, 4), key="cuda fake"):
    said = []
    return Ladder(runner, half=half, on_cpu=on_cpu, divisible_by=divisible_by, key=key, said=said.append), said


TILES = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 1, 16, 16)).astype(np.float32))
EXPECTED = torch.cat([-TILES, TILES], 1)


def test_fewer_tiles_a_pass_and_only_what_failed_is_done_again():
    runner = Narrow(2 * 256)
    ladder, said = climbing(runner)
    assert torch.equal(ladder(TILES), EXPECTED)
    assert [c[0] for c in runner.calls] == [6, 3, 1, 1, 1, 1, 1, 1]
    assert ladder.rung == Rung(batch=1)
    assert said == [
        "Out of memory on cuda; 6 tiles did not fit: 3 a pass.",
        "Out of memory on cuda; 3 tiles did not fit: 1 a pass.",
    ]


def test_pieces_of_a_tile_blend_to_the_same_map():
    runner = Narrow(100)
    ladder, said = climbing(runner)
    assert torch.allclose(ladder(TILES), EXPECTED, atol=1e-6)
    assert ladder.rung == Rung(batch=1, halvings=1)
    assert said[-1] == "Out of memory on cuda; one tile did not fit: pieces of 8 x 8."
    assert max(np.prod(c) for c in runner.calls[-10:]) == 64


def test_then_half_precision_then_sums_on_the_host_then_the_processor():
    dead = Narrow(0)
    half, cpu = Narrow(0), Narrow(10**9)
    ladder, said = climbing(dead, half=lambda: half, on_cpu=lambda: cpu)
    assert torch.equal(ladder(TILES), EXPECTED)
    assert ladder.rung == Rung(batch=1, halvings=2, half_precision=True, host_sums=True, cpu=True)
    steps = [words.split("; ")[1] for words in said]
    assert steps[2:] == [
        "one tile did not fit: pieces of 8 x 8.",
        "one tile did not fit: pieces of 4 x 4.",
        "pieces did not fit: half precision.",
        "still too little memory: sums on the host.",
        "the device has no room for this model: computed on the processor.",
    ]
    # whole tiles again, once there is room
    assert {c[2:] for c in cpu.calls} == {(16, 16)}


def test_without_room_anywhere_one_sentence_says_so():
    ladder, _ = climbing(Narrow(0))
    with pytest.raises(MedsegError, match="Not even one tile"):
        ladder(TILES)


def test_what_helped_is_remembered_for_the_session_and_for_that_device_only():
    climbing(Narrow(2 * 256))[0](TILES)
    runner = Narrow(2 * 256)
    ladder, said = climbing(runner)
    assert said == ["Began as the last run of this session ended: one tile a pass."]
    ladder(TILES)
    assert [c[0] for c in runner.calls] == [1] * 6
    assert climbing(runner, key="cuda:1 fake")[0].rung == Rung()


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access"), ValueError("no"), MemoryError("host")]
)
def test_no_other_error_climbs(error):
    def runner(tiles):
        raise error

    ladder, said = climbing(runner)
    with pytest.raises(type(error)):
        ladder(TILES)
    assert said == []
    assert ladder.rung == Rung()


def test_apples_message_counts_as_out_of_memory():
    assert ladder_module.is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    assert not ladder_module.is_out_of_memory(RuntimeError("out of cheese"))


# -- through a whole run ------------------------------------------------------------------------------


class Full(Threshold):
    def forward(self, tiles):
        if len(tiles) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(tiles)


def picture(seed=0):
    data = np.random.default_rng(seed).random((50, 40)).astype(np.float32)
    return MedicalImage((data,), "yx", Geometry.from_spacing(data.shape, None)), data


def test_a_run_survives_and_reports_what_it_did(tmp_path):
    image, data = picture()
    result = segment(image, make_model(Full()), tmp_path / "o.zarr", SegmentOptions(batch_size=4, backend="torch"))
    assert np.array_equal(np.asarray(result.segmentation.data[...]), data > 0.5)
    assert result.report.ladder == ("Out of memory on cpu; 4 tiles did not fit: 2 a pass.",)
    assert result.segmentation.provenance.steps[0].details["ladder"] == list(result.report.ladder)
    tiles = result.report.tiles
    assert tiles["done"] == tiles["planned"] and tiles["failed"] == 0


@pytest.mark.parametrize("where", ["__init__", "add", "take"])
def test_sums_without_room_go_to_the_host(tmp_path, monkeypatch, where):
    failing = [True]
    whole = getattr(SlabAccumulator, where)

    def once(self, *args, **kwargs):
        if failing:
            failing.clear()
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(engine_module.SlabAccumulator, where, once)
    image, data = picture(1)
    result = segment(image, make_model(Threshold()), tmp_path / "o.zarr", SegmentOptions(backend="torch"))
    assert np.array_equal(np.asarray(result.segmentation.data[...]), data > 0.5)
    assert result.report.ladder == ("Out of memory on cpu; the sums did not fit: kept on the host.",)
