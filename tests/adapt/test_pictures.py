"""Batches of labelled pictures: what is drawn stays on what is labelled."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_medseg.adapt.pictures import PictureBatches, PictureReader, PictureScore
from napari_medseg.case import InputError


def save(folder: Path, name: str, pixels: np.ndarray, labels: np.ndarray) -> dict[str, str]:
    image, label = folder / f"{name}.png", folder / f"{name}_label.png"
    Image.fromarray(pixels).save(image)
    Image.fromarray(labels).save(label)
    return {"image": str(image), "label": str(label)}


def disc(side: int = 96, radius: float = 20.0, at: tuple[float, float] = (40.0, 52.0)) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return (y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2


@pytest.fixture
def record(tmp_path: Path) -> dict[str, str]:
    mask = disc()
    pixels = np.repeat(np.where(mask, 200, 40).astype(np.uint8)[..., None], 3, -1)
    return save(tmp_path, "disc", pixels, mask.astype(np.uint8) * 255)


def test_what_is_bright_is_what_is_labelled_after_every_change_of_place(record: dict[str, str]) -> None:
    batches = PictureBatches([record], PictureReader(), (64, 80), batch_size=4, colour=0, blur=0, seed=3)
    for batch in islice(batches, 6):
        image, label = batch["image"], batch["label"]
        assert image.shape == (4, 3, 64, 80)
        assert label.shape == (4, 1, 64, 80)
        assert label.dtype == torch.int64
        bright = image[:, :1] > 120 / 255
        # half a pixel of interpolation along the rim may differ
        assert (bright != label.bool()).float().mean() < 0.02
        assert bright.any()


def test_the_zoom_is_the_one_stated(record: dict[str, str]) -> None:
    batches = PictureBatches(
        [record], PictureReader(), (96, 96), scale=(1.5, 1.5), turn=30, foreground=1.0, colour=0, blur=0, batch_size=16
    )
    areas = next(iter(batches))["label"].float().sum((1, 2, 3))
    # the whole disc of radius 20 is inside only where the crop lies well
    assert areas.max().item() == pytest.approx(np.pi * (20 * 1.5) ** 2, rel=0.03)


def test_without_change_the_picture_itself_comes_back(record: dict[str, str]) -> None:
    still = PictureBatches(
        [record], PictureReader(), (96, 96), 1, scale=(1, 1), turn=0, mirror="", foreground=0, colour=0, blur=0
    )
    still.random = np.random.default_rng(0)
    drawn = next(iter(still))
    pixels, labels = PictureReader()(record["image"], record["label"])
    # only the stretch of up to 8 % and the place of the centre move it
    assert drawn["label"].float().mean().item() == pytest.approx(labels.mean(), rel=0.05)
    assert set(np.unique((drawn["image"] * 255).round())) >= {40.0, 200.0}
    assert pixels.shape == (3, 96, 96)


def test_every_picture_comes_once_before_one_comes_again(tmp_path: Path) -> None:
    records = []
    for k in range(6):
        flat = np.full((32, 32, 3), 10 + 40 * k, np.uint8)
        records.append(save(tmp_path, f"flat{k}", flat, np.zeros((32, 32), np.uint8)))
    batches = PictureBatches(records, PictureReader(), (16, 16), batch_size=3, colour=0, blur=0, seed=1)
    seen = torch.cat([b["image"].mean((1, 2, 3)) for b in islice(batches, 4)]) * 255
    for half in (seen[:6], seen[6:]):
        assert sorted(half.round().tolist()) == [10, 50, 90, 130, 170, 210]


def test_the_same_seed_gives_the_same_batches_and_colours_stay_in_range(record: dict[str, str]) -> None:
    first, second, other = (
        next(iter(PictureBatches([record], PictureReader(), (64, 64), 4, colour=1, blur=1, seed=s))) for s in (5, 5, 6)
    )
    assert torch.equal(first["image"], second["image"])
    assert not torch.equal(first["image"], other["image"])
    assert first["image"].min() >= 0
    assert first["image"].max() <= 1


def test_values_become_the_classes_that_are_named(tmp_path: Path) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[:5], labels[5:9], labels[9:12] = 3, 7, 9
    record = save(tmp_path, "values", np.zeros((20, 30), np.uint8), labels)
    pixels, classes = PictureReader(1, classes={3: 1, 7: 2})(record["image"], record["label"])
    assert pixels.shape == (1, 20, 30)
    assert np.array_equal(np.bincount(classes.ravel()), [330, 150, 120])
    one_bit = tmp_path / "bits.png"
    Image.fromarray(labels > 0).save(one_bit)
    assert PictureReader(1, above=127)(record["image"], one_bit)[1].sum() == 360
    half = PictureReader(1, above=127, size=(10, 15))(record["image"], one_bit)
    assert half[0].shape == (1, 10, 15)
    assert half[1].sum() == 90


def test_what_does_not_fit_is_told(tmp_path: Path, record: dict[str, str]) -> None:
    small = save(tmp_path, "small", np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match=r"small_label\.png is \(8, 8\) while its image is \(96, 96\)"):
        PictureReader()(record["image"], small["label"])
    with pytest.raises(InputError, match="1 or 3 channels; given was 4"):
        PictureReader(channels=4)
    with pytest.raises(InputError, match="no records"):
        PictureBatches([], PictureReader(), (8, 8))


def test_the_score_is_the_dice_of_the_winning_map(tmp_path: Path) -> None:
    labels = np.zeros((40, 50), np.uint8)
    labels[:, :20] = 1
    grey = np.where(labels > 0, 200, 0).astype(np.uint8)
    grey[:, 20:30] = 200
    record = save(tmp_path, "half", grey, labels)

    class Bright(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            assert image.shape[2] % 32 == image.shape[3] % 32 == 0
            return torch.cat([0.5 - image, image - 0.5], 1)

    score = PictureScore([record], PictureReader(1), [1])(Bright())
    assert score == {"dice": 0.8, "dice_1": 0.8}
