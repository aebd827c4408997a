"""The built-in images are what their menus say, and come from files that are already there."""

import socket

import numpy as np
import pytest

from napari_medseg.case import InputError, Modality
from napari_medseg.samples import SAMPLES, endoscopy_clip, open_sample

EXPECTED = {
    "histology": ("SM", "yxc", (512, 512, 3), None),
    "head_ct": ("CT", "zyx", (1, 512, 512), "mm"),
    "abdominal_mr": ("MR", "zyx", (1, 300, 484), "mm"),
    "brain_mr": ("MR", "tzyx", (2, 24, 96, 128), "mm"),
    "cardiac_ultrasound": ("US", "tyxc", (30, 240, 320, 3), None),
    "fundus": ("OP", "yxc", (1411, 1411, 3), None),
    "mni152_brain": ("MR", "zyx", (189, 233, 197), "mm"),
    "generated_endoscopy": ("ES", "tyxc", (24, 240, 320, 3), None),
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a sample tried to download")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_all_are_covered():
    assert set(EXPECTED) == set(SAMPLES)


@pytest.mark.parametrize("key", EXPECTED)
def test_sample_opens_and_has_contrast(key):
    if key == "mni152_brain":
        pytest.importorskip("nilearn")
    modality, axes, shape, unit = EXPECTED[key]
    image = open_sample(key)
    assert (image.modality, image.axes, image.shape) == (Modality(modality), axes, shape)
    if unit is not None:
        assert image.geometry.unit == unit
    frame = image.read([slice(0, n) for n in image.geometry.shape])
    assert frame.std() > 0


def test_head_ct_is_in_hounsfield_units():
    image = open_sample("head_ct")
    pixels = image.read([slice(0, n) for n in image.geometry.shape])[0, 0]
    assert image.intensity == "HU"
    # air around the head, and brain in the middle of it
    assert np.median(pixels[:40, :40]) < -900
    assert 0 < np.median(pixels[330:400, 220:290]) < 60


def test_generated_clip_says_so_and_repeats():
    image = open_sample("generated_endoscopy")
    assert "generated" in image.name
    assert "shows no patient" in image.warnings[0]
    np.testing.assert_array_equal(endoscopy_clip(3), endoscopy_clip(3))


def test_clip_has_a_dark_lumen_a_red_polyp_and_highlights():
    frame = endoscopy_clip()[0].astype(int)
    assert frame[115, 185].max() < 40
    polyp = frame[158, 112]
    assert polyp[0] > 1.5 * polyp[1]
    assert (frame.min(-1) > 245).any()


def test_unknown_sample_names_the_known_ones():
    with pytest.raises(InputError, match=r"no sample 'lung'; accepted are histology"):
        open_sample("lung")
