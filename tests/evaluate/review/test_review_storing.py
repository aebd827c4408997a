import json

import numpy as np
import pytest
import zarr

from napari_medseg.case import Geometry, InputError, LabelTable, Segmentation
from napari_medseg.evaluate.review import (
    RegionRules,
    ReviewItem,
    ReviewQueue,
    open_review,
    review_path,
    save_review,
    update_review,
)
from napari_medseg.evaluate.review.fingerprint import Contents
from napari_medseg.io import open_segmentation, write_segmentation


@pytest.fixture
def labels():
    rng = np.random.default_rng(2)
    reference = rng.integers(0, 3, (6, 12, 14)).astype(np.uint8)
    candidate = np.where(rng.random(reference.shape) < 0.1, 0, reference).astype(np.uint8)
    return candidate, reference


@pytest.fixture
def queue(labels):
    started = ReviewQueue.start(*labels, RegionRules.of(3, (3.0, 1.0, 1.0)))
    return started.decided(2, "accepted", "Grenze unscharf").decided(4, "ignored")


def stored(path, candidate):
    grid = Geometry.from_spacing(candidate.shape, (3.0, 1.0, 1.0), "mm")
    write_segmentation(Segmentation(candidate, grid, LabelTable.from_names(["liver", "tumour"])), path)
    return path


@pytest.mark.parametrize("name", ["seg.zarr", "seg.nii.gz"])
def test_a_review_comes_back_with_its_labels(tmp_path, labels, queue, name):
    path = stored(tmp_path / name, labels[0])

    kept = save_review(queue, path)
    labels_again = open_segmentation(path).data
    again = open_review(path, labels_again, labels[1])

    assert again == queue
    assert again.items[1].region.runs.voxels == queue.items[1].region.voxels
    if name.endswith(".zarr"):
        assert kept == path / "labels" / "seg" or kept.parent == path / "labels"
        private = zarr.open_group(kept, mode="r").attrs["medseg"]
        assert len(private["review"]["items"]) == len(queue.items)
        # the rest of the store's record is as it was
        assert open_segmentation(path).table.name(2) == "tumour"
        assert [p.name for p in tmp_path.iterdir()] == [name]
    else:
        assert sorted(p.name for p in tmp_path.iterdir()) == [name, f"{name}.review.json"]


def test_numbers_and_regions_that_are_gone_survive_an_edit_and_reopening(tmp_path, labels, queue):
    candidate, reference = labels
    box = tuple(slice(a, b) for a, b in queue.item(2).region.box)
    candidate[box] = reference[box]
    edited = update_review(queue, candidate, reference, box)
    assert edited.item(2).gone
    path = stored(tmp_path / "seg.zarr", candidate)

    save_review(edited, path)
    again = open_review(path, open_segmentation(path).data, reference)

    assert again.items == edited.items
    assert again.item(2).before == "accepted"


def test_refuses_other_labels_in_one_sentence(tmp_path, labels, queue):
    candidate, reference = labels
    path = stored(tmp_path / "seg.nii.gz", candidate)
    save_review(queue, path)

    for mine, theirs, words in (
        (candidate, 2 - reference, "another reference"),
        (reference, reference, "another candidate"),
        (candidate[:3], reference[:3], "of shape"),
    ):
        with pytest.raises(InputError, match=words) as refused:
            open_review(path, mine, theirs)
        assert str(refused.value).startswith("seg.nii.gz: ")
        assert str(refused.value).count(". ") == 0

    other = ReviewQueue.start(candidate, 2 - reference, queue.rules)
    with pytest.raises(InputError, match="allow overwriting"):
        save_review(other, path)
    save_review(other, path, overwrite=True)
    assert open_review(path, candidate, 2 - reference) == other


def test_without_a_review_there_is_none(tmp_path, labels):
    path = stored(tmp_path / "seg.zarr", labels[0])
    assert open_review(path, *labels) is None
    with pytest.raises(InputError, match="save the labels first"):
        review_path(tmp_path / "other.nii")


@pytest.mark.parametrize(
    "damage", [lambda r: r.pop("rules"), lambda r: r["items"].pop(), lambda r: r.update(version=9)]
)
def test_damaged_records(tmp_path, labels, queue, damage):
    path = stored(tmp_path / "seg.nii", labels[0])
    file = save_review(queue, path)
    record = json.loads(file.read_text(encoding="utf-8"))
    damage(record)
    file.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match="review"):
        open_review(path, *labels)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        open_review(path, *labels)


def test_a_failed_write_keeps_what_was_there(tmp_path, labels, queue, monkeypatch):
    path = stored(tmp_path / "seg.nii", labels[0])
    file = save_review(queue, path)
    before = file.read_bytes()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr("napari_medseg.evaluate.review.storing.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_review(queue.decided(1, "ignored"), path)
    assert file.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["seg.nii", "seg.nii.review.json"]


def test_items_come_back(queue):
    for item in queue.items:
        assert ReviewItem.from_dict(json.loads(json.dumps(item.to_dict()))) == item


def test_contents_know_ids_and_places_and_not_how_they_are_stored():
    labels = np.zeros((3, 70, 300), np.uint8)
    labels[1, 2, 3] = 7
    first = Contents.of(labels)
    assert Contents.of(np.asfortranarray(labels.astype(np.int64))).digest == first.digest
    changed = labels.copy()
    changed[1, 2, 299] = 1
    assert Contents.of(changed).digest != first.digest
    assert first.updated(changed, np.s_[1:2, 2:3, 299:300]) == Contents.of(changed)
    assert Contents.of(labels.transpose(0, 2, 1)).digest != first.digest
    assert Contents.of(labels[:, ::-1]).digest != first.digest
