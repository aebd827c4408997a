"""Tissue on slides: never lost, and most of the glass left out."""

import csv
from pathlib import Path

import numpy as np
import pytest
import skimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from napari_medseg.case import Geometry, InputError, MedicalImage
from napari_medseg.inference.inputs import cells
from napari_medseg.inference.inputs.tissue import TissueMask, TissueSettings, tissue_mask
from napari_medseg.io import open_images

BARE = {"closing_um": 0.0, "hole_area_um2": 0.0, "margin_um": 0.0}


def slide(*levels, um=0.5, axes="yxc", intensity="stain RGB") -> MedicalImage:
    shape = levels[0].shape[:2] if axes[0] == "y" else levels[0].shape[1:3]
    geometry = Geometry.from_spacing(shape, um and (um, um), "um" if um else None)
    return MedicalImage(levels, axes, geometry, intensity=intensity)


def glass(height, width, bright=255.0, dim=235.0, noise=3.0, seed=0) -> np.ndarray:
    """Bare glass lit from the left, as float."""
    light = np.broadcast_to(np.linspace(bright, dim, width)[:, np.newaxis], (height, width, 3))
    return light + np.random.default_rng(seed).normal(0, noise, light.shape)


def as_bytes(picture) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def stained() -> np.ndarray:
    """Real stained tissue, 512 x 512, as the share of light that passes."""
    path = Path(skimage.__file__).parent / "data" / "ihc.png"
    return np.asarray(Image.open(path).convert("RGB")) / 255.0


def on_image(mask: TissueMask, shape) -> np.ndarray:
    """The mask repeated onto the image's pixels."""
    rows, columns = ((np.arange(n) / f).astype(int) for n, f in zip(shape, mask.factors, strict=True))
    return mask.mask[np.ix_(rows, columns)]


def box(shape, top, left, side=512) -> np.ndarray:
    inside = np.zeros(shape, bool)
    inside[top : top + side, left : left + side] = True
    return inside


@pytest.mark.parametrize("um", [0.25, 0.5, None])
@pytest.mark.parametrize("fade", [1.0, 0.3, 0.2])
def test_stained_tissue_is_kept_and_most_glass_dropped(stained, um, fade):
    picture = glass(1800, 2200)
    picture[600:1112, 900:1412] *= stained**fade
    mask = tissue_mask(slide(as_bytes(picture), um=um))
    kept, tissue_here = on_image(mask, (1800, 2200)), box((1800, 2200), 600, 900)
    assert kept[tissue_here].all()
    # the margin reaches 48 µm, or 48 pixels, and the cells that it ends in
    reach = int(48 / um) + int(16 / um) + 1 if um else 64
    near = np.zeros_like(kept)
    near[600 - reach : 1112 + reach, 900 - reach : 1412 + reach] = True
    assert not kept[~near].any()
    assert mask.share == pytest.approx(kept.mean(), abs=0.01)


def test_the_margin_is_as_wide_as_asked(stained):
    picture = np.full((1600, 1600, 3), 245.0)
    picture[512:1024, 512:1024] *= 0.5
    mask = tissue_mask(slide(as_bytes(picture)), TissueSettings(roughness_bounds=(1.0, 1.0)))
    rows = np.flatnonzero(mask.mask.any(axis=1))
    # 0.5 µm pixels: 16 to a mask pixel, 48 µm are 6 of them
    assert mask.factors == (16.0, 16.0)
    assert (rows[0], rows[-1]) == (512 // 16 - 6, 1024 // 16 - 1 + 6)


@pytest.mark.parametrize(
    "colour",
    [(255, 255, 255), (230, 230, 230), (180, 180, 180), (238, 236, 228)],
    ids=["white", "pale", "grey", "warm"],
)
@pytest.mark.parametrize("um", [0.5, None])
def test_glass_alone_is_empty(colour, um):
    noise = np.random.default_rng(1).normal(0, 3, (600, 700, 3))
    assert tissue_mask(slide(as_bytes(colour + noise), um=um)).share == 0
    assert tissue_mask(slide(np.full((600, 700, 3), colour, np.uint8), um=um)).share == 0


def test_uneven_light_on_glass_is_no_tissue():
    assert tissue_mask(slide(as_bytes(glass(1000, 1400)))).share == 0


@pytest.mark.parametrize("fade", [1.0, 0.2])
def test_tissue_alone_is_full(stained, fade):
    picture = slide(as_bytes(255 * stained**fade))
    assert tissue_mask(picture).share == 1
    assert tissue_mask(picture, TissueSettings(**BARE)).share > 0.93


def test_pale_eosin_without_structure_is_kept():
    """No structure at all: what is left is a saturation of 0.06 and an optical density of 0.02 beside the glass."""
    picture = glass(1200, 1200, 245, 245)
    picture[400:912, 400:912] *= np.array([1.0, 0.94, 0.97])
    kept = on_image(tissue_mask(slide(as_bytes(picture))), (1200, 1200))
    assert kept[box((1200, 1200), 400, 400)].all()
    assert not kept[:250].any()


def test_pale_tissue_without_colour_is_kept_for_its_structure():
    """Threads that take 10 % of the light: a mean optical density of 0.02, below every bound for grey."""
    picture = np.full((1200, 1200, 3), 245.0)
    picture[400:912, 400:912][:, np.arange(512) % 16 < 6] *= 0.9
    inside = box((1200, 1200), 400, 400)
    assert on_image(tissue_mask(slide(as_bytes(picture))), (1200, 1200))[inside].all()
    smooth = TissueSettings(roughness_bounds=(1.0, 1.0))
    assert tissue_mask(slide(as_bytes(picture)), smooth).share == 0


def test_unscanned_black_is_no_tissue_and_small_black_is(stained):
    picture = as_bytes(glass(3000, 2400, 245, 245))
    picture[:, :1200] = 0
    picture[1000:1512, 1600:2112] = as_bytes(245 * stained)
    picture[1100:1200, 1700:1800] = 0
    picture[2600:2700, 1800:1900] = 0
    kept = on_image(tissue_mask(slide(picture)), (3000, 2400))
    assert kept[box((3000, 2400), 1000, 1600)].all()
    assert kept[2600:2700, 1800:1900].all()
    assert not kept[:, :1200].any()
    assert not kept[:800].any()


def test_a_single_cell_is_kept_and_a_faint_speck_dropped():
    rows, columns = np.indices((1200, 1200))
    picture = glass(1200, 1200, 250, 250, 1.0)
    # a lymphocyte of 7 µm, and a spot of 4 µm that is hardly there
    picture[(rows - 300) ** 2 + (columns - 305) ** 2 <= 7**2] *= (0.35, 0.3, 0.55)
    picture[(rows - 904) ** 2 + (columns - 904) ** 2 <= 4**2] *= 0.9
    mask = tissue_mask(slide(as_bytes(picture)))
    assert mask.touches((slice(296, 304), slice(300, 310)))
    assert not mask.touches((slice(700, 1200), slice(700, 1200)))


def test_holes_are_filled_up_to_the_area_asked():
    picture = np.full((3200, 3200, 3), 245, np.uint8)
    picture[400:2800, 400:2800] = (200, 120, 180)
    picture[800:1600, 800:1600] = 245
    inside = (slice(1150, 1250), slice(1150, 1250))
    # the hole is 400 µm square
    assert tissue_mask(slide(picture), TissueSettings(hole_area_um2=170_000)).touches(inside)
    assert not tissue_mask(slide(picture), TissueSettings(hole_area_um2=100_000)).touches(inside)


@given(st.data())
def test_touches_is_any_over_the_mask(data):
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    factors = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    cells = np.array(data.draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])))
    mask = TissueMask(cells.reshape(shape), tuple(map(float, factors)), {}, (255.0,), 0, TissueSettings())
    pixels = np.kron(mask.mask, np.ones(factors, bool))
    region = []
    for size in pixels.shape:
        start = data.draw(st.integers(-5, size + 4))
        region.append(slice(start, data.draw(st.integers(start, size + 9))))
    expected = pixels[tuple(slice(max(0, r.start), max(0, r.stop)) for r in region)].any()
    assert mask.touches(tuple(region)) == expected
    assert mask.share == pytest.approx(pixels.mean())


def test_pyramid_and_single_level_agree(stained):
    picture = glass(1536, 1536)
    picture[512:1024, 700:1212] *= stained
    fine = as_bytes(picture)
    coarse = as_bytes(fine.reshape(384, 4, 384, 4, 3).mean((1, 3)))
    single, pyramid = tissue_mask(slide(fine)), tissue_mask(slide(fine, coarse))
    assert (single.level, pyramid.level) == (0, 1)
    assert single.factors == pyramid.factors
    assert np.array_equal(single.mask, pyramid.mask)


class Counted:
    """An array that remembers how much was read at once, stored in chunks."""

    def __init__(self, array, chunks):
        self.array, self.chunks, self.shape, self.dtype = array, chunks, array.shape, array.dtype
        self.largest = 0

    def __getitem__(self, index):
        self.largest = max(self.largest, self.array[index].nbytes)
        return self.array[index]


@pytest.mark.parametrize("chunks", [(64, 64, 3), (100, 36, 3), (1, 1000, 3), (900, 1000, 3)])
def test_chunks_change_nothing_but_the_memory(stained, monkeypatch, chunks):
    picture = glass(900, 1000)
    picture[200:712, 301:813] *= stained
    picture = as_bytes(picture)
    whole = tissue_mask(slide(picture))
    monkeypatch.setattr(cells, "_READ_BYTES", 60_000)
    array = Counted(picture, chunks)
    assert np.array_equal(tissue_mask(slide(array)).mask, whole.mask)
    assert array.largest <= max(60_000, np.prod(chunks))


def test_sixteen_bits_frames_and_alpha_say_the_same(stained):
    picture = glass(900, 1000)
    picture[200:712, 301:813] *= stained
    picture = as_bytes(picture)
    plain = tissue_mask(slide(picture)).mask
    assert np.array_equal(tissue_mask(slide(picture.astype(np.uint16) * 257)).mask, plain)
    with_alpha = np.concatenate([picture, np.full((900, 1000, 1), 255, np.uint8)], -1)
    assert np.array_equal(tissue_mask(slide(with_alpha)).mask, plain)
    frames = np.stack([np.full_like(picture, 240), picture])
    assert np.array_equal(tissue_mask(slide(frames, axes="tyxc"), frame=1).mask, plain)
    assert tissue_mask(slide(frames, axes="tyxc")).share == 0


def test_grey_slides_need_a_bright_background(stained):
    picture = glass(1200, 1200)[..., 0]
    picture[300:812, 300:812] *= stained.mean(-1)
    grey = slide(as_bytes(picture), axes="yx", intensity="arbitrary")
    mask = tissue_mask(grey)
    assert mask.thresholds["saturation"] is None
    kept = on_image(mask, (1200, 1200))
    assert kept[box((1200, 1200), 300, 300)].all()
    assert not kept[:, 1000:].any()
    fluorescence = np.full((500, 500), 5, np.uint8)
    fluorescence[100:150, 100:150] = 250
    with pytest.raises(InputError, match="no bright, even background; accepted are"):
        tissue_mask(slide(fluorescence, axes="yx", intensity="arbitrary"))


def test_other_images_are_refused():
    with pytest.raises(InputError, match="volume"):
        tissue_mask(MedicalImage((np.zeros((3, 4, 5), np.uint8),), "zyx", Geometry.from_spacing((3, 4, 5), None)))
    with pytest.raises(InputError, match="stored as float32; accepted are 8-bit"):
        tissue_mask(slide(np.zeros((9, 9, 3), np.float32)))
    with pytest.raises(InputError, match="5 channels"):
        tissue_mask(slide(np.zeros((9, 9, 5), np.uint8), intensity="arbitrary"))
    with pytest.raises(InputError, match=r"margin_um is -1"):
        TissueSettings(margin_um=-1)
    with pytest.raises(InputError, match=r"density_bounds is 0.5 to 0.2"):
        TissueSettings(density_bounds=(0.5, 0.2))


def test_the_record_is_plain_and_names_every_setting():
    import json

    record = json.loads(json.dumps(tissue_mask(slide(np.full((300, 200, 3), 240, np.uint8))).to_dict()))
    assert record["settings"]["margin_um"] == 48
    assert record["thresholds"] == {"saturation": 0.02, "density": 0.035, "roughness": 0.004}
    assert record["shape"] == [19, 13]
    assert record["glass"] == [240.0] * 3


@pytest.mark.parametrize(("width", "um", "levels", "expected"), [(2000, None, 1, 8), (40000, None, 1, 32)])
def test_unknown_spacing_gives_masks_of_bounded_size(width, um, levels, expected):
    picture = np.broadcast_to(np.uint8(240), (64, width, 3))
    mask = tissue_mask(slide(picture, um=um))
    assert mask.factors == (expected, expected)


@pytest.mark.parametrize("um", [None, 0.5, 0.25])
@pytest.mark.parametrize("folder", ["he_nuclei_dsb2018", "he_nuclei_tnbc", "he_colon_ebhi"])
def test_labelled_nuclei_and_glands_lie_in_the_mask(shared_data, folder, um):
    """With default settings, and nearly so without closing, filling and margin, which could hide a poor threshold."""
    root = shared_data / folder
    with (root / "manifest.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        image = slide(np.asarray(Image.open(root / row["image"]).convert("RGB")), um=um)
        labelled = np.asarray(Image.open(root / row["label"])) > 0
        assert on_image(tissue_mask(image), labelled.shape)[labelled].mean() >= 0.995, row["image"]
        bare = tissue_mask(image, TissueSettings(**BARE))
        assert on_image(bare, labelled.shape)[labelled].mean() >= 0.85, row["image"]


def test_a_real_slide_alone_and_as_pyramid(shared_data):
    (single,) = open_images(shared_data / "wsi" / "CMU-1-Small-Region.svs")
    (pyramid,) = open_images(shared_data / "wsi" / "CMU-1-Small-Region_pyramid.tif")
    one, other = tissue_mask(single), tissue_mask(pyramid)
    assert (one.level, other.level) == (0, 2)
    assert (one.mask != other.mask).mean() < 0.02
    # the strip of glass to the right of the tissue, and the middle of the skin
    for mask in (one, other):
        assert not mask.touches((slice(0, 300), slice(1900, 2220)))
        assert mask.touches((slice(1500, 1510), slice(1150, 1160)))
        strong = pyramid.read((slice(None), slice(None))).mean(axis=0) < 200
        assert on_image(mask, strong.shape)[strong].mean() > 0.9995
