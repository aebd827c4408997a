"""How much memory and time it takes to open large files and to look at one slice of them.

Run ``python benchmarks/opening.py [--json FILE] [--folder FOLDER]``. Every measurement runs in a fresh process; memory
is the peak resident set above what the same process needs for importing the readers. The large file is sparse: it
takes no room on disk where the file system knows holes.

To measure another kind of file add a `Case`: a function that makes the file, and what to look at.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LIMIT_MIB = 200


@dataclass(frozen=True)
class Case:
    """A file to open.

    Parameters
    ----------
    name
        What is measured.
    file
        Name of the file.
    make
        Writes the file at a path.
    limit_mib
        Peak memory above idle that opening and one slice may take; ``None`` for no promise.
    """

    name: str
    file: str
    make: Callable[[Path], None]
    limit_mib: int | None = LIMIT_MIB


@dataclass(frozen=True)
class Result:
    """What one case cost."""

    name: str
    file_mib: float
    pixels_mib: float
    open_seconds: float
    open_peak_mib: float
    slice_seconds: float
    slice_peak_mib: float
    limit_mib: int | None

    @property
    def kept(self) -> bool:
        """Whether the promise was kept."""
        return self.limit_mib is None or self.slice_peak_mib < self.limit_mib


def nifti(shape_xyz: tuple[int, int, int], dtype: str) -> Callable[[Path], None]:
    """A maker of an uncompressed NIfTI file of zeros."""

    def make(path: Path) -> None:
        import nibabel as nib
        import numpy as np

        header = nib.Nifti1Header()
        header.set_data_dtype(dtype)
        header.set_data_shape(shape_xyz)
        header.set_sform(np.diag((0.5, 0.5, 0.8, 1.0)), code=1)
        header.set_xyzt_units("mm")
        header["vox_offset"] = 352
        with path.open("wb") as stream:
            header.write_to(stream)
            stream.truncate(352 + int(np.prod(shape_xyz, dtype=np.int64)) * np.dtype(dtype).itemsize)

    return make


CASES = (
    Case("NIfTI, 2 GiB, 16-bit integers", "large_int16.nii", nifti((1024, 1024, 1024), "<i2")),
    Case("NIfTI, 2 GiB, 32-bit floats", "large_float32.nii", nifti((1024, 1024, 512), "<f4")),
    Case("NIfTI, 2 GiB, big-endian", "large_big_endian.nii", nifti((1024, 1024, 1024), ">i2")),
)


def _peak_mib() -> float:
    """Peak resident set of this process."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if platform.system() == "Darwin" else 2**10)


def _measure(path: Path, answer: Any) -> None:
    """In a fresh process: import, note the idle peak, open, look at the middle slice."""
    import dask.array  # noqa: F401
    import numpy as np

    from napari_medseg.io import open_images
    from napari_medseg.io.formats import _module, format_of

    _module(format_of(path))
    if path.name.endswith((".nii", ".nii.gz")):
        import nibabel  # noqa: F401
    idle = _peak_mib()
    start = time.perf_counter()
    image = open_images(path)[0]
    opened, open_peak = time.perf_counter() - start, _peak_mib() - idle
    start = time.perf_counter()
    shape = image.spatial_shape(0)
    middle = shape[0] // 2
    # one whole slice of a volume; one screen of a picture
    region = (
        (slice(middle, middle + 1), slice(0, shape[1]), slice(0, shape[2]))
        if len(shape) == 3
        else tuple(slice(n // 2, min(n, n // 2 + 1024)) for n in shape)
    )
    block = image.read(region)
    answer.put(
        {
            "pixels_mib": float(np.prod(image.shape, dtype=np.float64)) * image.dtype.itemsize / 2**20,
            "open_seconds": opened,
            "open_peak_mib": open_peak,
            "slice_seconds": time.perf_counter() - start,
            "slice_peak_mib": _peak_mib() - idle,
            "read_shape": list(block.shape),
        }
    )


def run(case: Case, folder: Path) -> Result:
    """Make the file, measure it in a process of its own, and remove it."""
    path = folder / case.file
    case.make(path)
    try:
        context = multiprocessing.get_context("spawn")
        answer = context.Queue()
        process = context.Process(target=_measure, args=(path, answer))
        process.start()
        while answer.empty() and process.is_alive():
            process.join(0.05)
        if process.exitcode:
            raise RuntimeError(f"measuring {case.name} failed with exit code {process.exitcode}")
        found = answer.get(timeout=10)
        process.join()
        found.pop("read_shape")
        size = sum(f.stat().st_size for f in ([path] if path.is_file() else path.rglob("*")) if f.is_file())
        return Result(case.name, size / 2**20, limit_mib=case.limit_mib, **found)
    finally:
        if path.is_file():
            path.unlink()


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| file | pixels MiB | open s | peak MiB | with a slice s | peak MiB | promise |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        promise = "–" if r.limit_mib is None else f"< {r.limit_mib} MiB: {'kept' if r.kept else 'BROKEN'}"
        lines.append(
            f"| {r.name} | {r.pixels_mib:.0f} | {r.open_seconds:.3f} | {r.open_peak_mib:.1f} | {r.slice_seconds:.3f} "
            f"| {r.slice_peak_mib:.1f} | {promise} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure all cases, print a table, write JSON where asked; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--folder", type=Path, help="where to make the large files (default: the temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = [run(case, Path(folder)) for case in CASES]
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps([asdict(r) | {"kept": r.kept} for r in results], indent=1) + "\n")
    return 0 if all(r.kept for r in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
