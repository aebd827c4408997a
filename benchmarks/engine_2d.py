"""Segment a slide: the engine against bare forward passes and MONAI's sliding window.

    python benchmarks/engine_2d.py [--side 4096] [--overlaps 0,0.25,0.5] [--network unet|segformer|he_nuclei]
        [--half-glass] [--systems bare,monai,ours,ours-auto,bare-auto] [--rounds 3] [--json]

All systems take turns in one process on the same pixels, weights, tiles (256 x 256) and batches of 4. MONAI gets the
normalised image in memory and ends with labels in memory; the engine reads a tiled TIFF and ends with a verified
OME-Zarr store. ``ours-auto`` measures backends and exports the network in the first round, and finds them in its cache
later. Networks: ``unet`` (MONAI, 1.6 million parameters) and ``segformer`` (b0, needs transformers) have
random weights and 3 classes, so their labels are near ties in many places: besides the share of equal labels, that
share is given where MONAI's best class leads by a hundredth of the maps' standard deviation. ``he_nuclei`` is trained:
there, Dice counts.

With ``--half-glass`` the right half of the slide is blank glass: the engine may skip it, MONAI takes all. Labels are
then compared in the left half.
"""

from __future__ import annotations

import argparse

from contenders import CONTENDERS, Trial
from fairness import machine, numbers, ratios, rows_of, show, take_turns, workplace
from inputs import half_glass, tissue, write_tiff

_PAIRS = (
    ("ours", "bare"),
    ("ours-auto", "bare-auto"),
    ("ours-auto", "bare"),
    ("monai", "ours"),
    ("monai", "ours-auto"),
)


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--overlaps", type=numbers(float), default=(0.0, 0.25, 0.5))
    parser.add_argument("--network", choices=("unet", "segformer", "he_nuclei"), default="unet")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--half-glass", action="store_true")
    parser.add_argument("--systems", type=numbers(str), default=("bare", "monai", "ours", "ours-auto", "bare-auto"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    record = {
        "machine": machine(),
        "input": {
            "side": arguments.side,
            "half_glass": arguments.half_glass,
            "network": arguments.network,
            "tile": arguments.tile,
            "batch": arguments.batch,
            "rounds": arguments.rounds,
        },
        "results": [],
    }
    part = (slice(None), slice(0, arguments.side // 2)) if arguments.half_glass else ()
    with workplace() as folder:
        path = folder / "slide.tif"
        write_tiff(path, half_glass(arguments.side) if arguments.half_glass else tissue(arguments.side))
        for overlap in arguments.overlaps:
            trial = Trial(
                path,
                arguments.network,
                classes=3,
                tile=(arguments.tile,) * 2,
                overlap=overlap,
                batch_size=arguments.batch,
                tissue="on" if arguments.half_glass else "off",
            )
            outcomes = take_turns(
                arguments.systems, arguments.rounds, lambda name, _, trial=trial: CONTENDERS[name](trial)
            )
            rows = rows_of(outcomes, "monai", part)
            record["results"].append({"overlap": overlap, "rows": rows, "ratios": ratios(rows, _PAIRS)})
    show(record, arguments.json)


if __name__ == "__main__":
    main()
