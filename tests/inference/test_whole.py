"""Models that must see a whole picture at once: classical methods beside networks."""

from pathlib import Path

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from napari_medseg.case import Geometry, InputError, MedicalImage, Modality
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference import task as task_module
from napari_medseg.inference.tiles import memory
from napari_medseg.networks.classical import ClassicalSegmenter
from tests.inference.fakes import make_model


def otsu_model(dims: int = 2, method: str = "otsu", **values):
    network = ClassicalSegmenter(spatial_dims=dims, method=method, values=values)
    return make_model(network, channels=0, whole=True, spatial_dims=dims, tile=(64,) * dims, activation="softmax")


def graded(shape: tuple[int, ...]) -> np.ndarray:
    """Two brightnesses on a strong slope: no tile's own threshold is the whole picture's."""
    random = np.random.default_rng(1)
    slope = np.linspace(0, 90, shape[-1])
    return (slope + 80 * (random.random(shape) > 0.6) + random.normal(0, 5, shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(300, 210), (20, 60, 50)])
def test_the_threshold_is_that_of_the_whole_image_not_of_tiles(shape, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "_CHUNK_2D", (64, 64))
    pixels = graded(shape)
    geometry = Geometry.from_spacing(shape, (1.0,) * len(shape), "mm")
    image = MedicalImage((pixels,), "zyx"[-len(shape) :], geometry, Modality.MR, "arbitrary", name="graded")
    result = segment(image, otsu_model(len(shape)), tmp_path / "o.zarr", SegmentOptions())
    found = np.asarray(result.segmentation.data)
    # values at the threshold's own bin may fall to either side
    certain = np.abs(pixels.astype(float) - threshold_otsu(pixels)) > 2
    assert np.array_equal(found[certain], (pixels > threshold_otsu(pixels))[certain])
    assert result.report.tiles["planned"] == 1
    assert "no network" in result.report.backend_reason


def test_colours_and_grey_are_read_by_the_same_model(tmp_path: Path) -> None:
    grey = graded((80, 90))
    geometry = Geometry.from_spacing((80, 90), (1.0, 1.0), "mm")
    model = otsu_model()
    coloured = MedicalImage((np.repeat(grey[..., None], 3, -1),), "yxc", geometry, Modality.ES, "RGB", name="rgb")
    alone = MedicalImage((grey,), "yx", geometry, Modality.US, "arbitrary", name="grey")
    one, other = (
        np.asarray(segment(image, model, tmp_path / f"{image.name}.zarr").segmentation.data)
        for image in (coloured, alone)
    )
    assert one.any()
    assert (one == other).mean() > 0.995


def test_what_is_too_large_or_cannot_be_exported_is_refused_in_words(tmp_path: Path, monkeypatch) -> None:
    geometry = Geometry.from_spacing((80, 90), (1.0, 1.0), "mm")
    image = MedicalImage((graded((80, 90)),), "yx", geometry, Modality.US, "arbitrary", name="grey")
    with pytest.raises(InputError, match="computed by torch alone"):
        segment(image, otsu_model(), tmp_path / "a.zarr", SegmentOptions(backend="openvino"))
    monkeypatch.setattr(task_module, "_WHOLE_SIDE", 85)
    with pytest.raises(InputError, match=r"looks at everything at once, and 80 x 90 is too much .*sides up to 85"):
        segment(image, otsu_model(), tmp_path / "b.zarr", SegmentOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_needs_scribbles_is_no_model() -> None:
    with pytest.raises(InputError, match="needs scribbles or forest"):
        ClassicalSegmenter(method="random_forest")
    with pytest.raises(InputError, match="classes"):
        ClassicalSegmenter(values={"classes": 1})


def test_options_of_tiles_are_said_to_be_left_out(tmp_path: Path) -> None:
    geometry = Geometry.from_spacing((80, 90), (1.0, 1.0), "mm")
    image = MedicalImage((graded((80, 90)),), "yx", geometry, Modality.US, "arbitrary", name="grey")
    plain = segment(image, otsu_model(), tmp_path / "a.zarr", SegmentOptions())
    assert not any("left out" in w for w in plain.report.warnings)
    asked = segment(image, otsu_model(), tmp_path / "b.zarr", SegmentOptions(overlap=0.5, margin=3))
    assert any("has no tiles: overlap and margin were left out" in w for w in asked.report.warnings)
