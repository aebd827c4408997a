"""Otsu's threshold and the watershed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label

from napari_medseg.case import InputError
from napari_medseg.classical.thresholds import OtsuParameters, WatershedParameters, otsu, watershed


def discs(shape, *balls, spacing=None):
    """Union of balls (centre, radius)."""
    grid = np.indices(shape).astype(float)
    step = np.array(spacing or (1.0,) * len(shape)).reshape(-1, *(1,) * len(shape))
    mask = np.zeros(shape, bool)
    for centre, radius in balls:
        mask |= (((grid - np.array(centre).reshape(step.shape)) * step) ** 2).sum(0) <= radius**2
    return mask


def test_otsu_parts_two_clusters_by_hand():
    image = np.array([[1, 2, 1, 10], [2, 11, 10, 1]])
    assert otsu(image).tolist() == [[0, 0, 0, 1], [0, 1, 1, 0]]
    assert otsu(image, parameters=OtsuParameters(bright=False)).tolist() == [[1, 1, 1, 0], [1, 0, 0, 1]]


def test_otsu_of_three_classes_in_order_of_brightness():
    image = np.repeat([5.0, 50.0, 100.0], 30).reshape(9, 10) + np.tile([0.0, 1.0], 45).reshape(9, 10)
    expected = np.repeat([0, 1, 2], 30).reshape(9, 10)
    np.testing.assert_array_equal(otsu(image, parameters=OtsuParameters(classes=3)), expected)
    np.testing.assert_array_equal(otsu(image, parameters=OtsuParameters(classes=3, bright=False)), 2 - expected)
    with pytest.raises(InputError, match="too few values for 3 classes"):
        otsu(np.array([[1, 1], [2, 2]]), parameters=OtsuParameters(classes=3))


def test_otsu_finds_the_threshold_that_parts_the_variance_best():
    values = np.random.default_rng(0).integers(0, 60, 400).astype(float)
    values[:100] += 60
    found = otsu(values.reshape(20, 20)).ravel()

    def between(limit):
        low, high = values[values <= limit], values[values > limit]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0

    best = max(np.unique(values)[:-1], key=between)
    np.testing.assert_array_equal(found, values > best)


@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_otsu_is_free_of_the_scale(gain, shift):
    image = np.random.default_rng(0).integers(0, 40, (12, 12)) + 100 * (np.arange(12) > 5)
    np.testing.assert_array_equal(otsu(image * gain + shift), otsu(image))


def test_otsu_cleans_up_what_it_is_asked_to():
    mask = discs((40, 40), ((15, 15), 9))
    mask[15, 15] = False
    mask[30:32, 30:33] = True
    image = np.where(mask, 9.0, 1.0)
    np.testing.assert_array_equal(otsu(image), mask)
    kept = otsu(image, parameters=OtsuParameters(smallest=7, fill_holes=True))
    np.testing.assert_array_equal(kept, discs((40, 40), ((15, 15), 9)))
    assert otsu(image, parameters=OtsuParameters(smallest=6))[30, 30] == 1


def test_channels_are_chosen_or_averaged():
    first, second = np.zeros((2, 8, 8))
    first[:, 4:], second[4:] = 10, 2
    image = np.stack([first, second])
    np.testing.assert_array_equal(otsu(image, parameters=OtsuParameters(channel=1)), second > 0)
    np.testing.assert_array_equal(otsu(image), first > 0)
    with pytest.raises(InputError, match="channel 2 was asked for; the image has channels 0 to 1"):
        otsu(image, parameters=OtsuParameters(channel=2))
    with pytest.raises(InputError, match=r"shape \(8,\) was given; 2 axes are needed"):
        otsu(image[0, 0])
    with pytest.raises(InputError, match="not finite"):
        otsu(np.array([[1, np.nan], [2, 3]]))


def test_two_touching_discs_are_two_and_an_ellipse_is_one():
    touching = discs((40, 60), ((20, 20), 8), ((20, 33), 8))
    labels = watershed(touching.astype(float))
    assert np.unique(labels).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(labels > 0, touching)
    assert labels[20, 20] != labels[20, 33]
    # the border runs half way, through the waist
    assert set(labels[20, 15:26]) == {labels[20, 20]} and set(labels[20, 28:39]) == {labels[20, 33]}
    y, x = np.indices((40, 60))
    ellipse = ((x - 30) / 13) ** 2 + ((y - 20) / 6) ** 2 <= 1
    assert np.unique(watershed(ellipse.astype(float))).tolist() == [0, 1]
    # centres 13 pixels apart, equally high
    assert watershed(touching.astype(float), parameters=WatershedParameters(minimum_distance=14)).max() == 1
    assert watershed(touching.astype(float), parameters=WatershedParameters(minimum_distance=12)).max() == 2


def test_small_pieces_go_and_pieces_beside_large_ones_stay():
    mask = discs((40, 60), ((20, 20), 9), ((20, 34), 3))
    mask[2:6, 50:56] = True
    labels = watershed(mask.astype(float), parameters=WatershedParameters(smallest=24, minimum_distance=15))
    _, count = label(mask)
    # the small disc is nearer to the large one than the distance, but does not touch it
    assert count == 3 and labels.max() == 3
    assert len({labels[20, 20], labels[20, 34], labels[3, 52]}) == 3 and (labels > 0).sum() == mask.sum()
    assert watershed(mask.astype(float), parameters=WatershedParameters(smallest=25, minimum_distance=15)).max() == 2


def test_a_threshold_in_the_images_own_units():
    image = np.full((20, 20), -1000.0)
    image[5:15, 5:15] = 40
    image[8:12, 8:12] = 300
    labels = watershed(image, parameters=WatershedParameters(threshold=200, smallest=0))
    assert (labels > 0).sum() == 16
    assert (watershed(image, parameters=WatershedParameters(threshold=-500, bright=False)) > 0).sum() == 300


def test_distances_follow_the_spacing_in_a_volume():
    # two balls of radius 8 mm, 13 mm apart along the first axis, whose slices are 2 mm thick
    spacing = (2.0, 1.0, 1.0)
    shape, one, two = (24, 24, 24), (8, 12, 12), (14.5, 12, 12)
    mask = discs(shape, (one, 8), (two, 8), spacing=spacing)
    parameters = WatershedParameters(spatial_dims=3, spacing=spacing)
    labels = watershed(mask.astype(np.float32), parameters=parameters)
    assert labels.max() == 2 and labels[7, 12, 12] != labels[16, 12, 12]
    with pytest.raises(InputError, match="3 sizes above 0 are needed"):
        watershed(mask, parameters=WatershedParameters(spatial_dims=3, spacing=(1.0, 1.0)))


@pytest.mark.parametrize("method", [otsu, watershed])
def test_an_even_image_has_no_objects(method):
    labels = method(np.full((3, 9, 9), 4.0))
    assert labels.shape == (9, 9) and labels.dtype == np.int32 and not labels.any()
