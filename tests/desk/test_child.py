"""The process that computes: same labels as in this one, plain errors, an end that leaves nothing hanging."""

import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest

from napari_medseg.bundles import load_model
from napari_medseg.case import CancelledError, InputError, MedsegError
from napari_medseg.desk import pixels
from napari_medseg.desk.child import Run, Worker, shared_worker
from napari_medseg.desk.workspace import new_store, workspace
from napari_medseg.jobs import Progress


@pytest.fixture
def worker():
    return shared_worker()


def run_of(bundles, name, out, **options):
    return Run(bundles / name, options, out, name)


def test_labels_and_report_equal_those_of_this_process(worker, bundles, slide, tmp_path):
    from napari_medseg.inference import segment

    there = worker.segment(slide, run_of(bundles, "bright2d", tmp_path / "there.zarr"), progress=Progress())
    here = segment(slide, load_model(bundles / "bright2d"), tmp_path / "here.zarr")
    np.testing.assert_array_equal(np.asarray(there.segmentation.data), np.asarray(here.segmentation.data))
    assert there.report["labels"] == here.report.to_dict()["labels"]
    assert there.segmentation.geometry.is_close(slide.geometry)


def test_progress_arrives(worker, bundles, slide, tmp_path):
    seen = []
    progress = Progress(lambda status: seen.append((status.word, status.done, status.total)))
    worker.segment(slide, run_of(bundles, "bright2d", tmp_path / "o.zarr"), progress=progress)
    tiles = [(done, total) for word, done, total in seen if word == "segmenting"]
    assert tiles[-1][0] == tiles[-1][1] > 1
    assert [done for done, _ in tiles] == sorted(done for done, _ in tiles)


def test_options_travel(worker, bundles, slide, tmp_path):
    region = (slice(0, 96), slice(100, 110))
    result = worker.segment(slide, run_of(bundles, "bright2d", tmp_path / "o.zarr", region=region), progress=Progress())
    where = np.argwhere(np.asarray(result.segmentation.data))
    assert (where.min(0).tolist(), where.max(0).tolist()) == ([0, 100], [95, 109])


def test_an_error_there_is_the_same_error_here(worker, bundles, volume, tmp_path):
    with pytest.raises(InputError, match=r"bright2d reads 3 channels.*this image has 1"):
        worker.segment(volume, run_of(bundles, "bright2d", tmp_path / "o.zarr"), progress=Progress())
    assert not (tmp_path / "o.zarr").exists()


def test_pixels_that_cannot_be_read_are_one_sentence(worker, bundles, slide, tmp_path):
    from dataclasses import replace

    import dask.array as da

    def fail(block):
        raise OSError("the disk went away")

    lazy = da.from_array(slide.levels[0], chunks=-1).map_blocks(fail, dtype=np.uint8, meta=np.empty((0,) * 3, "u1"))
    with pytest.raises(InputError, match="slide: the disk went away"):
        worker.segment(
            replace(slide, levels=(lazy,)), run_of(bundles, "bright2d", tmp_path / "o.zarr"), progress=Progress()
        )
    # and the child goes on working
    worker.segment(slide, run_of(bundles, "bright2d", tmp_path / "next.zarr"), progress=Progress())


def test_no_run_is_answered_with_the_pixels_of_the_one_before(worker, bundles, slide, tmp_path, monkeypatch):
    ended = []
    serve = pixels.serve

    def linger(connection, image):
        serve(connection, image)
        time.sleep(0.3)
        ended.append(image.name)

    monkeypatch.setattr(pixels, "serve", linger)
    worker.segment(slide, run_of(bundles, "bright2d", tmp_path / "o.zarr"), progress=Progress())
    assert ended == [slide.name]


def test_cancelled_before_it_starts(worker, bundles, slide, tmp_path):
    progress = Progress()
    progress.cancel()
    with pytest.raises(CancelledError):
        worker.segment(slide, run_of(bundles, "bright2d", tmp_path / "o.zarr"), progress=progress)


def test_a_child_that_is_killed_says_so_and_the_next_run_gets_a_new_one(bundles, slide, tmp_path):
    own = Worker()
    try:
        own.devices(progress=Progress())
        first = own.pid
        killer = threading.Timer(0.0, os.kill, (first, signal.SIGKILL))
        slow = threading.Event()

        def listen(status):
            if status.word and not slow.is_set():
                slow.set()
                killer.start()
                time.sleep(0.2)

        with pytest.raises(MedsegError, match="ended without an answer"):
            own.segment(slide, run_of(bundles, "bright2d", tmp_path / "o.zarr"), progress=Progress(listen))
        assert own.pid is None
        own.devices(progress=Progress())
        assert own.pid not in (None, first)
    finally:
        last = own.pid
        own.close()
    assert not psutil.pid_exists(last)


def test_torch_is_not_loaded_on_this_side():
    import subprocess
    import sys

    code = """
import sys
from napari_medseg.desk.child import shared_worker
from napari_medseg.jobs import Progress
choices = shared_worker().devices(progress=Progress())
assert "torch" not in sys.modules
print(choices.names[-1], "GPU" in choices.reason)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "True"]


def test_results_lie_in_a_folder_of_this_program_and_old_ones_go():
    folder = workspace()
    assert new_store().parent == folder
    left = folder.parent / "999999999-dead"
    left.mkdir()
    workspace.cache_clear()
    other = workspace()
    assert other.exists() and not left.exists() and folder.exists()


def test_collections_are_deferred_only_while_jobs_run():
    import gc

    from napari_medseg.desk import pauses

    assert gc.get_freeze_count() == 0
    pauses.begin()
    pauses.begin()
    assert gc.get_freeze_count() > 0
    pauses.end()
    assert gc.get_freeze_count() > 0
    pauses.end()
    assert gc.get_freeze_count() == 0
