"""Maps, crops, stain changes and loss for nuclei."""

import numpy as np
import pytest
import torch
from PIL import Image

from napari_medseg.adapt.nuclei import (
    NucleiBatches,
    NucleiLoss,
    StainAugment,
    nucleus_maps,
    read_labelled,
    split_touching,
)
from napari_medseg.case import InputError


def test_maps_of_a_hand_drawn_label():
    labels = np.zeros((7, 11), np.uint16)
    labels[1:6, 1:6] = 3
    labels[1:6, 6:10] = 9
    foreground, distance, contact = nucleus_maps(labels)
    assert (foreground == (labels > 0)).all()
    # a 5 x 5 square: its edge is 1 pixel from the outside, its centre 3
    assert distance[3, 3] == 1.0
    assert distance[1, 1] == pytest.approx(1 / 3)
    assert distance[2, 3] == pytest.approx(2 / 3)
    assert distance[0].max() == 0
    # the two touch between columns 5 and 6; within two pixels of that is contact
    assert contact[3].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0]


def test_maps_of_nothing_and_of_everything():
    assert nucleus_maps(np.zeros((5, 6), int)).max() == 0
    assert (
        nucleus_maps(np.full((5, 6), 2)).tolist()
        == np.stack([np.ones((5, 6)), np.ones((5, 6)), np.zeros((5, 6))]).tolist()
    )


def test_touching_pieces_are_cut_at_the_waist():
    y, x = np.indices((40, 80))
    mask = ((y - 20) ** 2 + (x - 25) ** 2 < 144) | ((y - 20) ** 2 + (x - 46) ** 2 < 144)
    mask[5:8, 70:73] = True
    labels = split_touching(mask * 255)
    assert np.unique(labels).tolist() == [0, 1, 2, 3]
    assert (labels > 0).tolist() == mask.tolist()
    assert labels[20, 20] != labels[20, 50]


def test_stain_changes_stay_in_range_and_repeat_with_the_seed():
    image = np.random.default_rng(0).random((3, 32, 32)).astype(np.float32)
    a, b = StainAugment(seed=4), StainAugment(seed=4)
    other = (np.array([0.5, 0.9, 0.3]), np.array([0.2, 0.3, 0.1]))
    firsts = [a(image, other) for _ in range(30)]
    assert all(f.shape == image.shape and f.dtype == np.float32 for f in firsts)
    assert min(f.min() for f in firsts) >= 0 and max(f.max() for f in firsts) <= 1
    assert all((f == b(image, other)).all() for f in firsts)
    # the mean colour must move, that is what it is for
    assert np.std([f.mean((1, 2)) for f in firsts], axis=0).min() > 0.03


def test_mild_settings_change_less():
    image = np.random.default_rng(0).random((3, 24, 24)).astype(np.float32)
    strong, mild = StainAugment(seed=1), StainAugment(stain=0.1, transfer=0.0, colour=0.01, scanner=0.2, seed=1)
    change = [[np.abs(a(image, None) - image).mean() for _ in range(40)] for a in (strong, mild)]
    assert np.mean(change[1]) < 0.5 * np.mean(change[0])


@pytest.fixture
def records(tmp_path):
    generator = np.random.default_rng(1)
    rows = []
    for number, (stratum, group) in enumerate([("pink", "a"), ("pink", "a"), ("violet", "b"), ("violet", "c")]):
        labels = np.zeros((64, 80), np.uint16)
        labels[10:30, 12:34] = 1
        labels[30:50, 12:34] = 2
        pixels = np.full((64, 80, 3), 200, np.uint8)
        pixels[labels > 0] = (120, 30, 160)
        pixels = (pixels + generator.integers(0, 20, pixels.shape)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"i{number}.png")
        stored = labels if number else (labels > 0).astype(np.uint8) * 255
        Image.fromarray(stored).save(tmp_path / f"l{number}.png")
        rows.append(
            {
                "image": str(tmp_path / f"i{number}.png"),
                "label": str(tmp_path / f"l{number}.png"),
                "stratum": stratum,
                "group": group,
            }
        )
    return rows


def test_batches_hold_matching_crops_and_maps(records):
    batches = NucleiBatches(records, {"pink": 0.5, "violet": 0.5}, crop=48, batch_size=4, seed=2)
    assert batches.weights.tolist() == [0.25, 0.25, 0.25, 0.25]
    first = next(iter(batches))
    assert first["image"].shape == first["label"].shape == (4, 3, 48, 48)
    assert first["image"].dtype == first["label"].dtype == torch.float32
    again = next(iter(NucleiBatches(records, {"pink": 0.5, "violet": 0.5}, crop=48, batch_size=4, seed=2)))
    assert torch.equal(first["image"], again["image"])
    # nuclei are darker than what lies around them, so image and label must agree where both kinds are present
    darker = []
    source = iter(batches)
    for _ in range(6):
        batch = next(source)
        for image, label in zip(batch["image"], batch["label"], strict=True):
            inside = label[0] > 0
            if 50 < inside.sum() < inside.numel() - 50:
                darker.append(float(image.mean(0)[~inside].mean() - image.mean(0)[inside].mean()))
    assert np.mean(np.array(darker) > 0) > 0.85


def test_shares_weigh_strata_and_groups(records):
    weights = NucleiBatches(records[1:], {"pink": 0.2, "violet": 0.8}, crop=16).weights
    assert weights.tolist() == pytest.approx([0.2, 0.4, 0.4])
    with pytest.raises(InputError, match="stratum 'pink'"):
        NucleiBatches(records, {"violet": 1.0})


def test_a_binary_mask_is_cut_and_sizes_must_match(records, tmp_path):
    _, labels = read_labelled(records[0]["image"], records[0]["label"])
    assert labels.max() >= 1
    _, labels = read_labelled(records[1]["image"], records[1]["label"])
    assert np.unique(labels).tolist() == [0, 1, 2]
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match="one grid is needed"):
        read_labelled(records[0]["image"], str(tmp_path / "small.png"))


def test_the_loss_is_least_for_the_right_maps():
    target = torch.from_numpy(nucleus_maps(np.kron([[1, 0], [2, 3]], np.ones((8, 8), int))))[None]
    loss = NucleiLoss()
    logit = torch.logit(target.clamp(1e-4, 1 - 1e-4))
    right, half, wrong = (float(loss(x, target)) for x in (logit, torch.zeros_like(logit), -logit))
    assert right < 0.02 < half < wrong
    # half sure everywhere: ln 2 + Dice loss, 8 x squared error, weighted ln 2 + Dice loss
    ln2, inside = np.log(2), 0.1 + 0.9 * target[:, 0]
    share, n = float(target[:, 0].mean()), target[:, 0].numel()
    touch = float(target[:, 2].mean())
    expected = ln2 + 1 - (share * n + 1) / ((0.5 + share) * n + 1)
    expected += 8 * float((inside * (0.5 - target[:, 1]) ** 2).sum() / inside.sum())
    expected += ln2 * (1 + 5 * touch) + 1 - (touch * n + 1) / ((0.5 + touch) * n + 1)
    assert half == pytest.approx(expected, rel=1e-5)
