import csv
import io
import json
import math
from dataclasses import replace

import dask.array
import numpy as np
import pytest
import zarr

from napari_medseg.case import CancelledError, Geometry, InputError, LabelTable, Segmentation
from napari_medseg.evaluate.grids import GridMismatch
from napari_medseg.evaluate.objects.scores import object_scores
from napari_medseg.evaluate.pairs import count_pairs
from napari_medseg.evaluate.scoring.score import ScoreOptions, score
from napari_medseg.jobs import Progress

GRID = Geometry.from_spacing((8, 20, 24), (2.0, 0.5, 0.5), "mm", "patient")


def box(value, z, y, x, data=None):
    """A volume with one box of `value`; z, y, x are (start, stop)."""
    data = np.zeros(GRID.shape, np.uint8) if data is None else data
    data[slice(*z), slice(*y), slice(*x)] = value
    return data


def segmentation(data, names=(), geometry=GRID, instances=False, **more):
    return Segmentation(data, geometry, LabelTable.from_names(names, instances), **more)


@pytest.fixture
def pair():
    """Liver moved by two voxels along x, spleen missed, a kidney that is not there."""
    reference = box(2, (5, 7), (10, 18), (2, 10), box(1, (1, 5), (2, 10), (4, 12)))
    candidate = box(3, (0, 1), (0, 2), (0, 2), box(1, (1, 5), (2, 10), (6, 14)))
    names = ["liver", "spleen", "kidney"]
    return segmentation(candidate, names, name="model"), segmentation(reference, names, name="expert")


# -- numbers ------------------------------------------------------------------------------------


def test_labels_by_hand(pair):
    scores = score(*pair)
    liver, spleen, kidney = scores.labels
    assert [(r.id, r.name) for r in scores.labels] == [(1, "liver"), (2, "spleen"), (3, "kidney")]
    assert (liver.candidate_voxels, liver.reference_voxels) == (256, 256)
    # 4 x 8 x 8 voxels of 0.5 mm3, of which a quarter moved out: two voxels of 0.5 mm
    assert liver.values["dice"] == 0.75
    assert liver.values["volume_reference"] == 128.0
    assert liver.values["hd"] == 1.0
    assert spleen.values["dice"] == 0
    assert spleen.values["volume_difference"] == -64.0
    assert spleen.values["hd95"] == math.inf
    assert math.isnan(kidney.values["sensitivity"])
    assert kidney.values["surface_dice"] == 0
    assert (scores.unit, scores.spacing, scores.candidate, scores.reference) == ("mm", GRID.spacing, "model", "expert")


def test_reasons_say_which_side_is_empty(pair):
    liver, spleen, kidney = score(*pair).labels
    assert liver.reasons == {}
    assert spleen.reasons["hd"] == "infinite: the candidate is empty"
    assert spleen.reasons["precision"] == "not defined: the candidate is empty"
    assert kidney.reasons["relative_volume_difference"] == "not defined: the reference is empty"
    full = segmentation(np.ones(GRID.shape, np.uint8))
    assert "covers everything" in score(full, full).labels[0].reasons["specificity"]


def test_overall_is_the_stated_mean_and_any_label(pair):
    scores = score(*pair)
    assert scores.mean.name == "mean of 3 labels"
    assert scores.mean.values["dice"] == pytest.approx(0.25)
    assert scores.mean.values["sensitivity"] == pytest.approx((0.75 + 0) / 2)
    assert scores.mean.reasons["sensitivity"] == "mean of the 2 labels for which it is defined"
    # what was missed altogether does not vanish from the mean
    assert scores.mean.values["hd95"] == math.inf
    assert scores.mean.reasons["hd95"] == "infinite for spleen, kidney"
    # volumes and signed differences are not averaged
    assert not {k for k in scores.mean.values if "volume" in k}
    assert scores.any_label.values["dice"] == pytest.approx(2 * 192 / (260 + 384))
    assert scores.accuracy["global_accuracy"] == pytest.approx(1 - (64 + 64 + 128 + 4) / 3840)


def test_labels_on_neither_side_do_not_count_in_the_mean():
    data = box(1, (1, 5), (2, 10), (4, 12))
    scores = score(segmentation(data, ["liver", "spleen"]), segmentation(data, ["liver", "spleen"]))
    liver, spleen = scores.labels
    assert (spleen.values["dice"], math.isnan(spleen.values["hd"])) == (1, True)
    assert spleen.reasons["hd"] == "not defined: both sides are empty"
    assert scores.mean.name == "mean of 1 label"
    assert scores.mean.values == {k: v for k, v in liver.values.items() if "volume" not in k}
    assert any("spleen" in note for note in scores.notes)


def test_empty_masks_on_both_sides():
    empty = segmentation(np.zeros(GRID.shape, np.uint8))
    scores = score(empty, empty)
    assert (scores.labels, scores.mean) == ((), None)
    assert scores.any_label.values["dice"] == 1
    assert scores.accuracy == {"global_accuracy": 1, "class_accuracy": 1}
    assert any("holds any label" in note for note in scores.notes)
    json.dumps(scores.to_dict(), allow_nan=False)


def test_the_tolerance_is_a_voxel_unless_stated(pair):
    scores = score(*pair)
    assert scores.settings["tolerance"] == 2.0
    assert scores.labels[0].values["surface_dice"] == 1
    tight = score(*pair, ScoreOptions(tolerance=0.4))
    assert tight.labels[0].values["surface_dice"] < 0.9
    assert "Surface Dice at 0.4 mm" in [c.heading for c in tight.columns()]


def test_boundaries_can_be_left_out(pair):
    scores = score(*pair, ScoreOptions(boundary=False))
    assert not {"hd", "hd95", "assd", "surface_dice"} & set(scores.labels[0].values)
    assert "Boundary" not in scores.groups


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_stored_labels_give_the_same_numbers(pair, kind, tmp_path):
    def stored(side, number):
        if kind == "dask":
            return replace(side, data=dask.array.from_array(side.data, chunks=(3, 8, 5)))
        return replace(side, data=zarr.create_array(tmp_path / str(number), data=side.data, chunks=(3, 8, 5)))

    expected = score(*pair, ScoreOptions(lesions=True)).to_dict()
    found = score(*(stored(s, k) for k, s in enumerate(pair)), ScoreOptions(lesions=True)).to_dict()
    assert found == expected


# -- which labels -------------------------------------------------------------------------------


def test_ids_without_names_are_listed_by_number():
    candidate = segmentation(box(7, (0, 2), (0, 2), (0, 2)), ["liver"])
    scores = score(candidate, segmentation(box(1, (0, 2), (0, 2), (0, 2))))
    assert [(r.id, r.name) for r in scores.labels] == [(1, "liver"), (7, "label 7")]


def test_names_that_differ_for_one_id_are_told_and_matched_by_id(pair):
    candidate = replace(pair[0], table=LabelTable.from_names(["Liver", "kidney", "spleen"]))
    scores = score(candidate, pair[1])
    assert [n for n in scores.notes if "by id" in n] == [
        "Id 2 is kidney in the candidate and spleen in the reference; they were compared by id.",
        "Id 3 is spleen in the candidate and kidney in the reference; they were compared by id.",
    ]
    assert scores.labels[1].name == "spleen"
    assert scores.settings["matched_by"] == "id"


def test_unnamed_ids_are_no_difference_of_names(pair):
    unnamed = replace(pair[0], table=LabelTable.from_names(["label 1", "label 2"]))
    assert not any("by id" in note for note in score(unnamed, pair[1]).notes)


def test_labels_matched_by_name_have_the_ids_of_the_reference(pair):
    straight = score(*pair)
    other = np.array([0, 30, 5, 2], np.uint16)[pair[0].data]
    other[7, 19, 23] = 1
    names = {30: "LIVER", 5: "Spleen", 2: "kidney", 1: "tumour"}
    scores = score(segmentation(other, names), pair[1], ScoreOptions(by_name=True))
    for found, expected in zip(scores.labels, straight.labels, strict=False):
        assert (found.id, found.name) == (expected.id, expected.name)
        assert found.values == pytest.approx(
            expected.values | {"specificity": found.values["specificity"]}, nan_ok=True
        )
    extra = scores.labels[3]
    assert (extra.name, extra.candidate_voxels, extra.reference_voxels) == ("tumour", 1, 0)
    assert extra.id not in (1, 2, 3)
    assert scores.settings["matched_by"] == "name"


@pytest.mark.parametrize(
    ("names", "word"),
    [((), "no names"), (["liver", "Liver"], "two labels"), (["heart"], "No name is on both sides")],
)
def test_names_that_do_not_tell_are_refused(pair, names, word):
    with pytest.raises(InputError, match=word):
        score(replace(pair[0], table=LabelTable.from_names(names)), pair[1], ScoreOptions(by_name=True))


def test_chosen_labels_leave_the_others_to_the_background(pair):
    scores = score(*pair, ScoreOptions(labels=(1,)))
    assert [r.id for r in scores.labels] == [1]
    assert scores.any_label.values == {k: v for k, v in scores.labels[0].values.items() if k in scores.any_label.values}
    assert scores.accuracy["global_accuracy"] == pytest.approx(1 - 128 / 3840)
    assert any("not chosen" in note for note in scores.notes)
    with pytest.raises(InputError, match=r"Label 9 is on neither side; there are 1 \(liver\), 2"):
        score(*pair, ScoreOptions(labels=(1, 9)))


# -- lesions and objects ------------------------------------------------------------------------


def test_lesions_are_those_of_each_label(pair):
    scores = score(*pair, ScoreOptions(lesions=True, minimum_volume=3.0, minimum_overlap=0.2))
    liver, spleen, kidney = (r.values for r in scores.labels)
    assert (liver["lesions_found"], liver["lesion_f1"]) == (1, 1)
    assert (spleen["lesions_missed"], spleen["lesion_sensitivity"]) == (1, 0)
    # 4 voxels of 0.5 mm3 are below the cut-off
    assert kidney["lesion_false_positives"] == 0
    assert score(*pair, ScoreOptions(lesions=True)).labels[2].values["lesion_false_positives"] == 1
    told = scores.to_dict()["settings"]
    assert (told["minimum_volume_mm3"], told["minimum_overlap"], told["tolerance_mm"]) == (3.0, 0.2, 2.0)
    assert "lesions_found" not in scores.mean.values


def nuclei(shift=0):
    data = np.zeros((60, 60), np.int32)
    for number, (y, x) in enumerate(np.ndindex(4, 4), start=1):
        data[14 * y : 14 * y + 8, 14 * x + shift : 14 * x + shift + 8] = number
    return segmentation(data, ["nucleus"], Geometry.from_spacing((60, 60), (0.5, 0.5), "um"), instances=True)


def test_objects_are_one_row():
    candidate, reference = nuclei(2), nuclei()
    scores = score(candidate, reference)
    assert scores.objects
    (row,) = scores.rows
    assert (row.id, row.name) == (None, "nucleus")
    # each nucleus overlaps in 6 of 8 columns: IoU 6/10
    assert (row.values["dice"], row.values["pq"], row.values["aji"]) == (0.75, pytest.approx(0.6), pytest.approx(0.6))
    expected = object_scores(count_pairs(candidate.data, reference.data))
    assert {k: row.values[k] for k in expected} == expected
    strict = score(candidate, reference, ScoreOptions(object_threshold=0.7))
    assert (strict.rows[0].values["object_f1"], strict.settings["object_threshold"]) == (0, 0.7)
    assert "class_accuracy" not in scores.to_dict()["overall"]
    json.dumps(scores.to_dict(), allow_nan=False)


def test_ids_do_not_matter_for_objects():
    reference = nuclei()
    other = segmentation(np.where(reference.data, 400 - reference.data, 0), (), reference.geometry)
    scores = score(other, reference)
    assert (scores.rows[0].values["pq"], scores.rows[0].values["aji"]) == (1, 1)
    assert any("Only the reference" in note for note in scores.notes)
    assert any("Only the candidate" in note for note in score(reference, other).notes)


def test_what_ids_are_can_be_stated(pair):
    classes = score(nuclei(2), nuclei(), ScoreOptions(objects=False, boundary=False))
    assert len(classes.labels) == 16
    assert classes.labels[4].name == "nucleus 5"
    assert score(*pair, ScoreOptions(objects=True)).rows[0].values["reference_objects"] == 2
    with pytest.raises(InputError, match="objects of one class"):
        score(nuclei(2), nuclei(), ScoreOptions(labels=(3,)))


def test_hundreds_of_classes_are_doubted():
    data = np.arange(400).reshape(20, 20)
    many = segmentation(data, (), Geometry.from_spacing((20, 20), (1, 1), "mm"))
    assert any("score them as objects" in note for note in score(many, many, ScoreOptions(boundary=False)).notes)


# -- pictures, video, unknown spacing -----------------------------------------------------------


def test_pictures_of_unknown_spacing_are_measured_in_pixels():
    grid = Geometry.from_spacing((10, 10), None)
    one, two = np.zeros((2, 10, 10), np.uint8)
    one[2:6, 2:6], two[2:6, 4:8] = 1, 1
    scores = score(segmentation(one, (), grid), segmentation(two, (), grid))
    told = scores.to_dict()
    metrics = told["labels"][0]["metrics"]
    assert (metrics["hd_px"], metrics["area_reference_px"], metrics["dice"]) == (2, 16, 0.5)
    assert (told["unit"], told["settings"]["tolerance_px"]) == ("px", 1)
    assert not any(k.startswith("spacing") for k in told)
    assert any("in pixels" in note for note in scores.notes)


def test_pictures_have_areas():
    told = score(nuclei(2), nuclei(), ScoreOptions(objects=False)).to_dict()
    metrics = told["labels"][0]["metrics"]
    assert (metrics["area_reference_um2"], metrics["hd_um"], told["spacing_um"]) == (16.0, 1.0, [0.5, 0.5])
    assert "Reference area [um2]" in [d["name"] for d in told["definitions"]]


def video(shifts, missing=()):
    """A square of 4 pixels that lies `shifts` further in each frame, on a grid of 0.5 mm."""
    data = np.zeros((len(shifts), 12, 20), np.uint8)
    for frame, shift in enumerate(shifts):
        if frame not in missing:
            data[frame, 3:7, 3 + shift : 7 + shift] = 1
    return segmentation(data, ["polyp"], Geometry.from_spacing((12, 20), (0.5, 0.5), "mm"))


def test_frames_of_a_video_are_measured_each():
    scores = score(video([2, 0, 6, 0], missing=(3,)), video([0] * 4))
    (polyp,) = scores.labels
    # overlap of 8, 16, 0 and 0 pixels, all frames together
    assert polyp.values["dice"] == pytest.approx(2 * 24 / (48 + 64))
    # 1, 0 and 3 mm; the frame where it was missed has no distance
    assert polyp.values["hd"] == pytest.approx(4 / 3)
    assert polyp.reasons["hd"] == "mean of 3 frames; 1 frame holds the label on one side only and is not in it"
    # missed is 0 for the surface Dice
    single = [score(video([s]), video([0])).labels[0].values["surface_dice"] for s in (2, 0, 6)]
    assert polyp.values["surface_dice"] == pytest.approx((sum(single) + 0) / 4)
    assert any("in each frame" in note for note in scores.notes)
    assert scores.labels[0].values["volume_reference"] == 64 * 0.25


def test_a_label_that_no_frame_finds_is_infinitely_far():
    scores = score(video([0, 0], missing=(0, 1)), video([0, 0]))
    assert scores.labels[0].values["hd"] == scores.mean.values["hd"] == math.inf
    assert scores.labels[0].reasons["hd"] == "infinite: the candidate is empty"


def test_lesions_of_a_video_are_those_of_its_frames():
    scores = score(video([2, 0, 9]), video([0] * 3), ScoreOptions(lesions=True))
    values = scores.labels[0].values
    found = [values[k] for k in ("lesions_counted", "lesions_found", "lesion_false_positives")]
    assert found == [3, 2, 1]
    # each is 16 pixels of 0.25 mm2
    assert (
        score(video([0]), video([0]), ScoreOptions(lesions=True, minimum_volume=4.1))
        .labels[0]
        .values["lesions_counted"]
        == 0
    )
    volumes = Segmentation(np.ones((2, *GRID.shape), np.uint8), GRID)
    with pytest.raises(InputError, match="change in time"):
        score(volumes, volumes, ScoreOptions(lesions=True))


# -- what is refused ----------------------------------------------------------------------------


def test_different_grids_are_never_compared(pair):
    moved = Geometry.from_spacing(GRID.shape, (2.0, 0.5, 0.5), "mm", "patient", (1.0, 0.0, 0.0))
    with pytest.raises(GridMismatch, match="origin"):
        score(replace(pair[0], geometry=moved), pair[1])


def test_negative_ids_and_floats_are_refused():
    with pytest.raises(InputError, match="-3"):
        score(segmentation(np.full(GRID.shape, -3, np.int16)), segmentation(box(1, (0, 1), (0, 1), (0, 1))))
    with pytest.raises(ValueError, match="integers"):
        segmentation(np.full(GRID.shape, np.nan))


def test_unfinished_labels_are_told(pair):
    scores = score(replace(pair[0], complete=False), pair[1])
    assert any("has not finished" in note for note in scores.notes)


def test_scoring_can_be_cancelled(pair):
    progress = Progress()
    progress.cancel()
    with pytest.raises(CancelledError):
        score(*pair, progress=progress)


# -- what comes out -----------------------------------------------------------------------------


def test_json_holds_only_numbers_or_null_with_a_reason(pair):
    told = score(*pair, ScoreOptions(lesions=True)).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    rows = [*told["labels"], told["overall"]["mean"], told["overall"]["any_label"]]
    for row in rows:
        missing = {k for k, v in row["metrics"].items() if v is None}
        assert missing <= set(row["reasons"])
    assert told["labels"][1]["metrics"]["hd_mm"] is None
    assert told["labels"][1]["reasons"]["hd_mm"] == "infinite: the candidate is empty"
    defined = {d["key"] for d in told["definitions"]}
    assert {k for row in rows for k in row["metrics"]} <= defined
    assert {"global_accuracy", "class_accuracy"} <= set(told["overall"]) & defined


def test_csv_has_a_line_a_row_and_units_in_its_heading(pair):
    scores = score(*pair)
    lines = list(csv.DictReader(io.StringIO(scores.to_csv())))
    assert [line["name"] for line in lines] == ["liver", "spleen", "kidney", "mean of 3 labels", "any label"]
    assert float(lines[0]["volume_reference_mm3"]) == 128
    assert (lines[1]["hd95_mm"], lines[2]["sensitivity"], lines[4]["hd95_mm"]) == ("inf", "nan", "")
    assert "hd95_mm: infinite: the candidate is empty" in lines[1]["reasons"]


def test_names_in_the_table_are_no_formulas():
    data = box(1, (0, 1), (0, 1), (0, 1))
    evil = segmentation(data, ["=1+1"])
    assert "'=1+1" in score(evil, evil).to_csv()
