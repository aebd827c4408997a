"""Write the classical baselines, methods without weights, as the built-in bundles; running it again changes nothing.

    python scripts/make_classical_bundles.py [--folder DIR]

The versions that a bundle's metadata states are those installed beside this script.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_medseg.bundles.instances import WatershedDecoder
from napari_medseg.bundles.intensity import IntensityPlan
from napari_medseg.bundles.model import ModelCard
from napari_medseg.bundles.save import BundleDescription, save_bundle
from napari_medseg.bundles.steps import After, Before, Tiling
from napari_medseg.case import LabelTable
from napari_medseg.networks import find_architecture

BUILT_IN = Path(__file__).resolve().parents[1] / "src" / "napari_medseg" / "resources" / "bundles"

_OTSU = (
    "Otsu, A threshold selection method from gray-level histograms, "
    "IEEE Transactions on Systems, Man, and Cybernetics 9:62 (1979)"
)
_WATERSHED = (
    "Vincent and Soille, Watersheds in digital spaces, "
    "IEEE Transactions on Pattern Analysis and Machine Intelligence 13:583 (1991)"
)
_CHAN_VESE = "Chan and Vese, Active contours without edges, IEEE Transactions on Image Processing 10:266 (2001)"
_SNAKES = (
    "Márquez-Neila, Baumela and Alvarez, A morphological approach to curvature-based evolution of curves and surfaces, "
    "IEEE Transactions on Pattern Analysis and Machine Intelligence 36:2 (2014)"
)
_LEVEL_SET = (
    "Li, Xu, Gui and Fox, Distance regularized level set evolution and its application to image segmentation, "
    "IEEE Transactions on Image Processing 19:3243 (2010)"
)
_BRIGHTNESS = "It knows brightness and no anatomy: what it finds is whatever is {}, wherever that is."
_ONE_THRESHOLD = "One threshold serves the whole image: uneven light, and more than two kinds of tissue, mislead it."
_MEAN = "Colours and other channels are averaged into one number a pixel before anything else."


@dataclass(frozen=True)
class Baseline:
    """One method with its parameters, and what its card says."""

    id: str
    name: str
    description: str
    label: str
    modality: tuple[str, ...]
    method: str
    values: Mapping[str, Any]
    references: tuple[str, ...]
    limits: tuple[str, ...]
    dims: int = 2
    decoder: WatershedDecoder | None = None


BASELINES = (
    Baseline(
        "classical_otsu_bright",
        "Bright regions (Otsu)",
        "Parts a picture into bright and dark by one threshold, chosen by Otsu's criterion, and labels the bright. "
        "Holes are filled and pieces below 30 pixels removed.",
        "bright region",
        ("FL", "US", "ES", "XC", "OP", "MR", "CT"),
        "otsu",
        {"smoothing": 1.0, "bright": True, "smallest": 30, "fill_holes": True},
        (_OTSU,),
        (_BRIGHTNESS.format("bright"), _ONE_THRESHOLD, _MEAN),
    ),
    Baseline(
        "classical_otsu_dark",
        "Dark regions (Otsu)",
        "Parts a picture into bright and dark by one threshold, chosen by Otsu's criterion, and labels the dark. "
        "Pieces below 30 pixels are removed.",
        "dark region",
        ("SM", "OP"),
        "otsu",
        # the dark frame around a photographed fundus encloses it: filled holes would be all of the picture
        {"smoothing": 1.0, "bright": False, "smallest": 30, "fill_holes": False},
        (_OTSU,),
        (
            _BRIGHTNESS.format("dark"),
            "A dark frame around the picture, as in photographs of the fundus, is found as well and takes the "
            "threshold for itself: vessels inside are missed.",
            _ONE_THRESHOLD,
            _MEAN,
        ),
    ),
    Baseline(
        "classical_watershed_dark",
        "Dark objects apart (Otsu and watershed)",
        "Finds dark objects, such as stained nuclei, by Otsu's threshold, and parts those that touch at their waists "
        "by a watershed of the distance to their edge. Holes are filled and pieces below 30 pixels removed.",
        "dark object",
        ("SM",),
        "otsu",
        {"smoothing": 1.0, "bright": False, "smallest": 30, "fill_holes": True},
        (_OTSU, _WATERSHED),
        (
            _BRIGHTNESS.format("dark"),
            "Distances are in pixels and chosen for nuclei at about 0.25 µm a pixel; larger ones are cut into pieces.",
            _ONE_THRESHOLD,
            _MEAN,
        ),
        decoder=WatershedDecoder(),
    ),
    Baseline(
        "classical_chan_vese",
        "Bright regions (Chan-Vese)",
        "Parts a picture into two regions of even brightness with a smooth border between them and labels the "
        "brighter: Chan-Vese by morphology, 50 steps from a checkerboard.",
        "bright region",
        ("FL", "US", "ES", "XC", "OP"),
        "morphological_chan_vese",
        {"smoothing": 1.0, "bright": True, "iterations": 50, "curvature_steps": 1},
        (_CHAN_VESE, _SNAKES),
        (_BRIGHTNESS.format("brighter"), "Uneven light, and more than two kinds of tissue, mislead it.", _MEAN),
    ),
    Baseline(
        "classical_level_set",
        "One region (level set)",
        "A contour starts 5 pixels inside the frame and shrinks until it meets edges: distance-regularised level set, "
        "400 steps and 10 more that smooth.",
        "region",
        ("FL", "US", "ES", "XC"),
        "drlse",
        # the paper's 1.5 pixels stop at speckle and film grain before the object is reached
        {"smoothing": 1.0, "edge_scale": 3.0, "balloon": 1.5, "direction": "shrink", "margin": 5, "iterations": 400},
        (_LEVEL_SET,),
        (
            "It is made for one object that lies apart from the frame; among many objects the contour stays on the "
            "outermost, and what lies inside those is labelled too.",
            "After 400 steps it stops wherever it is: in large pictures that may be far from any object.",
            "A faint edge does not hold the contour: it may shrink away, and nothing is found.",
            "It is slow: some 25 seconds for 512 x 512 pixels on one core.",
            _MEAN,
        ),
    ),
    Baseline(
        "classical_otsu_volume",
        "Bright regions of volumes (Otsu)",
        "Parts a volume into bright and dark by one threshold, chosen by Otsu's criterion, and labels the bright. "
        "Enclosed holes are filled and pieces below 100 voxels removed.",
        "bright region",
        ("CT", "MR"),
        "otsu",
        {"smoothing": 1.0, "bright": True, "smallest": 100, "fill_holes": True},
        (_OTSU,),
        (
            _BRIGHTNESS.format("bright"),
            "In a CT of the trunk that is the body against the air around it, with whatever the body encloses.",
            _ONE_THRESHOLD,
            "It works in voxels, whatever their size along each axis.",
        ),
        dims=3,
    ),
    Baseline(
        "classical_chan_vese_volume",
        "Bright regions of volumes (Chan-Vese)",
        "Parts a volume into two regions of even brightness with a smooth border between them and labels the brighter: "
        "Chan-Vese by morphology, 30 steps from a checkerboard.",
        "bright region",
        ("CT", "MR"),
        "morphological_chan_vese",
        {"smoothing": 1.0, "bright": True, "iterations": 30, "curvature_steps": 1},
        (_CHAN_VESE, _SNAKES),
        (
            _BRIGHTNESS.format("brighter"),
            "Uneven brightness, and more than two kinds of tissue, mislead it.",
            "It works in voxels, whatever their size along each axis.",
            "It is slow in large volumes: some 15 seconds for a million voxels on one core.",
        ),
        dims=3,
    ),
)


def describe(baseline: Baseline) -> BundleDescription:
    """What the baseline's bundle says."""
    settings = ", ".join(f"{name} {str(value).lower()}" for name, value in baseline.values.items())
    card = ModelCard(
        id=baseline.id,
        name=baseline.name,
        version="0.1.0",
        description=baseline.description,
        task="segmentation",
        kind="semantic" if baseline.decoder is None else "instance",
        modality=baseline.modality,
        labels=LabelTable.from_names([baseline.label], instances=baseline.decoder is not None),
        in_channels=0,
        channels=(),
        licence="BSD-3-Clause",
        training_data=(),
        recipe=f"nothing was learned; {baseline.method} with {settings}",
        validation="not scored",
        reference_scores={},
        intended_use="research baseline, not for diagnosis",
        references=baseline.references,
    )
    return BundleDescription(
        card,
        Before(None, None, None, IntensityPlan()),
        Tiling((32,) * baseline.dims, 0.0, "constant"),
        After("softmax", None, baseline.decoder),
        whole=True,
        authors="napari-medseg developers",
        limits=baseline.limits,
    )


def main(arguments: list[str] | None = None) -> None:
    """Write every baseline into the folder that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=BUILT_IN, help="where to write them (default: the built-in ones)"
    )
    folder: Path = parser.parse_args(arguments).folder
    method = find_architecture("classical")
    for baseline in BASELINES:
        parameters = {"spatial_dims": baseline.dims, "method": baseline.method, "values": dict(baseline.values)}
        save_bundle(folder / baseline.id, method, {}, describe(baseline), parameters=parameters, overwrite=True)
        print(baseline.id)


if __name__ == "__main__":
    main()
