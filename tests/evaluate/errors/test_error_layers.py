"""Error maps are the data of napari layers: single, in levels, in volumes and along time."""

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_medseg.case import AxisMap
from napari_medseg.desk.label_colours import colormap_of
from napari_medseg.evaluate.errors import ERROR_TABLE, BoundaryDistance, ErrorCategories
from tests.evaluate.errors.test_error_maps import Counting


def shown(layer):
    return np.asarray(layer._slice.image.raw)


@pytest.fixture
def volumes():
    rng = np.random.default_rng(1)
    return rng.integers(0, 3, (2, 12, 20, 24)).astype(np.uint8)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_moving_through_a_volume_shows_and_reads_only_that_slice(volumes, order):
    candidate = Counting(volumes[0], (1, 20, 24) if order[0] == 0 else (12, 20, 24))
    errors = ErrorCategories(candidate, volumes[1])
    viewer = ViewerModel()
    layer = viewer.add_layer(Labels(errors, colormap=colormap_of(ERROR_TABLE)))
    viewer.dims.order = order
    candidate.regions.clear()

    viewer.dims.set_point(order[0], 7)

    whole = ErrorCategories(*volumes)[()]
    np.testing.assert_array_equal(
        shown(layer), np.transpose(np.take(whole, 7, order[0]), np.argsort(np.argsort(order[1:])))
    )
    if order[0] == 0:
        assert all(r[0] == slice(7, 8) for r in candidate.regions)
        assert candidate.regions


def test_a_distance_map_is_an_image(volumes):
    layer = Image(BoundaryDistance(*volumes, (2.0, 1.0, 1.0)), contrast_limits=(-5, 5))
    viewer = ViewerModel()
    viewer.add_layer(layer)

    viewer.dims.set_point(0, 3)

    assert shown(layer).shape == (20, 24)
    np.testing.assert_array_equal(shown(layer) != 0, volumes[0, 3] != volumes[1, 3])


def test_levels_show_the_level_that_fits(volumes):
    fine = ErrorCategories(np.kron(volumes[0, 0], np.ones((40, 40), np.uint8)), np.zeros((800, 960), np.uint8))
    coarse = ErrorCategories(volumes[0, 0], np.zeros((20, 24), np.uint8))
    layer = Labels([fine, coarse], multiscale=True)
    ViewerModel().add_layer(layer)

    layer.data_level = 1

    np.testing.assert_array_equal(shown(layer), coarse[()])


def test_frames_of_a_video(volumes):
    viewer = ViewerModel()
    layer = viewer.add_layer(Image(BoundaryDistance(*volumes, None, axes="tyx"), contrast_limits=(-5, 5)))

    viewer.dims.set_point(0, 5)

    np.testing.assert_allclose(shown(layer), BoundaryDistance(volumes[0, 5], volumes[1, 5], None)[()])


def test_turned_to_the_viewers_axes_a_plane_still_reads_only_itself(volumes):
    candidate = Counting(volumes[0], (1, 20, 24))
    errors = ErrorCategories(candidate, volumes[1])
    turned = AxisMap((2, 0, 1), (False, True, True)).apply(errors.to_dask())

    np.testing.assert_array_equal(
        np.asarray(turned[:, 2]), ErrorCategories(*volumes)[()].transpose(2, 0, 1)[:, ::-1, ::-1][:, 2]
    )
    assert candidate.regions
    assert all(r[0] == slice(9, 10) for r in candidate.regions)
