"""Columns, chunks and short sums: memory is kept, labels are not changed, and little is computed twice."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medseg.case import Geometry, MedicalImage, Modality
from napari_medseg.inference import SegmentOptions, run, segment
from napari_medseg.inference.tiles import memory
from napari_medseg.inference.tiles.layout import Layout, choose_layout
from napari_medseg.inference.tiles.plan import TilePlan
from tests.inference.fakes import make_model


def sums_bytes(plan, extent, found, channels):
    """What the sums of the widest column take, by hand."""
    widths = [min(n, c * k) for n, c, k in zip(extent[1:], found.chunks[1:], found.column_chunks, strict=True)]
    size = 4 if found.sums == "float32" else 2
    return min(plan.tile[0], plan.shape[0]) * int(np.prod(widths)) * (channels * size + 4)


def test_with_room_there_is_one_column():
    plan = TilePlan((300, 512, 512), (96, 96, 96), 0.5)
    found = choose_layout(plan, plan.shape, (64, 256, 256), 2, 1 << 32)
    assert found == Layout((64, 256, 256), (2, 2), "float32")
    assert Layout.from_dict(found.to_dict()) == found


def test_a_hundred_classes_fit_into_little():
    plan = TilePlan((384, 384, 384), (96, 96, 96), 0.5)
    for allowed, sums in ((800 << 20, "float32"), (200 << 20, "float16")):
        found = choose_layout(plan, plan.shape, (64, 256, 256), 100, allowed)
        assert found.sums == sums
        assert found.fits
        assert sums_bytes(plan, plan.shape, found, 100) <= allowed
    assert not choose_layout(plan, plan.shape, (64, 256, 256), 100, 1 << 10).fits


@given(st.integers(1000, 100_000), st.integers(1000, 100_000), st.sampled_from((0.0, 0.25, 0.5)))
def test_columns_of_slides_do_not_grow_with_the_slide(height, width, overlap):
    plan = TilePlan((height, width), (512, 512), overlap)
    found = choose_layout(plan, plan.shape, (1024, 1024), 3, 1 << 32)
    assert found.chunks[1] * found.column_chunks[0] <= max(8192, found.chunks[1])
    assert found.sums == "float32"
    assert sums_bytes(plan, plan.shape, found, 3) <= 512 * 8192 * 16


@given(
    st.tuples(st.integers(20, 90), st.integers(20, 200), st.integers(20, 200)),
    st.integers(1, 12),
    st.sampled_from((0.0, 0.25, 0.5)),
    st.integers(1, 4000),
)
def test_whatever_is_allowed_is_kept_where_that_can_be(shape, channels, overlap, kilobytes):
    plan = TilePlan(shape, (16, 16, 16), overlap)
    found = choose_layout(plan, shape, (64, 64, 64), channels, kilobytes << 10)
    if found.fits:
        assert sums_bytes(plan, shape, found, channels) <= kilobytes << 10
    # never so narrow that a tile is computed over and over
    assert all(
        w >= n or w >= 8 for w, n in zip(np.multiply(found.chunks[1:], found.column_chunks), shape[1:], strict=True)
    )
    # whole chunks, or chunks as narrow as the column
    assert all(c == 64 or k == 1 for c, k in zip(found.chunks[1:], found.column_chunks, strict=True))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.sampled_from((0.25, 0.5)), st.integers(0, 3))
def test_labels_do_not_depend_on_columns_chunks_or_short_sums(tmp_path_factory, seed, overlap, spacing):
    """Each voxel's own tiles decide it, wherever the columns end; short sums move only near ties."""
    torch.manual_seed(seed)
    network = torch.nn.Conv3d(1, 4, 3, padding=1)
    data = np.random.default_rng(seed).normal(size=(19, 40, 37)).astype(np.float32)
    steps = ((1.0, 1.0, 1.0), (1.0, 0.6, 0.8), (2.0, 1.4, 1.0), (0.5, 1.0, 1.3))[spacing]
    image = MedicalImage((data,), "zyx", Geometry.from_spacing(data.shape, steps, "mm", "patient"), Modality.MR)
    extra = {} if spacing == 0 else {"spacing": (1.0, 1.0, 1.0), "unit": "mm", "orientation": ("R", "A", "S")}
    model = make_model(network, spatial_dims=3, out_channels=4, names=("a", "b", "c"), overlap=overlap, **extra)
    folder = tmp_path_factory.mktemp("o")
    options = SegmentOptions(backend="torch")
    whole = segment(image, model, folder / "whole.zarr", options)
    expected = np.asarray(whole.segmentation.data[...])
    for number, cut in enumerate(
        (
            Layout((8, 10, 37), (1, 1), "float32"),
            Layout((8, 5, 9), (2, 1), "float32"),
            Layout((19, 13, 40), (1, 1), "float16"),
        )
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "layout_for", lambda *_, cut=cut: cut)
            result = segment(image, model, folder / f"{number}.zarr", options)
        found = np.asarray(result.segmentation.data[...])
        if cut.sums == "float32":
            assert np.array_equal(found, expected)
        else:
            assert (found == expected).mean() > 0.995
        # what is computed twice is on record
        assert result.report.tiles["planned"] >= whole.report.tiles["planned"]


def test_allowed_memory_reaches_the_layout(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(memory, "choose_layout", lambda *a: seen.append(a[-1]) or choose_layout(*a))
    monkeypatch.setattr(memory, "peak_rss", lambda: 1 << 30)
    data = np.zeros((20, 20), np.float32)
    image = MedicalImage((data,), "yx", Geometry.from_spacing(data.shape, None))
    model = make_model(torch.nn.Conv2d(1, 2, 1))
    segment(image, model, tmp_path / "a.zarr", SegmentOptions(max_memory=2 << 30, backend="torch"))
    assert 0 < seen[0] < 1 << 30
    tight = segment(image, model, tmp_path / "b.zarr", SegmentOptions(max_memory=1 << 20, backend="torch"))
    assert tight.report.ladder == (
        "The memory allowed is too little for this model and image; as little as possible is used.",
    )


def test_backends_are_not_compared_where_memory_is_short(tmp_path):
    data = np.zeros((60, 60), np.float32)
    image = MedicalImage((data,), "yx", Geometry.from_spacing(data.shape, None))
    model = make_model(torch.nn.Conv2d(1, 2, 1))
    options = SegmentOptions(max_memory=8_000, device="cpu", batch_size=2)
    report = segment(image, model, tmp_path / "a.zarr", options).report
    assert report.backend == "torch"
    assert "more memory than is allowed" in report.backend_reason
