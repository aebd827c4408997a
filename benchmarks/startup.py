"""What the plugin adds to napari's start, and how long each dock takes to open.

Run with ``python benchmarks/startup.py [--repeats 5] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

_IMPORT = """
import time
import napari
start = time.perf_counter()
import napari_medseg
print(1000 * (time.perf_counter() - start))
"""
_NAPARI = """
import time
start = time.perf_counter()
import napari
napari.Viewer
print(1000 * (time.perf_counter() - start))
"""
_DOCK = """
import sys, time
import napari
from qtpy.QtWidgets import QApplication
viewer = napari.Viewer(show=True)
for _ in range(20):
    QApplication.processEvents()
start = time.perf_counter()
viewer.window.add_plugin_dock_widget("napari-medseg", "{name}")
QApplication.processEvents()
print(1000 * (time.perf_counter() - start))
assert not {{"torch", "monai", "SimpleITK"}} & set(sys.modules)
sys.stdout.flush()
import os
os._exit(0)
"""


def milliseconds(code: str, repeats: int) -> float:
    """Median over fresh programs of what `code` prints; a first one warms the disk."""
    times = []
    for _ in range(repeats + 1):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times.append(float(done.stdout.splitlines()[-1]))
    return statistics.median(times[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from contextlib import nullcontext

    from napari_medseg.desk.offscreen import needs_virtual_display, virtual_display

    with virtual_display() if needs_virtual_display() else nullcontext():
        record = {
            "import_napari_ms": milliseconds(_NAPARI, options.repeats),
            "import_napari_medseg_adds_ms": milliseconds(_IMPORT, options.repeats),
            **{
                f"open_{name.lower()}_dock_ms": milliseconds(_DOCK.format(name=name), options.repeats)
                for name in ("Case", "Segment", "Compare", "Review", "Export")
            },
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        }
    if options.json:
        print(json.dumps(record, indent=2))
    else:
        for key, value in record.items():
            print(f"{key:36}{value:10.1f}")


if __name__ == "__main__":
    main()
