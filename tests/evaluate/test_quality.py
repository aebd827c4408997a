"""Image quality: numbers by hand, scikit-image, MONAI, and a window laid by hand."""

import json
import math

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from napari_medseg.case import CancelledError, InputError
from napari_medseg.evaluate.quality import image_pair
from napari_medseg.evaluate.quality.scores import METRICS, image_quality, ssim_map
from napari_medseg.jobs import Progress

WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def pictures(shape, seed=0, noise=10.0):
    rng = np.random.default_rng(seed)
    reference = rng.normal(100, 30, shape)
    return reference + rng.normal(0, noise, shape), reference


def ssim_by_hand(x, y, data_range):
    """Wang 2004, equations 13 to 16, for the middle of a window: weighted sums, nothing else."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = line
    for _ in range(x.ndim - 1):
        weights = weights[..., None] * line
    weights = weights / weights.sum()
    mx, my = (weights * x).sum(), (weights * y).sum()
    vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
    cov = (weights * (x - mx) * (y - my)).sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def test_errors_by_hand():
    reference = np.array([[1000, 1000], [0, 1600]], np.int16)
    candidate = np.array([[990, 1030], [0, 1500]], np.int16)
    found = image_quality(candidate, reference, data_range=1600, ssim=False)
    assert found.mae == 35.0
    assert found.rmse == math.sqrt(2750)
    assert found.psnr == pytest.approx(29.689, abs=5e-4)
    assert (found.data_range, found.data_range_from, found.pixels) == (1600, "given", 4)


def test_unsigned_integers_do_not_wrap_around():
    found = image_quality(np.zeros((2, 2), np.uint8), np.array([[255, 0], [0, 0]], np.uint8), ssim=False)
    assert found.mae == 255 / 4 and found.rmse == 127.5
    assert found.psnr == pytest.approx(20 * math.log10(2))


@pytest.mark.parametrize("shape", [(40, 50), (16, 20, 24)])
def test_whole_images_equal_scikit_image(shape):
    candidate, reference = pictures(shape)
    found = image_quality(candidate, reference, data_range=255)
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(reference, candidate, data_range=255), rel=1e-12)
    assert found.ssim == pytest.approx(structural_similarity(reference, candidate, data_range=255, **WANG), rel=1e-10)


@pytest.mark.parametrize(("shape", "spatial_dims"), [((40, 50), 2), ((16, 20, 24), 3)])
def test_ssim_equals_monai(shape, spatial_dims):
    import torch
    from monai.metrics import PSNRMetric, SSIMMetric

    candidate, reference = pictures(shape)
    tensors = [torch.from_numpy(a)[None, None] for a in (candidate, reference)]
    found = image_quality(candidate, reference, data_range=255)
    assert found.ssim == pytest.approx(SSIMMetric(spatial_dims, data_range=255)(*tensors).item(), abs=1e-5)
    assert found.psnr == pytest.approx(PSNRMetric(255)(*tensors).item(), abs=1e-4)


@pytest.mark.parametrize("shape", [(11, 11), (11, 11, 11)])
def test_one_window_of_ssim_by_hand(shape):
    candidate, reference = pictures(shape)
    found = image_quality(candidate, reference, data_range=200)
    assert found.ssim_pixels == 1
    assert found.ssim == pytest.approx(ssim_by_hand(candidate, reference, 200), rel=1e-10)


def test_channels_count_alike_wherever_their_axis_lies():
    candidate, reference = pictures((30, 32, 3))
    candidate[..., 2] += 40
    expected = structural_similarity(reference, candidate, data_range=255, channel_axis=-1, **WANG)
    last = image_quality(candidate, reference, data_range=255, channel_axis=-1)
    first = image_quality(np.moveaxis(candidate, -1, 0), np.moveaxis(reference, -1, 0), data_range=255, channel_axis=0)
    assert last.ssim == pytest.approx(expected, rel=1e-10)
    assert first.ssim == pytest.approx(expected, rel=1e-10)
    assert last.pixels == 30 * 32 * 3
    assert last.mae == pytest.approx(np.abs(candidate - reference).mean())


def test_without_a_channel_axis_three_axes_are_a_volume():
    candidate, reference = pictures((12, 20, 20))
    volume = image_quality(candidate, reference, data_range=255)
    slices = image_quality(candidate, reference, data_range=255, by_slice=True)
    each = [structural_similarity(r, c, data_range=255, **WANG) for c, r in zip(candidate, reference, strict=True)]
    assert slices.ssim == pytest.approx(np.mean(each), rel=1e-10)
    assert slices.ssim_pixels == 12 * 10 * 10 and volume.ssim_pixels == 2 * 10 * 10
    assert slices.by_slice and abs(slices.ssim - volume.ssim) > 1e-4


def test_mask_is_applied_to_the_errors_and_to_the_map_of_ssim():
    candidate, reference = pictures((40, 44))
    mask = np.zeros((40, 44), np.uint8)
    mask[8:20, 3:30] = 7
    found = image_quality(candidate, reference, mask=mask, data_range=255)
    there = mask > 0
    whole_map = structural_similarity(reference, candidate, data_range=255, full=True, **WANG)[1]
    inner = there.copy()
    inner[:, :5] = False
    assert found.pixels == there.sum() and found.ssim_pixels == inner.sum()
    assert found.mae == pytest.approx(np.abs(candidate - reference)[there].mean(), rel=1e-12)
    assert found.ssim == pytest.approx(whole_map[inner].mean(), rel=1e-10)
    # what lies far outside the mask does not matter, whatever it is
    candidate[30:, 40:] = np.nan
    assert image_quality(candidate, reference, mask=mask, data_range=255) == found


def test_mask_covers_all_channels():
    candidate, reference = pictures((3, 30, 30))
    mask = np.zeros((30, 30), bool)
    mask[10:20, 12:15] = True
    found = image_quality(candidate, reference, mask=mask, channel_axis=0, data_range=255)
    maps = [
        structural_similarity(r, c, data_range=255, full=True, **WANG)[1][mask]
        for c, r in zip(candidate, reference, strict=True)
    ]
    assert found.ssim == pytest.approx(np.mean(maps), rel=1e-10)
    assert found.mae == pytest.approx(np.abs(candidate - reference)[:, mask].mean(), rel=1e-12)


def test_range_comes_from_the_compared_reference_and_never_from_the_candidate():
    reference = np.full((20, 20), 10.0)
    reference[0, 0], reference[10, 10], reference[19, 19] = 1000, 30, -500
    candidate = reference.copy()
    candidate[9, 9] = 9999
    whole = image_quality(candidate, reference)
    assert (whole.data_range, whole.data_range_from) == (1500, "reference")
    mask = np.zeros((20, 20), bool)
    mask[6:14, 6:14] = True
    assert image_quality(candidate, reference, mask=mask).data_range == 20


def test_identical_images_are_infinitely_good_even_without_a_range():
    for image in (pictures((20, 20))[1], np.full((20, 20), 3.0), np.zeros((20, 20), np.uint8)):
        found = image_quality(image, image.copy())
        assert found.psnr == math.inf
        assert found.ssim == pytest.approx(1, abs=1e-12)
        assert found.mae == 0 and found.rmse == 0 and found.notes == ()


def test_constant_reference_has_no_range():
    reference = np.full((20, 20), 3.0)
    found = image_quality(reference + 2, reference)
    assert math.isnan(found.psnr) and math.isnan(found.ssim)
    assert found.mae == 2 and found.data_range == 0
    assert "constant" in found.notes[0]
    given = image_quality(reference + 2, reference, data_range=10)
    assert given.psnr == pytest.approx(20 * math.log10(5))
    # constant images: only the luminance term of Wang 2004, equation 6, is left
    assert given.ssim == pytest.approx((2 * 3 * 5 + 0.01) / (9 + 25 + 0.01))


@pytest.mark.parametrize(
    ("shape", "mask_at", "words"),
    [
        ((20, 20), None, "holds nothing"),
        ((10, 40), (5, 5), "needs 11"),
        ((20, 20), (0, 0), "within 5 of the border"),
    ],
)
def test_what_is_not_defined_is_nan_and_said(shape, mask_at, words):
    candidate, reference = pictures(shape)
    mask = np.zeros(shape, bool)
    if mask_at:
        mask[mask_at] = True
    found = image_quality(candidate, reference, mask=mask, data_range=255)
    assert math.isnan(found.ssim) and found.ssim_pixels == 0
    assert math.isnan(found.mae) == (mask_at is None)
    assert words in found.notes[0]


def test_numbers_that_are_not_finite_are_refused_where_they_matter():
    candidate, reference = pictures((30, 30))
    mask = np.zeros((30, 30), bool)
    mask[10:15, 10:15] = True
    broken = candidate.copy()
    broken[12, 12] = broken[0, 0] = np.nan
    with pytest.raises(InputError, match=r"candidate is not a finite number .* at 2 of the places"):
        image_quality(broken, reference)
    with pytest.raises(InputError, match=r"reference .* at 1 of the places"):
        image_quality(candidate, broken, mask=mask)
    near = candidate.copy()
    near[12, 17] = np.inf
    with pytest.raises(InputError, match="within 5 pixels"):
        image_quality(near, reference, mask=mask, data_range=255)
    assert image_quality(near, reference, mask=mask, ssim=False).mae > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidate": np.zeros((20, 21))}, "shape"),
        ({"candidate": np.zeros((20, 20), complex)}, "complex128"),
        ({"mask": np.zeros((20, 21))}, "mask has the shape"),
        ({"data_range": 0}, "data range of 0"),
        ({"data_range": math.nan}, "data range of nan"),
        ({"channel_axis": 2}, "Channel axis 2"),
        ({"channel_axis": 0}, "1 spatial axes"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        image_quality(**({"candidate": np.zeros((20, 20)), "reference": np.zeros((20, 20))} | change))


@settings(max_examples=6)
@given(
    seed=st.integers(0, 99),
    chunks=st.tuples(st.integers(5, 17), st.integers(5, 25), st.integers(7, 30)),
    by_slice=st.booleans(),
)
def test_chunk_by_chunk_equals_the_whole(seed, chunks, by_slice):
    candidate, reference = pictures((17, 25, 30), seed)
    mask = np.random.default_rng(seed).random(reference.shape) < 0.3
    whole = image_quality(candidate, reference, mask=mask, by_slice=by_slice)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_pair, "_SSIM_BOX_VOXELS", math.prod(chunks))
        parts = image_quality(da.from_array(candidate, chunks=chunks), reference, mask=mask, by_slice=by_slice)
    assert parts.pixels == whole.pixels and parts.ssim_pixels == whole.ssim_pixels
    assert parts.data_range == whole.data_range
    for key, value in whole.scores.items():
        assert parts.scores[key] == pytest.approx(value, rel=1e-12), key


def test_errors_of_integers_are_exact_in_any_chunks(tmp_path):
    rng = np.random.default_rng(1)
    candidate, reference = (rng.integers(-32768, 32767, (30, 60, 60)).astype(np.int16) for _ in range(2))
    stored = []
    for name, chunks, array in (("c", (7, 60, 11), candidate), ("r", (30, 13, 60), reference)):
        stored.append(zarr.create_array(tmp_path / name, shape=array.shape, chunks=chunks, dtype=array.dtype))
        stored[-1][:] = array
    difference = candidate.astype(object) - reference.astype(object)
    found = image_quality(*stored, ssim=False)
    assert found.mae == int(np.abs(difference).sum()) / difference.size
    assert found.rmse == math.sqrt(int((difference**2).sum()) / difference.size)


def test_map_of_a_region_equals_that_of_the_whole():
    candidate, reference = pictures((20, 30, 3))
    whole = ssim_map(candidate, reference, 255, channel_axis=2)
    part = ssim_map(candidate, reference, 255, (slice(2, 9), slice(8, 30), slice(1, 3)), channel_axis=2)
    assert np.array_equal(part, whole[2:9, 8:30, 1:3], equal_nan=True)
    assert np.isnan(whole[:5]).all() and np.isnan(whole[:, -5:]).all() and not np.isnan(whole[5:-5, 5:-5]).any()
    assert np.nanmean(whole) == pytest.approx(
        structural_similarity(reference, candidate, data_range=255, channel_axis=2, **WANG), rel=1e-10
    )
    assert np.isnan(ssim_map(candidate, reference, 255, (slice(0, 5), slice(0, 30), slice(0, 3)), channel_axis=2)).all()


def test_small_differences_on_a_large_offset_survive():
    rng = np.random.default_rng(0)
    reference = (1e4 + rng.normal(0, 1, (20, 20))).astype(np.float32)
    candidate = (reference + rng.normal(0, 0.5, (20, 20))).astype(np.float32)
    windows = [
        ssim_by_hand(*(a[i : i + 11, k : k + 11].astype(float) for a in (candidate, reference)), 10)
        for i in range(10)
        for k in range(10)
    ]
    assert image_quality(candidate, reference, data_range=10).ssim == pytest.approx(np.mean(windows), rel=1e-6)


@given(st.integers(0, 1000), st.floats(0.1, 100))
def test_psnr_is_bounded_by_the_mean_error(seed, noise):
    candidate, reference = pictures((6, 7), seed, noise)
    found = image_quality(candidate, reference, ssim=False)
    assert found.rmse >= found.mae * (1 - 1e-12)
    assert found.psnr <= 20 * math.log10(found.data_range / found.mae) + 1e-9


def test_it_can_be_cancelled():
    progress = Progress()
    progress.cancel()
    with pytest.raises(CancelledError):
        image_quality(*pictures((20, 20)), progress=progress)


def test_record_is_json_and_every_score_is_defined():
    found = image_quality(np.ones((20, 20)), np.ones((20, 20)))
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["psnr"] == "inf" and record["ssim"] == 1
    short = image_quality(np.ones((5, 5)), np.zeros((5, 5))).to_dict()
    assert short["ssim"] is None and short["psnr"] is None and len(short["notes"]) == 2
    assert tuple(found.scores) == tuple(m.key for m in METRICS)
