"""Segment slides of growing size: seconds a tile and peak memory of the engine, a small network.

    python benchmarks/engine_scaling.py [--sides 2048,4096,8192,16384,32768] [--rounds 1] [--json]

The slides are generated where they are read, so that no image is held. Each run has a process of its own. The network
(four convolutions of 8 channels at half size) takes next to no time: what is measured is everything around it. One
run comes before, in which the engine chooses and keeps its backend; slides of few tiles are computed by torch. Peak
memory is the largest resident memory while the clock ran; what was held before (libraries, network) is given beside it.
"""

from __future__ import annotations

import argparse

from contenders import run_engine
from fairness import Outcome, in_child, machine, numbers, rows_of, show, take_turns, workplace
from inputs import EndlessTissue
from networks import make_model

from napari_medseg.case import Geometry, MedicalImage, Modality
from napari_medseg.inference.compute.allocator import share_freed_memory

_CLASSES = 3
_TILES_TO_CHOOSE = 8


def run_side(side: int, tile: int, overlap: float) -> Outcome:
    """The engine as it chooses to run, on a slide of ``(side, side, 3)``."""
    share_freed_memory()
    pixels = EndlessTissue(side)
    geometry = Geometry.from_spacing((side, side), (0.5, 0.5), "um")
    image = MedicalImage((pixels,), "yxc", geometry, Modality.SM, "stain RGB", name="generated")
    model = make_model("quick", dims=2, classes=_CLASSES, tile=(tile, tile), overlap=overlap)
    return run_engine(image, model, keep_labels=False, tissue="off", precision="auto", backend="auto")


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=numbers(int), default=(2048, 4096, 8192, 16384, 32768))
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=float, default=0.125)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    record = {
        "machine": machine(),
        "input": {
            "network": "quick",
            "classes": _CLASSES,
            "tile": arguments.tile,
            "overlap": arguments.overlap,
            "rounds": arguments.rounds,
        },
    }
    with workplace():
        in_child(run_side, _TILES_TO_CHOOSE * arguments.tile, arguments.tile, arguments.overlap)
        outcomes = take_turns(
            [str(side) for side in arguments.sides],
            arguments.rounds,
            lambda side, _: in_child(run_side, int(side), arguments.tile, arguments.overlap),
        )
    rows = [{"side": int(row.pop("system")), **row} for row in rows_of(outcomes, memory=True)]
    show(record | {"results": [{"rows": rows}]}, arguments.json)


if __name__ == "__main__":
    main()
