import json

import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from napari_medseg.bundles.intensity import IntensityPlan, intensity_step
from napari_medseg.case import AxisMap, CancelledError, Geometry, InputError, MedicalImage, MedsegError, Modality
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.segment import segment_all
from napari_medseg.io import open_segmentation
from napari_medseg.jobs import Progress
from tests.inference.fakes import Pieces, Threshold, ball, make_model


def volume(data, spacing=(1.0, 1.0, 1.0), affine=None):
    geometry = (
        Geometry.from_spacing(data.shape, spacing, "mm", "patient")
        if affine is None
        else Geometry(data.shape, affine, "mm", "patient")
    )
    return MedicalImage((data,), "zyx", geometry, Modality.MR, name="scan")


def picture(data, **extra):
    geometry = Geometry.from_spacing(data.shape[:2], None)
    return MedicalImage((data,), "yxc" if data.ndim == 3 else "yx", geometry, **extra)


def labels_of(result):
    return np.asarray(result.segmentation.data[...])


# -- whole images -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from((0.0, 0.25, 0.5)), st.integers(1, 5))
def test_a_pointwise_model_gives_the_pointwise_answer(tmp_path_factory, height, width, overlap, batch):
    data = np.random.default_rng(height * 31 + width).random((height, width)).astype(np.float32)
    out = tmp_path_factory.mktemp("out") / "labels.zarr"
    result = segment(picture(data), make_model(Threshold()), out, SegmentOptions(overlap=overlap, batch_size=batch))
    assert np.array_equal(labels_of(result), data > 0.5)
    assert result.report.labels[0].voxels == (data > 0.5).sum()


def test_tiles_of_a_convolution_match_monais_sliding_window(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 5, padding=2)
    data = np.random.default_rng(0).integers(0, 255, (45, 37, 3), dtype=np.uint8)
    scale = IntensityPlan((intensity_step("ScaleIntensityRange", {"a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}),))
    model = make_model(network, channels=3, names=("a", "b", "c"), out_channels=4, tile=(16, 16), intensity=scale)
    result = segment(picture(data, intensity="RGB"), model, tmp_path / "o.zarr", SegmentOptions(overlap=0.5))
    tensor = torch.from_numpy(data.astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.no_grad():
        theirs = sliding_window_inference(tensor, (16, 16), 4, network, overlap=0.5, mode="gaussian")
    assert np.array_equal(labels_of(result), theirs.argmax(1)[0].numpy())


def test_small_volumes_are_padded_as_monai_pads(tmp_path):
    torch.manual_seed(1)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    data = np.random.default_rng(0).normal(size=(5, 9, 7)).astype(np.float32)
    model = make_model(network, spatial_dims=3, tile=(8, 8, 8))
    result = segment(volume(data), model, tmp_path / "o.zarr", SegmentOptions(overlap=0.25))
    with torch.no_grad():
        theirs = sliding_window_inference(torch.from_numpy(data)[None, None], (8, 8, 8), 1, network, mode="gaussian")
    assert np.array_equal(labels_of(result), theirs.argmax(1)[0].numpy())


class TowardsRight(torch.nn.Module):
    """Class 1 where the neighbour one step back along the first network axis is bright: a shift by one."""

    def forward(self, tiles):
        shifted = torch.zeros_like(tiles)
        shifted[:, :, 1:] = tiles[:, :, :-1]
        return torch.cat([0.5 - shifted, shifted - 0.5], 1)


@settings(max_examples=30)
@given(st.permutations(range(3)), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_the_network_sees_left_and_right_however_the_file_is_stored(tmp_path_factory, order, flips):
    straight = ball((12, 10, 14), (6, 5, 7), 3.2)
    affine = np.array([[0, 0, 2.0, -9], [0, 1.5, 0, 4], [3, 0, 0, 20], [0, 0, 0, 1]])
    axis_map = AxisMap(tuple(order), flips)
    geometry = Geometry(straight.shape, affine, "mm", "patient").rearranged(axis_map)
    stored = np.ascontiguousarray(axis_map.apply(straight))
    image = MedicalImage((stored,), "zyx", geometry, Modality.MR)
    model = make_model(TowardsRight(), spatial_dims=3, orientation=("R", "A", "S"), tile=(32, 32, 32))
    result = segment(image, model, tmp_path_factory.mktemp("o") / "o.zarr")
    labels = labels_of(result)
    centre = geometry.index_to_world(np.argwhere(stored > 0.5).mean(0))
    moved = result.segmentation.geometry.index_to_world(np.argwhere(labels == 1).mean(0))
    assert moved - centre == pytest.approx((2.0, 0.0, 0.0), abs=1e-6)


@pytest.mark.parametrize("spacing", [(2.0, 0.5, 0.5), (1.0, 1.0, 1.0), (0.7, 1.3, 2.9)])
def test_a_model_with_its_own_spacing_answers_on_the_images_grid(tmp_path, spacing):
    shape = tuple(round(40 / s) for s in spacing)
    centre = tuple(n / 2 for n in shape)
    # a soft edge, so that the surface is where the intensity crosses one half
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    distance = np.sqrt(sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, spacing, strict=True)))
    data = np.clip(0.5 + (12 - distance) / 8, 0, 1).astype(np.float32)
    model = make_model(
        Threshold(), spatial_dims=3, tile=(16, 16, 16), spacing=(1.0, 1.0, 1.0), unit="mm", orientation=("R", "A", "S")
    )
    result = segment(volume(data, spacing), model, tmp_path / "o.zarr")
    labels = labels_of(result)
    expected = distance <= 12
    dice = 2 * (labels & expected).sum() / (labels.sum() + expected.sum())
    assert labels.shape == shape
    assert dice > 0.97
    assert np.argwhere(labels).mean(0) == pytest.approx(centre, abs=0.25 / min(spacing))
    assert result.report.labels[0].size == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.06)
    assert result.report.labels[0].size_unit == "mm3"


def test_the_pyramid_level_that_fits_the_model_is_read(tmp_path):
    fine = np.zeros((64, 64), np.float32)
    fine[16:48, 16:48] = 1

    class Unreadable:
        shape, dtype, ndim = fine.shape, fine.dtype, 2

        def __getitem__(self, index):
            raise AssertionError("level 0 is not needed")

    coarse = fine.reshape(16, 4, 16, 4).mean((1, 3))
    image = MedicalImage((Unreadable(), coarse), "yx", Geometry.from_spacing((64, 64), (0.25, 0.25), "um"), Modality.SM)
    model = make_model(Threshold(), spacing=(1.0, 1.0), unit="um")
    result = segment(image, model, tmp_path / "o.zarr")
    assert np.array_equal(labels_of(result)[18:46, 18:46], np.ones((28, 28)))
    assert labels_of(result).shape == (64, 64)
    assert abs(int(labels_of(result).sum()) - 32 * 32) <= 4 * 32
    assert result.segmentation.provenance.steps[0].details["tiles"]["pyramid_level"] == 1


def test_video_and_planes_are_segmented_one_by_one(tmp_path):
    frames = np.zeros((3, 10, 12), np.float32)
    for t in range(3):
        frames[t, t : t + 4, 2:5] = 1
    video = MedicalImage((frames,), "tyx", Geometry.from_spacing((10, 12), None), seconds_per_frame=0.04)
    result = segment(video, make_model(Threshold()), tmp_path / "t.zarr")
    assert np.array_equal(labels_of(result), frames)
    assert result.segmentation.axes == "tyx"
    assert result.segmentation.seconds_per_frame == 0.04
    stack = segment(volume(frames), make_model(Threshold()), tmp_path / "z.zarr")
    assert np.array_equal(labels_of(stack), frames)
    assert stack.report.tiles["planned"] == 3 * 4


def test_objects_of_a_stack_have_ids_of_their_own(tmp_path):
    planes = np.zeros((2, 20, 20), np.float32)
    planes[0, 2:5, 2:5] = planes[0, 10:12, 3:8] = planes[1, 2:5, 2:5] = 1
    model = make_model(torch.nn.Identity(), instances=Pieces(), activation="none", out_channels=1)
    result = segment(volume(planes), model, tmp_path / "o.zarr")
    labels = labels_of(result)
    assert set(np.unique(labels[0])) == {0, 1, 2}
    assert set(np.unique(labels[1])) == {0, 3}
    amount = result.report.to_dict()["labels"][0]
    assert (amount["count"], amount["voxels"], amount["volume_mm3"]) == (3, 28, 28.0)


# -- parts, averages, intensities --------------------------------------------------------------------


@settings(max_examples=20)
@given(st.data())
def test_a_region_is_the_same_as_that_part_of_the_whole(tmp_path_factory, data):
    torch.manual_seed(0)
    model = make_model(torch.nn.Conv2d(1, 2, 7, padding=3), tile=(8, 8), overlap=0.5)
    image = picture(np.random.default_rng(2).normal(size=(30, 26)).astype(np.float32))
    folder = tmp_path_factory.mktemp("o")
    whole = labels_of(segment(image, model, folder / "whole.zarr"))
    y, x = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 25))
    part = (slice(y, data.draw(st.integers(y + 1, 30))), slice(x, data.draw(st.integers(x + 1, 26))))
    result = segment(image, model, folder / "part.zarr", SegmentOptions(region=part))
    expected = np.zeros_like(whole)
    expected[part] = whole[part]
    assert np.array_equal(labels_of(result), expected)
    assert result.report.labels[0].voxels == (expected == 1).sum()


def test_statistics_come_from_the_whole_image_not_from_the_tile(tmp_path):
    data = np.linspace(0, 1000, 40 * 30, dtype=np.float32).reshape(40, 30)
    normalise = IntensityPlan((intensity_step("NormalizeIntensity", {}),))
    result = segment(picture(data), make_model(Threshold(0.0), intensity=normalise), tmp_path / "o.zarr")
    assert np.array_equal(labels_of(result), data > data.mean())


def test_nan_is_read_as_zero(tmp_path):
    data = np.full((9, 9), np.nan, np.float32)
    data[4, 4] = 1
    result = segment(picture(data), make_model(Threshold()), tmp_path / "o.zarr")
    assert np.argwhere(labels_of(result)).tolist() == [[4, 4]]


def test_mirrored_views_average_out_a_lopsided_model(tmp_path):
    data = np.random.default_rng(5).random((20, 24)).astype(np.float32)
    torch.manual_seed(3)
    model = make_model(torch.nn.Conv2d(1, 2, 3, padding=1), tile=(32, 32))
    options = SegmentOptions(mirror=True)
    first = labels_of(segment(picture(data), model, tmp_path / "a.zarr", options))
    flipped = labels_of(segment(picture(np.ascontiguousarray(data[::-1, ::-1])), model, tmp_path / "b.zarr", options))
    assert np.array_equal(first, flipped[::-1, ::-1])
    assert 0 < first.mean() < 1


def test_bfloat16_changes_little(tmp_path):
    data = np.random.default_rng(5).random((32, 32)).astype(np.float32)
    torch.manual_seed(3)
    model = make_model(torch.nn.Conv2d(1, 2, 3, padding=1), tile=(16, 16))
    exact = segment(picture(data), model, tmp_path / "a.zarr", SegmentOptions(precision="fp32"))
    short = segment(picture(data), model, tmp_path / "b.zarr", SegmentOptions(precision="bf16"))
    assert (exact.report.precision, short.report.precision) == ("fp32", "bf16")
    assert (labels_of(exact) == labels_of(short)).mean() > 0.97


# -- history, several models, cancel -----------------------------------------------------------------


def test_the_history_names_the_model_and_holds_no_path(tmp_path):
    result = segment(
        volume(np.ones((4, 4, 4), np.float32)), make_model(Threshold(), spatial_dims=3), tmp_path / "o.zarr"
    )
    history = open_segmentation(tmp_path / "o.zarr").provenance
    assert history == result.segmentation.provenance
    details = history.steps[0].details
    assert details["model"]["id"] == "fake"
    assert details["model"]["licence"] == "CC0-1.0"
    assert details["tiles"]["number"] == 1
    assert str(tmp_path) not in json.dumps(history.to_dict())


def test_several_models_share_a_store(tmp_path):
    data = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    low, high = make_model(Threshold(0.2)), make_model(Threshold(0.8))
    high = make_model(Threshold(0.8), card=high.card.__class__(**{**high.card.__dict__, "id": "strict"}))
    results = segment_all(picture(data), [low, high], tmp_path / "o.zarr", with_image=True)
    assert [r.segmentation.name for r in results] == ["fake", "strict"]
    assert np.array_equal(labels_of(results[0]), data > 0.2)
    assert np.array_equal(np.asarray(open_segmentation(tmp_path / "o.zarr", name="strict").data[...]), data > 0.8)
    assert np.allclose(np.asarray(zarr.open(tmp_path / "o.zarr", mode="r")["0"][...]), data)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.zarr"]
    with pytest.raises(InputError, match="share the id fake"):
        segment_all(picture(data), [low, low], tmp_path / "p.zarr")


def test_cancel_stops_within_a_batch_and_leaves_nothing(tmp_path):
    calls = []

    class Counting(Threshold):
        def forward(self, tiles):
            calls.append(len(tiles))
            if len(calls) == 3:
                progress.cancel()
            return super().forward(tiles)

    progress = Progress()
    image = picture(np.ones((64, 64), np.float32))
    with pytest.raises(CancelledError):
        segment(image, make_model(Counting()), tmp_path / "o.zarr", SegmentOptions(batch_size=2), progress=progress)
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_read_error_in_one_tile_stops_everything_and_leaves_nothing(tmp_path):
    def broken(block_info=None):
        if block_info[None]["chunk-location"] == (1, 1):
            raise InputError("scan.tif: a tile is damaged; copy the file again.")
        return np.ones(block_info[None]["chunk-shape"], np.float32)

    data = da.map_blocks(broken, chunks=((16, 16), (16, 16)), dtype=np.float32, meta=np.empty((0, 0), np.float32))
    with pytest.raises(InputError, match="damaged"):
        segment(picture(data), make_model(Threshold()), tmp_path / "o.zarr")
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_tile(tmp_path):
    seen = []
    segment(
        picture(np.ones((20, 20), np.float32)),
        make_model(Threshold()),
        tmp_path / "o.zarr",
        progress=Progress(seen.append),
    )
    counted = [s for s in seen if s.word == "segmenting"]
    assert counted[-1].done == counted[-1].total == 9


# -- what cannot be run ------------------------------------------------------------------------------


def test_images_a_model_cannot_read_are_refused_with_one_sentence(tmp_path):
    grey = picture(np.ones((9, 9), np.float32))
    cases = [
        (grey, make_model(Threshold(), channels=3), "reads 3 channels"),
        (grey, make_model(Threshold(), spatial_dims=3), "reads volumes"),
        (grey, make_model(Threshold(), spacing=(0.5, 0.5), unit="um"), "spacing of this image is unknown"),
        (
            MedicalImage((np.ones((4, 4, 4)),), "zyx", Geometry.from_spacing((4, 4, 4), None)),
            make_model(Threshold(), spatial_dims=3, orientation=("R", "A", "S")),
            "left from right",
        ),
    ]
    for image, model, words in cases:
        with pytest.raises(InputError, match=words):
            segment(image, model, tmp_path / "o.zarr")
    for options, words in (
        (SegmentOptions(overlap=1.0), "overlap of 1"),
        (SegmentOptions(region=(slice(0, 4), slice(5, 99))), "0:9,0:9"),
        (SegmentOptions(device="tpu"), "accepted are auto, cuda"),
        (SegmentOptions(precision="int4"), "fp32"),
    ):
        with pytest.raises(InputError, match=words):
            segment(grey, make_model(Threshold()), tmp_path / "o.zarr", options)
    assert list(tmp_path.iterdir()) == []


def test_alpha_is_left_out_for_a_model_of_three_colours(tmp_path):
    data = np.zeros((9, 9, 4), np.uint8)
    data[..., 3] = 255
    data[2, 3, 0] = 200
    model = make_model(Threshold(100), channels=3)
    result = segment(picture(data, intensity="RGB"), model, tmp_path / "o.zarr")
    assert np.argwhere(labels_of(result)).tolist() == [[2, 3]]


def test_an_existing_store_is_kept_unless_told_otherwise(tmp_path):
    image, model = picture(np.ones((9, 9), np.float32)), make_model(Threshold())
    segment(image, model, tmp_path / "o.zarr")
    with pytest.raises(InputError, match="already exists"):
        segment(image, model, tmp_path / "o.zarr")
    segment(picture(np.zeros((9, 9), np.float32)), model, tmp_path / "o.zarr", overwrite=True)
    assert not np.asarray(open_segmentation(tmp_path / "o.zarr").data[...]).any()


def test_a_model_for_another_modality_runs_with_a_warning(tmp_path):
    scan = volume(np.ones((4, 4, 4), np.float32))
    model = make_model(Threshold(), spatial_dims=3)
    assert segment(scan, model, tmp_path / "a.zarr").report.warnings == ()
    tomography = MedicalImage(scan.levels, "zyx", scan.geometry, Modality.CT, warnings=("slices are missing",))
    first, second = segment(tomography, model, tmp_path / "b.zarr").report.warnings
    assert first == "slices are missing"
    assert "made for MR and this image is CT" in second


def test_devices_that_are_not_there_are_named(monkeypatch):
    from napari_medseg.inference.compute.devices import choose_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="cuda is not usable: No GPU"):
        choose_device("cuda")
    with pytest.raises(InputError, match="no Apple GPU"):
        choose_device("mps")
    with pytest.raises(InputError, match="fp16 is slower"):
        choose_device("cpu", "fp16")
    assert choose_device().precision == "fp32"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert (choose_device().name, choose_device().precision) == ("mps", "fp32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda k: "Model T")
    assert (choose_device().name, choose_device().precision) == ("cuda", "fp16")
    assert choose_device("cuda:0", "bf16").precision == "bf16"
    with pytest.raises(InputError, match=r"1 CUDA device"):
        choose_device("cuda:1")


def test_a_store_that_differs_from_what_was_decided_does_not_get_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr.Array, "__setitem__", lambda self, index, value: None)
    with pytest.raises(MedsegError, match="differ from those decided"):
        segment(picture(np.ones((9, 9), np.float32)), make_model(Threshold()), tmp_path / "o.zarr")
    assert not (tmp_path / "o.zarr").exists()


@settings(max_examples=15)
@given(st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_a_flipped_file_gets_exactly_the_flipped_labels(tmp_path_factory, flips):
    torch.manual_seed(0)
    model = make_model(
        torch.nn.Conv3d(1, 2, 3, padding=1), spatial_dims=3, orientation=("R", "A", "S"), tile=(8, 16, 8), overlap=0.25
    )
    data = np.random.default_rng(1).normal(size=(13, 11, 15)).astype(np.float32)
    straight = volume(data)
    axis_map = AxisMap((0, 1, 2), flips)
    geometry = straight.geometry.rearranged(axis_map)
    turned = MedicalImage((np.ascontiguousarray(axis_map.apply(data)),), "zyx", geometry, Modality.MR)
    folder = tmp_path_factory.mktemp("o")
    first = labels_of(segment(straight, model, folder / "a.zarr"))
    second = labels_of(segment(turned, model, folder / "b.zarr"))
    assert np.array_equal(axis_map.apply(first), second)


def test_values_that_are_no_numbers_are_an_error_not_background(tmp_path):
    class Broken(torch.nn.Module):
        def forward(self, tiles):
            return torch.full((len(tiles), 2, *tiles.shape[2:]), torch.nan)

    with pytest.raises(MedsegError, match="no numbers"):
        segment(picture(np.ones((9, 9), np.float32)), make_model(Broken()), tmp_path / "o.zarr")
    assert list(tmp_path.iterdir()) == []


def test_colours_of_16_bits_are_read_as_their_8_bit_selves(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    model = make_model(Threshold(127.5), channels=3)
    narrow = segment(picture(data, intensity="RGB"), model, tmp_path / "a.zarr")
    wide = segment(picture(data.astype(np.uint16) * 257, intensity="RGB"), model, tmp_path / "b.zarr")
    assert np.array_equal(labels_of(narrow), labels_of(wide))
    assert labels_of(narrow).any()
    with pytest.raises(InputError, match="8-bit and 16-bit"):
        segment(picture(data / 255.0, intensity="RGB"), model, tmp_path / "c.zarr")


def test_a_model_without_checksums_says_so(tmp_path):
    model = make_model(Threshold())
    object.__setattr__(model, "verified", False)
    result = segment(picture(np.ones((9, 9), np.float32)), model, tmp_path / "o.zarr")
    assert "without checksums" in result.report.warnings[0]
