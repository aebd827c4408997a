import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_medseg.case import Geometry
from napari_medseg.desk.placement import Placement, geometry_of_affine, viewer_affine

SPACING = st.floats(0.05, 10)
ORIGIN = st.floats(-500, 500)


@st.composite
def grids(draw):
    """Axis-aligned grids of every orientation, spacing and origin."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (row, sign) in enumerate(zip(order, signs, strict=True)):
        affine[row, axis] = sign * draw(SPACING)
    affine[:3, 3] = [draw(ORIGIN) for _ in range(3)]
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    return Geometry(shape, affine, draw(st.sampled_from(("mm", "um"))), draw(st.sampled_from(("patient", "image"))))


@given(grids())
def test_every_voxel_is_shown_where_it_lies(grid):
    placement = Placement(grid)
    for index in itertools.product(*((0, n - 1) for n in grid.shape)):
        shown = placement.axis_map.apply(np.arange(np.prod(grid.shape)).reshape(grid.shape))
        position = np.argwhere(shown == np.ravel_multi_index(index, grid.shape))[0]
        by_layer = placement.affine @ [*position, 1]
        truth = viewer_affine(grid) @ [*index, 1]
        np.testing.assert_allclose(by_layer[:3], truth[:3], atol=1e-9)
    assert min(placement.scale) > 0


@given(grids(), st.tuples(*[st.floats(0.2, 5)] * 3), st.tuples(*[ORIGIN] * 3))
def test_a_moved_layer_moves_the_grid_as_much(grid, stretch, shift):
    placement = Placement(grid)
    change = np.diag((*stretch, 1.0))
    change[:3, 3] = shift
    moved = placement.moved(change @ placement.affine, grid.unit)
    for index in ((0, 0, 0), tuple(n - 1 for n in grid.shape)):
        before = viewer_affine(grid) @ [*index, 1]
        after = viewer_affine(moved) @ [*index, 1]
        np.testing.assert_allclose(after[:3], (change @ [*before[:3], 1])[:3], atol=1e-6)


@given(grids())
def test_an_untouched_layer_gives_the_very_same_grid(grid):
    placement = Placement(grid)
    assert placement.moved(placement.affine, grid.unit) is grid


def test_patient_axes_on_the_screen():
    # index (z, y, x) of a RAS grid: left is to the right of the picture, posterior is down, and so is inferior
    grid = Geometry.from_xyz_affine((4, 5, 6), np.eye(4))
    assert viewer_affine(grid)[:3, :3].tolist() == [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    placement = Placement(grid)
    assert placement.shown.orientation == ("I", "P", "L")
    assert placement.translate == (-3.0, -4.0, -5.0)


def test_the_body_in_three_dimensions_is_no_mirror_image():
    # napari shows its axes 0, 1 and 2 as towards, down and right: as right-handed as the patient's own three
    grid = Geometry.from_xyz_affine((4, 5, 6), np.eye(4))
    towards_down_right = viewer_affine(grid)[:3, :3][:, ::-1]  # columns: steps along R, A, S
    on_screen = np.array([[0, 0, 1], [0, -1, 0], [1, 0, 0]]) @ towards_down_right  # rows: right, up, towards
    assert np.linalg.det(on_screen) == 1.0


def test_flat_coronal_picture_keeps_its_two_axes():
    # y runs to inferior, x to left: a coronal slice
    affine = np.array([[0, 0, -2.0, 10], [1, 0, 0, 5], [0, -3.0, 0, 30], [0, 0, 0, 1]])
    placement = Placement(Geometry((7, 8), affine, "mm", "patient"))
    assert placement.scale == (3.0, 2.0)
    assert placement.shown.orientation == ("I", "L")
    assert placement.translate == (-30.0, -10.0)


def test_oblique_grids_are_shown_along_their_own_axes():
    angle = np.radians(20)
    affine = np.eye(4)[:, [2, 1, 0, 3]]
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine[:3, :3] = turn @ affine[:3, :3]
    grid = Geometry((4, 5, 6), affine, "mm", "patient")
    placement = Placement(grid)
    assert placement.is_oblique
    assert placement.scale == pytest.approx((1, 1, 1))
    assert placement.moved(placement.affine, "mm") is grid


@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.tuples(SPACING, SPACING), st.tuples(ORIGIN, ORIGIN))
def test_a_layer_from_elsewhere_becomes_the_grid_it_shows(shape, scale, shift):
    affine = np.diag((*scale, 1.0))
    affine[:2, 2] = shift
    grid = geometry_of_affine(shape, affine, "um")
    assert grid.spacing == pytest.approx(scale)
    np.testing.assert_allclose(grid.index_to_world((1, 2)), (shift[1] + 2 * scale[1], shift[0] + scale[0], 0))
