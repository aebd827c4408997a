"""Killed, cancelled, out of disk, unreadable: nothing is lost, nothing is silent, and going on gives the same bytes."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medseg.case import CancelledError, InputError, MedsegError, OtherRunError
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.inputs import blocks
from napari_medseg.inference.ledger import Ledger
from napari_medseg.io.ome_zarr import read_segmentation
from napari_medseg.jobs import Progress
from tests.inference import killable
from tests.inference.fakes import Threshold, make_model

KINDS = ("classes", "objects")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _small_units(monkeypatch):
    _shrink(monkeypatch)


def content(store):
    """Every chunk of every level, byte by byte, by its path."""
    folder = store / "labels"
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f.name != "zarr.json"
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in killable.SMALL:
            patch.setattr(module, name, value)
        for kind in KINDS:
            folder = tmp_path_factory.mktemp(kind)
            result = killable.run(folder / "o.zarr", kind)
            found[kind] = (content(folder / "o.zarr"), result.report.tiles)
    return found


def start(out, kind, dies_at):
    command = [sys.executable, "-m", "tests.inference.killable", str(out), kind, str(dies_at)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX systems")
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_killed_at_random_tiles_goes_on_to_the_same_bytes(tmp_path, kind, uninterrupted):
    out = tmp_path / "o.zarr"
    expected, tiles = uninterrupted[kind]
    # a seed a run of the tests would hide a bad tile for ever
    random = np.random.default_rng()
    deaths = [int(random.integers(60, tiles["planned"] // 2)) for _ in range(2)]
    for dies_at in deaths:
        assert start(out, kind, dies_at).returncode == -9, deaths
        assert not out.exists()
    partial = tmp_path / "o.partial.zarr"
    assert Ledger.read(partial / ".medseg" / "fake.ledger").records, deaths
    # what is there can be opened by any program
    unfinished = read_segmentation(partial / "labels" / "fake")
    assert unfinished.data.shape == killable.SHAPE
    assert not unfinished.complete
    with pytest.raises(InputError, match=r"o\.partial\.zarr: an unfinished run lies here; go on with --resume"):
        killable.run(out, kind, resume=False)
    result = killable.run(out, kind)
    assert content(out) == expected, deaths
    assert result.report.tiles == tiles
    assert result.segmentation.provenance.steps[0].details["resumed"] is True
    assert result.segmentation.complete
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.zarr"]


class StopsError(Exception):
    pass


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.integers(1, 300), min_size=1, max_size=3), st.booleans())
def test_wherever_it_stops_it_goes_on_to_the_same_bytes(tmp_path_factory, uninterrupted, kind, stops, cancel):
    out = tmp_path_factory.mktemp("o") / "o.zarr"
    expected, tiles = uninterrupted[kind]
    whole = killable.Convolution.forward
    for tile in stops:
        seen = [0]

        def forward(self, tiles_, seen=seen, tile=tile):
            seen[0] += len(tiles_)
            if seen[0] >= tile:
                raise CancelledError("Cancelled.") if cancel else StopsError("broken")
            return whole(self, tiles_)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(killable.Convolution, "forward", forward)
            try:
                killable.run(out, kind)
            except (StopsError, CancelledError):
                assert not out.exists()
            else:
                # what was left was less than that many tiles
                break
    if not out.exists():
        killable.run(out, kind)
    assert content(out) == expected
    stored = zarr.open_group(out / "labels" / "fake", mode="r").attrs["medseg"]["tiles"]
    assert stored == tiles
    assert stored["done"] + stored["skipped"] == stored["planned"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_damaged_meanwhile_is_computed_again(tmp_path, uninterrupted, kind, monkeypatch):
    out = tmp_path / "o.zarr"
    _stop_after(monkeypatch, 120)
    with pytest.raises(StopsError):
        killable.run(out, kind)
    monkeypatch.undo()
    _shrink(monkeypatch)
    partial = tmp_path / "o.partial.zarr"
    if kind == "objects":
        victim = sorted((partial / ".medseg" / "fake.strips").iterdir())[0]
    else:
        victim = next(
            f for f in sorted((partial / "labels/fake/0").rglob("*")) if f.is_file() and f.name != "zarr.json"
        )
    victim.unlink()
    killable.run(out, kind)
    assert content(out) == uninterrupted[kind][0]


def _shrink(monkeypatch):
    for module, name, value in killable.SMALL:
        monkeypatch.setattr(module, name, value)


def _stop_after(monkeypatch, count):
    whole, seen = killable.Convolution.forward, [0]

    def forward(self, tiles):
        seen[0] += len(tiles)
        if seen[0] >= count:
            raise StopsError("broken")
        return whole(self, tiles)

    monkeypatch.setattr(killable.Convolution, "forward", forward)


def test_another_image_model_or_option_is_not_mixed_in(tmp_path, monkeypatch):
    out = tmp_path / "o.zarr"
    _stop_after(monkeypatch, 150)
    with pytest.raises(StopsError):
        killable.run(out, "classes")
    before = content(tmp_path / "o.partial.zarr")
    with pytest.raises(OtherRunError, match=r"other options \(mirror\)"):
        killable.run(out, "classes", mirror=True)
    image = killable.scene()
    changed = image.levels[0].copy()
    changed[3, 3] += 1
    monkeypatch.setattr(killable, "scene", lambda: type(image)((changed,), "yx", image.geometry))
    with pytest.raises(OtherRunError, match=r"another image \(content\)"):
        killable.run(out, "classes")
    assert content(tmp_path / "o.partial.zarr") == before


def test_overwrite_starts_anew_and_leaves_other_folders_alone(tmp_path, monkeypatch):
    out = tmp_path / "o.zarr"
    _stop_after(monkeypatch, 150)
    with pytest.raises(StopsError):
        killable.run(out, "classes")
    monkeypatch.undo()
    image, model = killable.scene(), make_model(Threshold())
    segment(image, model, out, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.zarr"]
    (tmp_path / "p.partial.zarr").mkdir()
    with pytest.raises(InputError, match="was not made by napari-medseg"):
        segment(image, model, tmp_path / "p.zarr", overwrite=True)
    assert (tmp_path / "p.partial.zarr").is_dir()


def test_two_runs_cannot_write_the_same_store(tmp_path):
    from napari_medseg.inference.unfinished import UnfinishedStore

    with (
        UnfinishedStore(tmp_path / "o.zarr", "0.5", overwrite=False, resume=False),
        pytest.raises(InputError, match="another run is writing it"),
    ):
        segment(killable.scene(), make_model(Threshold()), tmp_path / "o.zarr", resume=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_stops_with_what_was_finished_kept(tmp_path, uninterrupted, kind, monkeypatch):
    out = tmp_path / "o.zarr"
    _fill_disk(monkeypatch, kind, after=6)
    with pytest.raises(OSError, match="No space left") as caught:
        killable.run(out, kind)
    assert caught.value.__notes__ == ["What was finished is kept: run the same again with --resume to go on."]
    assert not out.exists()
    monkeypatch.undo()
    _shrink(monkeypatch)
    killable.run(out, kind)
    assert content(out) == uninterrupted[kind][0]


def _fill_disk(monkeypatch, kind, after):
    left = [after]

    def full(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    if kind == "objects":
        from napari_medseg.inference.labels.strips import Strips

        save = Strips.save
        monkeypatch.setattr(Strips, "save", lambda *a: full() or save(*a))
    else:
        store = zarr.Array.__setitem__
        monkeypatch.setattr(zarr.Array, "__setitem__", lambda *a: full() or store(*a))


def test_a_tile_that_cannot_be_read_is_on_record_and_the_rest_is_kept(tmp_path, monkeypatch):
    image = killable.scene()
    good = image.levels[0]

    class Damaged:
        shape, dtype, ndim, chunks = good.shape, good.dtype, 2, (16, 16)
        whole = False

        def __getitem__(self, index):
            if not self.whole and index[0].start > 90:
                raise InputError("slide.svs: a tile is damaged; copy the file again.")
            return good[index]

    damaged = Damaged()
    image = type(image)((damaged,), "yx", image.geometry)
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 16 * 16 * 4)
    # the quick look at what the image holds is not what is tested
    from napari_medseg.inference import task

    monkeypatch.setattr(task, "_sampled", lambda _: "content")
    model, out = make_model(Threshold(), tile=(16, 16)), tmp_path / "o.zarr"
    with pytest.raises(InputError, match="a tile is damaged"):
        segment(image, model, out)
    ledger = Ledger.read(tmp_path / "o.partial.zarr" / ".medseg" / "fake.ledger")
    assert ledger.records
    lines = (tmp_path / "o.partial.zarr" / ".medseg" / "fake.ledger").read_text()
    assert '"failed_tile"' in lines and '"InputError"' in lines
    damaged.whole = True
    result = segment(image, model, out, resume=True)
    assert np.array_equal(np.asarray(result.segmentation.data[...]), good > 0.5)
    assert result.report.tiles["failed"] == 0


def test_cancel_before_anything_is_finished_leaves_nothing(tmp_path):
    progress = Progress()
    progress.cancel()
    with pytest.raises(CancelledError):
        segment(killable.scene(), make_model(Threshold()), tmp_path / "o.zarr", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_store_that_lost_a_unit_cannot_get_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Ledger, "tiles", lambda self, planned: {"planned": planned, "done": 3, "failed": 0, "skipped": 1}
    )
    with pytest.raises(MedsegError, match="only 3 were computed and 1 skipped"):
        segment(killable.scene(), make_model(Threshold()), tmp_path / "o.zarr", SegmentOptions(backend="torch"))
    assert not (tmp_path / "o.zarr").exists()
    shutil.rmtree(tmp_path / "o.partial.zarr")
