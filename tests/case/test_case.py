import hashlib
import json

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_medseg.case import (
    Geometry,
    Label,
    LabelTable,
    MedicalImage,
    Modality,
    Provenance,
    Segmentation,
    Source,
    Step,
)
from napari_medseg.case.labels import palette_colour


def grid(*shape):
    return Geometry.from_spacing(shape, (1.0,) * len(shape), "mm")


# -- labels -----------------------------------------------------------------------------------------


def test_names_and_colours_of_classes():
    table = LabelTable((Label(1, "liver", (10, 20, 30), ("SCT", "10200004", "Liver")), Label(4, "spleen")))
    assert [table.name(k) for k in (0, 1, 4, 7)] == ["background", "liver", "spleen", "label 7"]
    assert table.colour(1) == (10, 20, 30)
    assert table.colour(0) == (0, 0, 0)
    assert table.colour(4) == palette_colour(4)
    assert 4 in table
    assert 2 not in table
    assert len(table) == 2


def test_instances_take_the_name_of_their_class_and_a_colour_of_their_own():
    table = LabelTable.from_names(["nucleus"], instances=True)
    assert table.name(37) == "nucleus 37"
    assert table.colour(1) != table.colour(2)
    assert table.colour(9) == palette_colour(9)


def test_names_may_come_numbered_or_with_ids():
    assert [e.id for e in LabelTable.from_names(["a", "b"])] == [1, 2]
    assert [e.name for e in LabelTable.from_names({0: "background", 3: "c"})] == ["c"]


def test_the_first_eight_colours_are_those_of_okabe_and_ito():
    published = {"#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"}
    ours = {"#{:02x}{:02x}{:02x}".format(*palette_colour(k)) for k in range(1, 8)}
    assert ours == published


def test_later_colours_differ_from_the_ones_they_vary():
    colours = [palette_colour(k) for k in range(1, 33)]
    assert len(set(colours)) == 32


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Label(0, "background"), "background"),
        (lambda: Label(1, "x", (0, 0, 300)), "0 to 255"),
        (lambda: LabelTable((Label(1, "a"), Label(1, "b"))), "share an id"),
        (lambda: LabelTable((Label(1, "a"), Label(2, "b")), instances=True), "exactly one class"),
    ],
)
def test_impossible_labels_are_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_label_table_survives_json():
    table = LabelTable((Label(2, "näevus", (1, 2, 3), ("SCT", "1", "x")), Label(9, "b")))
    assert LabelTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


# -- provenance -------------------------------------------------------------------------------------


def test_history_grows_and_survives_json():
    history = Provenance("abc").with_step(Step.now("segment", model="m")).with_step(Step.now("edit", voxels=3))
    again = Provenance.from_dict(json.loads(json.dumps(history.to_dict())))
    assert again == history
    assert [s.action for s in again.steps] == ["segment", "edit"]
    assert again.steps[0].at.endswith("+00:00")


# -- source -----------------------------------------------------------------------------------------


def test_source_hash_is_that_of_the_file(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"content")
    assert Source("raw", (file,)).sha256() == hashlib.sha256(b"content").hexdigest()
    assert Source("memory").sha256() is None


def test_source_hash_of_a_folder_does_not_depend_on_names(tmp_path):
    for folder, names in (("one", "ab"), ("two", "ba")):
        (tmp_path / folder).mkdir()
        for name, content in zip(names, (b"1", b"2"), strict=True):
            (tmp_path / folder / name).write_bytes(content)
    assert Source("d", (tmp_path / "one",)).sha256() == Source("d", (tmp_path / "two",)).sha256()
    (tmp_path / "two" / "a").write_bytes(b"3")
    assert Source("d", (tmp_path / "one",)).sha256() != Source("d", (tmp_path / "two",)).sha256()


# -- image ------------------------------------------------------------------------------------------


def test_a_video_reads_one_frame_with_channels_first():
    frames = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    video = MedicalImage((frames,), "tyxc", Geometry.from_spacing((4, 5), None), Modality.ES, "RGB")
    assert (video.frame_count, video.channel_count, video.is_rgb) == (2, 3, True)
    block = video.read((slice(1, 3), slice(0, 5)), frame=1, channels=(2, 0))
    assert np.array_equal(block, np.moveaxis(frames[1, 1:3], -1, 0)[[2, 0]])
    assert video.dtype == np.uint8


def test_a_volume_without_channels_gets_one():
    data = da.arange(24, chunks=5).reshape(2, 3, 4)
    volume = MedicalImage((data,), "zyx", grid(2, 3, 4))
    assert volume.read((slice(0, 1), slice(0, 3), slice(1, 2))).shape == (1, 1, 3, 1)
    assert (volume.frame_count, volume.channel_count, volume.spatial_axes) == (1, 1, "zyx")


def test_levels_cover_the_same_extent():
    levels = (np.zeros((100, 64)), np.zeros((25, 16)))
    image = MedicalImage(levels, "yx", Geometry.from_spacing((100, 64), (0.5, 0.5), "um"))
    assert image.downsampling(1) == (4.0, 4.0)
    coarse = image.level_geometry(1)
    assert coarse.spacing == (2.0, 2.0)
    assert coarse.origin == (0.75, 0.75, 0.0)
    assert image.level_geometry(0) is image.geometry


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (((), "yx", grid(2, 3)), "at least one level"),
        (((np.zeros((2, 3)),), "xy", grid(2, 3)), "in that order"),
        (((np.zeros((2, 3)), np.zeros(3)), "yx", grid(2, 3)), "every level"),
        (((np.zeros((2, 3)),), "yx", grid(3, 2)), "is not the geometry"),
    ],
)
def test_images_that_do_not_fit_together_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        MedicalImage(*arguments)


def test_channel_names_must_match_the_channels():
    with pytest.raises(ValueError, match="2 channel names for 3"):
        MedicalImage((np.zeros((2, 3, 3)),), "yxc", grid(2, 3), channels=("a", "b"))


def test_every_modality_has_words():
    assert all(m.description for m in Modality)
    assert Modality("SM").description == "slide microscopy"


# -- segmentation -----------------------------------------------------------------------------------

label_arrays = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.integers(0, 3))


@given(label_arrays)
def test_extents_count_and_centre_every_label(data):
    chunked = da.from_array(data, chunks=3)
    for array in (data, chunked):
        extents = Segmentation(array, grid(*data.shape)).extents()
        assert sorted(extents) == sorted(set(np.unique(data).tolist()) - {0})
        for label, extent in extents.items():
            where = np.argwhere(data == label)
            assert extent.voxels == len(where)
            assert extent.centroid == pytest.approx(where.mean(0))


def test_axes_follow_from_grid_and_array():
    assert Segmentation(np.zeros((2, 3), int), grid(2, 3)).axes == "yx"
    assert Segmentation(np.zeros((7, 2, 3), int), grid(2, 3)).axes == "tyx"


@pytest.mark.parametrize(
    ("data", "axes", "word"),
    [
        (np.zeros((2, 4), int), "", "do not lie"),
        (np.zeros((2, 3)), "", "integers"),
        (np.zeros((2, 3), int), "zyx", "do not fit"),
        (np.zeros((5, 7, 2, 3), int), "", "do not lie"),
    ],
)
def test_labels_that_do_not_fit_are_refused(data, axes, word):
    with pytest.raises(ValueError, match=word):
        Segmentation(data, grid(2, 3), axes=axes)
