"""Segment many small cases, and one large picture, on 1, 2, 4 ... workers: seconds and efficiency.

    python benchmarks/cluster.py [--workers 1,2,4] [--volumes 24] [--pictures 24] [--side 6144] [--threads 1] [--json]

Efficiency is t1 / (n * tn) with the same threads a worker for every n, so that 1 is what n times the cores would give;
beyond the machine's cores it falls by itself. Workers are started, and each has segmented one case of the same kind,
before the clock starts; that time is given beside. Volumes are generated noise of the size of the hippocampus model's
images, pictures are pieces of the IHC sample that scikit-image ships. Labels are compared voxel by voxel with those of
the first number of workers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fairness import machine, numbers, show, workplace
from inputs import tissue, write_tiff, write_volume

from napari_medseg.bundles import Model, load_model
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.cases import Case, segment_cases
from napari_medseg.inference.cluster.workers import DaskWorkers
from napari_medseg.io import open_images, open_segmentation

_PICTURE = 1024
_VOLUME = (35, 51, 36)


def write_cases(folder: Path, kind: str, number: int) -> list[Case]:
    """Files of `number` cases, every one different from the others."""
    cases = []
    pixels = tissue(2 * _PICTURE)
    for k in range(number):
        if kind == "volumes":
            path = folder / f"volume{k}.nii"
            write_volume(path, tuple(n + k % 3 for n in _VOLUME))
        else:
            path = folder / f"picture{k}.tif"
            shift = 37 * k % _PICTURE
            write_tiff(path, pixels[shift : shift + _PICTURE, shift : shift + _PICTURE])
        cases.append(Case(path.name.split(".")[0], path))
    return cases


def labels_in(stores: Sequence[Path]) -> list[np.ndarray]:
    """The finest level of each store."""
    return [np.asarray(open_segmentation(store).data[...]) for store in stores]


def run_cases(cases: Sequence[Case], model: Model, options: SegmentOptions) -> Callable[..., list[Path]]:
    """What is timed: all cases, or the first few to warm up."""

    def run(workers: DaskWorkers, folder: Path, few: int | None) -> list[Path]:
        records = segment_cases(cases[:few], [model], folder, options, workers=workers)
        failed = [r.error for r in records if r.error is not None]
        if failed:
            raise SystemExit(failed[0])
        return [r.out for r in records]

    return run


def run_picture(whole: Path, corner: Path, model: Model, options: SegmentOptions) -> Callable[..., list[Path]]:
    """What is timed: one picture whose parts are computed by all workers; a smaller one to warm up."""

    def run(workers: DaskWorkers, folder: Path, few: int | None) -> list[Path]:
        image = open_images(whole if few is None else corner)[0]
        segment(image, model, folder / "labels.zarr", options, workers=workers)
        return [folder / "labels.zarr"]

    return run


def measure(
    run: Callable[..., list[Path]], workplace_folder: Path, counts: Sequence[int], threads: int
) -> list[dict[str, Any]]:
    """One row a number of workers."""
    rows: list[dict[str, Any]] = []
    reference: list[np.ndarray] = []
    for number in counts:
        folders = [workplace_folder / f"{kind}{number}" for kind in ("warm", "out")]
        for folder in folders:
            folder.mkdir(parents=True)
        began = time.perf_counter()
        with DaskWorkers.local(number, threads=threads) as workers:
            run(workers, folders[0], number)
            started = time.perf_counter()
            stores = run(workers, folders[1], None)
            seconds = time.perf_counter() - started
        labels = labels_in(stores)
        reference = reference or labels
        equal = [np.array_equal(a, b) for a, b in zip(labels, reference, strict=True)]
        first = rows[0] if rows else {"workers": number, "seconds": seconds}
        rows.append(
            {
                "workers": number,
                "seconds": seconds,
                "before": started - began,
                "efficiency": first["seconds"] * first["workers"] / (number * seconds),
                "labels": "identical" if all(equal) else f"{equal.count(False)} of {len(equal)} differ",
            }
        )
    return rows


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=numbers(int), default=(1, 2, 4))
    parser.add_argument("--volumes", type=int, default=24, help="how many; 0 leaves them out")
    parser.add_argument("--pictures", type=int, default=24, help="how many of 1024 x 1024 px; 0 leaves them out")
    parser.add_argument("--side", type=int, default=6144, help="of the large picture; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=1, help="of a worker")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    options = SegmentOptions(device="cpu", precision="fp32", backend=arguments.backend, tissue="off")
    record: dict[str, Any] = {
        "machine": machine(),
        "input": {"threads_a_worker": arguments.threads, "backend": arguments.backend},
        "results": [],
    }
    with workplace() as folder:
        work: list[tuple[str, Callable[..., list[Path]]]] = []
        for kind, number, bundle in (
            ("volumes", arguments.volumes, "mr_hippocampus"),
            ("pictures", arguments.pictures, "he_nuclei"),
        ):
            if number:
                run = run_cases(write_cases(folder, kind, number), load_model(bundle), options)
                work.append((f"{number} {kind}, {bundle}", run))
        if arguments.side:
            whole, corner = folder / "whole.tif", folder / "corner.tif"
            pixels = tissue(arguments.side)
            write_tiff(whole, pixels)
            write_tiff(corner, pixels[:_PICTURE, :_PICTURE])
            run = run_picture(whole, corner, load_model("he_nuclei"), options)
            work.append((f"one picture of {arguments.side} x {arguments.side} px, he_nuclei", run))
        for name, run in work:
            place = folder / name.replace(" ", "_").replace(",", "")
            record["results"].append({"what": name, "rows": measure(run, place, arguments.workers, arguments.threads)})
    show(record, arguments.json)


if __name__ == "__main__":
    main()
