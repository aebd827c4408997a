from dataclasses import replace
from itertools import permutations, product

import dask.array
import numpy as np
import pytest
import SimpleITK as sitk
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medseg.case import AxisMap, Geometry, InputError, LabelTable, Segmentation
from napari_medseg.evaluate import grids
from napari_medseg.evaluate.grids import GridMismatch, check_same_grid, on_grid, turn_onto
from napari_medseg.io.lazy import LazyArray

SPACING = (2.5, 0.8, 0.7)


def volume_grid(shape=(6, 8, 10), spacing=SPACING, angles=(0.0, 0.0, 0.0), origin=(-31.0, 12.0, 5.0), unit="mm"):
    """A grid in the patient frame, turned by `angles` about x, y and z."""
    x, y, z = np.radians(angles)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_y @ about_x @ np.eye(3)[:, ::-1] @ np.diag(spacing)
    affine[:3, 3] = origin
    return Geometry(shape, affine, unit, "patient")


def labels_on(geometry, seed=0, ids=6, dtype=np.uint8, frames=None):
    shape = geometry.shape if frames is None else (frames, *geometry.shape)
    data = np.random.default_rng(seed).integers(0, ids, shape).astype(dtype)
    return Segmentation(data, geometry, LabelTable.from_names(["liver", "spleen"]), name="labels")


def itk_image(data, geometry):
    """The labels as ITK has them: x first, LPS, for our (z, y, x) arrays with any affine."""
    image = sitk.GetImageFromArray(data)
    flip = np.diag((-1.0, -1.0, 1.0))
    image.SetSpacing(geometry.steps[::-1])
    image.SetDirection((flip @ geometry.directions[:, ::-1]).ravel())
    image.SetOrigin(flip @ geometry.origin)
    return image


def itk_resampled(segmentation, geometry):
    like = itk_image(np.zeros(geometry.shape, np.uint8), geometry)
    found = sitk.Resample(
        itk_image(segmentation.data, segmentation.geometry), like, sitk.Transform(), sitk.sitkNearestNeighbor, 0
    )
    return sitk.GetArrayFromImage(found)


# -- resampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        (volume_grid(), volume_grid((11, 9, 12), (1.3, 0.71, 0.59))),
        (volume_grid(), volume_grid((9, 7, 8), angles=(12.0, -7.0, 31.0), origin=(-30.3, 12.2, 6.1))),
        (
            volume_grid(angles=(3.0, 20.0, 0.0)),
            volume_grid((5, 9, 7), (2.1, 1.03, 0.93), (-40.0, 8.0, 160.0), (-24.0, 17.0, 16.0)),
        ),
        (volume_grid((20, 30, 40), (0.5, 0.2, 0.2)), volume_grid((3, 4, 5), (3.1, 1.3, 1.7))),
    ],
)
def test_resampling_agrees_with_simpleitk(own, wanted):
    segmentation = labels_on(own)
    found = on_grid(segmentation, wanted)
    expected = itk_resampled(segmentation, wanted)
    assert isinstance(found.data, LazyArray)
    assert np.array_equal(np.asarray(found.data), expected)
    assert len(np.unique(expected)) > 2


@settings(max_examples=40, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.4, 3.0)] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    shift=st.tuples(*[st.floats(-4, 4)] * 3),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_every_voxel_takes_the_label_its_centre_lies_in(spacing, angles, shift, shape):
    own = volume_grid()
    wanted = volume_grid(shape, spacing, angles, tuple(np.add(own.origin, shift)))
    segmentation = labels_on(own, ids=200)
    found = np.asarray(on_grid(segmentation, wanted).data)
    for index in np.ndindex(*shape):
        place = own.world_to_index(wanted.index_to_world(index))
        nearest = np.floor(place + 0.5).astype(int)
        if np.abs(place + 0.5 - np.rint(place + 0.5)).min() < 1e-5:
            continue
        inside = all(0 <= k < n for k, n in zip(nearest, own.shape, strict=True))
        assert found[index] == (segmentation.data[tuple(nearest)] if inside else 0)


def test_nibabel_agrees_where_it_looks_inside():
    import nibabel
    from nibabel.processing import resample_from_to

    own, wanted = volume_grid(), volume_grid((6, 5, 7), (1.9, 0.77, 0.93), (4.0, 9.0, -6.0), (-30.1, 12.9, 6.2))
    segmentation = labels_on(own)
    moving = nibabel.Nifti1Image(segmentation.data.transpose(2, 1, 0), own.xyz_affine)
    expected = resample_from_to(moving, (wanted.shape[::-1], wanted.xyz_affine), order=0).get_fdata().transpose(2, 1, 0)
    place = own.world_to_index(wanted.index_to_world(np.moveaxis(np.indices(wanted.shape), 0, -1)))
    # nibabel's picture ends at the outer centres, not at the outer edges
    inside = ((place >= 0) & (place <= np.array(own.shape) - 1)).all(axis=-1)
    assert inside.sum() > 100
    assert np.array_equal(np.asarray(on_grid(segmentation, wanted).data)[inside], expected[inside])


def test_labels_twice_as_fine_are_each_label_eight_times():
    segmentation = labels_on(volume_grid())
    found = on_grid(segmentation, segmentation.geometry.scaled((0.5, 0.5, 0.5)))
    expected = segmentation.data.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert np.array_equal(np.asarray(found.data), expected)


def test_halfway_positions_all_go_the_same_way():
    own = volume_grid((4, 4, 400), (1.0, 1.0, 0.1), angles=(0.0, 0.0, 17.0))
    segmentation = labels_on(own)
    found = on_grid(segmentation, own.scaled((1.0, 1.0, 2.0)))
    assert np.array_equal(np.asarray(found.data), segmentation.data[..., 1::2])


def test_outside_is_background_and_ids_and_type_stay():
    own = volume_grid()
    segmentation = Segmentation(np.full(own.shape, 70_000, np.int32), own)
    far = volume_grid((3, 3, 3), origin=(500.0, 0.0, 0.0))
    assert not np.asarray(on_grid(segmentation, far).data).any()
    larger = on_grid(segmentation, own.crop((slice(1, 5), slice(0, 8), slice(0, 10))).scaled((0.5, 1, 1), (12, 8, 10)))
    assert larger.data.dtype == np.int32
    assert np.asarray(larger.data)[:, 4, 4].tolist() == [70_000] * 10 + [0] * 2


def test_pictures_and_frames_are_resampled_too():
    own = Geometry.from_spacing((40, 50), (0.5, 0.25), "um")
    wanted = Geometry.from_spacing((19, 30), (1.0, 0.4), "um", origin=(0.3, 0.21, 0.0))
    segmentation = labels_on(own, frames=3)
    assert segmentation.axes == "tyx"
    found = on_grid(segmentation, wanted)
    rows = np.floor((0.21 + 1.0 * np.arange(19)) / 0.5 + 0.5).astype(int)
    columns = np.floor((0.3 + 0.4 * np.arange(30)) / 0.25 + 0.5).astype(int)
    assert columns[-1] < 50
    assert np.array_equal(np.asarray(found.data), segmentation.data[:, rows[:, None], columns])
    assert found.axes == "tyx"


def test_another_unit_is_the_same_place():
    own = Geometry.from_spacing((40, 50), (0.5, 0.25), "um")
    segmentation = labels_on(own)
    check = on_grid(segmentation, own.in_unit("mm"))
    assert check.data is segmentation.data
    coarse = on_grid(segmentation, own.scaled((2.0, 2.0)).in_unit("mm"))
    assert np.array_equal(np.asarray(coarse.data), segmentation.data[1::2, 1::2])


class _Watched(LazyArray):
    """A huge array of coordinates that notes how much is asked of it."""

    def __init__(self, shape):
        super().__init__(shape, np.int64, [64] * len(shape))
        self.largest = 0

    def _read(self, region):
        self.largest = max(self.largest, int(np.prod([s.stop - s.start for s in region])))
        return np.ravel_multi_index(
            tuple(np.ix_(*[np.arange(s.start, s.stop) for s in region])), self.shape, mode="wrap"
        )


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (10.0, 20.0, 30.0)])
def test_labels_larger_than_memory_are_read_piece_by_piece(angles):
    source = _Watched((5000, 6000, 7000))
    own = volume_grid(source.shape, (0.1, 0.1, 0.1))
    # each voxel spans 10 voxels of the source along each axis: a piece of the result is a thousand times larger there
    wanted = volume_grid((500, 600, 700), (1.0, 1.0, 1.0), angles)
    found = on_grid(Segmentation(source, own), wanted)
    assert source.largest == 0
    region = (slice(5, 35), slice(7, 40), slice(10, 45))
    block = found.data[region]
    assert source.largest <= grids._PIECE_VOXELS
    index = np.moveaxis(np.indices(block.shape), 0, -1) + [s.start for s in region]
    place = np.floor(own.world_to_index(wanted.index_to_world(index)) + 0.5 + 1e-6).astype(np.int64)
    inside = ((place >= 0) & (place < source.shape)).all(axis=-1)
    place = np.clip(place, 0, np.array(source.shape) - 1)
    expected = np.where(inside, np.ravel_multi_index(tuple(np.moveaxis(place, -1, 0)), source.shape), 0)
    assert np.array_equal(block, expected)


# -- turning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [AxisMap(o, f) for o in permutations(range(3)) for f in product((0, 1), repeat=3)])
def test_the_same_voxels_in_another_order_are_turned_without_loss(turn):
    own = volume_grid(angles=(10.0, 35.0, -20.0))
    segmentation = labels_on(own)
    turned = Segmentation(turn.apply(segmentation.data), own.rearranged(turn))
    back = on_grid(turned, own)
    assert not isinstance(back.data, LazyArray)
    assert np.array_equal(back.data, segmentation.data)
    if not turn.is_identity:
        with pytest.raises(GridMismatch, match="orientation") as refused:
            check_same_grid(turned, segmentation)
        assert refused.value.lossless
        assert len(refused.value.differences) == 1
    check_same_grid(back, segmentation)


@pytest.mark.parametrize("kind", ["dask", "zarr", "ours"])
def test_stored_labels_are_turned_lazily(kind, tmp_path):
    own = volume_grid()
    numbers = labels_on(own).data
    stored = {
        "dask": lambda: dask.array.from_array(numbers, chunks=(2, 8, 4)),
        "zarr": lambda: zarr.create_array(tmp_path / "z", data=numbers, chunks=(2, 8, 4)),
        "ours": lambda: _Counting(numbers),
    }[kind]()
    turn = AxisMap((1, 2, 0), (True, False, True))
    found = on_grid(Segmentation(stored, own), own.rearranged(turn))
    assert isinstance(found.data, dask.array.Array)
    if kind == "ours":
        assert stored.reads == 0
    assert np.array_equal(np.asarray(found.data), turn.apply(numbers))
    assert sum((block > 0).sum() for _, block in found.blocks()) == (numbers > 0).sum()


class _Counting(LazyArray):
    def __init__(self, numbers):
        super().__init__(numbers.shape, numbers.dtype, (2, 8, 4))
        self.numbers, self.reads = numbers, 0

    def _read(self, region):
        self.reads += 1
        return self.numbers[region]


def test_frames_of_a_video_are_turned_each():
    own = Geometry.from_spacing((4, 6), None)
    segmentation = labels_on(own, frames=3)
    turn = AxisMap((1, 0), (False, True))
    found = on_grid(segmentation, own.rearranged(turn))
    assert np.array_equal(found.data, np.stack([turn.apply(frame) for frame in segmentation.data]))


def test_history_tells_what_was_done_to_the_labels():
    segmentation = labels_on(volume_grid())
    same = on_grid(segmentation, segmentation.geometry)
    assert same.provenance.steps == ()
    turned = on_grid(segmentation, segmentation.geometry.rearranged(AxisMap((2, 1, 0), (False, False, False))))
    assert [s.action for s in turned.provenance.steps] == ["turn"]
    moved = on_grid(segmentation, segmentation.geometry.scaled((2, 2, 2)))
    assert [s.action for s in moved.provenance.steps] == ["resample"]
    assert moved.table == segmentation.table


def test_turning_is_found_only_between_equal_grids():
    own = volume_grid()
    assert turn_onto(own, own).is_identity
    assert turn_onto(own, volume_grid(spacing=(2.5, 0.8, 0.8))) is None
    assert turn_onto(own, Geometry.from_spacing((8, 10), (1, 1), "mm", "patient")) is None


# -- refusing -----------------------------------------------------------------------------------


def refusal(own, wanted, **changes):
    candidate, reference = labels_on(own), labels_on(wanted)
    with pytest.raises(GridMismatch) as refused:
        check_same_grid(replace(candidate, **changes), reference)
    assert isinstance(refused.value, InputError)
    assert str(refused.value).count(". ") == 0
    return refused.value


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"shape": (6, 8, 11)}, ("shape (zyx 6x8x11 against 6x8x10)",)),
        ({"spacing": (2.5, 0.8, 0.75)}, ("spacing (2.5x0.8x0.75 against 2.5x0.8x0.7 mm)",)),
        ({"origin": (-31.0, 15.0, 9.0)}, ("origin (moved by 5 mm)",)),
        ({"angles": (0.0, 0.0, 5.0)}, ("orientation (turned by 5 degrees)",)),
        ({"angles": (0.0, 0.0, 0.1)}, ("orientation (turned by 0.1 degrees)",)),
        (
            {"shape": (5, 8, 10), "spacing": (3.0, 0.8, 0.7)},
            ("shape (zyx 5x8x10 against 6x8x10)", "spacing (3x0.8x0.7 against 2.5x0.8x0.7 mm)"),
        ),
    ],
)
def test_what_differs_is_named_with_its_amount(change, expected):
    error = refusal(volume_grid(**change), volume_grid())
    assert error.differences == expected
    assert (error.obstacle, error.lossless) == ("", False)
    assert "--resample" in str(error)


def test_a_turned_grid_that_also_differs_names_both():
    own = volume_grid(spacing=(2.0, 0.8, 0.7)).rearranged(AxisMap((2, 0, 1), (True, False, False)))
    error = refusal(own, volume_grid())
    assert error.differences == (
        "orientation (L S A against S A R)",
        "spacing (2x0.8x0.7 against 2.5x0.8x0.7 mm)",
    )
    assert not error.lossless


def test_one_grid_is_accepted_and_rounded_headers_with_it():
    reference = labels_on(volume_grid((6, 512, 512), (2.5, 0.9765625, 0.9765625)))
    check_same_grid(reference, reference)
    check_same_grid(labels_on(volume_grid((6, 512, 512), (2.5, 0.97656, 0.97656))), reference)
    single = replace(reference.geometry, affine=reference.geometry.affine.astype(np.float32))
    check_same_grid(replace(reference, geometry=single), reference)
    with pytest.raises(GridMismatch, match="spacing"):
        check_same_grid(labels_on(volume_grid((6, 512, 512), (2.5, 0.976, 0.976))), reference)


def test_a_shift_of_half_a_voxel_is_refused():
    # the classic mistake between corners and centres
    own = volume_grid()
    moved = own.index_to_world((0.5, 0.5, 0.5))
    error = refusal(volume_grid(origin=tuple(moved)), own)
    assert error.differences[0].startswith("origin (moved by 1.358")


def test_units_that_differ_hold_the_same_voxels():
    own = Geometry.from_spacing((40, 50), (0.5, 0.25), "um")
    error = refusal(own, own.in_unit("mm"))
    assert error.differences == ("unit (um against mm)",)
    assert error.lossless
    check_same_grid(on_grid(labels_on(own), own.in_unit("mm")), labels_on(own.in_unit("mm")))


@pytest.mark.parametrize(
    ("own", "wanted", "word"),
    [
        (Geometry.from_spacing((8, 10), None), Geometry.from_spacing((8, 10), (0.5, 0.5), "um"), "states its spacing"),
        (Geometry.from_spacing((8, 10), None), Geometry.from_spacing((16, 20), None), "neither states its spacing"),
        (Geometry.from_spacing((8, 10), (1, 1), "mm"), volume_grid(), "flat"),
        (Geometry.from_spacing((6, 8, 10), SPACING, "mm"), volume_grid(), "in the patient"),
    ],
)
def test_what_resampling_cannot_mend_is_said_and_refused(own, wanted, word):
    error = refusal(own, wanted)
    assert word in error.obstacle
    assert "--resample" not in str(error)
    with pytest.raises(InputError, match=word):
        on_grid(labels_on(own), wanted)


def test_slices_in_different_planes_are_refused():
    axial, sagittal = (np.array(volume_grid().affine) for _ in range(2))
    sagittal[:, [0, 2]] = sagittal[:, [2, 0]]
    own, wanted = Geometry((8, 10), axial, "mm", "patient"), Geometry((8, 10), sagittal, "mm", "patient")
    assert "one plane" in refusal(own, wanted).obstacle
    lifted = np.array(axial)
    lifted[2, 3] += 2.5
    error = refusal(Geometry((8, 10), lifted, "mm", "patient"), own)
    assert (error.differences, "one plane" in error.obstacle) == (("origin (moved by 2.5 mm)",), True)


def test_time_axes_that_differ_are_refused():
    grid = Geometry.from_spacing((4, 6), (1, 1), "mm")
    three, four, still = labels_on(grid, frames=3), labels_on(grid, frames=4), labels_on(grid)
    for candidate, reference, words in (
        (three, four, "time axis (3 frames against 4 frames)"),
        (still, four, "time axis (none against 4 frames)"),
        (
            replace(three, seconds_per_frame=0.04),
            replace(three, seconds_per_frame=0.1),
            "time axis (a frame lasts 0.04 s against 0.1 s)",
        ),
    ):
        with pytest.raises(GridMismatch) as refused:
            check_same_grid(candidate, reference)
        assert refused.value.differences == (words,)
        assert "in time" in refused.value.obstacle
    check_same_grid(three, replace(three, seconds_per_frame=0.04))
