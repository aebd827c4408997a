"""The page and its JSON: whole, self-contained, the right way round, and without anybody's name."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from napari_medseg.case import Geometry, InputError, LabelTable, MedicalImage, Modality, Segmentation
from napari_medseg.evaluate.compare import Candidate, compare
from napari_medseg.evaluate.report import make_report, write_report
from napari_medseg.evaluate.report.pictures import picture_of
from napari_medseg.evaluate.review import error_regions

ORANGE, BLUE = (230, 159, 0), (86, 180, 233)
NAMES = LabelTable.from_names(["lesion"])


def volume(orientation=("S", "P", "L")):
    """An LPS-ordered head of 2 mm slices, bright at the patient's right and front, turned to `orientation`."""
    voxels = np.zeros((6, 40, 32), np.float32)
    voxels[:, :20, :16] = 100
    affine = np.array([[0, 0, -1.0, 30], [0, -1.0, 0, 40], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    geometry = Geometry(voxels.shape, affine, "mm", "patient")
    turn = geometry.axis_map_to(orientation)
    return MedicalImage((turn.apply(voxels),), "zyx", geometry.rearranged(turn), Modality.MR, name="head"), turn


def both(turn, geometry):
    mine, theirs = np.zeros((6, 40, 32), np.uint8), np.zeros((6, 40, 32), np.uint8)
    theirs[2:4, 10:20, 8:14] = 1
    mine[2:4, 10:20, 8:14] = 1
    # too much at the patient's right and front
    mine[3, 2:8, 2:6] = 1
    return (Segmentation(turn.apply(a), geometry, NAMES, name=n) for a, n in ((mine, "mine"), (theirs, "right")))


def opened(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def near(picture, colour, reach=60):
    return np.abs(picture - np.array(colour)).sum(-1) < reach


@pytest.mark.parametrize("orientation", [("S", "P", "L"), ("S", "A", "R"), ("I", "L", "P"), ("S", "R", "A")])
def test_patients_face_the_same_way_however_they_are_stored(orientation):
    image, turn = volume(orientation)
    mine, theirs = both(turn, image.geometry)
    (region,) = error_regions(mine.data, theirs.data, image.geometry.spacing)
    picture = picture_of(image, mine, theirs, region, False)
    assert picture.where.endswith("top A, bottom P, left R, right L")
    upright, straight = volume()
    first = picture_of(upright, *both(straight, upright.geometry), region_of_upright(), False)
    assert np.array_equal(opened(picture.png), opened(first.png))


def region_of_upright():
    image, turn = volume()
    mine, theirs = both(turn, image.geometry)
    return error_regions(mine.data, theirs.data, image.geometry.spacing)[0]


def test_right_and_front_are_at_the_left_and_top():
    image, turn = volume()
    picture = picture_of(image, *both(turn, image.geometry), region_of_upright(), False)
    shown = opened(picture.png)
    left = shown[:, : shown.shape[1] // 2 - 4]
    rows, columns = left.shape[0], left.shape[1]
    assert left[2 : rows // 6, 2 : columns // 6].mean() > 200
    assert left[-rows // 6 :, -columns // 6 :].mean() < 60


def test_too_much_is_orange_and_too_little_blue_in_the_right_place():
    geometry = Geometry.from_spacing((60, 60), (1.0, 1.0), "mm")
    image = MedicalImage((np.zeros((60, 60), np.uint8),), "yx", geometry, Modality.US, name="scan")
    mine, theirs = np.zeros((60, 60), np.uint8), np.zeros((60, 60), np.uint8)
    mine[10:20, 10:20] = 1
    theirs[40:50, 40:50] = 1
    a, b = Segmentation(mine, geometry, NAMES), Segmentation(theirs, geometry, NAMES)
    more, less = error_regions(mine, theirs, (1.0, 1.0))
    for region, colour, other in ((more, ORANGE, BLUE), (less, BLUE, ORANGE)):
        shown = opened(picture_of(image, a, b, region, False).png)
        right = shown[:, shown.shape[1] // 2 + 4 :]
        dim = tuple(round(0.6 * v) for v in colour)
        where = near(right, dim)
        assert where.sum() > 500
        # the window of 48 pixels starts at 0 for the first and at 12 for the second
        start = 0 if region is more else 12
        centre = (np.argwhere(where).mean(0) / right.shape[0] * 48 + start).round()
        assert tuple(centre) == pytest.approx((14 if region is more else 44,) * 2, abs=1.5)
        assert near(right, tuple(round(0.6 * v) for v in other)).sum() < where.sum()


def test_voxels_keep_their_proportions():
    geometry = Geometry.from_spacing((30, 60), (2.0, 1.0), "mm")
    image = MedicalImage((np.zeros((30, 60), np.uint8),), "yx", geometry, Modality.US)
    mine = np.zeros((30, 60), np.uint8)
    mine[5:25, 10:50] = 1
    a, b = (Segmentation(x, geometry, NAMES) for x in (mine, np.zeros_like(mine)))
    picture = picture_of(image, a, b, error_regions(mine, b.data, (2.0, 1.0))[0], False)
    assert (picture.width - 8) / 2 == pytest.approx(picture.height, abs=1)


class _Outside(HTMLParser):
    """What a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            loads = key in ("src", "srcset", "data") or (key.endswith("href") and tag not in ("use",))
            if loads and not (value or "").startswith(("data:", "#")):
                self.found.append((tag, key, value))
        if tag in ("script", "link", "iframe", "object"):
            self.found.append((tag,))


@pytest.fixture
def made():
    image, turn = volume()
    mine, theirs = both(turn, image.geometry)
    found = compare([Candidate("<b>odd & name</b>", mine), Candidate("right again", theirs)], theirs)
    return make_report(found, image, theirs), image, found


def test_the_page_loads_nothing_and_escapes_names(made, tmp_path):
    report, _, _ = made
    page = write_report(report, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    parser = _Outside()
    parser.feed(text)
    assert parser.found == []
    assert "<b>odd" not in text and "&lt;b&gt;odd &amp; name" in text
    assert "url(" not in text.replace("url(#", "")
    assert "Research use, not for diagnosis" in text


def test_tables_pictures_and_record_say_the_same(made, tmp_path):
    report, _, found = made
    record = json.loads(write_report(report, tmp_path / "out").with_name("report.json").read_text())
    assert record["ranking"] == ["right again", "<b>odd & name</b>"]
    assert [r["regions"] for r in record["regions"]] == [1, 0]
    assert record["regions"][0]["shown"][0]["voxels"] == 24
    assert "They are equal everywhere." in report.html
    dice = found.scores[0].labels[0].values["dice"]
    assert f">{dice:.4f}<" in report.html
    assert 'class="number best">1.0000<' in report.html
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', report.html)
    assert len(pictures) == 1
    assert opened(base64.b64decode(pictures[0])).shape[2] == 3
    assert "false positive; reference background, candidate lesion; 48 mm3" in report.html


def test_no_path_and_no_identifier_is_in_it(made, tmp_path):
    _, image, found = made
    known = replace(image, name="Doe_Jane", details={"PatientName": "Doe^Jane"}, identifiers_present=True)
    reference = replace(found.candidates[1].segmentation, name="Doe_truth")
    report = make_report(compare(found.candidates, reference), known, reference)
    assert report.record["candidates"][0]["scores"]["reference"] == "reference"
    assert "Doe" not in report.html and "Doe" not in json.dumps(report.record)
    assert str(tmp_path) not in report.html


def test_without_a_reference_the_first_two_are_pictured(made):
    _, image, found = made
    alone = compare(found.candidates, None)
    report = make_report(alone, image)
    assert "Where &lt;b&gt;odd &amp; name&lt;/b&gt; differs from right again" in report.html
    assert "Which is better here" not in report.html
    assert report.record["regions"][0]["regions"] == 1


def test_nothing_is_replaced_unasked_and_nothing_half_written(made, tmp_path):
    report, _, _ = made
    write_report(report, tmp_path / "out")
    with pytest.raises(InputError, match=r"report\.html: already exists"):
        write_report(report, tmp_path / "out")
    write_report(report, tmp_path / "out", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    with pytest.raises(InputError, match="there is no such folder"):
        write_report(report, tmp_path / "missing" / "out")


def test_labels_of_another_image_are_refused(made):
    _, image, found = made
    other = replace(image, geometry=image.geometry.with_spacing((2.0, 1.0, 1.5), "mm"))
    with pytest.raises(InputError, match="does not lie on the grid of head"):
        make_report(found, other, None)
