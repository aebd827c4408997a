"""Boundaries made of surface elements: numbers by hand, DeepMind's surface-distance and MONAI's subvoxels."""

import warnings
from math import inf, isnan, sqrt

import numpy as np
import pytest

from napari_medseg.evaluate.surfaces import boundary_scores

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 0.7, 1.1)]


def scores_of(candidate, reference, spacing, tolerance=1.0, **options):
    """Scores of label 1 by surfels."""
    return boundary_scores(candidate, reference, [1], spacing, tolerance=tolerance, elements="surfels", **options)[1]


def pairs():
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(3)
    shape = (8, 9, 11)
    smooth = [gaussian_filter(rng.standard_normal(shape), 1.5) > 0 for _ in range(2)]
    one, far = np.zeros((2, *shape), bool)
    one[0, 0, 0] = far[7, 8, 10] = True
    plate = np.zeros(shape, bool)
    plate[3, 1:7, 2:9] = True
    return {
        "blobs": tuple(smooth),
        "one voxel each": (one, far),
        "full array": (np.ones(shape, bool), smooth[0]),
        "one slice thick": (plate, smooth[1]),
        "noise": tuple(rng.random((2, *shape)) < 0.4),
        "picture": (smooth[0][4], smooth[1][4]),
        "picture noise": tuple(rng.random((2, 12, 13)) < 0.5),
    }


@pytest.fixture
def surface_distance(monkeypatch):
    """DeepMind's library, which speaks an older numpy and scipy."""
    from scipy import ndimage

    monkeypatch.setattr(np, "Inf", inf, raising=False)
    for name in ("filters", "morphology"):
        monkeypatch.setattr(ndimage, name, ndimage, raising=False)
    return pytest.importorskip("surface_distance")


def test_a_bar_and_a_pixel_by_hand():
    bar, pixel = np.zeros((2, 4, 6), np.uint8)
    bar[1, 1:4] = pixel[1, 1] = 1
    found = scores_of(bar, pixel, (1.0, 1.0))
    # the pixel: four corners of half a diagonal each. The bar: two such pairs, at 0 and 2 from the pixel's corners,
    # and between them two pairs of length 1, at 0 and 1
    assert found["assd"] == pytest.approx((2 * 1 + 2 * 2 * sqrt(0.5)) / (4 + 8 * sqrt(0.5)), rel=1e-12)
    assert found["hd"] == 2.0
    assert found["surface_dice"] == pytest.approx((4 + 6 * sqrt(0.5)) / (4 + 8 * sqrt(0.5)), rel=1e-12)


def test_empty_masks():
    empty, full = np.zeros((3, 3), int), np.ones((3, 3), int)
    assert scores_of(empty, full, (1.0, 1.0)) == {"hd": inf, "hd95": inf, "assd": inf, "surface_dice": 0.0}
    assert all(isnan(value) for value in scores_of(empty, empty, (1.0, 1.0)).values())


def test_every_id_of_a_narrow_type_can_be_scored():
    candidate = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = boundary_scores(candidate, candidate.T, range(256), (1, 1), tolerance=0, elements="surfels")
    # id 16 y + x lies at (y, x) and, in the other, at (x, y)
    assert found[0]["hd"] == 0.0
    assert found[255]["hd"] == 0.0
    assert found[15]["hd"] == pytest.approx(15 * sqrt(2))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", sorted(pairs()))
def test_equals_surface_distance(name, spacing, surface_distance):
    candidate, reference = pairs()[name]
    spacing = spacing[-candidate.ndim :]
    theirs = surface_distance.compute_surface_distances(reference, candidate, spacing)
    sums = [
        (theirs[f"distances_{way}"] @ theirs[f"surfel_areas_{side}"], theirs[f"surfel_areas_{side}"].sum())
        for way, side in (("gt_to_pred", "gt"), ("pred_to_gt", "pred"))
    ]
    expected = {
        "hd": surface_distance.compute_robust_hausdorff(theirs, 100),
        "hd95": surface_distance.compute_robust_hausdorff(theirs, 95),
        # it gives the mean of each direction; the mean by area over both is what ASSD means here
        "assd": (sums[0][0] + sums[1][0]) / (sums[0][1] + sums[1][1]),
        "surface_dice": surface_distance.compute_surface_dice_at_tolerance(theirs, 1.3),
    }
    assert scores_of(candidate, reference, spacing, tolerance=1.3) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", sorted(pairs()))
def test_surface_dice_equals_that_of_monai(name, spacing):
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    candidate, reference = pairs()[name]
    one, other = (torch.from_numpy(side[None, None]) for side in (candidate, reference))
    spacing = spacing[-candidate.ndim :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = metrics.compute_surface_dice(
            one, other, [1.3], include_background=True, spacing=spacing, use_subvoxels=True
        )
    found = scores_of(candidate, reference, spacing, tolerance=1.3)
    assert found["surface_dice"] == pytest.approx(float(theirs[0, 0]), rel=1e-5)
