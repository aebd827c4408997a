"""Segment a volume: the engine against bare forward passes, MONAI's and nnU-Net's sliding windows; time and memory.

    python benchmarks/engine_3d.py [--shape 256,256,256] [--classes 2] [--network unet|unet-head] [--rounds 3] [--json]
        [--systems bare,monai,nnunet,ours,ours-auto,bare-auto] [--max-memory GIB] [--memory EDGE]

The volume is generated, smooth noise in a NIfTI file; its shape is along x y z. All systems run the same network on
tiles of 96 x 96 x 96 that overlap by half, one at a time, blended by a Gaussian. ``unet``, default up to 10 classes,
is MONAI's UNet of 4.8 million parameters; ``unet-head`` is the same with 16 features and a 1 x 1 x 1 convolution to the
classes. Weights are random, so labels are near ties in many places: besides the share of equal labels, that share is
given where MONAI's best class leads by a hundredth of the maps' standard deviation.

Every run has a process of its own, and the systems take turns. MONAI and nnU-Net get the normalised volume in memory
and end with labels in memory; the engine reads the file and ends with a verified OME-Zarr store; ``ours-auto`` measures
backends and exports the network in the first round, and finds them in its cache later. Peak memory is the
largest resident memory while the clock ran; what was held before (libraries, and for all but the engine the volume) is
given beside it. A system that runs out of memory says so.

Labels are compared with MONAI's. nnU-Net's cannot be the same, the less so as random networks differ from tile to
tile: its Gaussian peaks half a voxel off the tile's middle and has no floor of a thousandth, it sums in half precision,
and it spreads its tiles evenly, which makes other tiles than MONAI's except where the edge is 96 + 48 n.

``--memory 384``: the engine alone with 100 classes on 384 x 384 x 384 and 2 GiB allowed.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from contenders import CONTENDERS, Trial
from fairness import GIB, in_child, machine, numbers, ratios, rows_of, show, take_turns, workplace
from inputs import write_volume

_PAIRS = (
    ("ours", "bare"),
    ("ours-auto", "bare-auto"),
    ("ours-auto", "bare"),
    ("monai", "ours"),
    ("monai", "ours-auto"),
    ("nnunet", "ours"),
    ("nnunet", "ours-auto"),
)
_MEMORY_CLASSES, _MEMORY_GIB = 100, 2.0
_MOST_UNET_CLASSES = 10


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=numbers(int), default=(256, 256, 256))
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--network", choices=("unet", "unet-head"))
    parser.add_argument("--tile", type=int, default=96)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--systems", type=numbers(str), default=tuple(CONTENDERS))
    parser.add_argument("--max-memory", type=float, help="GiB that the engine may take")
    parser.add_argument("--memory", type=int, metavar="EDGE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.memory:
        arguments.shape, arguments.classes = (arguments.memory,) * 3, _MEMORY_CLASSES
        arguments.systems = ("ours", "ours-auto")
        arguments.max_memory = arguments.max_memory or _MEMORY_GIB
    network = arguments.network or ("unet" if arguments.classes <= _MOST_UNET_CLASSES else "unet-head")
    systems = [s for s in arguments.systems if s != "nnunet" or find_spec("nnunetv2")]

    record = {
        "machine": machine(),
        "input": {
            "shape": list(arguments.shape),
            "generated": True,
            "network": network,
            "classes": arguments.classes,
            "tile": arguments.tile,
            "overlap": arguments.overlap,
            "max_memory_gib": arguments.max_memory,
            "rounds": arguments.rounds,
        },
        "results": [],
    }
    with workplace() as folder:
        path = folder / "volume.nii"
        write_volume(path, arguments.shape)
        trial = Trial(
            path,
            network,
            classes=arguments.classes,
            tile=(arguments.tile,) * 3,
            overlap=arguments.overlap,
            batch_size=1,
            max_memory=None if arguments.max_memory is None else int(arguments.max_memory * GIB),
        )
        outcomes = take_turns(systems, arguments.rounds, lambda name, _: in_child(CONTENDERS[name], trial))
        reference = next((s for s in ("monai", "nnunet", "ours") if s in outcomes and not outcomes[s][0].failed), "")
        rows = rows_of(outcomes, reference, memory=True)
    record["results"].append({"compared_with": reference, "rows": rows, "ratios": ratios(rows, _PAIRS)})
    show(record, arguments.json)


if __name__ == "__main__":
    main()
