"""Score the shipped reference models on the images that were kept apart from their training.

    python benchmarks/reference_models.py --data DIR [--model he_nuclei] [--device cpu] [--all] [--json FILE]

DIR holds one folder a data set, each with a ``manifest.csv`` (columns image and label). Which images are scored is
read from each bundle's ``configs/train.json``: the part ``report`` of the same seeded splits by which the model was
trained. ``--all`` scores every image instead, for a folder that holds none of the training images. A model whose data
are not there is left out, and said so.

Every image takes the way a user's image takes: opened by the readers, segmented by the engine with its defaults, and
read back from the OME-Zarr labels it wrote. The reference labels are opened by Pillow and nibabel alone.

Scores are means over images. Dice of a mask or class: 2 |A and B| / (|A| + |B|), 1 where both are empty. Panoptic
quality (PQ, Kirillov et al., CVPR 2019): the IoU of object pairs that pass 0.5, summed, divided by the number of
pairs + half the objects without a partner on either side.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.adapt.scores import dice, panoptic_quality
from napari_medseg.bundles import Model, list_bundles, load_model
from napari_medseg.case import InputError
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.io.formats import open_images

_VIOLET, _PURPLE = "violet background", "purple on white"
_TITLES = {
    "violet_background": _VIOLET,
    "purple_on_white": _PURPLE,
    "pink_HE": "pink H&E",
    "he_nuclei_tnbc": "breast H&E (TNBC)",
}
_BOTH = "violet and purple together"


def training(model: Model, data: Path) -> Any:
    """A bundle's ``configs/train.json`` with the data's folder filled in."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(model.path / "configs" / "train.json"))
    parser["dataset_dir"] = str(data)
    return parser


def unseen(model: Model, data: Path, everything: bool) -> dict[str, list[dict[str, str]]]:
    """Images that `model` has not seen, by stratum or folder: those kept apart of every set it was trained on."""
    parser = training(model, data)
    sources = {
        name: section
        for name, section in parser.config.items()
        if isinstance(section, dict)
        and str(section.get("_target_", "")).endswith("manifest_records")
        and section["part"] == "train"
    }
    for section in sources.values():
        section["part"] = "all" if everything else "report"
        if everything:
            section["tune"] = section["report"] = None
    parser.parse(True)
    sets: dict[str, list[dict[str, str]]] = {}
    for name in sources:
        for record in parser.get_parsed_content(name):
            folder = Path(record["image"]).parents[1].name
            title = record["stratum"] or folder
            sets.setdefault(_TITLES.get(title, title.replace("_", " ")), []).append(record)
    if _VIOLET in sets and _PURPLE in sets:
        sets[_BOTH] = sets[_VIOLET] + sets[_PURPLE]
    return sets


def labels_of(path: str, model: Model, options: SegmentOptions) -> np.ndarray:
    """Segment one image file and read back what was stored."""
    image = open_images(path)[0]
    with tempfile.TemporaryDirectory() as folder:
        stored = segment(image, model, Path(folder) / "labels.zarr", options)
        return np.asarray(stored.segmentation.data)


def nuclei_scores(labels: np.ndarray, path: str) -> dict[str, float]:
    """Dice of foreground, and PQ where the reference has instances."""
    from PIL import Image

    with Image.open(path) as file:
        reference = np.asarray(file)
    scores = {"dice": dice(labels > 0, reference > 0)}
    if not set(np.unique(reference)) <= {0, 255}:
        scores["pq"] = panoptic_quality(labels, reference)
    return scores


def volume_scores(labels: np.ndarray, path: str, model: Model) -> dict[str, float]:
    """Dice of every class of a volume, and their mean."""
    import nibabel

    # the labels' axes are z, y, x; nibabel's are x, y, z
    return class_scores(labels, np.asarray(nibabel.load(path).dataobj).T, model)


def picture_scores(labels: np.ndarray, path: str, model: Model, read: Mapping[str, Any]) -> dict[str, float]:
    """Dice of every class of a picture, and their mean; values become classes as for training."""
    from PIL import Image

    with Image.open(path) as file:
        values = np.asarray(file.convert("L") if file.mode == "1" else file)
    named = read.get("classes")
    if named is None:
        return class_scores(labels, (values > read.get("above", 0)).astype(np.uint8), model)
    reference = np.zeros(values.shape, np.uint8)
    for value, label in named.items():
        reference[values == int(value)] = label
    return class_scores(labels, reference, model)


def class_scores(labels: np.ndarray, reference: np.ndarray, model: Model) -> dict[str, float]:
    """Dice of every class, by its name, and their mean."""
    table = list(model.card.labels)
    single = {f"dice {c.name}": dice(labels == c.id, reference == c.id) for c in table}
    mean = {"dice": float(np.mean(list(single.values())))}
    return mean | single if len(table) > 1 else mean


def scores_of(model: Model, data: Path, labels: np.ndarray, path: str) -> dict[str, float]:
    """The scores that suit what a model finds and how its reference is stored."""
    if model.instances is not None:
        return nuclei_scores(labels, path)
    if path.endswith((".nii", ".nii.gz")):
        return volume_scores(labels, path, model)
    return picture_scores(labels, path, model, training(model, data).config["read"])


def score_model(name: str, data: Path, options: SegmentOptions, everything: bool = False) -> dict[str, Any]:
    """Scores of one model: for each set the mean of every score, its lowest Dice, and the number of images."""
    model = load_model(name)
    sets = unseen(model, data, everything)
    if not sets:
        raise InputError(
            "its training data are no manifest of one image file and one label file each; its card says how its scores "
            "were measured."
        )
    done: dict[str, dict[str, float]] = {}
    started = time.perf_counter()
    result: dict[str, Any] = {"model": name, "weights_sha256": model.sha256, "sets": {}}
    for title, records in sets.items():
        for record in records:
            if record["image"] not in done:
                labels = labels_of(record["image"], model, options)
                done[record["image"]] = scores_of(model, data, labels, record["label"])
        result["sets"][title] = summary([done[r["image"]] for r in records])
    result["seconds_per_image"] = round((time.perf_counter() - started) / max(1, len(done)), 2)
    return result


def summary(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each score over images, the lowest Dice and the number of images."""
    keys = [k for k in scores[0] if all(k in s for s in scores)]
    means = {k: round(float(np.mean([s[k] for s in scores])), 4) for k in keys}
    return means | {"lowest dice": round(min(s["dice"] for s in scores), 4), "images": len(scores)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table and, on request, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--model", action="append", help="one model; all built-in ones by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--all", action="store_true", help="score every image of the manifests")
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    options = parser.parse_args(arguments)
    run = SegmentOptions(device=options.device, precision=options.precision)
    names = options.model or [e.id for e in list_bundles() if e.source == "built-in" and not e.learned_nothing]
    results = []
    for name in names:
        try:
            results.append(score_model(name, options.data, run, options.all))
        except InputError as error:
            print(f"{name} was left out: {error}")
    for result in results:
        print(f"{result['model']}  ({result['seconds_per_image']} s an image)")
        for title, scores in result["sets"].items():
            print(f"  {title:<28}" + "  ".join(f"{k} {v:.4g}" for k, v in scores.items()))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
