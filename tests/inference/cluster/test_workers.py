import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from dask.system import CPU_COUNT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from napari_medseg.bundles import load_model
from napari_medseg.case import CancelledError, Geometry, InputError, MedicalImage, MedsegError
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.cases import Case, cases_of, segment_cases
from napari_medseg.inference.cluster.reopen import ImageFiles, ModelFiles
from napari_medseg.inference.cluster.turns import cut
from napari_medseg.inference.task import Task
from napari_medseg.inference.tiles.layout import Layout
from napari_medseg.inference.tiles.units import window_of
from napari_medseg.inference.work import work_for
from napari_medseg.io import open_images, open_segmentation
from napari_medseg.jobs import Progress
from tests.inference.fakes import Threshold, make_model
from tests.threshold_bundle import write_threshold_bundle

distributed = pytest.importorskip("distributed")

from napari_medseg.inference.cluster import workers as dask_workers  # noqa: E402
from napari_medseg.inference.cluster.workers import DaskWorkers  # noqa: E402

# six bands of 1024 rows and 1,836 tiles: long enough to be interrupted
SHAPE = (5200, 800)
OPTIONS = SegmentOptions(device="cpu", backend="torch")


@pytest.fixture(scope="module")
def workers():
    with DaskWorkers.local(2) as started:
        yield started


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """A bundle that marks what is brighter than 128."""
    return load_model(
        write_threshold_bundle(tmp_path_factory.mktemp("b") / "bright", spatial_dims=2, channels=1, level=128.5)
    )


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """A bundle of a model of objects: bright pieces, each an object."""
    folder = write_threshold_bundle(tmp_path_factory.mktemp("b") / "discs", spatial_dims=2, channels=1, level=0)
    content = json.loads((folder / "configs/inference.json").read_text())
    content["network_def"]["out_channels"] = 3
    content["postprocessing"]["transforms"] = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {
            "_target_": "napari_medseg.bundles.instances.Instancesd",
            "keys": "pred",
            "decoder": {"_target_": "napari_medseg.bundles.instances.DistanceDecoder", "margin": 64},
        },
    ]
    (folder / "configs/inference.json").write_text(json.dumps(content))
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 3
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    # foreground and distance are above one half where it is bright; nothing touches
    weight, bias = torch.tensor([0.1, 0.1, 0.0]), torch.tensor([-12.0, -12.0, -20.0])
    save_file({"weight": weight.reshape(3, 1, 1, 1), "bias": bias}, folder / "models" / "model.safetensors")
    return load_model(folder)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    path = tmp_path_factory.mktemp("i") / "noise.tif"
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    tifffile.imwrite(path, pixels, tile=(256, 256))
    return path


def opened(path):
    return open_images(path)[0]


def stored(store):
    """All files of a store but the records, which hold times."""
    files = (p for p in store.rglob("*") if p.is_file() and p.name not in ("zarr.json", ".zattrs", ".zgroup"))
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def bright_locally(tmp_path_factory, bright, noise):
    out = tmp_path_factory.mktemp("o") / "labels.zarr"
    segment(opened(noise), bright, out, OPTIONS)
    return stored(out)


def when_first_done(act, seen=None):
    """A progress that acts once when the first tiles are done."""
    acted = []

    def listen(status):
        if seen is not None:
            seen.append(status)
        if status.word == "segmenting" and status.done and not acted:
            acted.append(status)
            act(progress)

    progress = Progress(listen)
    return progress


# -- the same bytes ----------------------------------------------------------------------------------


def test_classes_are_the_same_bytes_as_in_one_process(tmp_path, workers, bright, noise, bright_locally):
    seen = []
    progress = Progress(seen.append)
    result = segment(opened(noise), bright, tmp_path / "o.zarr", OPTIONS, workers=workers, progress=progress)
    assert stored(tmp_path / "o.zarr") == bright_locally
    assert np.array_equal(np.asarray(result.segmentation.data[...]), tifffile.imread(noise) > 128)
    counted = [s.done for s in seen if s.word == "segmenting"]
    assert counted[-1] == result.report.tiles["planned"] == result.report.tiles["done"]
    assert len(set(counted)) >= 6
    assert [p.name for p in tmp_path.iterdir()] == ["o.zarr"]


def test_objects_that_cross_units_are_the_same_bytes(tmp_path, workers, discs):
    pixels = np.zeros((2100, 1100), np.uint8)
    rows, columns = np.mgrid[:2100, :1100]
    pixels[(rows % 60 - 30) ** 2 + (columns % 60 - 30) ** 2 < 200] = 255
    # a disc across the corner where four blocks meet
    pixels[(rows - 1024) ** 2 + (columns - 1024) ** 2 < 900] = 255
    tifffile.imwrite(tmp_path / "i.tif", pixels, tile=(256, 256))
    image = opened(tmp_path / "i.tif")
    here = segment(image, discs, tmp_path / "here.zarr", OPTIONS)
    there = segment(image, discs, tmp_path / "there.zarr", OPTIONS, workers=workers)
    assert stored(tmp_path / "there.zarr") == stored(tmp_path / "here.zarr")
    labels = np.asarray(there.segmentation.data[...])
    assert there.report.labels[0].count == here.report.labels[0].count > 500
    assert np.unique(labels[1000:1048, 1024]).size == 1
    assert labels[1024, 1024] > 0


def test_stated_spacing_and_region_and_maps_travel(tmp_path, workers, bright, noise):
    image = opened(noise)
    image = replace(image, geometry=image.geometry.with_spacing((0.5, 0.5), "um"))
    options = replace(OPTIONS, region=(slice(900, 2200), slice(100, 500)), probabilities=True, overlap=0.5)
    here = segment(image, bright, tmp_path / "here.zarr", options)
    there = segment(image, bright, tmp_path / "there.zarr", options, workers=workers)
    assert stored(tmp_path / "there.zarr") == stored(tmp_path / "here.zarr")
    assert any(name.startswith("maps/") for name in stored(tmp_path / "there.zarr"))
    assert there.segmentation.geometry.spacing == (0.5, 0.5)
    assert there.report.labels[0].size == here.report.labels[0].size


# -- what may happen meanwhile -----------------------------------------------------------------------


def test_a_worker_that_is_killed_costs_nothing_but_time(tmp_path, workers, bright, noise, bright_locally):
    client = workers.client
    client.wait_for_workers(2)
    before = client.run(os.getpid)
    killed = []

    def kill(status):
        if killed or status.word != "segmenting" or not status.done:
            return
        for address, pid in before.items():
            # stopped, it cannot end its job before it is killed
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.2)
            if client.processing().get(address):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
            os.kill(pid, signal.SIGCONT)

    segment(opened(noise), bright, tmp_path / "o.zarr", OPTIONS, workers=workers, progress=Progress(kill))
    assert len(killed) == 1
    assert stored(tmp_path / "o.zarr") == bright_locally
    client.wait_for_workers(2)
    assert killed[0] not in client.run(os.getpid).values()


def test_cancelled_on_two_workers_resumed_on_one_and_here(tmp_path, workers, bright, noise, bright_locally):
    image, out = opened(noise), tmp_path / "o.zarr"
    with pytest.raises(CancelledError):
        segment(image, bright, out, OPTIONS, workers=workers, progress=when_first_done(Progress.cancel))
    ledger = (tmp_path / "o.partial.zarr/.medseg/bright.ledger").read_text().splitlines()
    kept = [json.loads(line) for line in ledger[1:]]
    done = sum(k["done"] for k in kept)
    assert 0 < done < 1836
    with DaskWorkers.local(1) as one:
        # nothing of the cancelled run is going on
        assert not any(workers.client.processing().values())
        seen = []

        def at_the_second(status):
            seen.append(status)
            if status.word == "segmenting" and status.done > done:
                progress.cancel()

        progress = Progress(at_the_second)
        with pytest.raises(CancelledError):
            segment(image, bright, out, OPTIONS, workers=one, progress=progress, resume=True)
    assert next(s.done for s in seen if s.word == "segmenting" and s.done) == done
    segment(image, bright, out, OPTIONS, resume=True)
    assert stored(out) == bright_locally


@pytest.fixture
def open_workers(monkeypatch):
    """Workers that another process may use too: without certificates that only this one has."""
    monkeypatch.setattr(dask_workers, "find_spec", lambda name: None)
    with DaskWorkers.local(2) as started:
        yield started


def test_the_process_that_started_it_is_killed_and_another_goes_on(
    tmp_path, open_workers, bright, noise, bright_locally
):
    workers = open_workers
    script = f"""
import os, signal
from pathlib import Path
from napari_medseg.bundles import load_model
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.cluster.workers import DaskWorkers
from napari_medseg.io import open_images
from napari_medseg.jobs import Progress

def die(status):
    if status.word == "segmenting" and status.done:
        os.kill(os.getpid(), signal.SIGKILL)

with DaskWorkers.connect({workers.client.scheduler.address!r}) as workers:
    segment(open_images({str(noise)!r})[0], load_model({str(bright.path)!r}), Path("o.zarr"),
            SegmentOptions(device="cpu", backend="torch"), workers=workers, progress=Progress(die))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (tmp_path / "o.partial.zarr").is_dir()
    segment(opened(noise), bright, tmp_path / "o.zarr", OPTIONS, workers=workers, resume=True)
    assert stored(tmp_path / "o.zarr") == bright_locally


def endless():
    """A job that ends only when it is asked to; made here so that it travels to the workers by value."""

    def wait(stop, threads):
        import time

        from napari_medseg.case import CancelledError
        from napari_medseg.inference.cluster.job import Watch

        watch, began = Watch(stop), time.monotonic()
        while time.monotonic() < began + 60:
            time.sleep(0.02)
            try:
                watch.advance()
            except CancelledError:
                return "was asked to stop", threads
        return "was never asked to stop", threads

    return wait


def test_cancel_reaches_jobs_that_run(workers):
    workers.client.wait_for_workers(2)
    progress, told = Progress(), []
    timer = threading.Timer(0.5, progress.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        workers.run(endless(), [()] * 5, lambda *done: told.append(done), progress=progress)
    # one on each worker; the others were never begun
    assert sorted(told) == [(k, ("was asked to stop", max(1, CPU_COUNT // 2)), None) for k in (0, 1)]


def test_jobs_end_when_nobody_waits_for_them_any_more(workers):
    def running(dask_worker):
        return dask_worker.state.executing_count + sum(t.state == "cancelled" for t in dask_worker.state.tasks.values())

    client = workers.client
    future = client.submit(endless(), "never", None, pure=False)
    while not any(client.run(running).values()):
        time.sleep(0.02)
    future.cancel()
    until = time.monotonic() + 30
    while any(client.run(running).values()):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_tile_that_cannot_be_read_is_told_and_the_rest_is_kept(tmp_path, workers, bright):
    pixels = np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8)
    path, out = tmp_path / "i.tif", tmp_path / "o.zarr"
    tifffile.imwrite(path, pixels, tile=(256, 256), compression="zlib")
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        offset, length = file.pages[0].dataoffsets[70], file.pages[0].databytecounts[70]
    damaged = bytearray(whole)
    damaged[offset : offset + length] = bytes(length)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"i\.tif"):
        segment(opened(path), bright, out, OPTIONS, workers=workers)
    entries = [json.loads(e) for e in (tmp_path / "o.partial.zarr/.medseg/bright.ledger").read_text().splitlines()[1:]]
    # the block that holds it may be wanted by several jobs
    assert {e["reason"] for e in entries if "failed_tile" in e} == {"InputError"}
    # tile 70 of rows of 4 begins at row 17 * 256 = 4352, in band 4; the block it is read with begins in band 3
    assert {e["unit"] for e in entries if "failed_tile" in e} <= {3, 4}
    assert any("checksum" in e for e in entries)
    path.write_bytes(whole)
    result = segment(opened(path), bright, out, OPTIONS, workers=workers, resume=True)
    assert np.array_equal(np.asarray(result.segmentation.data[...]), pixels > 128)


# -- what is refused ---------------------------------------------------------------------------------


def swapped(monkeypatch, swap):
    """Another node with other files: they are exchanged once the run is specified and before workers look."""
    specify = dask_workers.Spec.of

    def of(*arguments):
        spec = specify(*arguments)
        swap()
        return spec

    monkeypatch.setattr(dask_workers.Spec, "of", of)


def test_another_image_under_the_same_path_is_refused(tmp_path, workers, bright, noise, monkeypatch):
    path = tmp_path / "i.tif"
    shutil.copy(noise, path)
    # the same size, the same first and last bytes
    other = tifffile.imread(noise)
    other[2000:3000] = 255 - other[2000:3000]
    swapped(monkeypatch, lambda: tifffile.imwrite(path, other, tile=(256, 256)))
    image = opened(path)
    before = image.source.fingerprint()
    with pytest.raises(InputError, match=r"i\.tif: holds another image here"):
        segment(image, bright, tmp_path / "o.zarr", OPTIONS, workers=workers)
    assert opened(path).source.fingerprint() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.tif"]


def test_another_bundle_under_the_same_path_is_refused(tmp_path, workers, bright, noise, monkeypatch):
    folder = tmp_path / "bright"
    shutil.copytree(bright.path, folder)
    weights = folder / "models" / "model.safetensors"
    changed = weights.read_bytes()[:-1] + b"\x01"
    swapped(monkeypatch, lambda: weights.write_bytes(changed))
    with pytest.raises(InputError, match="bright: the bundle is another one here"):
        segment(opened(noise), load_model(folder), tmp_path / "o.zarr", OPTIONS, workers=workers)


def test_what_no_other_process_can_open_is_refused(tmp_path, workers, bright, noise):
    pixels = np.zeros((64, 64), np.uint8)
    memory = MedicalImage((pixels,), "yx", Geometry.from_spacing((64, 64), None))
    with pytest.raises(InputError, match="lies in memory only; save it as OME-Zarr"):
        segment(memory, bright, tmp_path / "o.zarr", OPTIONS, workers=workers)
    image = opened(noise)
    inverted = replace(image, levels=(255 - np.asarray(image.levels[0][...]),))
    with pytest.raises(InputError, match=r"noise\.tif: holds not the image that is open"):
        segment(inverted, bright, tmp_path / "o.zarr", OPTIONS, workers=workers)
    with pytest.raises(InputError, match="load model fake from its bundle, and it is none"):
        segment(image, make_model(Threshold()), tmp_path / "o.zarr", OPTIONS, workers=workers)
    with pytest.raises(InputError, match=r"changed after it was loaded \(overlap\)"):
        segment(image, replace(bright, overlap=0.5), tmp_path / "o.zarr", OPTIONS, workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_a_missing_scheduler_and_no_workers_are_named(monkeypatch):
    with pytest.raises(InputError, match="accepted are 1 and more"):
        DaskWorkers.local(0)
    with pytest.raises(InputError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1;"):
        DaskWorkers.connect("tcp://127.0.0.1:1", patience=0.5)
    with (
        distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as empty,
        DaskWorkers.connect(empty.scheduler_address, patience=0.5) as nobody,
        pytest.raises(MedsegError, match=r"no worker for 0\.5 s"),
    ):
        nobody.count()
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r'pip install "napari-medseg\[cluster\]"'):
        DaskWorkers.local(2)


# -- files that are opened again ---------------------------------------------------------------------


def test_the_right_series_of_a_file_is_found_again(tmp_path):
    first, second = np.random.default_rng(0).integers(0, 256, (2, 40, 50), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as writer:
        writer.write(first)
        writer.write(second)
    images = open_images(tmp_path / "two.ome.tif")
    assert len(images) == 2
    files = ImageFiles.of(images[1])
    assert files.number == 1
    assert np.array_equal(files.open().levels[0][...], second)


def test_a_folder_of_slices_is_opened_as_a_folder(tmp_path):
    from pydicom.data import get_testdata_file

    source = Path(get_testdata_file("CT_small.dcm"))
    import pydicom

    for k in range(3):
        slice_ = pydicom.dcmread(source)
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"
        slice_.InstanceNumber = k + 1
        slice_.ImagePositionPatient = [0, 0, 5.0 * k]
        slice_.save_as(tmp_path / f"{k}.dcm")
    image = opened(tmp_path)
    assert image.shape[0] == 3
    files = ImageFiles.of(image)
    assert files.path == tmp_path
    again = files.open()
    assert np.array_equal(again.levels[0][...], image.levels[0][...])
    assert again.geometry.is_close(image.geometry)


def test_a_trusted_bundle_is_trusted_with_exactly_its_files_only(tmp_path, bright):
    folder = tmp_path / "bright"
    shutil.copytree(bright.path, folder)
    files = ModelFiles.of(load_model(folder))
    assert not replace(files, trusted=False).load().trusted
    assert replace(files, trusted=True).load().trusted
    (folder / "scripts.py").write_text("")
    with pytest.raises(InputError, match="another one here"):
        replace(files, trusted=True).load()


# -- how a run is cut --------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from((0.0, 0.25, 0.5)), st.data())
def test_jobs_hold_every_pending_unit_once_and_repeat_few_tiles(bands, workers, overlap, data):
    image = MedicalImage((np.zeros((bands * 16, 40), np.uint8),), "yx", Geometry.from_spacing((bands * 16, 40), None))
    work = work_for(Task(image, make_model(Threshold(), overlap=overlap), OPTIONS), Layout((16, 20), (1,), "float32"))
    units = work.partition.units
    pending = sorted(data.draw(st.sets(st.integers(0, len(units) - 1), min_size=1)))
    jobs = cut(work, pending, workers)
    flat = [number for job in jobs for run in job for number in run]
    assert sorted(flat) == pending
    for run in (run for job in jobs for run in job):
        members = [units[n] for n in run]
        assert len({u.column for u in members}) == 1
        assert [u.band for u in members] == list(range(members[0].band, members[0].band + len(members)))

    def tiles(runs):
        return sum(len(work.task.plan.within(window_of([units[n] for n in run]))) for run in runs)

    streams = [[u.number for u in run] for run in work.partition.streams(pending)]
    runs = [run for job in jobs for run in job]
    if len(runs) > workers:
        assert tiles(runs) <= 1.25 * tiles(streams)
    assert len(jobs) >= min(workers, len(pending))


def test_a_long_column_gives_every_worker_several_jobs():
    image = MedicalImage((np.zeros((4096, 40), np.uint8),), "yx", Geometry.from_spacing((4096, 40), None))
    work = work_for(Task(image, make_model(Threshold()), OPTIONS), Layout((64, 40), (1,), "float32"))
    jobs = cut(work, range(64), 4)
    assert 12 <= len(jobs) <= 32
    # slices of a volume are so small that many of them share a job
    volume = MedicalImage((np.zeros((200, 8, 8), np.uint8),), "zyx", Geometry.from_spacing((200, 8, 8), None))
    work = work_for(Task(volume, make_model(Threshold()), OPTIONS), Layout((8, 8), (1,), "float32"))
    jobs = cut(work, range(200), 4)
    assert [len(job) for job in jobs] == [12] * 16 + [8]


# -- many cases --------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (90, 70 + k), dtype=np.uint8)
        tifffile.imwrite(tmp_path / "in" / f"{k}.tif", pixels)
    (tmp_path / "in" / "bad.tif").write_bytes(b"II*\0 no picture")
    return tmp_path


@pytest.mark.parametrize("where", ["here", "on workers"])
def test_a_bad_case_does_not_stop_the_others(pictures, workers, bright, where):
    cases = [Case(name, pictures / "in" / f"{name}.tif") for name in ("0", "bad", "1", "2")]
    who = workers if where == "on workers" else None
    told = []
    records = segment_cases(cases, [bright], pictures / "out", OPTIONS, workers=who, finished=told.append)
    assert [r.name for r in records] == ["0", "bad", "1", "2"]
    assert sorted(told, key=lambda r: r.name) == sorted(records, key=lambda r: r.name)
    assert [r.error is None for r in records] == [True, False, True, True]
    assert "bad.tif" in records[1].error
    assert sorted(p.name for p in (pictures / "out").iterdir()) == ["0.zarr", "1.zarr", "2.zarr"]
    for record in (records[0], records[2], records[3]):
        pixels = tifffile.imread(pictures / "in" / f"{record.name}.tif")
        assert np.array_equal(np.asarray(open_segmentation(record.out).data[...]), pixels > 128)
        assert record.reports[0]["labels"][0]["voxels"] == (pixels > 128).sum()
        assert json.loads(json.dumps(record.to_dict()))["out"] == f"{record.name}.zarr"
    again = segment_cases(cases, [bright], pictures / "out", OPTIONS, workers=who, resume=True)
    assert [r.skipped for r in again] == [True, False, True, True]
    refused = segment_cases(cases[:1], [bright], pictures / "out", OPTIONS, workers=who)
    assert "already" in refused[0].error or "is there already" in refused[0].error


def test_a_finished_store_of_another_model_is_not_taken_for_this_ones(pictures, bright, discs):
    cases = [Case("0", pictures / "in" / "0.tif")]
    segment_cases(cases, [bright], pictures / "out", OPTIONS)
    (record,) = segment_cases(cases, [discs], pictures / "out", OPTIONS, resume=True)
    assert "no labels of this discs" in record.error
    (record,) = segment_cases(cases, [discs], pictures / "out", OPTIONS, overwrite=True)
    assert record.error is None


def test_cases_are_named_after_their_files_and_folders(tmp_path):
    for name in ("a/t1.nii.gz", "b/t1.nii.gz", "b/c.v2.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0")
    paths = [tmp_path / "a/t1.nii.gz", tmp_path / "b/c.v2.tif"]
    assert [c.name for c in cases_of(paths)] == ["t1", "c.v2"]
    paths = [tmp_path / "a/t1.nii.gz", tmp_path / "b/t1.nii.gz"]
    assert [c.name for c in cases_of(paths)] == ["a_t1", "b_t1"]
    with pytest.raises(InputError, match="Several cases are named x"):
        segment_cases([Case("x", paths[0]), Case("x", paths[1])], [], tmp_path)
    with pytest.raises(InputError, match=r"'\.\./x' is no name"):
        segment_cases([Case("../x", paths[0])], [], tmp_path)


def test_cancelled_cases_stop_and_are_resumed(pictures, workers, bright):
    cases = [Case(name, pictures / "in" / f"{name}.tif") for name in ("0", "1", "2")]
    progress = Progress()
    with pytest.raises(CancelledError):
        segment_cases(
            cases,
            [bright],
            pictures / "out",
            OPTIONS,
            workers=workers,
            progress=progress,
            finished=lambda _: progress.cancel(),
        )
    assert not any(workers.client.processing().values())
    records = segment_cases(cases, [bright], pictures / "out", OPTIONS, resume=True)
    assert [r.error for r in records] == [None] * 3
    assert any(r.skipped for r in records)


# -- the last test: Dask may not replace workers that die this often -----------------------------------


def test_a_worker_that_dies_again_and_again_is_an_error_of_that_job(workers):
    def die(which, stop, threads):
        import os

        if which == 1:
            os._exit(1)
        return which

    told = []
    workers.run(die, [(0,), (1,), (2,)], lambda *done: told.append(done), progress=Progress())
    assert sorted((k, result) for k, result, error in told if error is None) == [(0, 0), (2, 2)]
    (error,) = [error for _, _, error in told if error is not None]
    assert "want of memory" in str(error)
