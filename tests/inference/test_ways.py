"""Ways through the engine: seams, tissue, mosaics, slice stacks, probabilities."""

import dataclasses

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from napari_medseg.bundles.intensity import IntensityPlan, intensity_step
from napari_medseg.case import Geometry, InputError, MedicalImage, Modality
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.task import Task
from napari_medseg.io import ome_zarr
from napari_medseg.io.ome_zarr.maps import MapGroup
from tests.inference.fakes import Pieces, Threshold, make_model

TORCH = SegmentOptions(backend="torch")


def volume(data, spacing=(1.0, 1.0, 1.0), modality=Modality.MR):
    return MedicalImage((data,), "zyx", Geometry.from_spacing(data.shape[-3:], spacing, "mm", "patient"), modality)


def labels_of(result):
    return np.asarray(result.segmentation.data[...])


# -- seams ------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 34), st.integers(1, 34)),
    st.sampled_from((1, 3, 5, 7)),
    st.integers(1, 20),
    st.sampled_from((0.0, 0.1, 0.25, 0.5, 0.75, 0.9)),
    st.integers(0, 3),
    st.sampled_from(("gaussian", "constant")),
)
def test_no_seams_for_any_stride_and_margin(tmp_path_factory, shape, reach, tile, overlap, more, blending):
    """A shift-equivariant network gives the untiled map, to 1e-5, once the margin is as wide as it looks."""
    margin = reach // 2 + more
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, reach, padding=reach // 2)
    data = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    image = MedicalImage((data,), "yx", Geometry.from_spacing(shape, None))
    model = make_model(network, tile=(tile + 2 * margin,) * 2, activation="none")
    options = dataclasses.replace(TORCH, overlap=overlap, margin=margin, blending=blending, probabilities=True)
    tiled = np.zeros((2, *shape), np.float32)

    def keep(group, place, box, values):
        # before they are rounded to the half precision of the store
        tiled[(slice(None), *box)] = values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MapGroup, "write", keep)
        segment(image, model, tmp_path_factory.mktemp("o") / "o.zarr", options)
    with torch.inference_mode():
        whole = network(torch.from_numpy(data)[None, None])[0].numpy()
    assert np.abs(tiled - whole).max() < 1e-5


def test_a_margin_that_leaves_nothing_is_refused(tmp_path):
    image = MedicalImage((np.zeros((9, 9), np.float32),), "yx", Geometry.from_spacing((9, 9), None))
    with pytest.raises(InputError, match="accepted are 0 to 3"):
        segment(image, make_model(Threshold()), tmp_path / "o.zarr", dataclasses.replace(TORCH, margin=4))


# -- tissue -----------------------------------------------------------------------------------------


def slide(height=1200, width=1500):
    """Generated: a stained patch with dark nuclei on noisy glass, 0.5 micrometres a pixel."""
    random = np.random.default_rng(0)
    pixels = random.integers(244, 252, (height, width, 3)).astype(np.uint8)
    pixels[300:700, 200:800] = (205, 140, 190)
    pixels[300:700, 200:800] -= random.integers(0, 25, (400, 600, 1), dtype=np.uint8)
    for _ in range(200):
        y, x = random.integers(310, 680), random.integers(210, 780)
        pixels[y : y + 10, x : x + 10] = (90, 40, 140)
    geometry = Geometry.from_spacing((height, width), (0.5, 0.5), "um")
    return MedicalImage((pixels,), "yxc", geometry, Modality.SM, "stain RGB")


class Dark(torch.nn.Module):
    """Class 1 where red is low; counts the tiles it saw."""

    def __init__(self):
        super().__init__()
        self.tiles = 0

    def forward(self, tiles):
        self.tiles += len(tiles)
        return torch.cat([tiles[:, :1] - 150, 150 - tiles[:, :1]], 1)


def test_glass_is_left_out_and_recorded_and_no_label_is_lost(tmp_path):
    image = slide()
    network = Dark()
    model = make_model(network, channels=3, tile=(64, 64), overlap=0.25)
    everything = segment(image, model, tmp_path / "a.zarr", dataclasses.replace(TORCH, tissue="off"))
    all_tiles, network.tiles = network.tiles, 0
    result = segment(image, model, tmp_path / "b.zarr", dataclasses.replace(TORCH, tissue="on"))
    assert np.array_equal(labels_of(result), labels_of(everything))
    tiles = result.report.tiles
    assert tiles["planned"] == all_tiles == everything.report.tiles["done"]
    assert tiles["done"] == network.tiles < 0.4 * all_tiles
    assert tiles["done"] + tiles["skipped"] == tiles["planned"]
    assert everything.report.tiles["skipped"] == 0
    told = result.segmentation.provenance.steps[0].details
    assert told["tissue"]["settings"]["pixel_um"] == 8.0
    assert 0.1 < told["tissue"]["share"] < 0.4
    assert told["tiles"]["skipped"] == tiles["skipped"]
    assert result.report.to_dict()["tissue"] == told["tissue"]


def test_a_slide_of_glass_alone_is_all_background_whatever_the_model_says_of_nothing(tmp_path):
    image = slide()
    blank = MedicalImage((np.full_like(image.levels[0], 248),), "yxc", image.geometry, Modality.SM, "stain RGB")
    model = make_model(Dark(), channels=3, tile=(64, 64), activation="sigmoid", threshold=0.5, names=("a", "b"))
    result = segment(blank, model, tmp_path / "o.zarr", dataclasses.replace(TORCH, tissue="on"))
    assert not labels_of(result).any()
    assert result.report.tiles["done"] == 0
    assert result.report.tiles["skipped"] == result.report.tiles["planned"]


def test_tissue_is_looked_for_on_slides_only(tmp_path):
    model = make_model(Threshold(), spatial_dims=3)
    with pytest.raises(InputError, match="slides"):
        segment(volume(np.ones((4, 4, 4), np.float32)), model, tmp_path / "o.zarr", SegmentOptions(tissue="on"))
    small, large = slide(), slide(4100, 4100)
    model = make_model(Dark(), channels=3)
    assert not Task(small, model, SegmentOptions()).looks_for_tissue
    assert Task(large, model, SegmentOptions()).looks_for_tissue
    assert not Task(dataclasses.replace(large, modality=Modality.OT), model, SegmentOptions()).looks_for_tissue


# -- volumes through two-dimensional models -----------------------------------------------------------


def test_a_mosaic_of_a_pointwise_model_is_the_same_as_slice_by_slice(tmp_path):
    data = np.random.default_rng(0).normal(scale=3, size=(2, 7, 20, 26)).astype(np.float32)
    geometry = Geometry.from_spacing(data.shape[1:], (3.0, 1.0, 1.0), "mm", "patient")
    film = MedicalImage((data,), "tzyx", geometry, Modality.MR)
    network = torch.nn.Conv2d(1, 3, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 1.0, -1.0]).reshape(3, 1, 1, 1))
        network.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    model = make_model(network, out_channels=3, names=("a", "b"), tile=(16, 16))
    slices = segment(film, model, tmp_path / "a.zarr", TORCH)
    mosaic = segment(film, model, tmp_path / "b.zarr", dataclasses.replace(TORCH, planes="mosaic", uncertainty=True))
    assert len(np.unique(labels_of(slices))) == 3
    assert np.array_equal(labels_of(mosaic), labels_of(slices))
    assert mosaic.segmentation.provenance.steps[0].details["tiles"]["planes"] == "mosaic"
    assert mosaic.report.tiles["planned"] != slices.report.tiles["planned"]
    stored = ome_zarr.read(tmp_path / "b.zarr" / "maps" / "fake" / "uncertainty")[0]
    assert stored.axes == "tzyxc"
    assert stored.geometry.is_close(geometry)


def test_in_a_mosaic_a_network_sees_the_slice_beside(tmp_path):
    """A shift to the left brings the next slice's first column in, and in reading order."""

    class FromRight(torch.nn.Module):
        def forward(self, tiles):
            shifted = torch.zeros_like(tiles)
            shifted[..., :-1] = tiles[..., 1:]
            return torch.cat([0.5 - shifted, shifted - 0.5], 1)

    data = np.zeros((4, 8, 8), np.float32)
    data[1, 3, 0] = data[2, 5, 4] = 1
    model = make_model(FromRight(), tile=(32, 32))
    result = segment(volume(data), model, tmp_path / "o.zarr", dataclasses.replace(TORCH, planes="mosaic"))
    assert np.argwhere(labels_of(result)).tolist() == [[0, 3, 7], [2, 5, 3]]


@pytest.mark.parametrize("change", [{"region": (slice(0, 2),) * 3}, {"image": "picture"}, {"spacing": (2.0, 2.0)}])
def test_mosaics_that_cannot_be_are_refused(tmp_path, change):
    image = volume(np.ones((4, 8, 8), np.float32))
    if "image" in change:
        image = MedicalImage((np.ones((8, 8), np.float32),), "yx", Geometry.from_spacing((8, 8), None))
    extra = {"spacing": change["spacing"], "unit": "mm"} if "spacing" in change else {}
    options = dataclasses.replace(TORCH, planes="mosaic", region=change.get("region"))
    with pytest.raises(InputError, match="mosaic"):
        segment(image, make_model(Threshold(), **extra), tmp_path / "o.zarr", options)


class Neighbours(torch.nn.Module):
    """Class 1 where the slice before is bright and the slice after is not."""

    def forward(self, tiles):
        value = tiles[:, :1] - tiles[:, 2:] - 0.5
        return torch.cat([-value, value], 1)


def test_a_model_of_three_slices_sees_the_slices_around(tmp_path):
    data = np.zeros((5, 6, 6), np.float32)
    data[1, 2, 2] = data[4, 4, 4] = 1
    model = make_model(Neighbours(), channels=3, slices=3)
    result = segment(volume(data), model, tmp_path / "o.zarr", TORCH)
    # before the first slice and after the last the volume repeats itself
    assert np.argwhere(labels_of(result)).tolist() == [[2, 2, 2]]
    flipped = segment(volume(data[::-1].copy()), model, tmp_path / "p.zarr", TORCH)
    assert np.argwhere(labels_of(flipped)).tolist() == [[0, 4, 4], [1, 4, 4], [4, 2, 2]]
    picture = MedicalImage((data[0],), "yx", Geometry.from_spacing((6, 6), None))
    with pytest.raises(InputError, match="no volume"):
        segment(picture, model, tmp_path / "q.zarr", TORCH)


def test_statistics_of_a_mosaic_are_those_of_its_slices(tmp_path):
    data = np.random.default_rng(0).normal(500, 20, (5, 16, 16)).astype(np.float32)
    normalise = IntensityPlan((intensity_step("NormalizeIntensity", {}),))
    model = make_model(Threshold(0.0), intensity=normalise, tile=(16, 16))
    result = segment(volume(data), model, tmp_path / "o.zarr", dataclasses.replace(TORCH, planes="mosaic"))
    assert np.array_equal(labels_of(result), data > data.mean())


# -- probabilities and uncertainty ---------------------------------------------------------------------


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_probabilities_lie_where_the_labels_lie_and_decide_them(tmp_path, ngff):
    torch.manual_seed(0)
    data = np.random.default_rng(0).normal(size=(9, 21, 18)).astype(np.float32)
    image = volume(data, (2.0, 0.7, 0.9))
    model = make_model(
        torch.nn.Conv3d(1, 3, 3, padding=1),
        spatial_dims=3,
        out_channels=3,
        names=("liver", "spleen"),
        spacing=(1.0, 1.0, 1.0),
        unit="mm",
        orientation=("R", "A", "S"),
    )
    options = dataclasses.replace(TORCH, probabilities=True, uncertainty=True)
    result = segment(image, model, tmp_path / "o.zarr", options, ngff=ngff)
    folder = tmp_path / "o.zarr" / "maps" / "fake"
    probabilities = ome_zarr.read(folder / "probabilities")[0]
    assert probabilities.channels == ("background", "liver", "spleen")
    assert probabilities.geometry.is_close(image.geometry)
    values = probabilities.read((slice(None),) * 3).astype(np.float64)
    assert values.sum(0) == pytest.approx(1.0, abs=2e-3)
    clear = np.sort(values, 0)[-1] - np.sort(values, 0)[-2] > 2e-3
    assert np.array_equal(values.argmax(0)[clear], labels_of(result)[clear])
    entropy = ome_zarr.read(folder / "uncertainty")[0].read((slice(None),) * 3)[0]
    p = np.clip(values, 1e-7, 1)
    assert entropy == pytest.approx(-(p * np.log(p)).sum(0) / np.log(3), abs=5e-3)
    # an independent reader finds the same numbers, scale and axes
    (node,) = [n for n in Reader(parse_url(folder / "probabilities"))() if n.data]
    assert np.asarray(node.data[0]).astype(float) == pytest.approx(values)
    scale = node.metadata["coordinateTransformations"][0][0]["scale"]
    assert scale == pytest.approx([1.0, 2.0, 0.7, 0.9])
    # the store still lists its labels alone
    assert ome_zarr.label_names(tmp_path / "o.zarr") == ["fake"]


def test_uncertainty_of_one_channel_is_that_of_a_coin(tmp_path):
    data = np.array([[0.0, 100.0, -100.0]], np.float32)
    image = MedicalImage((data,), "yx", Geometry.from_spacing(data.shape, None))
    model = make_model(torch.nn.Identity(), activation="sigmoid", threshold=0.5, out_channels=1)
    options = dataclasses.replace(TORCH, uncertainty=True)
    segment(image, model, tmp_path / "o.zarr", options)
    stored = np.asarray(zarr.open(tmp_path / "o.zarr" / "maps" / "fake" / "uncertainty", mode="r")["0"][:])
    assert stored.ravel() == pytest.approx([1.0, 0.0, 0.0], abs=1e-3)


def test_objects_have_no_class_probabilities(tmp_path):
    image = MedicalImage((np.ones((9, 9), np.float32),), "yx", Geometry.from_spacing((9, 9), None))
    model = make_model(torch.nn.Identity(), instances=Pieces(), activation="none", out_channels=1)
    with pytest.raises(InputError, match="models of classes"):
        segment(image, model, tmp_path / "o.zarr", dataclasses.replace(TORCH, probabilities=True))
