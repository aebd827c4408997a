import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.draw import polygon2mask

from napari_medseg.case import Geometry, InputError, Label, LabelTable, Provenance, Segmentation, Step
from napari_medseg.io import open_images, open_segmentation, write_segmentation

CLASSES = LabelTable((Label(1, "gland", (1, 2, 3)), Label(2, "stroma")))


def slide(data, table=CLASSES):
    geometry = Geometry.from_spacing(data.shape, (0.5, 0.25), "um", origin=(7.0, 9.0, 0.0))
    return Segmentation(data, geometry, table, Provenance("abc").with_step(Step.now("segment")), "tissue")


@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3)))
def test_outlines_give_the_labels_back_to_the_pixel(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("g") / "labels.geojson"
    written = slide(data)
    write_segmentation(written, path)
    again = open_segmentation(path)
    assert np.array_equal(again.data, data)
    assert again.data.dtype == data.dtype
    assert again.geometry.is_close(written.geometry)
    assert (again.table, again.provenance, again.name) == (written.table, written.provenance, "tissue")


def test_a_square_is_four_corners_on_pixel_edges(tmp_path):
    data = np.zeros((10, 10), np.uint8)
    data[2:5, 3:7] = 1
    write_segmentation(slide(data), tmp_path / "o.geojson")
    feature = json.loads((tmp_path / "o.geojson").read_text())["features"][0]
    assert feature["geometry"]["type"] == "Polygon"
    corners = {tuple(p) for p in feature["geometry"]["coordinates"][0]}
    assert corners == {(3, 2), (7, 2), (7, 5), (3, 5)}
    assert feature["properties"]["classification"] == {"name": "gland", "color": [1, 2, 3]}
    assert feature["properties"]["objectType"] == "annotation"


def test_polygons_drawn_by_another_library_cover_the_same_pixels(tmp_path):
    y, x = np.mgrid[:40, :50]
    data = ((y - 18) ** 2 + (x - 22) ** 2 < 144).astype(np.uint8)
    write_segmentation(slide(data), tmp_path / "o.geojson")
    feature = json.loads((tmp_path / "o.geojson").read_text())["features"][0]
    ring = np.array(feature["geometry"]["coordinates"][0])
    # pixel centres lie half a pixel inside the edges
    assert np.array_equal(polygon2mask(data.shape, ring[:, ::-1] - 0.5), data.astype(bool))


def test_objects_are_detections_of_one_class(tmp_path):
    data = np.zeros((9, 9), np.uint32)
    data[1:3, 1:3], data[5:8, 5:8] = 1, 70_000
    table = LabelTable((Label(1, "nucleus", (9, 8, 7)),), instances=True)
    write_segmentation(slide(data, table), tmp_path / "o.geojson")
    features = json.loads((tmp_path / "o.geojson").read_text())["features"]
    assert [f["properties"]["label"] for f in features] == [1, 70_000]
    assert {f["properties"]["objectType"] for f in features} == {"detection"}
    assert {f["properties"]["classification"]["name"] for f in features} == {"nucleus"}


def test_volumes_damaged_and_foreign_files_are_refused(tmp_path):
    volume = Segmentation(np.zeros((2, 3, 4), np.uint8), Geometry.from_spacing((2, 3, 4), None))
    with pytest.raises(InputError, match="outlines of one picture"):
        write_segmentation(volume, tmp_path / "v.geojson")
    assert list(tmp_path.iterdir()) == []
    write_segmentation(slide(np.ones((2, 2), np.uint8)), tmp_path / "good.geojson")
    with pytest.raises(InputError, match="hold labels, not an image"):
        open_images(tmp_path / "good.geojson")
    (tmp_path / "bad.geojson").write_text("{")
    with pytest.raises(InputError, match=r"bad\.geojson: is not a GeoJSON"):
        open_segmentation(tmp_path / "bad.geojson")
    (tmp_path / "other.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(InputError, match="how large the image is"):
        open_segmentation(tmp_path / "other.geojson")
    (tmp_path / "half.geojson").write_text('{"features": [], "medseg": {"geometry": {}}}')
    with pytest.raises(InputError, match="damaged"):
        open_segmentation(tmp_path / "half.geojson")
