import numpy as np
import pytest

from napari_medseg.bundles import load_model
from napari_medseg.case import CancelledError, InputError, OtherRunError, Segmentation
from napari_medseg.desk.child import RunResult
from napari_medseg.desk.regions import Part
from napari_medseg.desk.segmenting import Unfinished, amounts, segment_with, summary
from napari_medseg.io.writing import partial_path
from napari_medseg.jobs import Progress


class Worker:
    """Answers at once with what the test says: labels, or an error."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def segment(self, image, run, *, progress):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        labels = Segmentation(np.full(image.geometry.shape, answer, np.uint8), image.geometry, name=run.name)
        return RunResult(labels, {"labels": [], "warnings": ["first"]})


@pytest.fixture
def models(own_models):
    return [load_model("bright3d"), load_model("mr_hippocampus")]


def test_labels_made_before_a_failure_are_kept(volume, models):
    worker = Worker(1, InputError("The image is too small."))
    (made,) = segment_with(worker, volume, models, Part(), "auto", Unfinished(), progress=Progress())
    assert np.asarray(made.layer[0]).min() == 1
    assert made.report["warnings"] == ["first", "Hippocampus in T1 MRI gave no labels. The image is too small."]


@pytest.mark.parametrize("answers", [(InputError("no"),), (1, CancelledError("Cancelled."))])
def test_the_first_failure_and_a_cancel_end_everything(volume, models, answers):
    with pytest.raises(type(answers[-1])):
        segment_with(Worker(*answers), volume, models, Part(), "auto", Unfinished(), progress=Progress())


def test_reports_in_words():
    report = {
        "model": "m",
        "seconds": 1.26,
        "device": "cpu",
        "precision": "fp32",
        "labels": [
            {"id": 1, "name": "liver", "voxels": 3, "volume_mm3": 2500.0},
            {"id": 2, "name": "nucleus", "voxels": 40, "count": 7},
        ],
    }
    assert summary(report) == "m: 1.3 s (cpu, fp32)"
    told = {**report, "backend": "openvino", "tiles": {"planned": 9, "skipped": 4}}
    assert summary(told) == "m: 1.3 s (cpu, openvino, fp32), 4 of 9 tiles left out as glass"
    assert amounts(report) == [("liver", "2.5 ml"), ("nucleus", "7, 40 pixels")]


class Stopping(Worker):
    """Notes what it is asked; leaves an unfinished store where the answer is a cancel."""

    def __init__(self, *answers):
        super().__init__(*answers)
        self.runs = []

    def segment(self, image, run, *, progress):
        self.runs.append(run)
        if isinstance(self.answers[0], CancelledError):
            partial_path(run.out).mkdir(exist_ok=True)
        return super().segment(image, run, progress=progress)


def test_a_cancelled_run_goes_on_where_it_stopped_with_the_same_choices_only(volume, models):
    worker = Stopping(CancelledError("Cancelled."), 1, CancelledError("Cancelled."), 1, 1)
    unfinished = Unfinished()

    def go(device="auto"):
        return segment_with(worker, volume, models[:1], Part(), device, unfinished, progress=Progress())

    with pytest.raises(CancelledError, match=r"Press Run to go on where it stopped"):
        go()
    go()
    assert [r.resume for r in worker.runs] == [False, True]
    assert worker.runs[0].out == worker.runs[1].out
    # what is finished is not gone on with, and other choices are another run
    with pytest.raises(CancelledError):
        go()
    go("cpu")
    go()
    assert [r.resume for r in worker.runs[2:]] == [False, False, True]
    assert len({r.out for r in worker.runs}) == 3


def test_a_picture_that_changed_meanwhile_is_begun_anew(volume, models):
    worker = Stopping(CancelledError("Cancelled."), OtherRunError("another image"), 1)
    unfinished = Unfinished()
    with pytest.raises(CancelledError):
        segment_with(worker, volume, models[:1], Part(), "auto", unfinished, progress=Progress())
    (made,) = segment_with(worker, volume, models[:1], Part(), "auto", unfinished, progress=Progress())
    assert [r.resume for r in worker.runs] == [False, True, False]
    assert np.asarray(made.layer[0]).min() == 1
