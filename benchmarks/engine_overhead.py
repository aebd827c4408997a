"""Segment a 4096 x 4096 RGB image with he_nuclei: the whole engine against the bare forward passes of its tiles.

    python benchmarks/engine_overhead.py [--side 4096] [--rounds 3] [--json]

Bare and engine runs take turns in one process on the same weights, tiles and batches; the ratio is that of the
medians. The engine's time includes reading, normalising, blending, decoding nuclei, and writing the OME-Zarr store
with its pyramid; decoding alone is also timed. The image is made of the IHC sample that scikit-image ships.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from napari_medseg.bundles import Model, load_model
from napari_medseg.case import Geometry, MedicalImage, Modality
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.devices import choose_device
from napari_medseg.inference.engine import TileSource
from napari_medseg.inference.grid import TileReader, WorkGrid
from napari_medseg.inference.plan import TilePlan

_BATCH = 4


def tissue(side: int) -> np.ndarray:
    """The IHC sample and its mirror images, side by side up to ``(side, side, 3)``."""
    from PIL import Image

    sample = np.asarray(Image.open(str(resources.files("skimage") / "data" / "ihc.png")).convert("RGB"))
    double = np.concatenate(
        [np.concatenate([sample, sample[:, ::-1]], 1), np.concatenate([sample[::-1], sample[::-1, ::-1]], 1)]
    )
    times = -(-side // double.shape[0])
    return np.ascontiguousarray(np.tile(double, (times, times, 1))[:side, :side])


def batches_of(image: MedicalImage, model: Model) -> tuple[TilePlan, list[torch.Tensor]]:
    """The plan and the very batches that the engine gives to the network, in memory."""
    grid = WorkGrid.plan(image, model)
    plan = TilePlan(grid.shape, model.tile, model.overlap)
    source = TileSource(TileReader(image, grid, 0, None, (0, 1, 2)), model, None, plan.tile)
    batches = []
    for slab in plan.slabs:
        starts = list(plan.in_slab(slab))
        batches += [source.batch(starts[k : k + _BATCH])[1] for k in range(0, len(starts), _BATCH)]
    return plan, batches


def bare_seconds(network: torch.nn.Module, batches: list[torch.Tensor]) -> float:
    """Forward passes only."""
    started = time.perf_counter()
    with torch.inference_mode():
        for tiles in batches:
            network(tiles)
    return time.perf_counter() - started


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    model, device = load_model("he_nuclei"), choose_device("cpu", "fp32")
    pixels = tissue(arguments.side)
    image = MedicalImage(
        (pixels,), "yxc", Geometry.from_spacing(pixels.shape[:2], None), Modality.SM, "stain RGB", name="tissue"
    )
    network = model.network()
    plan, batches = batches_of(image, model)
    bare, engine = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            bare.append(bare_seconds(network, batches))
            started = time.perf_counter()
            options = SegmentOptions(device="cpu", precision="fp32", batch_size=_BATCH)
            result = segment(image, model, Path(folder) / f"{number}.zarr", options)
            engine.append(time.perf_counter() - started)
        labels = np.asarray(result.segmentation.data[...])
    del batches
    maps = np.stack([(labels > 0).astype(np.float32)] * model.out_channels)
    started = time.perf_counter()
    model.instances.decode(maps)
    decode = time.perf_counter() - started
    record = {
        "side": arguments.side,
        "tiles": len(plan),
        "nuclei": result.report.labels[0].count,
        "bare_seconds": statistics.median(bare),
        "bare_seconds_each": [round(s, 2) for s in bare],
        "engine_seconds": statistics.median(engine),
        "engine_seconds_each": [round(s, 2) for s in engine],
        "ratio": statistics.median(engine) / statistics.median(bare),
        "decode_seconds_alone": decode,
        "peak_rss_bytes": result.report.peak_rss,
        "precision": device.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    if arguments.json:
        print(json.dumps(record))
    else:
        for key, value in record.items():
            print(f"{key:<22} {value:.3f}" if isinstance(value, float) else f"{key:<22} {value}")


if __name__ == "__main__":
    main()
