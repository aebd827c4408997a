"""What the boundary scores refuse, and how they are stopped."""

from math import inf, nan

import numpy as np
import pytest

from napari_medseg.case import CancelledError, InputError
from napari_medseg.evaluate.surfaces import boundary_scores
from napari_medseg.jobs import Progress


def labels():
    """Noise of the ids 0 and 1."""
    return (np.random.default_rng(0).random((2, 9, 10)) < 0.5).astype(np.uint8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference": np.zeros((3, 4), int)}, "shape"),
        ({"candidate": np.zeros((3, 3))}, "float64"),
        ({"spacing": (1.0,)}, "one length an axis"),
        ({"spacing": (1.0, 0.0)}, "above 0"),
        ({"spacing": (1.0, -2.0)}, "above 0"),
        ({"spacing": (nan, 1.0)}, "above 0"),
        ({"spacing": (inf, 1.0)}, "above 0"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"tolerance": nan}, "tolerance"),
        ({"percentile": 101}, "percentile"),
        ({"percentile": nan}, "percentile"),
        ({"elements": "edges"}, "voxels or surfels"),
        ({"labels": [1.5]}, "whole number"),
        ({"candidate": np.zeros(3, int), "reference": np.zeros(3, int), "spacing": (1.0,)}, "2 or 3 dimensions"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(changes, words):
    good = {
        "candidate": np.zeros((3, 3), int),
        "reference": np.zeros((3, 3), int),
        "labels": [1],
        "spacing": (1.0, 1.0),
        "tolerance": 1.0,
    }
    with pytest.raises(InputError, match=words) as caught:
        boundary_scores(**(good | changes))
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("word", ["boundaries", "distances"])
def test_cancelling_stops_in_either_phase(word):
    def stop(status):
        if status.word == word:
            progress.cancel()

    progress = Progress(stop)
    with pytest.raises(CancelledError):
        boundary_scores(*labels(), [1], (1.0, 1.0), tolerance=1, progress=progress)


def test_progress_ends_with_both_directions_of_every_label_that_both_hold():
    progress = Progress()
    boundary_scores(*labels(), [1, 5], (1.0, 1.0), tolerance=1, progress=progress)
    assert (progress.status.done, progress.status.total) == (2, 2)
