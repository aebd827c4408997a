"""OME-Zarr: what we write is read back exactly by us, by ome-zarr and by plain zarr."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from napari_medseg.case import (
    Geometry,
    InputError,
    Label,
    LabelTable,
    MedicalImage,
    Modality,
    Provenance,
    RefusedError,
    Segmentation,
    Step,
)
from napari_medseg.io import ome_zarr
from napari_medseg.io.ome_zarr import LabelFrame
from napari_medseg.io.ome_zarr.labels import level_factors

NGFFS = ("0.4", "0.5")


def oblique(shape: tuple[int, int, int]) -> Geometry:
    """A turned, flipped and anisotropic patient grid."""
    a, b = np.radians(20), np.radians(-35)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn[:, [2, 0, 1]] * np.array([3.0, -0.7, 0.8])
    affine[:3, 3] = (-80.5, 33.25, 1200.0)
    return Geometry(shape, affine, "mm", "patient")


def blobs(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    labels = np.zeros(shape, dtype)
    labels[tuple(slice(n // 4, n // 2) for n in shape)] = 1
    labels[tuple(slice(n // 2, n // 2 + max(1, n // 5)) for n in shape)] = 7
    return labels


def segmentation(shape: tuple[int, ...] = (5, 20, 30)) -> Segmentation:
    table = LabelTable((Label(1, "liver", (10, 20, 30), ("SCT", "10200004", "Liver")), Label(7, "tumour")))
    history = Provenance("ab" * 32).with_step(Step("segment", "2026-01-01T00:00:00+00:00", {"model": "m"}))
    return Segmentation(blobs(shape), oblique(shape), table, history, "organs")


def data_nodes(path: Path) -> list:
    return [node for node in Reader(parse_url(str(path)))() if node.data]


@pytest.mark.parametrize("ngff", NGFFS)
def test_labels_come_back_exactly(tmp_path, ngff):
    meant = segmentation()
    ome_zarr.write_segmentation(meant, tmp_path / "a.zarr", ngff=ngff)
    found = ome_zarr.read_segmentation(tmp_path / "a.zarr")
    np.testing.assert_array_equal(found.data, meant.data)
    np.testing.assert_array_equal(found.geometry.affine, meant.geometry.affine)
    assert (found.geometry.frame, found.geometry.unit) == ("patient", "mm")
    assert found.table == meant.table
    assert found.provenance == meant.provenance
    assert found.name == "organs"
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("ngff", NGFFS)
def test_ome_zarr_opens_labels_from_the_root_and_from_the_group(tmp_path, ngff):
    meant = segmentation()
    ome_zarr.write_segmentation(meant, tmp_path / "a.zarr", ngff=ngff)
    for start in (tmp_path / "a.zarr", tmp_path / "a.zarr/labels", tmp_path / "a.zarr/labels/organs"):
        (node,) = data_nodes(start)
        np.testing.assert_array_equal(np.asarray(node.data[0]), meant.data)
        assert [a["name"] for a in node.metadata["axes"]] == ["z", "y", "x"]
        assert [a["unit"] for a in node.metadata["axes"]] == ["millimeter"] * 3
        assert node.metadata["name"] == "organs"
        assert node.metadata["color"][1] == pytest.approx([10 / 255, 20 / 255, 30 / 255, 1])
        assert node.metadata["properties"][1]["name"] == "liver"
        assert node.metadata["properties"][1]["terminology"] == ["SCT", "10200004", "Liver"]
        assert node.metadata["properties"][1]["voxels"] == int((meant.data == 1).sum())


def test_records_satisfy_the_published_models(tmp_path):
    from ome_zarr_models.v04.image_label import ImageLabel as ImageLabel04
    from ome_zarr_models.v05.image_label import ImageLabel as ImageLabel05

    for ngff, model in (("0.4", ImageLabel04), ("0.5", ImageLabel05)):
        path = tmp_path / f"{ngff}.zarr"
        ome_zarr.write_segmentation(segmentation((3, 700, 600)), path, ngff=ngff)
        checked = model.from_zarr(zarr.open_group(path / "labels/organs", mode="r"))
        part = checked.attributes.ome if ngff == "0.5" else checked.attributes
        assert len(part.multiscales[0].datasets) == 2


@pytest.mark.parametrize("ngff", NGFFS)
def test_scale_and_translation_follow_the_array_axes_and_the_half_pixel_rule(tmp_path, ngff):
    shape = (6, 1300, 900)
    geometry = oblique(shape)
    labels = Segmentation(blobs(shape), geometry)
    ome_zarr.write_segmentation(labels, tmp_path / "a.zarr", ngff=ngff)
    (node,) = data_nodes(tmp_path / "a.zarr")
    transforms = node.metadata["coordinateTransformations"]
    assert [d.shape for d in node.data] == [(6, 1300, 900), (6, 650, 450), (6, 325, 225)]
    scales = np.array([t[0]["scale"] for t in transforms])
    np.testing.assert_allclose(scales[0], (3.0, 0.7, 0.8))
    np.testing.assert_allclose(scales[1] / scales[0], (1, 2, 2))
    np.testing.assert_allclose(scales[2] / scales[0], (1, 4, 4))
    shifts = np.array([t[1]["translation"] for t in transforms])
    # the record is a turned copy of the world: distances between points stay what they are
    points = np.array([(0, 0, 0), (5, 1299, 0), (2, 400, 899)])
    here = shifts[0] + points * scales[0]
    there = geometry.index_to_world(points)
    np.testing.assert_allclose(np.linalg.norm(here - here[0], axis=1), np.linalg.norm(there - there[0], axis=1))
    np.testing.assert_allclose(here @ geometry.directions.T, there, atol=1e-9)
    # the outer edge of the first voxel is the same point at every level
    edges = shifts - 0.5 * scales
    np.testing.assert_allclose(edges, np.broadcast_to(edges[0], edges.shape))


def test_pyramid_never_invents_ids(tmp_path):
    rng = np.random.default_rng(3)
    labels = rng.choice([0, 3, 200, 60000], size=(2050, 1500)).astype("uint16")
    geometry = Geometry.from_spacing(labels.shape, (0.5, 0.5), "um")
    ome_zarr.write_segmentation(Segmentation(labels, geometry), tmp_path / "a.zarr")
    segmentation = ome_zarr.read_segmentation(tmp_path / "a.zarr")
    levels = (segmentation.data, *segmentation.coarser)
    assert [lv.shape for lv in levels] == [(2050, 1500), (1025, 750), (513, 375), (257, 188)]
    for n, level in enumerate(levels):
        np.testing.assert_array_equal(level, labels[:: 2**n, :: 2**n])


def test_thick_slices_wait_until_pixels_have_grown():
    geometry = Geometry.from_spacing((100, 2000, 2000), (5.0, 1.0, 1.0), "mm")
    assert level_factors(geometry) == [(1, 1, 1), (1, 2, 2), (1, 4, 4)]
    assert level_factors(Geometry.from_spacing((2000, 100, 100), (5.0, 1.0, 1.0), "mm"))[-1] == (4, 16, 16)
    assert level_factors(Geometry.from_spacing((400, 512), None)) == [(1, 1)]


@pytest.mark.parametrize("ngff", NGFFS)
def test_writer_streams_regions_and_counts(tmp_path, ngff):
    geometry = Geometry.from_spacing((3000, 2500), (0.25, 0.25), "um")
    path = tmp_path / "slide.zarr"
    with ome_zarr.LabelStoreWriter.create(
        path, LabelFrame(geometry, name="cells", dtype=np.int32, ngff=ngff)
    ) as writer:
        assert writer.array.chunks == (1024, 1024)
        writer.array[0:1024, 0:1024] = 5
        writer.array[2900:3000, 2400:2500] = 2_000_000
        assert not path.exists()
        counts = writer.finish(LabelTable.from_names(["cell"], instances=True), Provenance())
    assert counts == {5: 1024 * 1024, 2_000_000: 100 * 100}
    found = ome_zarr.read_segmentation(path)
    assert found.data[1023, 1023] == 5
    assert found.data[1024, 1024] == 0
    assert found.data[2999, 2499] == 2_000_000
    # background chunks are not stored
    files = [p for p in (path / "labels/cells/0").rglob("*") if p.is_file() and p.name not in ("zarr.json", ".zarray")]
    assert len([p for p in files if not p.name.startswith(".")]) == 2
    (node,) = data_nodes(path)
    assert node.metadata["properties"][5] == {"name": "cell 5", "class": "cell", "voxels": 1024 * 1024}


def test_writer_left_early_leaves_nothing(tmp_path):
    frame = LabelFrame(Geometry.from_spacing((50, 50), None))
    with (
        pytest.raises(ZeroDivisionError),
        ome_zarr.LabelStoreWriter.create(tmp_path / "a.zarr", frame) as writer,
    ):
        writer.array[:] = 1
        raise ZeroDivisionError
    with ome_zarr.LabelStoreWriter.create(tmp_path / "a.zarr", frame) as writer:
        writer.array[:] = 1
    with (
        ome_zarr.LabelStoreWriter.create(tmp_path / "b.zarr", frame) as writer,
        pytest.raises(InputError),
    ):

        def refuse(store: Path, voxels: dict[int, int]) -> None:
            raise InputError("no")

        writer.finish(LabelTable(), Provenance(), check=refuse)
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_what_it_cannot_write(tmp_path):
    geometry = Geometry.from_spacing((50, 50), None)
    for wrong in ({"axes": "zyx"}, {"dtype": np.float32}, {"ngff": "0.3"}, {"name": "a/b"}):
        with pytest.raises(InputError, match=r"do not fit|integers|not written|no name"):
            LabelFrame(geometry, **wrong)
    ome_zarr.write_segmentation(Segmentation(blobs((9, 9)), Geometry.from_spacing((9, 9), None)), tmp_path / "a.zarr")
    with pytest.raises(InputError, match="already exists"):
        ome_zarr.LabelStoreWriter.create(tmp_path / "a.zarr", LabelFrame(geometry))
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_unknown_spacing_stays_unknown(tmp_path):
    ome_zarr.write_segmentation(Segmentation(blobs((9, 12)), Geometry.from_spacing((9, 12), None)), tmp_path / "a.zarr")
    found = ome_zarr.read_segmentation(tmp_path / "a.zarr")
    assert found.geometry.spacing is None
    (node,) = data_nodes(tmp_path / "a.zarr")
    assert all("unit" not in axis for axis in node.metadata["axes"])


def test_video_labels_keep_their_frames(tmp_path):
    labels = np.zeros((4, 20, 30), "uint8")
    labels[2, 3:6, 4:9] = 2
    meant = Segmentation(labels, Geometry.from_spacing((20, 30), None), axes="tyx", seconds_per_frame=0.04)
    ome_zarr.write_segmentation(meant, tmp_path / "a.zarr")
    found = ome_zarr.read_segmentation(tmp_path / "a.zarr")
    assert (found.axes, found.seconds_per_frame) == ("tyx", pytest.approx(0.04))
    np.testing.assert_array_equal(found.data, labels)
    (node,) = data_nodes(tmp_path / "a.zarr")
    assert node.metadata["axes"][0] == {"name": "t", "type": "time", "unit": "second"}


def test_many_instances_are_not_listed_one_by_one(tmp_path):
    labels = np.arange(10_201, dtype="int32").reshape(101, 101)
    table = LabelTable.from_names(["cell"], instances=True)
    ome_zarr.write_segmentation(
        Segmentation(labels, Geometry.from_spacing((101, 101), None), table), tmp_path / "a.zarr"
    )
    record = json.loads((tmp_path / "a.zarr/labels/labels/zarr.json").read_text())["attributes"]["ome"]["image-label"]
    assert "colors" not in record
    assert "properties" not in record
    assert ome_zarr.read_segmentation(tmp_path / "a.zarr").table == table


def rgb_image(shape: tuple[int, int] = (600, 700)) -> MedicalImage:
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype("uint8")
    return MedicalImage(
        (pixels,),
        "yxc",
        Geometry.from_spacing(shape, (0.5, 0.5), "um"),
        modality=Modality.SM,
        intensity="stain RGB",
        name="slide",
        objective_power=20.0,
    )


@pytest.mark.parametrize("ngff", NGFFS)
def test_image_is_copied_beside_its_labels(tmp_path, ngff):
    image = rgb_image()
    labels = Segmentation(blobs((600, 700)), image.geometry, name="nuclei")
    ome_zarr.write_segmentation(labels, tmp_path / "a.zarr", ngff=ngff, image=image)
    (found,) = ome_zarr.read(tmp_path / "a.zarr")
    assert (found.axes, found.modality, found.intensity, found.objective_power) == ("yxc", "SM", "stain RGB", 20.0)
    assert found.geometry.is_close(image.geometry)
    assert found.warnings == ()
    np.testing.assert_array_equal(found.levels[0], image.levels[0])
    np.testing.assert_array_equal(found.read((slice(3, 9), slice(5, 8))), image.read((slice(3, 9), slice(5, 8))))
    by_hand = image.levels[0].reshape(300, 2, 350, 2, 3).mean(axis=(1, 3), dtype="f4")
    np.testing.assert_array_equal(found.levels[1], np.rint(by_hand))
    nodes = data_nodes(tmp_path / "a.zarr")
    assert [node.data[0].shape for node in nodes] == [(3, 600, 700), (600, 700)]
    np.testing.assert_array_equal(np.asarray(nodes[0].data[0]), np.moveaxis(image.levels[0], -1, 0))
    starts = [node.metadata["coordinateTransformations"][0] for node in nodes]
    assert starts[0][0]["scale"][1:] == starts[1][0]["scale"]
    assert starts[0][1]["translation"][1:] == starts[1][1]["translation"]


def test_image_off_the_grid_is_refused(tmp_path):
    labels = Segmentation(blobs((600, 700)), Geometry.from_spacing((600, 700), (0.25, 0.25), "um"))
    with pytest.raises(InputError, match="grid"):
        ome_zarr.write_segmentation(labels, tmp_path / "a.zarr", image=rgb_image())


# ome-zarr calls its own deprecated scaler
@pytest.mark.filterwarnings("ignore:(?s).*scaler:DeprecationWarning")
@pytest.mark.parametrize("ngff", NGFFS)
def test_foreign_image_with_time_channels_and_depth(tmp_path, ngff):
    """Written by ome-zarr itself."""
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import add_metadata, write_image

    pixels = np.random.default_rng(1).integers(0, 4000, (2, 3, 4, 40, 50)).astype("uint16")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if ngff == "0.4" else 3)
    fmt = FormatV04() if ngff == "0.4" else FormatV05()
    scale = {"t": 500.0, "c": 1.0, "z": 2000.0, "y": 325.0, "x": 325.0}
    units = {"t": "millisecond", "z": "nanometer", "y": "nanometer", "x": "nanometer"}
    write_image(pixels, group, axes="tczyx", fmt=fmt, scale_factors=[], scale=scale, axes_units=units)
    channels = [
        {"label": n, "color": c, "window": {"start": 0, "end": 900, "min": 0, "max": 4000}}
        for n, c in (("DAPI", "0000FF"), ("GFP", "00FF00"), ("Cy5", "FF0000"))
    ]
    add_metadata(group, {"omero": {"channels": channels}}, fmt=fmt)
    (image,) = ome_zarr.read(tmp_path / "a.zarr")
    assert image.axes == "tzyxc"
    assert image.channels == ("DAPI", "GFP", "Cy5")
    assert image.intensity == "arbitrary"
    assert image.seconds_per_frame == pytest.approx(0.5)
    assert image.geometry.unit == "um"
    assert image.geometry.spacing == pytest.approx((2.0, 0.325, 0.325))
    assert image.details["display_windows"] == [[0, 900]] * 3
    np.testing.assert_array_equal(image.levels[0], np.moveaxis(pixels, 1, -1))
    np.testing.assert_array_equal(image.levels[0][1, 2, ::-2, 5, [2, 0]], pixels[1][[2, 0]][:, 2, ::-2, 5].T)
    np.testing.assert_array_equal(
        image.read((slice(1, 3), slice(0, 7), slice(9, 11)), frame=1, channels=[2]), pixels[1, [2], 1:3, 0:7, 9:11]
    )


# ome-zarr calls its own deprecated scaler
@pytest.mark.filterwarnings("ignore:(?s).*scaler:DeprecationWarning")
def test_foreign_labels_without_names(tmp_path):
    from ome_zarr.writer import write_image, write_labels

    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    write_image(np.zeros((1, 1, 1, 30, 40), "uint8") + 1, group, axes="tczyx", scale_factors=[])
    labels = blobs((30, 40))[None, None, None]
    write_labels(
        labels,
        group,
        "made",
        axes="tczyx",
        scale_factors=[],
        label_metadata={"colors": [{"label-value": 7, "rgba": [1, 2, 3, 255]}]},
    )
    found = ome_zarr.read_segmentation(tmp_path / "a.zarr")
    assert found.axes == "yx"
    np.testing.assert_array_equal(found.data, labels[0, 0, 0])
    assert found.table.name(7) == "label 7"
    assert found.table.colour(7) == (1, 2, 3)
    assert found.geometry.unit is None


# ome-zarr calls its own deprecated scaler
@pytest.mark.filterwarnings("ignore:(?s).*scaler:DeprecationWarning")
def test_several_label_images_are_named(tmp_path):
    from ome_zarr.writer import write_labels

    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name in ("a", "b"):
        write_labels(blobs((30, 40)), group, name, axes="yx", scale_factors=[])
    with pytest.raises(InputError, match=r"holds 2 label images \(a, b\)"):
        ome_zarr.read_segmentation(tmp_path / "a.zarr")
    assert ome_zarr.read_segmentation(tmp_path / "a.zarr/labels/b").name == "b"
    with pytest.raises(InputError, match="labels and no image"):
        ome_zarr.read(tmp_path / "a.zarr")


def test_another_programs_image_is_never_replaced(tmp_path):
    from ome_zarr.writer import write_image

    write_image(np.ones((30, 40), "uint8"), zarr.open_group(tmp_path / "a.zarr", mode="w"), axes="yx", scale_factors=[])
    labels = Segmentation(blobs((30, 40)), Geometry.from_spacing((30, 40), None))
    with pytest.raises(InputError, match="holds an image"):
        ome_zarr.write_segmentation(labels, tmp_path / "a.zarr", overwrite=True)
    with pytest.raises(InputError, match="holds an image"):
        ome_zarr.LabelStoreWriter.create(tmp_path / "a.zarr", LabelFrame(labels.geometry), overwrite=True)
    assert ome_zarr.read(tmp_path / "a.zarr")[0].shape == (30, 40)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 12), min_size=2, max_size=3).map(tuple),
    seed=st.integers(0, 2**32 - 1),
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    tilt=st.floats(0, 0.5),
    dtype=st.sampled_from(["uint8", "uint16", "int32", "uint32", "int64"]),
    ngff=st.sampled_from(NGFFS),
)
def test_any_grid_and_any_ids_survive(tmp_path_factory, shape, seed, order, signs, tilt, dtype, ngff):
    rng = np.random.default_rng(seed)
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.eye(3)[:, order]) * np.array(signs) * rng.uniform(0.1, 5, 3)
    affine[:3, 3] = rng.uniform(-500, 500, 3)
    top = min(np.iinfo(dtype).max, 2**62)
    labels = rng.choice(np.array([0, 1, top - 1, top], dtype), size=shape)
    meant = Segmentation(labels, Geometry(shape, affine, "mm", "patient"))
    path = tmp_path_factory.mktemp("any") / "a.zarr"
    ome_zarr.write_segmentation(meant, path, ngff=ngff)
    found = ome_zarr.read_segmentation(path)
    np.testing.assert_array_equal(found.data, labels)
    assert found.data.dtype == labels.dtype
    np.testing.assert_allclose(found.geometry.affine, affine, rtol=0, atol=1e-12)
    here, there = meant.extents(), found.extents()
    n = len(shape)
    for label, extent in here.items():
        np.testing.assert_allclose(
            meant.geometry.index_to_world(extent.centroid[-n:]),
            found.geometry.index_to_world(there[label].centroid[-n:]),
        )


def test_a_store_that_another_program_rescaled_loses_our_exact_grid(tmp_path):
    meant = segmentation()
    ome_zarr.write_segmentation(meant, tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr/labels/organs", mode="a")
    part = dict(group.attrs["ome"])
    part["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = [6.0, 1.4, 1.6]
    group.attrs["ome"] = part
    found = ome_zarr.read_segmentation(tmp_path / "a.zarr")
    assert found.geometry.frame == "image"
    assert found.geometry.spacing == pytest.approx((6.0, 1.4, 1.6))


def test_series_of_bioformats2raw(tmp_path):
    from ome_zarr.writer import write_image

    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    root.attrs["bioformats2raw.layout"] = 3
    root.create_group("OME")
    for k in range(11):
        write_image(
            np.full((1, 1, 1, 6, 7 + k), k + 1, "uint8"), root.create_group(str(k)), axes="tczyx", scale_factors=[]
        )
    images = ome_zarr.read(tmp_path / "a.zarr")
    assert [i.axes for i in images] == ["yx"] * 11
    assert [int(i.levels[0][0, 0]) for i in images] == list(range(1, 12))


@pytest.mark.parametrize(
    ("units", "scale", "expected"),
    [
        (["millimeter"] * 2, [2.0, 3.0], ((2.0, 3.0), "mm")),
        (["nanometer"] * 2, [250.0, 250.0], ((0.25, 0.25), "um")),
        (["micrometer", "nanometer"], [0.5, 250.0], ((0.5, 0.25), "um")),
        (["meter"] * 2, [0.001, 0.001], ((1.0, 1.0), "mm")),
        (["micrometer", None], [0.5, 0.5], (None, None)),
        (["parsec"] * 2, [0.5, 0.5], (None, None)),
    ],
)
def test_units(tmp_path, units, scale, expected):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", data=np.ones((5, 6), "u1"))
    axes = [{"name": a, "type": "space"} | ({"unit": u} if u else {}) for a, u in zip("yx", units, strict=True)]
    steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": [10 * s for s in scale]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    geometry = ome_zarr.read(tmp_path / "a.zarr")[0].geometry
    spacing, unit = expected
    assert geometry.unit == unit
    assert geometry.spacing == (pytest.approx(spacing) if spacing else None)
    np.testing.assert_allclose(geometry.index_to_world((-10, -10)), 0, atol=1e-9)


def test_transforms_of_the_whole_pyramid_follow_those_of_its_levels(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", data=np.ones((2, 5, 6), "u1"))
    axes = [{"name": "t", "type": "time", "unit": "second"}, *({"name": a, "unit": "micrometer"} for a in "yx")]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]}]
    whole = [{"type": "scale", "scale": [0.1, 1.0, 2.0]}, {"type": "translation", "translation": [0.0, 3.0, 4.0]}]
    record = {"axes": axes, "datasets": datasets, "coordinateTransformations": whole}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [record]}
    (image,) = ome_zarr.read(tmp_path / "a.zarr")
    assert image.seconds_per_frame == pytest.approx(0.1)
    assert image.geometry.spacing == pytest.approx((0.5, 1.0))
    assert image.geometry.origin == pytest.approx((4.0, 3.0, 0.0))


def test_plain_names_and_missing_axes_of_old_versions(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=np.ones((1, 2, 1, 5, 6), "u1"))
    group.attrs["multiscales"] = [{"version": "0.2", "datasets": [{"path": "0"}]}]
    (image,) = ome_zarr.read(tmp_path / "a.zarr")
    assert (image.axes, image.shape, image.geometry.unit) == ("yxc", (5, 6, 2), None)
    group.attrs["multiscales"] = [{"version": "0.3", "datasets": [{"path": "0"}], "axes": list("tczyx")}]
    assert ome_zarr.read(tmp_path / "a.zarr")[0].axes == "yxc"


def test_the_command_of_ome_zarr_describes_our_store(tmp_path, capsys):
    from ome_zarr.utils import info

    ome_zarr.write_segmentation(segmentation(), tmp_path / "a.zarr")
    list(info(str(tmp_path / "a.zarr")))
    said = capsys.readouterr().out
    assert "- version: 0.5" in said
    assert "Label" in said
    assert "(5, 20, 30)" in said


def test_labels_can_replace_themselves(tmp_path):
    """Read lazily from the store that is being replaced."""
    ome_zarr.write_segmentation(segmentation(), tmp_path / "a.zarr")
    lazy = ome_zarr.read_segmentation(tmp_path / "a.zarr")
    ome_zarr.write_segmentation(lazy, tmp_path / "a.zarr", overwrite=True, ngff="0.4")
    found = ome_zarr.read_segmentation(tmp_path / "a.zarr")
    np.testing.assert_array_equal(found.data, segmentation().data)
    assert found.table == segmentation().table
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize(
    ("axes", "shape"), [("tyxc", (3, 20, 30, 3)), ("tzyxc", (2, 3, 9, 8, 4)), ("zyx", (5, 20, 30))]
)
@pytest.mark.parametrize("ngff", NGFFS)
def test_images_of_any_axes_are_copied(tmp_path, axes, shape, ngff):
    pixels = np.random.default_rng(0).normal(size=shape).astype("f4")
    space = tuple(n for a, n in zip(axes, shape, strict=True) if a in "zyx")
    geometry = oblique(space) if len(space) == 3 else Geometry.from_spacing(space, None)
    image = MedicalImage(
        (pixels,), axes, geometry, modality=Modality.MR, name="i", seconds_per_frame=0.5 if "t" in axes else None
    )
    ome_zarr.write_segmentation(Segmentation(blobs(space), geometry), tmp_path / "a.zarr", ngff=ngff, image=image)
    (found,) = ome_zarr.read(tmp_path / "a.zarr")
    assert (found.axes, found.modality, found.seconds_per_frame) == (axes, "MR", image.seconds_per_frame)
    np.testing.assert_array_equal(found.levels[0], pixels)
    np.testing.assert_allclose(found.geometry.affine, geometry.affine)
    assert ome_zarr.read_segmentation(tmp_path / "a.zarr").geometry.is_close(found.geometry)


def chunk_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name.replace(".", "").isdecimal())


def sparse_store(path: Path, ngff: str, *, with_image: bool = False) -> None:
    """Labels, and an image, of 3 x 3 chunks of which 2 hold something."""
    pixels = np.zeros((2100, 2100), "uint8")
    pixels[5:9, 5:9] = 3
    pixels[2090:, 2090:] = 200
    geometry = Geometry.from_spacing(pixels.shape, (0.5, 0.5), "um")
    image = MedicalImage((pixels,), "yx", geometry) if with_image else None
    ome_zarr.write_segmentation(Segmentation(pixels, geometry, name="cells"), path, ngff=ngff, image=image)


@pytest.mark.parametrize("ngff", NGFFS)
@pytest.mark.parametrize("place", ["labels/cells/0", "0"])
def test_lost_chunks_are_not_read_as_background(tmp_path, ngff, place):
    path = tmp_path / "a.zarr"
    sparse_store(path, ngff, with_image=True)
    read = ome_zarr.read if place == "0" else ome_zarr.read_segmentation
    read(path)
    first, second = chunk_files(path / place)
    (path / place / ".DS_Store").touch()
    first.unlink()
    with pytest.raises(InputError, match=r"^a\.zarr.*: 1 of 2 stored chunks are missing; copy or export") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    if place == "0":
        ome_zarr.read_segmentation(path)
    else:
        ome_zarr.read(path)
    if ngff == "0.5":
        shutil.rmtree(path / place / "c")
    else:
        second.unlink()
    with pytest.raises(InputError, match=r"2 of 2 stored chunks"):
        read(path)


@pytest.mark.parametrize("ngff", NGFFS)
def test_background_that_was_never_stored_is_not_missed(tmp_path, ngff):
    path = tmp_path / "a.zarr"
    sparse_store(path, ngff)
    assert ome_zarr.read_segmentation(path).data[1500, 1500] == 0
    geometry = Geometry.from_spacing((40, 50), None)
    ome_zarr.write_segmentation(Segmentation(np.zeros((40, 50), "uint8"), geometry), tmp_path / "b.zarr", ngff=ngff)
    assert chunk_files(tmp_path / "b.zarr") == []
    assert not np.asarray(ome_zarr.read_segmentation(tmp_path / "b.zarr").data).any()


@pytest.mark.parametrize("ngff", NGFFS)
def test_several_label_images_of_one_store_know_their_chunks(tmp_path, ngff):
    root = ome_zarr.open_root(tmp_path / "a.zarr", ngff)
    for name, value in (("organs", 2), ("cells", 3)):
        frame = LabelFrame(Geometry.from_spacing((1500, 1500), None), name=name, ngff=ngff)
        group = ome_zarr.LabelGroup(root, frame)
        group.array[5:9, 5:9] = value
        group.write_records(LabelTable(), Provenance(), group.count_and_shrink())
    path = tmp_path / "a.zarr"
    assert ome_zarr.label_names(path) == ["organs", "cells"]
    ome_zarr.read_segmentation(path / "labels/organs")
    assert ome_zarr.read_segmentation(path / "labels/cells").data[6, 6] == 3
    chunk_files(path / "labels/cells/0")[0].unlink()
    ome_zarr.read_segmentation(path / "labels/organs")
    with pytest.raises(InputError, match="1 of 1 stored chunks"):
        ome_zarr.read_segmentation(path / "labels/cells")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 5), st.integers(513, 700), st.integers(513, 1100), st.randoms(use_true_random=False))
def test_levels_do_not_depend_on_the_boxes_they_were_made_of(tmp_path_factory, seed, height, width, order):
    """Every n-th voxel of the finest level, whatever the order and size of the boxes that came."""
    path = tmp_path_factory.mktemp("o") / "a.zarr"
    labels = np.random.default_rng(seed).integers(0, 5, (height, width), dtype=np.uint8)
    group = ome_zarr.LabelGroup(
        ome_zarr.open_root(path, "0.5"), LabelFrame(Geometry.from_spacing(labels.shape, None), chunks=(64, 96))
    )
    edges = [sorted({0, n, *(order.randrange(1, n) for _ in range(3))}) for n in labels.shape]
    parts = [
        (slice(a, b), slice(c, d)) for a, b in itertools.pairwise(edges[0]) for c, d in itertools.pairwise(edges[1])
    ]
    order.shuffle(parts)
    for part in parts:
        group.array[part] = labels[part]
        group.shrink(part, labels[part])
    for factor, level in zip(group.factors, group.levels, strict=True):
        assert np.array_equal(np.asarray(level[:]), labels[:: factor[0], :: factor[1]])


def test_stores_that_count_no_chunks_or_were_cropped_open_as_before(tmp_path):
    path = tmp_path / "a.zarr"
    sparse_store(path, "0.5")
    group = zarr.open_group(path / "labels/cells", mode="r+")
    private = dict(group.attrs["medseg"])
    chunk_files(path / "labels/cells/0")[0].unlink()
    for changed in ({"stored_chunks": None}, {"array_shape": [9, 9]}, {"chunk_shape": [64, 64]}):
        group.attrs["medseg"] = private | changed
        assert ome_zarr.read_segmentation(path).data[6, 6] == 0


OUTSIDE = ["../../other.zarr/0", "..", "a/../../b", "/0", "{tmp}/other.zarr/0", "..\\b", "C:\\b", "\\\\host\\b"]


@pytest.mark.parametrize("ngff", NGFFS)
@pytest.mark.parametrize("named", OUTSIDE)
def test_paths_that_lead_out_of_the_store_are_refused(tmp_path, ngff, named):
    named = named.format(tmp=tmp_path)
    path = tmp_path / "a.zarr"
    sparse_store(path, ngff, with_image=True)
    sparse_store(tmp_path / "other.zarr", ngff, with_image=True)
    for place, read in (("", ome_zarr.read), ("labels/cells", ome_zarr.read_segmentation)):
        group = zarr.open_group(path / place, mode="r+")
        part = json.loads(json.dumps(group.attrs.asdict()))
        ngff_part = part.get("ome", part)
        ngff_part["multiscales"][0]["datasets"][0]["path"] = named
        group.attrs.update(part)
        with pytest.raises(RefusedError, match=r"^a\.zarr.*: its list of levels leads out of the store; ") as caught:
            read(path)
        assert str(tmp_path) not in str(caught.value)
    labels = zarr.open_group(path / "labels", mode="r+")
    labels.attrs.update({"ome": {"version": "0.5", "labels": [named]}} if ngff == "0.5" else {"labels": [named]})
    for read in (ome_zarr.label_names, ome_zarr.read_segmentation):
        with pytest.raises(RefusedError, match=r"^a\.zarr: its list of labels leads out of the store; ") as caught:
            read(path)
        assert str(tmp_path) not in str(caught.value)
    assert caught.value.exit_code == 3
