"""Decoding finds the objects, does it locally, and the same way every time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medseg.adapt.nuclei import nucleus_maps
from napari_medseg.adapt.scores import panoptic_quality
from napari_medseg.bundles.instances import DistanceDecoder, InstanceDecoder, Instancesd
from napari_medseg.case import InputError


def discs(shape, circles):
    labels = np.zeros(shape, np.int32)
    y, x = np.indices(shape)
    for number, (cy, cx, radius) in enumerate(circles, start=1):
        labels[((y - cy) ** 2 + (x - cx) ** 2 <= radius**2) & (labels == 0)] = number
    return labels


def random_discs(seed, shape=(160, 200), count=45):
    generator = np.random.default_rng(seed)
    circles = [(generator.uniform(0, shape[0]), generator.uniform(0, shape[1]), generator.uniform(4, 11))
               for _ in range(count)]  # fmt: skip
    return discs(shape, circles)


def test_touching_discs_come_apart():
    labels = discs((60, 90), [(30, 25, 12), (30, 47, 12), (30, 75, 8)])
    found = DistanceDecoder().decode(nucleus_maps(labels))
    assert found.max() == 3
    assert found.dtype == np.int32
    assert panoptic_quality(found, labels) > 0.95
    first = [np.flatnonzero(found == k)[0] for k in (1, 2, 3)]
    assert len(set(first)) == 3


def test_perfect_maps_give_almost_perfect_objects():
    # overlapping discs leave slivers and split pieces, so a little is lost
    qualities = [
        panoptic_quality(DistanceDecoder().decode(nucleus_maps(lab)), lab) for lab in map(random_discs, range(5))
    ]
    assert min(qualities) > 0.85


def test_small_objects_are_dropped_and_numbers_have_no_gaps():
    labels = discs((40, 120), [(20, 15, 6), (20, 50, 2), (20, 90, 8)])
    found = DistanceDecoder(min_area=20).decode(nucleus_maps(labels))
    assert np.unique(found).tolist() == [0, 1, 2]
    assert found[20, 50] == 0
    assert DistanceDecoder(min_area=1).decode(nucleus_maps(labels)).max() == 3


def test_a_piece_without_a_seed_stays_an_object():
    maps = np.zeros((3, 20, 20), np.float32)
    maps[0, 5:12, 5:12] = 0.9
    maps[1, 5:12, 5:12] = 0.2
    assert (DistanceDecoder().decode(maps) == np.pad(np.ones((7, 7)), ((5, 8), (5, 8)))).all()


def test_nothing_gives_nothing():
    assert DistanceDecoder().decode(np.zeros((3, 8, 9), np.float32)).tolist() == np.zeros((8, 9)).tolist()
    with pytest.raises(InputError, match=r"\(3, y, x\) is expected"):
        DistanceDecoder().decode(np.zeros((2, 8, 9), np.float32))


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), top=st.integers(0, 60), left=st.integers(0, 80))
def test_a_crop_with_its_margin_decodes_like_the_whole(seed, top, left):
    maps = nucleus_maps(random_discs(seed, count=25))
    decoder = DistanceDecoder()
    whole = decoder.decode(maps)
    # the inside of a crop: what lies a margin away from its cut edges
    height, width = 100, 120
    crop = decoder.decode(np.ascontiguousarray(maps[:, top : top + height, left : left + width]))
    window = whole[top : top + height, left : left + width]
    margin = 40
    rows = slice(margin if top else 0, height if top + height >= 160 else height - margin)
    columns = slice(margin if left else 0, width if left + width >= 200 else width - margin)
    a, b = window[rows, columns], crop[rows, columns]
    assert ((a > 0) == (b > 0)).all()
    pairs = set(zip(a[a > 0].tolist(), b[a > 0].tolist(), strict=True))
    assert len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs})


def test_decoding_twice_gives_the_same_and_noise_below_a_step_changes_little():
    maps = nucleus_maps(random_discs(1))
    decoder = DistanceDecoder()
    first = decoder.decode(maps)
    assert (first == decoder.decode(maps.copy())).all()
    noisy = maps + np.random.default_rng(0).normal(0, 1e-6, maps.shape).astype(np.float32)
    assert (first != decoder.decode(noisy)).mean() < 1e-3


def test_the_transform_keeps_the_kind_of_array():
    maps = nucleus_maps(random_discs(2))
    decoder = DistanceDecoder()
    expected = decoder.decode(maps)
    data = {"pred": torch.from_numpy(maps), "image": 3}
    decoded = Instancesd("pred", decoder)(data)
    assert isinstance(decoded["pred"], torch.Tensor)
    assert decoded["pred"].shape == (1, 160, 200)
    assert (decoded["pred"][0].numpy() == expected).all()
    assert decoded["image"] == 3
    assert data["pred"].shape == (3, 160, 200)
    assert (Instancesd(["pred"], decoder)({"pred": maps})["pred"][0] == expected).all()
    assert isinstance(decoder, InstanceDecoder)
