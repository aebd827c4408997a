"""How long the window stands still while a model runs: on a thread, and in a process of its own.

A timer beats every 5 ms in a real napari window; the longest time between two beats is the longest time for
which the window answered nobody. Idle beats are measured first. Every way of running gets a fresh program,
because libraries load only once.

Run with ``python benchmarks/window_gap.py [--size 2048] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WAYS = ("thread, all cores", "thread, one core left free", "child process")
BEAT_MS = 5


def picture(size: int) -> Any:
    """A slide of real tissue, tiled to `size` squared."""
    from dataclasses import replace

    from napari_medseg.case import Geometry
    from napari_medseg.samples import histology

    image = histology()
    pixels = np.asarray(image.levels[0])
    times = -(-size // pixels.shape[0])
    tiled = np.tile(pixels, (times, times, 1))[:size, :size]
    return replace(image, levels=(tiled,), geometry=Geometry.from_spacing((size, size), None))


def measure(way: str, size: int) -> dict[str, Any]:
    """Run the nucleus model twice in this program and listen to the window's heart."""
    import napari
    from napari.layers import Layer
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication

    from napari_medseg.bundles import load_model
    from napari_medseg.desk.child import Run, shared_worker
    from napari_medseg.desk.layers import image_layers
    from napari_medseg.desk.pieces.work import Work

    image = picture(size)
    viewer = napari.Viewer(show=True)
    viewer.add_layer(Layer.create(*image_layers(image)[0]))
    last = time.perf_counter()
    beats: list[tuple[float, str]] = []
    word = "idle"

    def beat() -> None:
        nonlocal last
        now = time.perf_counter()
        beats.append((now - last, word))
        last = now

    timer = QTimer()
    timer.setInterval(BEAT_MS)
    timer.timeout.connect(beat)
    timer.start()

    def wait(done: Any) -> None:
        while not done():
            QApplication.processEvents()
            time.sleep(0.0005)

    def spell(seconds: float) -> None:
        end = time.perf_counter() + seconds
        wait(lambda: time.perf_counter() > end)

    spell(2)
    beats.clear()
    spell(3)
    folder = Path(tempfile.mkdtemp())

    def on_thread(name: str, progress: Any) -> None:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) - (way == WAYS[1])))
        from napari_medseg.inference import segment

        segment(image, load_model("he_nuclei"), folder / f"{name}.zarr", progress=progress)

    def in_child(name: str, progress: Any) -> None:
        shared_worker().segment(image, Run("he_nuclei", {}, folder / f"{name}.zarr", name), progress=progress)

    seconds = {}
    for name in ("first run", "second run"):
        word = name
        work = Work(in_child if way == WAYS[2] else on_thread, name.replace(" ", "_"))
        started = time.perf_counter()
        work.start()
        wait(lambda work=work: not work.running)
        seconds[name] = time.perf_counter() - started
        if work.job.error is not None:
            raise work.job.error
    shared_worker().close()

    def worst(name: str) -> float:
        return 1000 * max(gap for gap, at in beats if at == name)

    def late(name: str) -> float:
        return float(1000 * np.percentile([gap for gap, at in beats if at == name], 99))

    return {
        "way": way,
        "idle_worst_ms": worst("idle"),
        **{f"{n.replace(' ', '_')}_worst_ms": worst(n) for n in seconds},
        **{f"{n.replace(' ', '_')}_p99_ms": late(n) for n in seconds},
        **{f"{n.replace(' ', '_')}_seconds": s for n, s in seconds.items()},
    }


def main() -> None:
    """Measure every way in a program of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.size)))
        sys.stdout.flush()
        # the window has served its purpose; taking it down is not measured
        os._exit(0)
    from contextlib import nullcontext

    from napari_medseg.desk.offscreen import needs_virtual_display, virtual_display

    rows = []
    with virtual_display() if needs_virtual_display() else nullcontext():
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--size", str(options.size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    record = {"size": options.size, "cores": os.cpu_count(), "load_average": load, "ways": rows}
    if options.json:
        print(json.dumps(record, indent=2))
        return
    print(f"{options.size} x {options.size} pixels, {os.cpu_count()} cores, load average {load:.1f}")
    print(f"{'longest stop of the window (ms)':32}{'idle':>8}{'1st run':>9}{'2nd run':>9}{'p99':>7}{'seconds':>9}")
    for row in rows:
        print(
            f"{row['way']:32}{row['idle_worst_ms']:8.0f}{row['first_run_worst_ms']:9.0f}"
            f"{row['second_run_worst_ms']:9.0f}{row['second_run_p99_ms']:7.1f}{row['second_run_seconds']:9.1f}"
        )


if __name__ == "__main__":
    main()
