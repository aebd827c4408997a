"""``napari-medseg compare``: runs, scores, ranks, and leaves a report; wrong input leaves nothing."""

import json
from importlib import resources
from pathlib import Path

import nibabel
import numpy as np
import pytest
import zarr
from PIL import Image

from napari_medseg.adapt.splits import manifest_records
from napari_medseg.bundles.checksums import write_sums
from napari_medseg.cli import main
from napari_medseg.io import open_segmentation
from tests.threshold_bundle import write_threshold_bundle

BUNDLES = Path(str(resources.files("napari_medseg") / "resources" / "bundles"))


@pytest.fixture
def case(tmp_path, monkeypatch):
    """A slide with a bright block, what is right, and two models of which one sees too much."""
    bundles = tmp_path / "bundles"
    for name, level in (("strict", 150.5), ("lax", 30.5)):
        write_threshold_bundle(bundles / name, spatial_dims=2, channels=3, level=level, modality="SM")
        write_sums(bundles / name)
    monkeypatch.setenv("MEDSEG_BUNDLES", str(bundles))
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[20:60, 20:60] = 200
    pixels[70:90, 70:90] = 80
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    right = np.zeros((96, 96), np.uint8)
    right[20:60, 20:60] = 1
    Image.fromarray(right).save(tmp_path / "right.png")
    return tmp_path


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["compare", *map(str, arguments)])
    return end.value.code


def test_models_are_run_scored_ranked_and_reported(case, capsys):
    out = case / "out"
    arguments = ("-m", "lax", "-m", "strict", "--reference", case / "right.png", "-o", out)
    assert run(case / "scan.png", *arguments, "--json", "--quiet") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["ranking"] == ["strict", "lax"]
    dice = [c["scores"]["labels"][0]["metrics"]["dice"] for c in record["candidates"]]
    assert dice == pytest.approx([2 * 1600 / (1600 + 2000), 1.0])
    assert [c["run"]["model"] for c in record["candidates"]] == ["lax", "strict"]
    assert record["candidates"][0]["run"]["seconds"] > 0 and record["candidates"][0]["run"]["peak_memory"] > 0
    assert record["regions"][0]["shown"][0]["voxels"] == 400
    assert sorted(p.name for p in out.iterdir()) == ["labels.zarr", "report.html", "report.json"]
    assert int(np.asarray(open_segmentation(out / "labels.zarr", name="lax").data).sum()) == 2000
    assert "right.png" in record["warnings"][0]


def test_labels_that_are_there_are_compared_without_a_model(case, capsys):
    wrong = np.asarray(Image.open(case / "right.png")).copy()
    wrong[:, 40:] = 0
    Image.fromarray(wrong).save(case / "mine.png")
    arguments = ("--labels", case / "mine.png", "--labels", case / "right.png", "-o", case / "out")
    assert run(case / "scan.png", *arguments, "--quiet") == 0
    assert not (case / "out" / "labels.zarr").exists()
    assert "Where mine differs from right" in (case / "out" / "report.html").read_text()
    assert "Warning: mine.png: does not say that it holds labels" in capsys.readouterr().err


def test_the_answer_in_words(case, capsys):
    arguments = ("-m", "lax", "-m", "strict", "--reference", case / "right.png", "-o", case / "out", "--quiet")
    assert run(case / "scan.png", *arguments) == 0
    said = capsys.readouterr().out
    assert "From best to worst on this case (Dice and then HD95, the mean over the labels): strict, lax." in said
    assert "strict: Dice 1, HD95 [px] 0" in said


def test_another_grid_is_refused_and_nothing_is_left(case, capsys):
    Image.fromarray(np.ones((40, 40), np.uint8)).save(case / "small.png")
    arguments = ("--labels", case / "small.png", "--reference", case / "right.png", "-o", case / "out")
    assert run(case / "scan.png", *arguments) == 1
    assert "small: does not lie on the grid of scan" in capsys.readouterr().err
    assert not (case / "out").exists()


def test_what_is_there_is_kept_and_nothing_to_compare_is_said(case, capsys):
    (case / "out").mkdir()
    (case / "out" / "report.html").write_text("mine")
    with_reference = ("-m", "strict", "--reference", case / "right.png")
    assert run(case / "scan.png", *with_reference, "-o", case / "out") == 1
    assert "holds report.html already" in capsys.readouterr().err
    assert (case / "out" / "report.html").read_text() == "mine"
    assert run(case / "scan.png", "-o", case / "new") == 2
    assert run(case / "scan.png", *with_reference, "-o", case / "none" / "new") == 1
    assert run(case / "scan.png", "-m", "strict", "-o", case / "new") == 1
    assert "give a reference, or two models" in capsys.readouterr().err
    assert not (case / "new").exists()


def test_labels_stored_another_way_round_are_brought_onto_the_image(tmp_path, capsys):
    """The same world, other axes: refused as they are, equal once they are turned."""
    voxels = np.zeros((12, 10, 8), np.int16)
    voxels[2:7, 3:9, 1:5] = 1
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(voxels * 100, affine), tmp_path / "scan.nii.gz")
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "right.nii.gz")
    turned = nibabel.Nifti1Image(voxels, affine).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    assert turned.shape != voxels.shape
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    arguments = ("--labels", tmp_path / "turned.nii.gz", "--reference", tmp_path / "right.nii.gz", "--json", "--quiet")
    assert run(tmp_path / "scan.nii.gz", *arguments, "-o", tmp_path / "out") == 1
    assert "turned: does not lie on the grid of scan" in capsys.readouterr().err
    assert run(tmp_path / "scan.nii.gz", *arguments, "--resample", "-o", tmp_path / "out") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["candidates"][0]["scores"]["labels"][0]["metrics"]["dice"] == 1
    assert record["regions"][0]["regions"] == 0


def test_three_models_on_a_real_case(shared_data, tmp_path, capsys):
    """Two networks and a method on a hippocampus that neither network learned from."""
    recipe = json.loads((BUNDLES / "mr_hippocampus" / "configs" / "train.json").read_text())
    kept_apart = {**recipe["split"], "seed": recipe["seed"], "part": "report"}
    case = manifest_records(shared_data / "mri_hippocampus_msd" / "manifest.csv", **kept_apart)[0]
    models = ("mr_hippocampus", "mr_hippocampus_swin", "classical_otsu_volume")
    chosen = [part for model in models for part in ("-m", model)]
    reference = ("--reference", case["label"], "--worst", "2", "--json", "--quiet", "-o", tmp_path / "out")
    assert run(case["image"], *chosen, *reference) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["ranking"][2] == "classical_otsu_volume"
    for candidate in record["candidates"]:
        # the same labels, read and scored by nibabel and numpy alone
        stored = zarr.open(tmp_path / "out" / "labels.zarr" / "labels" / candidate["name"] / "0", mode="r")[...]
        truth = np.asarray(nibabel.load(case["label"]).dataobj).T
        for row in candidate["scores"]["labels"]:
            mine, theirs = stored == row["id"], truth == row["id"]
            expected = 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum())
            assert row["metrics"]["dice"] == pytest.approx(expected)
        assert candidate["run"]["licence"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert all(model in page for model in models)
