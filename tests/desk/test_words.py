"""Facts, contrast windows, amounts and cards in words."""

from dataclasses import replace

import numpy as np
import pytest

from napari_medseg.bundles import list_bundles
from napari_medseg.case import Geometry, MedicalImage, Modality, contrast
from napari_medseg.desk.facts import facts_of
from napari_medseg.desk.pieces.model_picker import card_html, fits, scores_in_words
from napari_medseg.desk.segmenting import amounts


def words(image):
    return {f.name: f.value for f in facts_of(image)}


def test_facts_of_a_volume(volume):
    said = words(volume)
    assert said["Modality"] == "MR (magnetic resonance)"
    assert said["Size"] == "20 × 24 × 28 (z y x)"
    assert said["Spacing"] == "2 × 1.5 × 1 mm"
    assert said["Orientation"] == "z to right, y to inferior, x to anterior"
    assert said["Identifiers"] == "none found"


def test_unknown_spacing_is_called_unknown():
    image = MedicalImage((np.zeros((3, 4)),), "yx", Geometry.from_spacing((3, 4), None), identifiers_present=True)
    assert words(image)["Spacing"] == "unknown"
    assert words(image)["Identifiers"] == "present in the file; not kept"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("Brain", 0, 80), ("Lung", -1350, 150), ("Bone", -500, 1300), ("Soft tissue", -160, 240), ("Liver", -20, 140)],
)
def test_ct_windows_in_hounsfield_units(volume, name, low, high):
    ct = replace(volume, modality=Modality.CT, intensity="HU")
    window = next(w for w in contrast.windows_for(ct) if w.name == name)
    assert contrast.limits(window, ct) == (low, high)


def test_percentiles_leave_out_the_extremes():
    ramp = np.tile(np.arange(101.0), (101, 1))
    image = MedicalImage((ramp,), "yx", Geometry.from_spacing((101, 101), None), Modality.MR)
    assert contrast.limits(contrast.PERCENTILES, image) == (1.0, 99.0)
    assert contrast.limits(contrast.FULL_RANGE, image) == (0.0, 100.0)
    assert contrast.first_window(image) == (1.0, 99.0)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_flat_and_empty_images_still_have_a_window(value):
    image = MedicalImage((np.full((3, 3), value),), "yx", Geometry.from_spacing((3, 3), None))
    low, high = contrast.first_window(image)
    assert high == low + 1


def test_colour_pictures_have_no_windows(slide):
    assert contrast.windows_for(slide) == ()


def test_models_fit_by_modality_and_channels(own_models, slide, volume):
    entries = {e.id: e for e in list_bundles()}
    assert fits(entries["bright2d"], slide)
    assert not fits(entries["bright2d"], volume)
    assert fits(entries["bright3d"], volume)
    # modality unknown: only the channels decide
    assert fits(entries["bright3d"], replace(volume, modality=Modality.OT))
    assert "Not made for this image" in card_html(entries["bright2d"], volume)


def test_amounts_in_fitting_units():
    report = {
        "labels": [
            {"name": "nucleus", "voxels": 10, "area_um2": 2.5, "count": 3},
            {"name": "tumour", "voxels": 10, "area_um2": 2.5e6},
            {"name": "liver", "voxels": 10, "volume_mm3": 1.5e6},
            {"name": "spot", "voxels": 7},
        ]
    }
    assert amounts(report) == [
        ("nucleus", "3, 2.5 µm²"),
        ("tumour", "2.5 mm²"),
        ("liver", "1500 ml"),
        ("spot", "7 pixels"),
    ]


def test_scores_name_dice_and_pq_of_each_set():
    measured = {"violet": {"dice": 0.8716, "pq": 0.6183, "lowest dice": 0.7, "images": 11}, "MSD": {"dice": 0.891}}
    assert scores_in_words(measured) == "Dice 0.87, PQ 0.62 on violet (11 images); Dice 0.89 on MSD"
    assert scores_in_words({"iou": 0.5, "other": {"mean_dice": 0.8}}) == "iou 0.50; mean_dice 0.80 on other"
    assert scores_in_words({}) == "not stated"
