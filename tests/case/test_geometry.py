import itertools
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given
from hypothesis import strategies as st

from napari_medseg.case import AxisMap, Geometry

finite = st.floats(-200, 200)
steps = st.floats(0.05, 20)


@st.composite
def rotations(draw):
    quaternion = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    length = np.linalg.norm(quaternion)
    w, x, y, z = quaternion / length if length > 1e-3 else (1.0, 0.0, 0.0, 0.0)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@st.composite
def volumes(draw):
    """Grids of three axes in the patient frame: any rotation, handedness, spacing and origin."""
    shape = tuple(draw(st.integers(1, 7)) for _ in range(3))
    directions = draw(rotations()) * np.array([draw(st.sampled_from((-1, 1))) for _ in range(3)])
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array([draw(steps) for _ in range(3)])
    affine[:3, 3] = [draw(finite) for _ in range(3)]
    return Geometry(shape, affine, "mm", "patient")


@st.composite
def pictures(draw):
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    unit = draw(st.sampled_from(("um", "mm", None)))
    spacing = None if unit is None else (draw(steps), draw(steps))
    origin = (draw(finite), draw(finite), 0.0)
    return Geometry.from_spacing(shape, spacing, unit, origin=origin)


geometries = st.one_of(volumes(), pictures())


def axis_maps(ndim):
    return st.builds(AxisMap, st.permutations(range(ndim)).map(tuple), st.tuples(*[st.booleans() for _ in range(ndim)]))


def all_indices(shape):
    return np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)


@given(geometries, st.data())
def test_world_to_index_undoes_index_to_world(geometry, data):
    index = np.array([[data.draw(st.floats(-20, 20)) for _ in range(geometry.ndim)] for _ in range(4)])
    assert geometry.world_to_index(geometry.index_to_world(index)) == pytest.approx(index, abs=1e-6)


@given(geometries, st.data())
def test_rearranging_array_and_grid_keeps_every_voxel_in_place(geometry, data):
    axis_map = data.draw(axis_maps(geometry.ndim))
    moved = geometry.rearranged(axis_map)
    # an array of world positions turns with the data: voxel by voxel nothing may move
    world = geometry.index_to_world(all_indices(geometry.shape))
    assert moved.index_to_world(all_indices(moved.shape)) == pytest.approx(axis_map.apply(world), abs=1e-6)


@given(st.data(), st.sampled_from((2, 3)))
def test_axis_maps_compose_and_invert_as_arrays_do(data, ndim):
    first, second = data.draw(axis_maps(ndim)), data.draw(axis_maps(ndim))
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)[..., 0] if ndim == 3 else np.arange(6).reshape(2, 3)
    assert np.array_equal(first.then(second).apply(array), second.apply(first.apply(array)))
    assert np.array_equal(first.inverse().apply(first.apply(array)), array)
    assert first.then(first.inverse()).is_identity


@given(geometries, st.data())
def test_rearranged_there_and_back_is_the_same_grid(geometry, data):
    axis_map = data.draw(axis_maps(geometry.ndim))
    assert geometry.rearranged(axis_map).rearranged(axis_map.inverse()).is_close(geometry)


@given(volumes())
def test_axis_map_to_reaches_the_orientation_asked_for(geometry):
    cosines = np.sort(np.abs(geometry.directions), axis=0)
    # where an axis lies evenly between two world axes either name is right
    assume((cosines[-1] - cosines[-2]).min() > 0.05)
    for wanted in (("S", "P", "L"), ("R", "A", "S"), ("I", "R", "P")):
        assert geometry.rearranged(geometry.axis_map_to(wanted)).orientation == wanted


@given(volumes())
def test_orientation_agrees_with_nibabel_where_the_answer_is_clear(geometry):
    cosines = np.sort(np.abs(geometry.directions), axis=0)
    # at 45 degrees two letters are equally right
    assume((cosines[-1] - cosines[-2]).min() > 0.05)
    assert tuple(reversed(nib.aff2axcodes(geometry.xyz_affine))) == geometry.orientation


@given(geometries, st.data())
def test_crop_keeps_voxels_where_they_are(geometry, data):
    region = []
    for size in geometry.shape:
        start = data.draw(st.integers(0, size - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, size))))
    cropped = geometry.crop(tuple(region))
    world = geometry.index_to_world(all_indices(geometry.shape))[tuple(region)]
    assert cropped.index_to_world(all_indices(cropped.shape)) == pytest.approx(world, abs=1e-6)


@given(geometries, st.data())
def test_scaling_keeps_the_outer_edge_and_undoes_itself(geometry, data):
    factors = tuple(data.draw(st.sampled_from((0.25, 0.5, 1.0, 2.0, 3.0, 7.3))) for _ in geometry.shape)
    scaled = geometry.scaled(factors)
    edge = np.full(geometry.ndim, -0.5)
    assert scaled.index_to_world(edge) == pytest.approx(geometry.index_to_world(edge), abs=1e-6)
    back = scaled.scaled(tuple(1 / f for f in factors), geometry.shape)
    assert back.is_close(geometry, 1e-6)


@given(volumes())
def test_the_same_voxel_lies_where_simpleitk_puts_it(geometry):
    image = sitk.Image([int(n) for n in reversed(geometry.shape)], sitk.sitkUInt8)
    to_lps = np.diag([-1.0, -1.0, 1.0])
    xyz = geometry.xyz_affine
    spacing = np.linalg.norm(xyz[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((to_lps @ xyz[:3, 3]).tolist())
    image.SetDirection((to_lps @ (xyz[:3, :3] / spacing)).ravel().tolist())
    for index in itertools.product(*[(0, n - 1) for n in geometry.shape]):
        there = to_lps @ np.array(image.TransformIndexToPhysicalPoint([int(i) for i in reversed(index)]))
        assert geometry.index_to_world(index) == pytest.approx(there, abs=1e-6)


def test_a_slide_in_numbers():
    slide = Geometry.from_spacing((2967, 2220), (0.5, 0.25), "um", origin=(10.0, 20.0, 0.0))
    assert slide.orientation == ("down", "right")
    assert slide.index_to_world((4, 8)).tolist() == [12.0, 22.0, 0.0]
    assert slide.voxel_volume == pytest.approx(0.125)
    half = slide.scaled((2, 2))
    assert half.shape == (1484, 1110)
    # the centre of a 2x2 block lies half a voxel inside its first voxel
    assert half.origin == pytest.approx((10.125, 20.25, 0.0))
    assert half.spacing == pytest.approx((1.0, 0.5))
    assert slide.in_unit("mm").spacing == pytest.approx((0.0005, 0.00025))


def test_a_scan_in_numbers():
    # nibabel's affine of a scan stored right to left, back to front, 3 mm slices upwards
    scan = Geometry.from_xyz_affine((10, 20, 30), [[-1, 0, 0, 90], [0, 1, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
    assert scan.orientation == ("S", "A", "L")
    assert scan.spacing == (3.0, 1.0, 1.0)
    assert scan.index_to_world((1, 2, 3)).tolist() == [87.0, -124.0, -69.0]
    assert scan.voxel_volume == pytest.approx(3.0)
    assert scan.resampled((1, 1, 1)).shape == (30, 20, 30)
    assert scan.obliquity_degrees == 0.0


def test_obliquity_of_a_grid_turned_by_thirty_degrees():
    angle = np.radians(30)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert Geometry((2, 2, 2), affine, "mm", "patient").obliquity_degrees == pytest.approx(30)


def test_unknown_spacing_stays_unknown():
    photograph = Geometry.from_spacing((4, 5), None)
    assert photograph.spacing is None
    assert photograph.voxel_volume is None
    assert photograph.steps == (1.0, 1.0)
    with pytest.raises(ValueError, match="unknown spacing"):
        photograph.in_unit("mm")
    with pytest.raises(ValueError, match="unknown spacing"):
        photograph.resampled((1.0, 1.0))


@given(geometries)
def test_dictionary_round_trip(geometry):
    again = Geometry.from_dict(geometry.to_dict())
    assert again.is_close(geometry, 1e-12)
    assert (again.unit, again.frame) == (geometry.unit, geometry.frame)


@pytest.mark.parametrize(
    ("shape", "affine", "word"),
    [
        ((3,), np.eye(4), "two or three"),
        ((0, 4), np.eye(4), "positive"),
        ((3, 3), np.eye(3), "4x4"),
        ((3, 3), np.full((4, 4), np.nan), "finite"),
        ((3, 3), np.diag([1, 0, 1, 1]), "invertible"),
    ],
)
def test_impossible_grids_are_refused(shape, affine, word):
    with pytest.raises(ValueError, match=word):
        Geometry(shape, affine)


@pytest.mark.parametrize("entry", [{"unit": "nm"}, {"unit": ""}, {"frame": "scanner"}, {"frame": None}])
def test_unknown_units_and_frames_are_refused(entry):
    known = Geometry.from_spacing((3, 4), (1, 1), "mm")
    [(name, value)] = entry.items()
    with pytest.raises(ValueError, match=f"the {name} {value!r} is not one of"):
        replace(known, **entry)
    with pytest.raises(ValueError, match=f"the {name} {value!r} is not one of"):
        Geometry.from_dict(known.to_dict() | entry)


def test_impossible_requests_are_refused():
    grid = Geometry.from_spacing((3, 4), (1, 1), "mm")
    with pytest.raises(ValueError, match="both known"):
        Geometry.from_spacing((3, 4), (1, 1), None)
    with pytest.raises(ValueError, match="positive number for each axis"):
        Geometry.from_spacing((3, 4), (1, 0), "mm")
    with pytest.raises(ValueError, match="does not fit"):
        grid.axis_map_to(("S", "P"))
    with pytest.raises(ValueError, match="empty"):
        grid.crop((slice(2, 2), slice(0, 1)))
    with pytest.raises(ValueError, match="positive number"):
        grid.scaled((0, 1))
    with pytest.raises(ValueError, match="rearrangement"):
        AxisMap((0, 0), (False, False))


def test_grids_in_other_units_are_not_the_same():
    grid = Geometry.from_spacing((3, 4), (1, 1), "mm")
    assert not grid.is_close(grid.in_unit("um"))
    assert not grid.is_close(Geometry.from_spacing((3, 4), (1, 1), "mm", origin=(0.01, 0, 0)))
    assert grid.is_close(Geometry.from_spacing((3, 4), (1, 1), "mm", origin=(0.0001, 0, 0)))


@given(geometries, st.data())
def test_a_spacing_stated_later_keeps_orientation_and_origin_in_voxels(geometry, data):
    spacing = tuple(data.draw(steps) for _ in range(geometry.ndim))
    stated = geometry.with_spacing(spacing, "mm")
    assert stated.spacing == pytest.approx(spacing)
    assert stated.orientation == geometry.orientation
    assert stated.directions == pytest.approx(geometry.directions, abs=1e-6)
    assert stated.frame == geometry.frame
    assert stated.world_to_index(np.zeros(3)) == pytest.approx(geometry.world_to_index(np.zeros(3)), abs=1e-4)


def test_a_spacing_that_is_none_is_refused():
    with pytest.raises(ValueError, match="positive number"):
        Geometry.from_spacing((3, 4), None).with_spacing((1.0, 0.0), "mm")


def test_axes_that_lie_between_two_directions_are_named_alike_whatever_the_last_digit():
    a, b = 0.7003367, 0.43097643
    affine = np.eye(4)
    affine[:3, :3] = [[-0.13804714, -a, -a], [-a, 1 - b, -b], [-a, -b, 1 - b]]
    random = np.random.default_rng(0)
    found = set()
    for _ in range(100):
        shaken = affine.copy()
        shaken[:3, :3] *= 1 + random.uniform(-4e-16, 4e-16, (3, 3))
        found.add(Geometry((2, 3, 4), shaken, "mm", "patient").orientation)
    assert len(found) == 1
