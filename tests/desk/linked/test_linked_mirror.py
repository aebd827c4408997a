"""A mirror shows the original's own arrays at the original's place."""

import gc
import weakref

import dask.array as da
import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_medseg.desk.layers import layer_affine
from napari_medseg.desk.linked.mirror import Mirror

PLACE = {
    "scale": (3.0, 0.5, 0.25),
    "translate": (10.0, -4.0, 7.0),
    "rotate": (10.0, 20.0, 30.0),
    "shear": (0.1, 0.2, 0.0),
    "affine": np.array([[1, 0, 0.3, 2], [0, 1.5, 0, 0], [0, 0.2, 1, -1], [0, 0, 0, 1.0]]),
    "units": ("mm", "mm", "mm"),
    "axis_labels": ("z", "y", "x"),
}


@pytest.fixture
def dirty():
    return []


def mirror(layer, dirty):
    return Mirror(layer, dirty.append, lambda: None)


def test_arrays_and_place_are_the_originals(dirty):
    labels = Labels(np.arange(60, dtype=np.uint16).reshape(3, 4, 5), **PLACE)
    shown = mirror(labels, dirty).shown
    assert shown.data is labels.data
    np.testing.assert_allclose(layer_affine(shown), layer_affine(labels), atol=1e-12)
    assert shown.units == labels.units
    assert tuple(shown.axis_labels) == ("z", "y", "x")
    assert not shown.editable


def test_every_level_of_a_pyramid_is_shared(dirty):
    levels = [da.zeros((64, 64), chunks=32, dtype=np.uint8), da.zeros((32, 32), chunks=32, dtype=np.uint8)]
    for layer in (Image(levels, contrast_limits=(0, 9)), Labels(levels, scale=(0.5, 0.5))):
        twin = mirror(layer, dirty)
        assert twin.shown.multiscale
        assert all(own is other for own, other in zip(twin.shown.data, levels, strict=True))
        assert twin.shares_arrays


@pytest.mark.parametrize("name", sorted(set(PLACE) - {"axis_labels"}))
def test_a_moved_original_takes_its_mirror_along(dirty, name):
    labels = Labels(np.zeros((3, 4, 5), np.uint8))
    twin = mirror(labels, dirty)
    setattr(labels, name, PLACE[name])
    np.testing.assert_allclose(layer_affine(twin.shown), layer_affine(labels), atol=1e-12)
    assert twin.shown.units == labels.units


def test_looks_follow(dirty):
    image = Image(np.random.default_rng(0).random((8, 8)).astype(np.float32))
    shown = mirror(image, dirty).shown
    image.contrast_limits_range = (-5, 50)
    image.contrast_limits = (-2, 30)
    image.gamma, image.colormap, image.name = 0.5, "magma", "renamed"
    assert tuple(shown.contrast_limits) == (-2, 30)
    assert (shown.gamma, shown.colormap.name, shown.name) == (0.5, "magma", "renamed")


def test_selected_label_of_the_original_does_not_leak_through_a_shared_colormap(dirty):
    labels = Labels(np.array([[0, 1, 2]], np.uint8))
    twin = mirror(labels, dirty)
    assert twin.shown.colormap is not labels.colormap
    labels.selected_label = 2
    labels.show_selected_label = True
    assert (twin.shown.selected_label, twin.shown.show_selected_label) == (2, True)
    twin.end()
    labels.show_selected_label = False
    assert twin.shown.show_selected_label


def test_edits_are_told_and_shown(dirty):
    labels = Labels(np.zeros((20, 20), np.uint8))
    twin = mirror(labels, dirty)
    labels.paint((10, 10), 3)
    assert dirty and dirty[-1] is twin
    dirty.clear()
    labels.undo()
    assert dirty
    dirty.clear()
    labels.data[0, 0] = 7
    labels.refresh()
    assert dirty
    twin.refresh()
    assert twin.shown.get_value((0, 0)) == 7


def test_new_data_replaces_the_mirrors(dirty):
    labels = Labels(np.zeros((20, 20), np.uint8))
    twin = mirror(labels, dirty)
    labels.data = np.full((20, 20), 5, np.uint8)
    assert not twin.shares_arrays and dirty
    twin.refresh()
    assert twin.shown.data is labels.data
    assert not twin.shown.editable


def test_looking_at_another_slice_is_no_edit(dirty):
    labels = Labels(np.zeros((4, 20, 20), np.uint8))
    where = [0]
    twin = Mirror(labels, dirty.append, lambda: where[0])
    where[0] = 1
    labels.refresh()
    assert not dirty
    labels.refresh()
    assert dirty == [twin]


def test_an_ended_mirror_is_forgotten(dirty):
    labels = Labels(np.zeros((4, 4), np.uint8))
    before = {name: len(emitter.callbacks) for name, emitter in labels.events.emitters.items()}
    twin = mirror(labels, dirty)
    assert {name: len(emitter.callbacks) for name, emitter in labels.events.emitters.items()} != before
    twin.end()
    assert {name: len(emitter.callbacks) for name, emitter in labels.events.emitters.items()} == before
    layer, gone = weakref.ref(twin.shown), weakref.ref(twin)
    del twin
    gc.collect()
    assert layer() is None and gone() is None
