"""Chan-Vese on regions without edges."""

import numpy as np
import pytest

from napari_medseg.case import InputError
from napari_medseg.classical.regions import (
    ChanVeseParameters,
    MorphologicalChanVeseParameters,
    chan_vese,
    morphological_chan_vese,
)


def soft_disc(side=48, radius=12.0, dims=2):
    """A ball whose edge is so soft that it has no gradient to speak of, with noise; and the ball."""
    grid = np.indices((side,) * dims) - (side - 1) / 2
    distance = np.sqrt((grid**2).sum(0))
    image = 1 / (1 + np.exp((distance - radius) / 1.5)) + np.random.default_rng(0).normal(0, 0.15, distance.shape)
    return image, distance <= radius


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("method", [chan_vese, morphological_chan_vese])
def test_two_regions_are_found_at_any_scale_and_polarity(method):
    image, mask = soft_disc()
    labels = method(image)
    assert labels.dtype == np.int32 and dice(labels == 1, mask) > 0.93
    assert dice(method(1000 * image - 300) == 1, mask) > 0.93
    # the bright region is label 1 whichever side the contour calls inside
    assert dice(method(-image) == 1, ~mask) > 0.93
    darker = {chan_vese: ChanVeseParameters, morphological_chan_vese: MorphologicalChanVeseParameters}[method]
    assert dice(method(-image, parameters=darker(bright=False)) == 1, mask) > 0.93


@pytest.mark.parametrize("method", [chan_vese, morphological_chan_vese])
def test_a_start_leads_to_the_same_regions(method):
    image, mask = soft_disc()
    start = np.zeros(mask.shape, int)
    start[20:30, 14:26] = 1
    assert dice(method(image, initial=start) == 1, mask) > 0.93
    with pytest.raises(InputError, match="one grid is needed"):
        method(image, initial=start[1:])


def test_length_takes_noise_away():
    image, _ = soft_disc()
    rough, smooth = (chan_vese(image, parameters=ChanVeseParameters(length=length)) for length in (0.01, 0.5))
    edges = [np.abs(np.diff(m, axis=0)).sum() + np.abs(np.diff(m, axis=1)).sum() for m in (rough, smooth)]
    assert edges[1] < edges[0]


def test_a_volume_by_morphology():
    image, mask = soft_disc(24, 7, 3)
    labels = morphological_chan_vese(image, parameters=MorphologicalChanVeseParameters(spatial_dims=3, iterations=40))
    assert labels.shape == image.shape and dice(labels == 1, mask) > 0.9


@pytest.mark.parametrize("method", [chan_vese, morphological_chan_vese])
def test_an_even_image_has_one_region(method):
    assert not method(np.full((2, 9, 9), 3.0)).any()


def test_morphology_agrees_with_scikit_image_and_does_not_remember(monkeypatch):
    from itertools import cycle

    from skimage.segmentation import morphological_chan_vese as theirs
    from skimage.segmentation import morphsnakes

    for dims, side in ((2, 40), (3, 16)):
        image, _ = soft_disc(side, side / 4, dims)
        scaled = ((image - image.min()) / (image.max() - image.min())).astype(np.float32)
        parameters = MorphologicalChanVeseParameters(spatial_dims=dims, iterations=9)
        ours = morphological_chan_vese(image, parameters=parameters)
        np.testing.assert_array_equal(morphological_chan_vese(image, parameters=parameters), ours)
        orders = [
            lambda u: morphsnakes.sup_inf(morphsnakes.inf_sup(u)),
            lambda u: morphsnakes.inf_sup(morphsnakes.sup_inf(u)),
        ]
        monkeypatch.setattr(morphsnakes._curvop, "funcs", cycle(orders))
        inside = theirs(scaled, 9).astype(bool)
        bright = scaled[inside].mean() > scaled[~inside].mean()
        np.testing.assert_array_equal(ours == 1, inside == bright)
