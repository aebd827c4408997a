"""Groups stay together, the draw is fixed, and nothing is in two parts."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_medseg.adapt.splits import assign_parts, manifest_records
from napari_medseg.case import InputError


@given(seed=st.integers(0, 1000), count=st.integers(4, 30), tune=st.integers(0, 1), report=st.integers(0, 2))
def test_each_stratum_gives_what_is_asked(seed, count, tune, report):
    groups = {f"g{i}": "ab"[i % 2] for i in range(2 * count)}
    parts = assign_parts(groups, {"a": tune}, {"a": report, "b": 1}, seed)
    of_a = [parts[g] for g, s in groups.items() if s == "a"]
    of_b = [parts[g] for g, s in groups.items() if s == "b"]
    assert (of_a.count("tune"), of_a.count("report")) == (tune, report)
    assert (of_b.count("tune"), of_b.count("report")) == (0, 1)
    assert parts == assign_parts(dict(reversed(groups.items())), {"a": tune}, {"a": report, "b": 1}, seed)


def test_another_stratum_does_not_move_the_draw():
    groups = {f"g{i}": "a" for i in range(20)}
    alone = assign_parts(groups, {}, {"a": 5}, 7)
    joined = assign_parts({**groups, "z": "b", "y": "b"}, {}, {"a": 5}, 7)
    assert {g: joined[g] for g in groups} == alone
    assert alone != assign_parts(groups, {}, {"a": 5}, 8)


def test_too_few_groups_are_named():
    with pytest.raises(InputError, match="stratum 'a' has 2 groups"):
        assign_parts({"x": "a", "y": "a"}, {"a": 1}, {"a": 1}, 0)


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "manifest.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label", "slide", "stain"])
        writer.writerows([f"images/{i}.png", f"labels/{i}.png", i // 2, "pink"] for i in range(12))
    return path


def test_a_manifest_is_divided_by_slide(manifest):
    parts = {
        part: manifest_records(manifest, part, "slide", "stain", {"pink": 1}, {"pink": 2}, seed=3)
        for part in ("train", "tune", "report", "all")
    }
    assert [len(parts[p]) for p in ("train", "tune", "report", "all")] == [6, 2, 4, 12]
    slides = [{r["slide"] for r in parts[p]} for p in ("train", "tune", "report")]
    assert not slides[0] & slides[1] and not slides[0] & slides[2] and not slides[1] & slides[2]
    first = parts["all"][0]
    assert first["image"] == str(manifest.parent / "images" / "0.png")
    assert first["stratum"] == "pink"


def test_without_a_group_every_image_is_its_own(manifest, tmp_path):
    moved = tmp_path / "elsewhere" / "manifest.csv"
    moved.parent.mkdir()
    moved.write_text(manifest.read_text())
    names = [
        sorted(r["image"].rpartition("/")[2] for r in manifest_records(m, "report", report={"": 3}))
        for m in (manifest, moved)
    ]
    assert len(names[0]) == 3
    assert names[0] == names[1]


def test_missing_files_and_columns_are_named(manifest, tmp_path):
    with pytest.raises(InputError, match="is not there"):
        manifest_records(tmp_path / "none.csv")
    with pytest.raises(InputError, match="lacks the column 'patient'"):
        manifest_records(manifest, group="patient")
