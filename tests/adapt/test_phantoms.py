"""Generated fluorescence phantoms: known light gives known pixels; labels are outlines, whatever is seen of them."""

from __future__ import annotations

import csv
import dataclasses
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medseg.adapt.phantom_frames import PhantomBatches, PhantomScore, write_phantoms
from napari_medseg.adapt.phantoms import HARDER, ORDINARY, PhantomRanges, fluorescence_phantom
from napari_medseg.adapt.pictures import PictureReader
from napari_medseg.adapt.scores import dice
from napari_medseg.adapt.splits import manifest_records
from napari_medseg.case import InputError

# one round tumour of brightness 0.5 on an even background of 0.1; nothing else, no noise
PLAIN = PhantomRanges(
    tumours=(1, 1),
    radius=(0.2, 0.2),
    waviness=(0, 0),
    elongation=(1, 1),
    uptake=(0.5, 0.5),
    dimming=(0, 0),
    core=(0, 0),
    mottle=(0, 0),
    background=(0.1, 0.1),
    texture=(0, 0),
    organ=(0, 0),
    vessels=(0, 0),
    vessel_uptake=(0, 0),
    vignette=(0, 0),
    glow=(0, 0),
    glow_reach=(0.03, 0.03),
    spots=(0, 0),
    blur=(0, 0),
    exposure=(1, 1),
    stray_light=(0, 0),
    photons=(np.inf, np.inf),
    read_noise=(0, 0),
)


def plain(seed: int = 0, size: tuple[int, int] = (96, 128), **changed: tuple[float, float]):
    frame = fluorescence_phantom(seed, size, dataclasses.replace(PLAIN, **changed))
    return frame.image.astype(int), frame.label > 0


def test_without_anything_else_the_tumour_is_what_is_bright() -> None:
    image, label = plain()
    assert image.shape == label.shape == (96, 128)
    assert set(image[label]) == {153}  # 255 * 0.6
    assert set(image[~label]) == {26}  # 255 * 0.1 = 25.5, rounded


@given(st.integers(0, 10_000), st.floats(0.08, 0.2))
@settings(max_examples=25, deadline=None)
def test_a_round_tumour_has_the_area_of_its_disc(seed: int, radius: float) -> None:
    _, label = plain(seed, (200, 240), radius=(radius, radius), elongation=(1.0, 1.7))
    touches = label[[0, -1]].any() or label[:, [0, -1]].any()
    area = np.pi * (radius * 200) ** 2
    assert label.sum() <= 1.03 * area
    # what reaches past the frame is cut off
    assert touches or label.sum() >= 0.97 * area


def test_a_tumour_is_longer_than_wide_as_said() -> None:
    from skimage.measure import regionprops

    ratios = []
    for seed in range(8):
        _, label = plain(seed, (256, 256), radius=(0.07, 0.07), elongation=(1.7, 1.7))
        if not (label[[0, -1]].any() or label[:, [0, -1]].any()):
            found = regionprops(label.astype(int))[0]
            ratios.append(found.axis_major_length / found.axis_minor_length)
    assert len(ratios) >= 4
    assert ratios == pytest.approx([1.7] * len(ratios), rel=0.04)


def test_a_wavy_outline_moves_by_its_waviness_and_no_more() -> None:
    _, label = plain(3, (256, 256), radius=(0.07, 0.07), waviness=(0.25, 0.25))
    y, x = np.nonzero(label)
    assert y.min() > 0
    assert x.min() > 0
    from scipy.ndimage import binary_erosion

    # the centre is where the round tumour of the same seed lies
    _, disc = plain(3, (256, 256), radius=(0.07, 0.07))
    centre = np.argwhere(disc).mean(0)
    rim = np.argwhere(label & ~binary_erosion(label))
    distance = np.linalg.norm(rim - centre, axis=1) / (0.07 * 256)
    assert 0.7 <= distance.min() <= 1.25
    assert distance.max() - distance.min() >= 0.25
    assert distance.max() <= 1.25 + 0.02


def test_the_deep_side_is_dimmer_and_still_labelled() -> None:
    image, label = plain(dimming=(0.6, 0.6))
    _, whole = plain()
    assert np.array_equal(label, whole)
    light = (image[label] / 255 - 0.1) / 0.5
    assert light.max() == pytest.approx(1.0, abs=0.03)
    assert light.min() == pytest.approx(0.4, abs=0.03)
    # half way at the centre, evenly from side to side
    assert light.mean() == pytest.approx(0.7, abs=0.03)


def test_the_core_is_dimmer_than_the_rim() -> None:
    image, label = plain(core=(0.5, 0.5))
    y, x = np.argwhere(label).mean(0).round().astype(int)
    assert image[y, x] == pytest.approx(255 * (0.1 + 0.5 * 0.5), abs=2)
    assert image[label].max() == pytest.approx(255 * (0.1 + 0.5 * (1 - 0.5 * np.exp(-4))), abs=2)


def test_light_bleeds_past_the_outline_and_none_is_lost() -> None:
    sharp, label = plain(1, (256, 256), radius=(0.08, 0.08))
    scattered, same = plain(1, (256, 256), radius=(0.08, 0.08), glow=(0.4, 0.4))
    assert np.array_equal(label, same)
    from scipy.ndimage import binary_dilation

    near = binary_dilation(label, iterations=3) & ~label
    assert scattered[near].mean() > sharp[near].mean() + 8
    assert scattered[label].mean() < sharp[label].mean() - 8
    assert scattered.mean() == pytest.approx(sharp.mean(), rel=0.01)


def test_the_farthest_corner_loses_what_vignetting_says() -> None:
    image, _ = plain(tumours=(0, 0), background=(0.8, 0.8), vignette=(0.5, 0.5))
    assert image.min() == pytest.approx(255 * 0.4, abs=1)
    assert image.max() == pytest.approx(255 * 0.8, abs=1)
    corners = [image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]]
    assert image.min() == min(corners)
    assert np.abs(np.argwhere(image == image.max()).mean(0) / image.shape - 0.5).max() < 0.17


@pytest.mark.parametrize("photons", [50.0, 400.0])
def test_shot_noise_has_the_variance_of_its_photons(photons: float) -> None:
    image, _ = plain(0, (256, 256), tumours=(0, 0), background=(0.5, 0.5), photons=(photons, photons))
    assert image.mean() == pytest.approx(255 * 0.5, rel=0.01)
    assert image.std() == pytest.approx(255 * np.sqrt(0.5 / photons), rel=0.03)


def test_readout_noise_stray_light_and_exposure() -> None:
    image, _ = plain(
        0, (256, 256), tumours=(0, 0), exposure=(0.5, 0.5), stray_light=(0.2, 0.2), read_noise=(0.02, 0.02)
    )
    assert image.mean() == pytest.approx(255 * (0.5 * 0.1 + 0.2), abs=0.1)
    assert image.std() == pytest.approx(255 * 0.02, rel=0.03)


def test_the_sensor_saturates() -> None:
    image, label = plain(exposure=(2, 2))
    assert set(image[label]) == {255}


def test_blur_has_its_width() -> None:
    image, label = plain(1, (256, 256), tumours=(0, 0), spots=(1, 1), blur=(0.02, 0.02))
    light = np.clip(image - 26, 0, None).astype(float)
    assert light.max() > 20
    y, x = np.indices(light.shape)
    total = light.sum()
    spread = [((g - (g * light).sum() / total) ** 2 * light).sum() / total for g in (y, x)]
    # variances add: the blur's 5.12² and a spot's own, a quarter of its half-axis squared, at most 4.6² / 4
    assert all(5.12**2 * 0.8 <= s <= 5.12**2 + 4.6**2 / 4 + 1 for s in spread)
    assert not label.any()


@pytest.mark.parametrize(
    "changed",
    [
        {"spots": (6, 6)},
        {"organ": (0.4, 0.4)},
        {"vessels": (3, 3), "vessel_uptake": (0.3, 0.3)},
        {"texture": (0.5, 0.5)},
    ],
)
def test_what_is_no_tumour_is_bright_and_never_labelled(changed: dict[str, tuple[float, float]]) -> None:
    image, label = plain(5, (256, 256), tumours=(0, 0), **changed)
    assert image.max() >= 45
    assert image.min() <= 27
    assert not label.any()
    # and it leaves the outlines of a tumour alone
    with_tumour = dict(changed)
    assert np.array_equal(plain(5, (256, 256), **with_tumour)[1], plain(5, (256, 256), texture=(0, 0))[1])


def test_many_tumours_are_smaller_than_one() -> None:
    many = [plain(s, (256, 256), tumours=(9, 9), radius=(0.01, 0.24))[1].mean() for s in range(6)]
    assert max(many) <= 9 * np.pi * (0.24 / 3) ** 2 * 1.03
    from scipy.ndimage import label as pieces

    assert 2 <= pieces(plain(0, (256, 256), tumours=(9, 9), radius=(0.01, 0.02))[1])[1] <= 9
    assert not plain(0, tumours=(0, 0))[1].any()


def test_the_same_seed_gives_the_same_frame_and_another_another() -> None:
    first = fluorescence_phantom(7)
    fluorescence_phantom(8)
    again = fluorescence_phantom(7)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    assert first.image.dtype == first.label.dtype == np.uint8
    assert set(np.unique(first.label)) == {0, 1}
    other = fluorescence_phantom(8)
    assert (first.image != other.image).mean() > 0.5
    assert not np.array_equal(first.label, other.label)


def test_the_harder_frames_are_drawn_from_beyond_the_ordinary_ones() -> None:
    beyond = []
    for field in dataclasses.fields(PhantomRanges):
        easy, hard = getattr(ORDINARY, field.name), getattr(HARDER, field.name)
        if easy != hard:
            # they may touch, and no value but that one is shared
            assert hard[0] >= easy[1] or hard[1] <= easy[0], field.name
            beyond.append(field.name)
    assert set(beyond) == {"uptake", "dimming", "organ", "vignette", "glow", "blur", "photons", "read_noise"}


def test_no_threshold_finds_the_outlines() -> None:
    from skimage.filters import threshold_otsu

    otsu, best = [], []
    for seed in range(40_000_000, 40_000_024):
        frame = fluorescence_phantom(seed, (128, 128))
        if frame.label.any():
            otsu.append(dice(frame.image > threshold_otsu(frame.image), frame.label > 0))
            best.append(max(dice(frame.image > t, frame.label > 0) for t in range(0, 255, 5)))
    assert len(best) >= 15
    assert np.mean(otsu) < 0.7
    # not even the threshold that is chosen for each frame with its outlines at hand
    assert np.mean(best) < 0.87
    assert np.mean(best) > 0.4


@pytest.mark.parametrize("size", [(31, 64), (64,), (64, 64, 64)])
def test_sizes_that_cannot_be_drawn_are_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="height and width of 32"):
        fluorescence_phantom(0, size)


@pytest.mark.parametrize(
    "changed", [{"glow": (0.5, 0.1)}, {"uptake": (-0.1, 0.2)}, {"radius": (0.0, 0.2)}, {"photons": (0.0, 9.0)}]
)
def test_ranges_that_are_none_are_refused(changed: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(InputError, match=next(iter(changed))):
        dataclasses.replace(ORDINARY, **changed)


def test_unknown_names_of_ranges_are_refused() -> None:
    with pytest.raises(InputError, match="ordinary, harder"):
        fluorescence_phantom(0, (64, 64), "easy")
    with pytest.raises(InputError, match="ordinary, harder"):
        PhantomBatches(ranges="easy")


def test_batches_are_the_frames_of_consecutive_seeds() -> None:
    batches = PhantomBatches(first_seed=30, size=(64, 96), batch_size=3)
    two = list(islice(batches, 2))
    for number, batch in enumerate(two):
        assert batch["image"].shape == batch["label"].shape == (3, 1, 64, 96)
        assert batch["image"].dtype == torch.float32
        assert batch["label"].dtype == torch.int64
        for k in range(3):
            frame = fluorescence_phantom(30 + 3 * number + k, (64, 96))
            low, high = int(frame.image.min()), int(frame.image.max())
            expected = (frame.image.astype(np.float64) - low) / (high - low)
            np.testing.assert_allclose(batch["image"][k, 0].numpy(), expected, atol=1e-6)
            assert np.array_equal(batch["label"][k, 0].numpy(), frame.label)


class _Answer(torch.nn.Module):
    """Two maps of which the second wins where the scaled frame is brighter than `level`."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), image - self.level], 1)


def test_scores_of_a_network_that_is_right_and_of_one_that_marks_everything() -> None:
    # between 26 and 153, so that the half lies between background and tumour
    score = PhantomScore(0, 4, (96, 96), PLAIN)
    assert score(_Answer(0.5)) == {"dice": 1.0}
    shares = [fluorescence_phantom(s, (96, 96), PLAIN).label.mean() for s in range(4)]
    assert score(_Answer(-1.0)) == {"dice": pytest.approx(np.mean([2 * a / (a + 1) for a in shares]), abs=1e-4)}
    empty = PhantomScore(0, 4, (96, 96), dataclasses.replace(PLAIN, tumours=(0, 0)))
    assert empty(_Answer(-1.0)) == {"false_share": 1.0}
    assert empty(_Answer(2.0)) == {"false_share": 0.0}


def test_written_frames_read_back_as_they_were(tmp_path: Path) -> None:
    manifest = write_phantoms(tmp_path / "set" / "one", 50, 3, (64, 80), "harder")
    with manifest.open(newline="", encoding="utf-8") as stream:
        assert [row["seed"] for row in csv.DictReader(stream)] == ["50", "51", "52"]
    records = manifest_records(manifest)
    assert len(records) == 3
    read = PictureReader(channels=1)
    for k, record in enumerate(records):
        frame = fluorescence_phantom(50 + k, (64, 80), HARDER)
        pixels, label = read(record["image"], record["label"])
        assert np.array_equal(pixels[0], frame.image)
        assert np.array_equal(label, frame.label)
        assert float(record["fg_fraction"]) == pytest.approx(frame.label.mean(), abs=1e-4)
