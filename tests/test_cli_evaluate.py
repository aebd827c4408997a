import csv
import json

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_medseg.case import Geometry, LabelTable, Segmentation
from napari_medseg.cli import main
from napari_medseg.io import open_segmentation, write_segmentation

AFFINE = np.diag([0.5, 0.5, 2.0, 1.0])


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """Nothing a test does may touch the folders of the person who runs it."""
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("COLUMNS", "120")


def run(capsys, *arguments):
    """Exit code, standard output and standard error of ``evaluate``."""
    with pytest.raises(SystemExit) as left:
        main(["evaluate", *(str(a) for a in arguments)])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def nifti(path, data, affine=AFFINE):
    """`data` with axes (x, y, z)."""
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def boxes(shift=0, second=True):
    data = np.zeros((24, 20, 8), np.uint8)
    data[4 + shift : 12 + shift, 2:10, 1:5] = 1
    if second:
        data[2:10, 10:18, 5:7] = 2
    return data


@pytest.fixture
def files(tmp_path):
    """A candidate that is two voxels off along x and misses a label, and its reference."""
    return (
        nifti(tmp_path / "pred.nii.gz", boxes(2, second=False)),
        nifti(tmp_path / "ref.nii.gz", boxes()),
    )


@pytest.fixture
def stores(tmp_path):
    """The same, as stores with names."""
    grid = Geometry.from_xyz_affine((8, 20, 24), AFFINE)
    for name, data in (("pred", boxes(2, second=False)), ("ref", boxes())):
        labels = Segmentation(data.transpose(2, 1, 0), grid, LabelTable.from_names(["liver", "spleen"]), name="organs")
        write_segmentation(labels, tmp_path / f"{name}.zarr")
    return tmp_path / "pred.zarr", tmp_path / "ref.zarr"


# -- what is told -------------------------------------------------------------------------------


def test_json_is_one_object_with_units_in_the_keys(capsys, files):
    code, out, err = run(capsys, *files, "--json")
    told = json.loads(out)
    assert code == 0
    first, second = told["labels"]
    assert first["metrics"]["dice"] == 0.75
    assert first["metrics"]["volume_reference_mm3"] == pytest.approx(128)
    assert first["metrics"]["hd_mm"] == pytest.approx(1.0)
    assert (second["metrics"]["dice"], second["metrics"]["hd95_mm"]) == (0, None)
    assert second["reasons"]["hd95_mm"] == "infinite: the candidate is empty"
    assert told["overall"]["mean"]["metrics"]["dice"] == 0.375
    assert (told["candidate"], told["reference"], told["spacing_mm"]) == ("pred.nii.gz", "ref.nii.gz", [2.0, 0.5, 0.5])
    assert told["seconds"] >= 0
    assert "pred.nii.gz: does not say that it holds labels" in told["warnings"][0]
    assert "counting labels" in err
    assert {"dice", "hd95_mm", "volume_difference_mm3"} <= {d["key"] for d in told["definitions"]}


def test_the_table_for_people_names_units_and_reasons(capsys, stores):
    code, out, err = run(capsys, *stores, "--quiet")
    assert (code, err) == (0, "")
    assert "HD95 [mm]" in out
    assert "Surface Dice at 2 mm" in out
    row = next(line for line in out.splitlines() if "1 liver" in line)
    assert row.split("│")[2].strip() == "0.7500"
    assert "2 spleen" in out
    assert "spleen: Hausdorff distance, HD95, ASSD: infinite: the candidate is empty." in out
    assert "mean of 2 labels" in out
    assert "Global accuracy 0.9" in out
    assert "Jaccard" not in out


def test_definitions_on_request(capsys, stores):
    code, out, _ = run(capsys, *stores, "--definitions", "--quiet")
    assert code == 0
    for word in ("Jaccard", "percentile", "Empty masks:", "Heimann"):
        assert word in out


def test_no_heading_is_cut_however_narrow_the_screen(capsys, stores, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = run(capsys, *stores, "--lesions", "--quiet")
    assert code == 0
    assert "…" not in out
    assert "Specificity" in out


def test_options_reach_the_scores(capsys, stores):
    code, out, _ = run(
        capsys, *stores, "--json", "--tolerance", "0.4", "--labels", "1", "--lesions", "--minimum-volume", "200",
    )  # fmt: skip
    told = json.loads(out)
    assert code == 0
    assert [row["id"] for row in told["labels"]] == [1]
    assert told["labels"][0]["metrics"]["surface_dice"] < 0.9
    assert told["labels"][0]["metrics"]["lesions_counted"] == 0
    assert told["settings"]["minimum_volume_mm3"] == 200
    code, out, _ = run(capsys, *stores, "--json", "--no-boundary")
    assert "hd_mm" not in json.loads(out)["labels"][0]["metrics"]


def test_csv_is_written_whole_and_not_over_another(capsys, stores, tmp_path):
    table = tmp_path / "scores.csv"
    code, out, _ = run(capsys, *stores, "--csv", table)
    assert (code, f"Written: {table}" in out.replace("\n", "")) == (0, True)
    with table.open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["name"] for line in lines] == ["liver", "spleen", "mean of 2 labels", "any label"]
    assert (float(lines[0]["dice"]), lines[1]["hd95_mm"]) == (0.75, "inf")
    assert [p.name for p in tmp_path.iterdir() if "writing" in p.name] == []
    code, out, err = run(capsys, *stores, "--csv", table)
    assert (code, out, "already exists" in err) == (1, "", True)
    assert run(capsys, *stores, "--csv", table, "--overwrite", "--json")[0] == 0


def test_the_map_of_errors_is_a_label_store(capsys, stores, tmp_path):
    code, out, _ = run(capsys, *stores, "--errors", tmp_path / "errors.zarr", "--json")
    told = json.loads(out)
    assert (code, told["errors"]) == (0, "errors.zarr")
    found = open_segmentation(tmp_path / "errors.zarr")
    candidate, reference = (zarr.open(s, mode="r")["labels/organs/0"][...] for s in stores)
    values = np.asarray(found.data)
    for name, mask in {
        "agreement": (candidate == reference) & (candidate > 0),
        "false positive": (candidate > 0) & (reference == 0),
        "false negative": (candidate == 0) & (reference > 0),
    }.items():
        (label,) = [e.id for e in found.table if e.name == name]
        assert np.array_equal(values == label, mask)
        assert told["error_shares"][name] == pytest.approx(mask.sum() / ((candidate > 0) | (reference > 0)).sum())
    # the spleen was missed, and the liver's two sides are one region each
    assert told["error_regions_total"] == len(told["error_regions"]) == 3
    largest = told["error_regions"][0]
    assert (largest["error"], largest["reference_label"], largest["voxels"]) == ("false negative", 2, 128)
    assert (largest["size"], largest["size_unit"]) == (64.0, "mm3")
    code, out, _ = run(capsys, *stores, "--errors", tmp_path / "errors.zarr", "--overwrite", "--quiet")
    assert (code, "The largest of 3 error regions:\n  false negative at " in out) == (0, True)
    code, _, err = run(capsys, *stores, "--errors", tmp_path / "errors.nii.gz")
    assert (code, ".zarr" in err) == (1, True)
    assert run(capsys, *stores, "--errors", tmp_path / "other.zarr", "--labels", "1")[0] == 2


def test_one_of_several_labels_in_a_store_is_chosen(capsys, stores, tmp_path):
    root = zarr.open(stores[0], mode="r+")
    first = root["labels/organs"]
    second = root["labels"].create_group("full", attributes=dict(first.attrs))
    for level in first.array_keys():
        second.create_array(level, data=np.ones_like(first[level][...]))
    attributes = dict(root["labels"].attrs)
    attributes["ome"] = attributes["ome"] | {"labels": ["organs", "full"]}
    root["labels"].attrs.put(attributes)
    code, _, err = run(capsys, *stores)
    assert (code, "organs" in err and "full" in err) == (1, True)
    code, out, _ = run(capsys, *stores, "--name", "full", "--json")
    assert (code, json.loads(out)["labels"][0]["candidate_voxels"]) == (0, 24 * 20 * 8)
    code, out, _ = run(capsys, stores[1], stores[0], "--reference-name", "organs", "--json")
    assert json.loads(out)["labels"][0]["metrics"]["dice"] == 0.75


def test_instances_are_scored_as_objects(capsys, tmp_path):
    data = np.zeros((40, 40), np.uint16)
    data[2:10, 2:10], data[20:30, 20:30] = 1, 2
    reference, candidate = tmp_path / "r.tif", tmp_path / "c.tif"
    tifffile.imwrite(reference, data)
    tifffile.imwrite(candidate, np.array([0, 9, 0], np.uint16)[data])
    code, out, _ = run(capsys, candidate, reference, "--objects", "--json")
    (row,) = json.loads(out)["labels"]
    assert (code, row["metrics"]["pq"], row["metrics"]["missed_objects"]) == (0, pytest.approx(1 / 1.5), 1)
    code, out, _ = run(capsys, candidate, reference, "--objects", "--quiet")
    assert ("Missed" in out, "HD95" in out) == (True, False)


# -- grids --------------------------------------------------------------------------------------


def turned(data):
    """The same voxels with x running the other way."""
    affine = AFFINE.copy()
    affine[0] = [-0.5, 0, 0, 0.5 * (data.shape[0] - 1)]
    return data[::-1].copy(), affine


def test_turned_labels_are_refused_until_asked_and_then_the_same(capsys, files, tmp_path):
    candidate = nifti(tmp_path / "turned.nii.gz", *turned(boxes(2, second=False)))
    code, out, err = run(capsys, candidate, files[1], "--quiet")
    assert (code, out) == (1, "")
    assert "orientation (S A L against S A R)" in err
    assert "nothing is lost" in err
    code, out, _ = run(capsys, candidate, files[1], "--resample", "--json")
    told, straight = json.loads(out), json.loads(run(capsys, *files, "--json")[1])
    assert code == 0
    assert told["labels"] == straight["labels"]
    assert "turned without loss" in told["warnings"][-1]


@pytest.mark.parametrize(
    ("data", "affine", "words"),
    [
        (boxes(2)[:, :, :6], AFFINE, "shape (zyx 6x20x24 against 8x20x24)"),
        (boxes(2), np.diag([0.5, 0.5, 3.0, 1.0]), "spacing (3x0.5x0.5 against 2x0.5x0.5 mm)"),
        (boxes(2), AFFINE + np.outer([4, 3, 0, 0], [0, 0, 0, 1]), "moved by 5 mm"),
    ],
)
def test_other_grids_are_named_and_resampled_on_request(capsys, files, tmp_path, data, affine, words):
    candidate = nifti(tmp_path / "other.nii.gz", data, affine)
    code, out, err = run(capsys, candidate, files[1])
    assert (code, out, words in err, "--resample" in err) == (1, "", True, True)
    assert "Traceback" not in err
    code, out, _ = run(capsys, candidate, files[1], "--resample", "--json")
    told = json.loads(out)
    assert (code, told["shape"]) == (0, [8, 20, 24])
    assert words in told["warnings"][-1]


def test_finer_labels_resampled_are_the_same_labels(capsys, files, tmp_path):
    fine = boxes(2, second=False).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] = -np.diag(AFFINE)[:3] / 4
    candidate = nifti(tmp_path / "fine.nii.gz", fine, affine)
    code, out, _ = run(capsys, candidate, files[1], "--resample", "--json")
    assert code == 0
    assert json.loads(out)["labels"] == json.loads(run(capsys, *files, "--json")[1])["labels"]


def test_pictures_are_measured_in_pixels_or_with_the_stated_spacing(capsys, tmp_path):
    one, two = np.zeros((2, 30, 30), np.uint8)
    one[4:14, 4:14], two[4:14, 6:16] = 1, 1
    for name, data in (("one.png", one), ("two.png", two), ("small.png", two[:20])):
        Image.fromarray(data).save(tmp_path / name)
    code, out, err = run(capsys, tmp_path / "one.png", tmp_path / "two.png", "--quiet")
    assert (code, "HD95 [px]" in out, "spacing unknown" in out, "in pixels" in out) == (0, True, True, True)
    code, out, _ = run(capsys, tmp_path / "one.png", tmp_path / "two.png", "--spacing", "0.5,0.25um", "--json")
    told = json.loads(out)
    metrics = told["labels"][0]["metrics"]
    assert (metrics["hd_um"], metrics["area_reference_um2"]) == (0.5, pytest.approx(12.5))
    code, _, err = run(capsys, tmp_path / "small.png", tmp_path / "two.png", "--resample")
    assert (code, "neither states its spacing" in err) == (1, True)
    assert run(capsys, tmp_path / "one.png", tmp_path / "two.png", "--spacing", "wide")[0] == 2


# -- bad input ----------------------------------------------------------------------------------


def test_spacing_is_not_stated_over_the_files_own(capsys, files):
    code, _, err = run(capsys, *files, "--spacing", "1,1,1mm")
    assert (code, "states its spacing itself" in err) == (1, True)


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, -1.0])
def test_what_is_no_label_is_refused(capsys, files, tmp_path, value):
    data = boxes().astype(np.float32)
    data[0, 0, 0] = value
    candidate = nifti(tmp_path / "float.nii.gz", data)
    code, out, err = run(capsys, candidate, files[1])
    assert (code, out) == (1, "")
    assert "float.nii.gz" in err
    assert "no labels" in err


def test_whole_numbers_in_floats_are_labels(capsys, files, tmp_path):
    candidate = nifti(tmp_path / "float.nii.gz", boxes(2, second=False).astype(np.float32))
    code, out, _ = run(capsys, candidate, files[1], "--json")
    assert (code, json.loads(out)["labels"][0]["metrics"]["dice"]) == (0, 0.75)


@pytest.mark.parametrize(
    ("candidate", "reference", "dice"),
    [(boxes() * 0, boxes() * 0, 1), (boxes() * 0, boxes(), 0), (boxes(), boxes() * 0, 0), (boxes(), boxes(), 1)],
)
def test_empty_masks_follow_the_rule_and_say_so(capsys, tmp_path, candidate, reference, dice):
    pair = nifti(tmp_path / "c.nii", candidate), nifti(tmp_path / "r.nii", reference)
    code, out, _ = run(capsys, *pair, "--json", "--quiet")
    told = json.loads(out)
    assert (code, told["overall"]["any_label"]["metrics"]["dice"]) == (0, dice)
    for row in told["labels"]:
        assert row["metrics"]["dice"] == dice
        assert {k for k, v in row["metrics"].items() if v is None} == set(row["reasons"])
    code, out, _ = run(capsys, *pair, "--quiet")
    assert code == 0
    if not candidate.any() and not reference.any():
        assert "Neither side holds any label" in out


def test_one_class_that_fills_everything(capsys, tmp_path):
    full = nifti(tmp_path / "full.nii", np.ones((4, 5, 6), np.uint8))
    code, out, _ = run(capsys, full, full, "--json")
    (row,) = json.loads(out)["labels"]
    assert (code, row["metrics"]["dice"], row["metrics"]["specificity"], row["metrics"]["hd_mm"]) == (0, 1, None, 0)
    assert "covers everything" in row["reasons"]["specificity"]


@pytest.mark.parametrize("text", ["liver", "1,,2", "0", "1,-2"])
def test_label_lists_that_are_none_are_wrong_usage(capsys, files, text):
    code, out, _ = run(capsys, *files, f"--labels={text}")
    assert (code, out) == (2, "")


def test_other_mistakes_are_one_sentence(capsys, files, stores, tmp_path):
    for arguments, words in (
        ((tmp_path / "none.nii.gz", files[1]), "there is no such file"),
        ((*files, "--labels", "9"), "Label 9 is on neither side"),
        ((*files, "--csv", files[0]), "is what is read"),
        ((*files, "--lesions", "--minimum-overlap", "1"), "overlap cut-off of 1"),
        ((*files, "--objects", "--lesions"), "objects of one class"),
    ):
        code, out, err = run(capsys, *arguments, "--quiet")
        assert (code, out) == (1, ""), arguments
        assert words in err
        assert "Traceback" not in err
    assert run(capsys, files[0])[0] == 2


def test_labels_of_one_name_belong_together_on_request(capsys, stores, tmp_path):
    grid = Geometry.from_xyz_affine((8, 20, 24), AFFINE)
    data = np.array([0, 5], np.uint8)[boxes(2, second=False)].transpose(2, 1, 0)
    write_segmentation(Segmentation(data, grid, LabelTable.from_names({5: "Liver"})), tmp_path / "other.zarr")
    code, out, _ = run(capsys, tmp_path / "other.zarr", stores[1], "--by-name", "--json")
    told = json.loads(out)
    assert (code, told["labels"][0]["name"], told["labels"][0]["metrics"]["dice"]) == (0, "liver", 0.75)
    assert told["settings"]["matched_by"] == "name"
    apart = json.loads(run(capsys, tmp_path / "other.zarr", stores[1], "--json")[1])
    assert [row["metrics"]["dice"] for row in apart["labels"]] == [0, 0, 0]
