import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer

from napari_medseg.case import Geometry, InputError, MedicalImage
from napari_medseg.desk.layers import image_layers
from napari_medseg.desk.regions import SLICE, VIEW, WHOLE, Part, part_of


@pytest.fixture
def viewer():
    return ViewerModel()


def add(viewer, image):
    return viewer.add_layer(Layer.create(*image_layers(image)[0]))


def test_whole_image_is_no_limit(viewer, volume):
    assert part_of(WHOLE, viewer, add(viewer, volume)) == Part()


def test_current_slice_of_a_turned_volume_is_one_plane_of_the_file(viewer, volume):
    layer = add(viewer, volume)
    # plane 10 of the file's y axis, which points to inferior, lies at S = 12 - 1.5 * 10
    viewer.dims.set_point(0, 3.0)
    part = part_of(SLICE, viewer, layer)
    assert part.region == (slice(0, 20), slice(10, 11), slice(0, 28))


def test_current_frame_of_a_clip(viewer):
    clip = np.arange(5 * 4 * 6 * 3, dtype=np.uint8).reshape(5, 4, 6, 3)
    image = MedicalImage((clip,), "tyxc", Geometry.from_spacing((4, 6), None), intensity="RGB", seconds_per_frame=0.1)
    layer = add(viewer, image)
    viewer.dims.set_point(0, 0.3)
    part = part_of(SLICE, viewer, layer)
    assert part.frame == 3
    np.testing.assert_array_equal(part.frames_of(image).levels[0], clip[3:4])


def test_view_is_the_visible_rectangle(viewer, slide):
    layer = add(viewer, slide)
    layer.corner_pixels = np.array([[10, 20], [30, 50]])
    assert part_of(VIEW, viewer, layer).region == (slice(10, 31), slice(20, 51))


def test_shape_is_its_bounding_box_in_the_image(viewer, slide):
    layer = add(viewer, slide)
    # pixels of 0.5 um, first centre at y 50, x 100
    corners = np.array([[55.0, 105.0], [55.0, 115.0], [60.0, 115.0], [60.0, 105.0]])
    viewer.add_shapes(corners, name="box")
    assert part_of("box", viewer, layer).region == (slice(10, 21), slice(10, 31))


def test_flat_shape_reaches_through_all_slices(viewer, volume):
    layer = add(viewer, volume)
    # P from -30 to -20 mm and L from 0 to 20 mm
    viewer.add_shapes(np.array([[-30.0, 0], [-30, 20], [-20, 20], [-20, 0]]), name="box")
    region = part_of("box", viewer, layer).region
    # file axes: right, inferior, anterior
    assert region == (slice(5, 16), slice(0, 24), slice(13, 24))


def test_region_outside_says_so(viewer, slide):
    layer = add(viewer, slide)
    viewer.add_shapes(np.array([[900.0, 900], [900, 950], [950, 950], [950, 900]]), name="far")
    with pytest.raises(InputError, match="far: no part of slide lies there"):
        part_of("far", viewer, layer)
    viewer.add_shapes(name="empty")
    with pytest.raises(InputError, match="nothing is drawn"):
        part_of("empty", viewer, layer)
