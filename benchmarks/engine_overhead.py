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

from napari_medseg.bundles import load_model
from napari_medseg.case import Geometry, MedicalImage, Modality
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.devices import autocast, choose_device
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


def bare_seconds(network: torch.nn.Module, plan: TilePlan, device: object) -> float:
    """Forward passes only: as many batches as the engine runs, of tiles that are already in memory."""
    tiles = torch.rand(_BATCH, 3, *plan.tile)
    batches = []
    for slab in plan.slabs:
        left = len(list(plan.in_slab(slab)))
        batches += [_BATCH] * (left // _BATCH) + [left % _BATCH] * (left % _BATCH > 0)
    started = time.perf_counter()
    with torch.inference_mode():
        for size in batches:
            with autocast(device):
                network(tiles[:size])
    return time.perf_counter() - started


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    model, device = load_model("he_nuclei"), choose_device("cpu")
    pixels = tissue(arguments.side)
    image = MedicalImage(
        (pixels,), "yxc", Geometry.from_spacing(pixels.shape[:2], None), Modality.SM, "stain RGB", name="tissue"
    )
    network = model.network()
    plan = TilePlan(pixels.shape[:2], model.tile, model.overlap)
    bare, engine = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            bare.append(bare_seconds(network, plan, device))
            started = time.perf_counter()
            options = SegmentOptions(device="cpu", batch_size=_BATCH)
            result = segment(image, model, Path(folder) / f"{number}.zarr", options)
            engine.append(time.perf_counter() - started)
        labels = np.asarray(result.segmentation.data[...])
    maps = np.stack([(labels > 0).astype(np.float32)] * model.out_channels)
    started = time.perf_counter()
    model.instances.decode(maps)
    decode = time.perf_counter() - started
    record = {
        "side": arguments.side,
        "tiles": len(plan),
        "nuclei": result.report.labels[0].count,
        "bare_seconds": statistics.median(bare),
        "engine_seconds": statistics.median(engine),
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
