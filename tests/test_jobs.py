import threading

import pytest

from napari_medseg.case import CancelledError
from napari_medseg.jobs import Job, JobState, Progress


def test_a_job_gives_its_result_and_tells_every_step():
    seen = []

    def count(n, *, progress):
        progress.begin(n, "counting")
        for _ in range(n):
            progress.advance()
        return n * 2

    finished = []
    job = Job(count, 3, listener=seen.append, finished=finished.append).start().wait(10)
    assert (job.state, job.result, job.error) == (JobState.DONE, 6, None)
    assert [s.done for s in seen] == [0, 1, 2, 3]
    assert {(s.total, s.word) for s in seen} == {(3, "counting")}
    assert seen[-1].fraction == 1.0
    assert seen[-1].seconds_left == 0.0
    assert finished == [job]


def test_a_failed_job_keeps_its_error_and_nothing_else():
    def fail(*, progress):
        raise OSError("disk full")

    job = Job(fail).start().wait(10)
    assert job.state is JobState.FAILED
    assert job.result is None
    assert str(job.error) == "disk full"


def test_cancel_stops_at_the_next_step():
    reached = threading.Event()
    steps = []

    def endless(*, progress):
        while True:
            steps.append(1)
            reached.set()
            progress.advance()

    job = Job(endless).start()
    assert reached.wait(10)
    job.cancel()
    job.wait(10)
    assert job.state is JobState.CANCELLED
    assert job.result is None
    assert job.error is None


def test_cancel_before_the_start_runs_no_step():
    progress = Progress()
    progress.cancel()
    assert progress.cancelled
    with pytest.raises(CancelledError):
        progress.advance()


def test_time_left_follows_from_steps_done(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("napari_medseg.jobs.time.monotonic", lambda: clock[0])
    progress = Progress()
    progress.begin(4, "tiles")
    assert progress.status.seconds_left is None
    clock[0] = 103.0
    progress.advance()
    assert progress.status.seconds_left == pytest.approx(9.0)
    assert progress.status.seconds == pytest.approx(3.0)
    assert progress.status.fraction == 0.25
