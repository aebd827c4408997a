"""The shipped models on real images they were not trained on; skipped where those are not at hand."""

import json

import numpy as np

from napari_medseg.adapt.scores import dice, panoptic_quality
from napari_medseg.adapt.splits import manifest_records
from napari_medseg.bundles import load_model
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.io.formats import open_images


def report(model, manifest, split, count):
    train = json.loads((model.path / "configs" / "train.json").read_text(encoding="utf-8"))
    return manifest_records(manifest, "report", seed=train["seed"], **train[split])[:count]


def labels_of(path, model, folder):
    store = folder / (path.rpartition("/")[2] + ".zarr")
    return np.asarray(segment(open_images(path)[0], model, store, SegmentOptions(device="cpu")).segmentation.data)


def test_hippocampus_is_found_in_both_parts(shared_data, tmp_path):
    import nibabel

    model = load_model("mr_hippocampus")
    scores = []
    for record in report(model, shared_data / "mri_hippocampus_msd" / "manifest.csv", "split", 3):
        labels = labels_of(record["image"], model, tmp_path)
        reference = np.asarray(nibabel.load(record["label"]).dataobj).T
        scores.append([dice(labels == c, reference == c) for c in (1, 2)])
    assert np.mean(scores, axis=0).min() > 0.84
    # a mirrored or shuffled axis would still overlap a little, so each case must be good on its own
    assert np.min(scores) > 0.75


def test_nuclei_are_found_and_told_apart(shared_data, tmp_path):
    from PIL import Image

    model = load_model("he_nuclei")
    scores = []
    for record in report(model, shared_data / "he_nuclei_dsb2018" / "manifest.csv", "dsb_split", 4):
        labels = labels_of(record["image"], model, tmp_path)
        reference = np.asarray(Image.open(record["label"]))
        scores.append((dice(labels > 0, reference > 0), panoptic_quality(labels, reference)))
    mean_dice, mean_quality = np.mean(scores, axis=0)
    assert mean_dice > 0.84
    assert mean_quality > 0.45
