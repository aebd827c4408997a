from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
from napari.layers import Image, Labels, Layer

from napari_medseg.case import Geometry, InputError, LabelTable, MedicalImage, Modality, Provenance, Segmentation, Step
from napari_medseg.desk.layers import (
    image_layers,
    labels_layer,
    layer_affine,
    medical_image,
    segmentation,
    source_of,
)
from napari_medseg.desk.placement import viewer_affine


def shown(image):
    return Layer.create(*image_layers(image)[0])


def test_sagittal_volume_is_turned_and_comes_back_unchanged(volume):
    layer = shown(volume)
    assert layer.data.shape == (24, 28, 20)
    assert medical_image(layer) is volume
    world = viewer_affine(volume.geometry) @ [5, 12, 20, 1]
    index = np.round(layer.world_to_data(world[:3])).astype(int)
    assert layer.data[tuple(index)] == 200
    assert [str(u) for u in layer.units] == ["millimeter"] * 3


def test_lazy_volume_stays_lazy(volume):
    reads = []

    def watch(block):
        reads.append(block.shape)
        return block

    lazy = da.from_array(volume.levels[0], chunks=(4, 24, 28)).map_blocks(watch, dtype=np.int16, meta=np.empty(0, "i2"))
    data, _options, _kind = image_layers(replace(volume, levels=(lazy,)))[0]
    # only the three planes that set the contrast were read
    assert len(reads) == 3
    assert isinstance(data, da.Array)


def test_labels_come_back_on_the_file_grid_with_their_history(volume):
    ids = (volume.levels[0] > 100).astype(np.uint8)
    history = Provenance("abc").with_step(Step.now("segment", model="m"))
    made = Segmentation(ids, volume.geometry, LabelTable.from_names(["lesion"]), history)
    layer = Layer.create(*labels_layer(made))
    back = segmentation(layer)
    assert back.geometry is volume.geometry
    np.testing.assert_array_equal(back.data, ids)
    assert back.provenance == history
    assert back.table == made.table


def test_painting_adds_one_edit_step_and_undo_takes_it_away(volume):
    made = Segmentation(np.zeros(volume.shape, np.uint8), volume.geometry, LabelTable.from_names(["lesion"]))
    layer = Layer.create(*labels_layer(made))
    layer.paint((3, 4, 5), 1)
    edited = segmentation(layer)
    assert [s.action for s in edited.provenance.steps] == ["edit"]
    assert edited.data.sum() == layer.data.sum() > 0
    layer.undo()
    assert segmentation(layer).provenance.steps == ()


def test_a_moved_layer_counts_as_it_is_now(slide):
    layer = shown(slide)
    layer.scale = (1.0, 2.0)
    image = medical_image(layer)
    assert image.geometry.spacing == pytest.approx((1.0, 2.0))
    assert image.geometry.origin == pytest.approx((100.0, 50.0, 0.0))
    assert image.modality is Modality.SM


def test_units_given_by_hand_make_the_spacing_known():
    image = MedicalImage((np.zeros((4, 5)),), "yx", Geometry.from_spacing((4, 5), None))
    layer = shown(image)
    assert medical_image(layer).geometry.spacing is None
    layer.scale, layer.units = (0.25, 0.25), ("nanometer", "nanometer")
    geometry = medical_image(layer).geometry
    assert (geometry.unit, geometry.spacing) == ("um", pytest.approx((0.00025, 0.00025)))


def test_the_whole_transform_of_a_layer_from_elsewhere_counts():
    affine = np.array([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    layer = Image(np.zeros((6, 7)), scale=(2, 3), translate=(10, 20), affine=affine, units=("mm", "mm"))
    geometry = medical_image(layer).geometry
    assert geometry.spacing == (2.0, 3.0)
    assert geometry.origin == (24.0, 13.0, 0.0)
    np.testing.assert_allclose(layer_affine(layer) @ [1, 1, 1], [15, 27, 1])


def test_rotated_layer_keeps_its_angle():
    layer = Image(np.zeros((6, 7)), rotate=30, scale=(2, 2), units=("um", "um"))
    geometry = medical_image(layer).geometry
    assert geometry.obliquity_degrees == pytest.approx(30)
    np.testing.assert_allclose(geometry.index_to_world((1, 2))[[1, 0]], layer.data_to_world((1, 2)))


def test_colour_clip_from_elsewhere():
    layer = Image(np.zeros((3, 4, 5, 3), np.uint8), rgb=True, axis_labels=("t", "y", "x"))
    image = medical_image(layer)
    assert (image.axes, image.frame_count, image.channel_count) == ("tyxc", 3, 3)


@pytest.mark.parametrize("shape", [(7,), (2, 2, 2, 2, 2)])
def test_layers_with_too_many_axes_are_refused(shape):
    with pytest.raises(InputError, match=f"has {len(shape)} axes"):
        medical_image(Image(np.zeros(shape)) if len(shape) > 1 else _one_axis())


def _one_axis():
    layer = Image(np.zeros((3, 3)))
    layer.__class__ = type("OneAxis", (Image,), {"ndim": 1})
    return layer


def test_labels_drawn_over_our_image_lie_on_its_file_grid(volume):
    layer = shown(volume)
    drawn = Labels(np.zeros(layer.data.shape, np.uint8), scale=layer.scale, translate=layer.translate)
    drawn.units = layer.units
    world = viewer_affine(volume.geometry) @ [5, 12, 20, 1]
    drawn.data[tuple(np.round(drawn.world_to_data(world[:3])).astype(int))] = 3
    labels = segmentation(drawn, [layer])
    assert labels.geometry.is_close(volume.geometry)
    assert labels.data[5, 12, 20] == 3
    assert source_of(drawn, [layer]) is volume
    assert [s.action for s in labels.provenance.steps] == ["edit"]


def test_an_image_turned_into_labels_by_napari_keeps_its_grid(volume):
    layer = shown(volume)
    turned = Labels((layer.data > 100).astype(np.uint8), metadata=layer.metadata, scale=layer.scale)
    turned.translate, turned.units = layer.translate, layer.units
    labels = segmentation(turned)
    assert labels.geometry.is_close(volume.geometry)
    np.testing.assert_array_equal(labels.data, volume.levels[0] > 100)


def test_class_colours_and_names(slide):
    table = LabelTable.from_names({1: "tumour", 4: "stroma"})
    ids = np.zeros(slide.geometry.shape, np.uint8)
    ids[0, :6] = [0, 1, 4, 4, 9, 0]
    layer = Layer.create(*labels_layer(Segmentation(ids, slide.geometry, table)))
    colours = (layer.colormap.map(ids[0, :5]) * 255).round().astype(int)
    assert colours[0, 3] == 0
    assert tuple(colours[1, :3]) == table.colour(1)
    assert tuple(colours[2, :3]) == table.colour(4)
    assert tuple(colours[4]) == (153, 153, 153, 255)
    inside = layer.data_to_world((0, 2))
    assert "structure: stroma" in layer.get_status(inside, world=True)["value"]


def test_objects_are_named_one_by_one_and_take_palette_colours(slide):
    table = LabelTable.from_names(["nucleus"], instances=True)
    ids = np.zeros(slide.geometry.shape, np.uint32)
    ids[0, 0], ids[0, 1] = 1, 12
    layer = Layer.create(*labels_layer(Segmentation(ids, slide.geometry, table)))
    assert "structure: nucleus 12" in layer.get_status(layer.data_to_world((0, 1)), world=True)["value"]
    colours = (layer.colormap.map(np.array([1, 12, 0])) * 255).round().astype(int)
    assert tuple(colours[0, :3]) == table.colour(1)
    assert tuple(colours[1, :3]) == table.colour(12)
    assert colours[2, 3] == 0


def test_channels_that_are_no_colours_become_layers():
    image = MedicalImage(
        (np.zeros((4, 5, 2), np.uint16),), "yxc", Geometry.from_spacing((4, 5), None), channels=("DAPI", "CD3")
    )
    (_data, options, _kind) = image_layers(image)[0]
    assert options["channel_axis"] == 2
    assert options["name"] == ["image DAPI", "image CD3"]


def test_duplicating_a_layer_copies_no_case(volume):
    from copy import deepcopy

    layer = shown(volume)
    assert deepcopy(layer.metadata)["medseg"] is layer.metadata["medseg"]


def test_large_labels_are_shown_from_their_pyramid(tmp_path, monkeypatch):
    from napari_medseg.desk import layers
    from napari_medseg.io.ome_zarr import LabelFrame, LabelStoreWriter, read_segmentation

    monkeypatch.setattr(layers, "IN_MEMORY_BYTES", 1000)
    geometry = Geometry.from_spacing((1500, 2000), (0.5, 0.5), "um")
    with LabelStoreWriter.create(tmp_path / "a.zarr", LabelFrame(geometry)) as writer:
        writer.array[100:900, 300:1200] = 7
        writer.finish(LabelTable.from_names({7: "stroma"}), Provenance())
    stored = read_segmentation(tmp_path / "a.zarr")
    layer = Layer.create(*labels_layer(stored))
    assert layer.multiscale
    assert [tuple(level.shape) for level in layer.data] == [(1500, 2000), (750, 1000), (375, 500)]
    assert layer.get_value((100 * 0.5, 300 * 0.5), world=True)[1] == 7
    np.testing.assert_array_equal(np.asarray(segmentation(layer).data[...]), np.asarray(stored.data[...]))
