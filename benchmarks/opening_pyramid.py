"""Open a pyramid of 4 GB and look around in it: seconds, and memory above idle, in a process of its own.

Run ``python benchmarks/opening_pyramid.py``; it prints one JSON object. The pyramid is an OME-Zarr store or a
tiled TIFF of 36,864 x 36,864 RGB pixels that is mostly background, so it takes little room on disk; every pixel
that is read is unpacked like any other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SIDE = 36_864
TILE = 512
LEVELS = 7
LIMIT_MIB = 200


def level_tiles(level: int) -> Iterator[np.ndarray | None]:
    """Tiles in file order; one in twenty holds stripes, the others are background."""
    side = SIDE >> level
    stripes = np.broadcast_to((np.arange(TILE) % 251).astype(np.uint8)[:, None, None], (TILE, TILE, 3))
    for k in range((-(-side // TILE)) ** 2):
        yield np.ascontiguousarray(stripes) if k % 20 == 0 else np.full((TILE, TILE, 3), 240, np.uint8)


def make_tiff(path: Path) -> None:
    """A tiled, compressed pyramid with 0.25 micrometres a pixel."""
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level in range(LEVELS):
            side = SIDE >> level
            writer.write(
                level_tiles(level),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="zstd",
                compressionargs={"level": 1},
                resolution=(40_000 / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
                metadata=None,
            )


def make_zarr(path: Path) -> None:
    """The same as OME-Zarr; background chunks are not stored."""
    import zarr

    root = zarr.open_group(path, mode="w")
    datasets = []
    for level in range(LEVELS):
        side = SIDE >> level
        array = root.create_array(
            str(level), shape=(3, side, side), chunks=(3, TILE, TILE), dtype=np.uint8, fill_value=240
        )
        across = -(-side // TILE)
        for k, tile in enumerate(level_tiles(level)):
            if k % 20 == 0 and tile is not None:
                y, x = (v * TILE for v in divmod(k, across))
                array[:, y : y + TILE, x : x + TILE] = np.moveaxis(tile, -1, 0)[:, : side - y, : side - x]
        scale = [{"type": "scale", "scale": [1.0, 0.25 * 2**level, 0.25 * 2**level]}]
        datasets.append({"path": str(level), "coordinateTransformations": scale})
    space = [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    axes = [{"name": "c", "type": "channel"}, *space]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def look(path: Path) -> dict[str, float]:
    """Open, read the overview and nine views of 1024 x 1024 at full resolution."""
    import psutil

    from napari_medseg.io import ome_zarr, open_images, tiff

    assert ome_zarr and tiff  # loaded before the idle memory is taken
    process = psutil.Process()
    idle = process.memory_info().rss
    started = time.perf_counter()
    (image,) = open_images(path)
    opened = time.perf_counter() - started
    peak = process.memory_info().rss
    overview = image.read(tuple(slice(None) for _ in "yx"), level=len(image.levels) - 1)
    assert overview.any()
    looked = time.perf_counter() - started
    for y in range(3):
        for x in range(3):
            corner = (y * SIDE // 3, x * SIDE // 3)
            view = image.read(tuple(slice(c, c + 1024) for c in corner))
            assert view.shape == (3, 1024, 1024)
            peak = max(peak, process.memory_info().rss)
    if sys.platform.startswith("linux"):
        import resource

        peak = max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return {
        "open_seconds": round(opened, 3),
        "overview_seconds": round(looked, 3),
        "nine_views_seconds": round(time.perf_counter() - started - looked, 3),
        "mib_above_idle": round((peak - idle) / 2**20, 1),
    }


def main() -> None:
    """Make both pyramids in a temporary folder and look at each in a child process."""
    if len(sys.argv) > 1:
        print(json.dumps(look(Path(sys.argv[1]))))
        return
    found: dict[str, object] = {
        "pixels": SIDE * SIDE,
        "gigabytes": round(SIDE * SIDE * 3 / 1e9, 2),
        "limit_mib": LIMIT_MIB,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("pyramid.tif", make_tiff), ("pyramid.zarr", make_zarr)):
            path = Path(folder) / name
            make(path)
            run = subprocess.run([sys.executable, __file__, str(path)], check=True, capture_output=True, text=True)
            found[name] = json.loads(run.stdout)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
