"""Level sets and active contours on discs whose outline is known."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from napari_medseg.case import InputError
from napari_medseg.classical.contours import (
    DrlseParameters,
    GeodesicParameters,
    drlse,
    geodesic_active_contour,
    level_set,
)


def disc(side=48, radius=12.0, dims=2):
    """A ball in the middle of the image."""
    grid = np.indices((side,) * dims) - (side - 1) / 2
    return (grid**2).sum(0) <= radius**2


def noisy(mask, inside=140.0, outside=60.0, noise=4.0):
    return np.where(mask, inside, outside) + np.random.default_rng(0).normal(0, noise, mask.shape)


def within_one_pixel(found, mask):
    cross = np.ones((3,) * mask.ndim, bool)
    return not (found & ~binary_dilation(mask, cross)).any() and not (binary_erosion(mask, cross) & ~found).any()


@pytest.mark.parametrize("bright", [True, False])
def test_drlse_shrinks_onto_a_disc(bright):
    mask = disc()
    image = noisy(mask, 140 if bright else 60, 60 if bright else 140)
    assert within_one_pixel(drlse(image) == 1, mask)


def test_drlse_grows_onto_a_disc():
    mask = disc()
    found = drlse(noisy(mask), parameters=DrlseParameters(direction="grow"), initial=disc(radius=4))
    assert within_one_pixel(found == 1, mask)


def test_drlse_shrinks_onto_a_ball():
    mask = disc(28, 8, 3)
    parameters = DrlseParameters(spatial_dims=3, margin=3, iterations=120)
    found = drlse(noisy(mask), parameters=parameters)
    assert within_one_pixel(found == 1, mask)


def band_slope(level):
    """|grad phi| on either side of the contour."""
    size = np.sqrt(np.square(np.gradient(level)).sum(0))
    inside = level < 0
    return size[binary_dilation(inside) & ~binary_erosion(inside)]


def test_drlse_keeps_the_slope_near_one():
    image = noisy(disc())
    kept = band_slope(level_set(image))
    assert len(kept) > 100 and abs(np.median(kept) - 1) < 0.05
    assert kept.min() > 0.9 and kept.max() < 1.1
    # without the regularisation the step that it starts as remains: 4 in two pixels
    loose = band_slope(level_set(image, parameters=DrlseParameters(regularisation=0.0)))
    assert np.median(loose) > 1.5


def test_drlse_without_edges_moves_by_the_balloon_alone():
    # a ramp so faint that the indicator is 1 nearly everywhere
    image = np.linspace(0, 1, 48)[None] * np.ones((48, 1))
    image[0, 0] = 1000
    start = disc(radius=10)
    steps = {"iterations": 20, "refining": 0}
    smaller = drlse(image, parameters=DrlseParameters(**steps), initial=start)
    larger = drlse(image, parameters=DrlseParameters(direction="grow", **steps), initial=start)
    still = drlse(image, parameters=DrlseParameters(balloon=0, length=0, **steps), initial=start)
    assert smaller.sum() < start.sum() < larger.sum()
    assert still.sum() == start.sum()


def test_drlse_agrees_with_its_equation_on_one_step():
    """One step from a plane phi = x / 2, where every term is known."""
    from napari_medseg.classical.contours import _change

    plane = (np.tile(np.arange(-8, 9, dtype=np.float32), (9, 1)) / 2).astype(np.float32)
    edge = np.full(plane.shape, 0.25, np.float32)
    # straight level lines: no curvature, no divergence of a constant slope
    change = _change(plane, edge, strength=0.04, length=5.0, force=1.5, width=1.5)
    middle = change[4, 3:-3]
    level = plane[4, 3:-3]
    delta = np.where(np.abs(level) <= 1.5, (1 + np.cos(np.pi * level / 1.5)) / 3, 0)
    np.testing.assert_allclose(middle, 1.5 * 0.25 * delta, atol=1e-5)


def test_the_double_well_by_hand():
    from napari_medseg.classical.contours import _well

    # sin(2 pi s) / (2 pi s): 1 at 0, 2/pi at 1/4, 0 at 1/2, -2 / (3 pi) at 3/4, 0 at 1; then 1 - 1/s
    sizes = np.array([0, 0.25, 0.5, 0.75, 1, 2, 4], np.float32)
    np.testing.assert_allclose(_well(sizes), [1, 2 / np.pi, 0, -2 / (3 * np.pi), 0, 0.5, 0.75], atol=1e-6)


def test_drlse_is_deterministic_and_free_of_the_scale():
    image = noisy(disc())
    first = level_set(image)
    np.testing.assert_array_equal(first, level_set(image.copy()))
    np.testing.assert_array_equal(drlse(image), drlse(image * 0.003 - 7))
    np.testing.assert_array_equal(drlse(image), drlse(image[None]))


def test_drlse_can_be_stopped_and_says_how_far_it_is():
    done = []

    def stop(step):
        done.append(step)
        if step == 3:
            raise InputError("stopped")

    with pytest.raises(InputError, match="stopped"):
        level_set(noisy(disc()), each=stop)
    assert done == [1, 2, 3]


def test_a_step_that_is_too_long_is_refused_and_the_limit_is_real():
    with pytest.raises(InputError, match=r"0\.06 with a time step of 5 is unstable; .* below 0\.25"):
        drlse(noisy(disc()), parameters=DrlseParameters(regularisation=0.06))
    with pytest.raises(InputError, match=r"below 0\.167"):
        drlse(noisy(disc(12, 4, 3)), parameters=DrlseParameters(spatial_dims=3, regularisation=0.04))


@pytest.mark.parametrize("scale", [1.0, 0.001, 4000.0])
def test_geodesic_contour_shrinks_and_grows_onto_a_disc(scale):
    mask = disc(64, 16)
    image = noisy(mask) * scale
    shrunk = geodesic_active_contour(image)
    grown = geodesic_active_contour(image, parameters=GeodesicParameters(direction="grow"), initial=disc(64, 5))
    # the disc's own area is 797: the contour rests on the far slope of an edge that is 2 pixels soft
    for found in (shrunk, grown):
        assert binary_dilation(mask, iterations=2)[found == 1].all()
        assert (found == 1)[binary_erosion(mask, iterations=2)].all()


def test_geodesic_contour_in_a_volume():
    mask = disc(28, 8, 3)
    parameters = GeodesicParameters(spatial_dims=3, margin=3, iterations=60, edge_scale=1.0)
    found = geodesic_active_contour(noisy(mask, noise=1), parameters=parameters) == 1
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.9


@pytest.mark.parametrize("method", [drlse, geodesic_active_contour])
def test_starts_that_make_no_contour_are_refused(method):
    image = noisy(disc())
    with pytest.raises(InputError, match=r"\(4, 4\) while the image is \(48, 48\)"):
        method(image, initial=np.ones((4, 4)))
    with pytest.raises(InputError, match="empty or everything"):
        method(image, initial=np.zeros((48, 48)))
    with pytest.raises(InputError, match="a margin of 5 pixels leaves nothing"):
        method(image[:8, :8])
    assert method(np.full((1, 20, 20), 7.0)).tolist() == np.zeros((20, 20)).tolist()


def test_geodesic_contour_agrees_with_scikit_image_and_does_not_remember(monkeypatch):
    from itertools import cycle

    from skimage.segmentation import inverse_gaussian_gradient, morphological_geodesic_active_contour, morphsnakes

    for dims, side in ((2, 48), (3, 20)):
        image = noisy(disc(side, side / 4, dims)).astype(np.float32)
        scaled = ((image - image.min()).astype(np.float64) / (image.max() - image.min())).astype(np.float32)
        parameters = GeodesicParameters(spatial_dims=dims, iterations=15, margin=3)
        ours = geodesic_active_contour(image, parameters=parameters)
        np.testing.assert_array_equal(geodesic_active_contour(image, parameters=parameters), ours)
        orders = [
            lambda u: morphsnakes.sup_inf(morphsnakes.inf_sup(u)),
            lambda u: morphsnakes.inf_sup(morphsnakes.sup_inf(u)),
        ]
        monkeypatch.setattr(morphsnakes._curvop, "funcs", cycle(orders))
        start = np.zeros(image.shape, np.int8)
        start[(slice(3, -3),) * dims] = 1
        edge = inverse_gaussian_gradient(scaled.astype(np.float64), 100.0, 2.0)
        theirs = morphological_geodesic_active_contour(edge, 15, init_level_set=start, balloon=-1)
        np.testing.assert_array_equal(ours, theirs)
