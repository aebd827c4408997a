"""Dice and panoptic quality against hand calculations."""

import numpy as np
import pytest
import torch
from PIL import Image

from napari_medseg.adapt.scores import NucleiScore, VolumeScore, dice, nuclei_maps_of, panoptic_quality


def test_dice_by_hand():
    a = np.array([1, 1, 1, 0, 0])
    assert dice(a, [0, 1, 1, 1, 0]) == pytest.approx(4 / 6)
    assert dice(a, a) == 1.0
    assert dice(a, 1 - a) == 0.0
    assert dice(np.zeros(3), np.zeros(3)) == 1.0


def test_panoptic_quality_by_hand():
    reference = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3]])
    prediction = np.array([[5, 5, 5, 0, 0, 7, 7, 0, 0, 9, 0, 0]])
    # object 1: IoU 3/4 matches; object 2: IoU 2/4 does not pass 0.5; 9 and 3 are alone
    assert panoptic_quality(prediction, reference) == pytest.approx(0.75 / (1 + 0.5 * 2 + 0.5 * 2))
    assert panoptic_quality(reference, reference) == 1.0
    assert panoptic_quality(np.zeros((2, 2)), np.zeros((2, 2))) == 0.0 + 1.0
    assert panoptic_quality(reference, np.zeros_like(reference)) == 0.0


def test_numbers_of_objects_do_not_matter():
    reference = np.kron(np.arange(6).reshape(2, 3), np.ones((4, 4), int))
    assert panoptic_quality(reference * 1000, reference) == 1.0


class _Bright(torch.nn.Module):
    """Foreground where the first channel is bright."""

    def forward(self, image):
        assert image.shape[-1] % 32 == image.shape[-2] % 32 == 0
        return (image - 0.5) * 100


class _Threshold:
    def decode(self, maps):
        return (maps[0] > 0.5).astype(np.int32)


def test_whole_images_are_padded_and_cut_back(tmp_path):
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[10:20, 10:30] = 255
    maps = nuclei_maps_of(_Bright(), pixels)
    assert maps.shape == (3, 40, 50)
    assert (maps[0] > 0.5).sum() == 200
    labels = np.zeros((40, 50), np.uint16)
    labels[10:20, 10:30] = 4
    Image.fromarray(pixels).save(tmp_path / "i.png")
    Image.fromarray(labels).save(tmp_path / "l.png")
    record = {"image": str(tmp_path / "i.png"), "label": str(tmp_path / "l.png"), "stratum": ""}
    assert NucleiScore([record], _Threshold())(_Bright()) == {"dice": 1.0, "pq": 1.0}


def test_volumes_are_scored_by_class():
    label = np.zeros((1, 4, 4, 4))
    label[0, :2], label[0, 2] = 1, 2
    guess = label.copy()
    guess[0, 1] = 2
    logits = torch.nn.functional.one_hot(torch.from_numpy(guess[0]).long(), 3).movedim(-1, 0)[None].float()
    score = VolumeScore([0], lambda _: {"image": np.zeros((1, 4, 4, 4)), "label": label}, lambda x, n: n(x), [1, 2])
    # class 1: 16 of 32 and 16 voxels; class 2: 32 against 16
    assert score(lambda image: logits) == {
        "dice": pytest.approx(2 / 3, abs=1e-4),
        "dice_1": pytest.approx(2 / 3, abs=1e-4),
        "dice_2": pytest.approx(2 / 3, abs=1e-4),
    }
