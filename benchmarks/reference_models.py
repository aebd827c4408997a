"""Score the shipped reference models on the images that were kept apart from their training.

    python benchmarks/reference_models.py --data DIR [--model he_nuclei] [--device cpu] [--all] [--json FILE]

DIR holds the folders ``he_nuclei_dsb2018``, ``he_nuclei_tnbc`` and ``mri_hippocampus_msd``, each with a
``manifest.csv`` (columns image and label). Which images are scored is read from each bundle's
``configs/train.json``: the part ``report`` of the same seeded split by which the model was trained. ``--all`` scores
every image instead, for a folder that holds none of the training images.

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
from typing import Any, Literal

import numpy as np

from napari_medseg.adapt.scores import dice, panoptic_quality
from napari_medseg.adapt.splits import manifest_records
from napari_medseg.bundles import Model, load_model
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.io.formats import open_images

MODELS = ("he_nuclei", "mr_hippocampus")
_VIOLET, _PURPLE = "violet background", "purple on white"
_TITLES = {"violet_background": _VIOLET, "purple_on_white": _PURPLE, "pink_HE": "pink H&E", "": "breast H&E (TNBC)"}


def nuclei_records(model: Model, data: Path, everything: bool) -> dict[str, list[dict[str, str]]]:
    """Images of each stain that the nuclei model has not seen."""
    train = json.loads((model.path / "configs" / "train.json").read_text(encoding="utf-8"))
    part: Literal["all", "report"] = "all" if everything else "report"
    wanted = {"he_nuclei_dsb2018": train["dsb_split"], "he_nuclei_tnbc": train["tnbc_split"]}
    sets: dict[str, list[dict[str, str]]] = {}
    for folder, split in wanted.items():
        split = {k: v for k, v in split.items() if not everything or k in ("group", "stratum")}
        for record in manifest_records(data / folder / "manifest.csv", part, seed=train["seed"], **split):
            sets.setdefault(_TITLES.get(record["stratum"], record["stratum"]), []).append(record)
    return sets


def hippocampus_records(model: Model, data: Path, everything: bool) -> dict[str, list[dict[str, str]]]:
    """Cases that the hippocampus model has not seen."""
    train = json.loads((model.path / "configs" / "train.json").read_text(encoding="utf-8"))
    split = {} if everything else train["split"]
    manifest = data / "mri_hippocampus_msd" / "manifest.csv"
    return {"MSD": manifest_records(manifest, "all" if everything else "report", seed=train["seed"], **split)}


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


def hippocampus_scores(labels: np.ndarray, path: str) -> dict[str, float]:
    """Dice of both classes and their mean."""
    import nibabel

    # the labels' axes are z, y, x; nibabel's are x, y, z
    reference = np.asarray(nibabel.load(path).dataobj).T
    single = {f"dice {name}": dice(labels == c, reference == c) for c, name in ((1, "anterior"), (2, "posterior"))}
    return {"dice": float(np.mean(list(single.values()))), **single}


def score_model(name: str, data: Path, options: SegmentOptions, everything: bool = False) -> dict[str, Any]:
    """Scores of one model: for each set the mean of every score, its lowest Dice, and the number of images."""
    model = load_model(name)
    nuclei = name == "he_nuclei"
    sets = (nuclei_records if nuclei else hippocampus_records)(model, data, everything)
    if _VIOLET in sets and _PURPLE in sets:
        sets["violet and purple together"] = sets[_VIOLET] + sets[_PURPLE]
    done: dict[str, dict[str, float]] = {}
    started = time.perf_counter()
    result: dict[str, Any] = {"model": name, "weights_sha256": model.sha256, "sets": {}}
    for title, records in sets.items():
        for record in records:
            if record["image"] not in done:
                score = nuclei_scores if nuclei else hippocampus_scores
                done[record["image"]] = score(labels_of(record["image"], model, options), record["label"])
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
    parser.add_argument("--model", choices=MODELS, action="append", help="one model; both by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--all", action="store_true", help="score every image of the manifests")
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    options = parser.parse_args(arguments)
    run = SegmentOptions(device=options.device, precision=options.precision)
    results = [score_model(name, options.data, run, options.all) for name in options.model or MODELS]
    for result in results:
        print(f"{result['model']}  ({result['seconds_per_image']} s an image)")
        for title, scores in result["sets"].items():
            print(f"  {title:<28}" + "  ".join(f"{k} {v:.4g}" for k, v in scores.items()))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
