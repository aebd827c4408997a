"""How the benchmarks of the engine measure: turns, time, memory, where they ran, and how labels are compared."""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch

from napari_medseg.adapt.scores import dice
from napari_medseg.inference.report import peak_rss

_PACKAGES = ("napari-medseg", "torch", "monai", "numpy", "openvino", "onnxruntime", "nnunetv2", "transformers", "zarr")
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "unable to allocate")
_MEMORY_SHARE = 0.9
_DECIDED = 0.01
_DIGITS = {"agreement": 6, "dice": 6, "agreement_decided": 6, "ms_per_tile": 1, "peak_gib": 2, "before_gib": 2}
GIB = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """One run of one system.

    Parameters
    ----------
    seconds
        Wall time without loading the network and without one forward pass to warm up.
    tiles, skipped
        Tiles that went through the network, and those left out.
    peak
        Largest resident memory in bytes of the process during the run.
    held
        Resident memory in bytes just before the run.
    labels
        What was found; ``None`` for forward passes only.
    lead
        By how much the best class leads the second, in standard deviations of the maps; ``None`` where
        the maps are not to be had.
    note
        Backend and precision.
    failed
        Why there is no result.
    """

    seconds: float = float("nan")
    tiles: int = 0
    skipped: int = 0
    peak: int = 0
    held: int = 0
    labels: npt.NDArray[Any] | None = None
    lead: npt.NDArray[np.float16] | None = None
    note: str = ""
    failed: str = ""


@dataclass
class Measure:
    """Filled in when `measured` ends; seconds and bytes."""

    seconds: float = 0.0
    peak: int = 0
    held: int = 0


@contextmanager
def measured() -> Iterator[Measure]:
    """Wall time and peak resident memory of what happens inside."""
    gc.collect()
    _forget_peak()
    measure = Measure(held=psutil.Process().memory_info().rss)
    started = time.perf_counter()
    yield measure
    measure.seconds = time.perf_counter() - started
    measure.peak = _peak()


def _forget_peak() -> None:
    """Let the peak start at what is held now (Linux; elsewhere it counts from the start of the process)."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    if sys.platform != "linux":
        return peak_rss()
    # getrusage would count the memory of the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


@contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder; what the engine keeps between runs (exported networks, choices) starts empty in it, too."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDSEG_CACHE"] = str(Path(folder) / "cache")
        yield Path(folder)


def take_turns(systems: Sequence[str], rounds: int, run: Callable[[str, int], Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes of each system, A B C A B C; labels are kept of the first round only.

    A system that failed once is not run again. Every run starts with the same number of threads.
    """
    threads = torch.get_num_threads()
    outcomes: dict[str, list[Outcome]] = {name: [] for name in systems}
    for number in range(rounds):
        for name, earlier in outcomes.items():
            if any(o.failed for o in earlier):
                continue
            torch.set_num_threads(threads)
            outcome = run(name, number)
            print(f"round {number + 1}: {name} {outcome.failed or f'{outcome.seconds:.2f} s'}", file=sys.stderr)
            earlier.append(outcome if number == 0 else replace(outcome, labels=None, lead=None))
    torch.set_num_threads(threads)
    return outcomes


def in_child(work: Callable[..., Outcome], *arguments: Any) -> Outcome:
    """`work` in a fresh process that may take nine tenths of the memory that is free now.

    Running out of memory is an outcome, every other error is raised.
    """
    limit = int(_MEMORY_SHARE * psutil.virtual_memory().available)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_within, limit, work, *arguments).result()
        except BrokenProcessPool:
            return Outcome(failed="its process was ended from outside, most likely for want of memory")


def _within(limit: int, work: Callable[..., Outcome], *arguments: Any) -> Outcome:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        return work(*arguments)
    except (MemoryError, RuntimeError) as error:
        if not any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise
        return Outcome(failed=f"out of memory ({limit / GIB:.1f} GiB were free)")


def rows_of(
    outcomes: Mapping[str, Sequence[Outcome]], reference: str = "", part: tuple[slice, ...] = (), memory: bool = False
) -> list[dict[str, Any]]:
    """One record a system: median of seconds and memory, and its labels compared with the reference's.

    Parameters
    ----------
    outcomes
        As `take_turns` gives them.
    reference
        The system with whose labels all are compared.
    part
        The part of the image that is compared.
    memory
        Whether every run had a process of its own, so that its memory says something.
    """
    first = outcomes[reference][0] if reference in outcomes else Outcome()
    rows = []
    for name, runs in outcomes.items():
        if runs[-1].failed:
            rows.append({"system": name, "failed": runs[-1].failed})
            continue
        seconds = statistics.median(r.seconds for r in runs)
        row: dict[str, Any] = {
            "system": name,
            "seconds": seconds,
            "seconds_each": [round(r.seconds, 3) for r in runs],
            "tiles": runs[0].tiles,
            "skipped": runs[0].skipped,
            "ms_per_tile": 1000 * seconds / max(1, runs[0].tiles),
            "note": runs[0].note,
        }
        if memory:
            row["peak_gib"] = statistics.median(r.peak for r in runs) / GIB
            row["before_gib"] = statistics.median(r.held for r in runs) / GIB
        if runs[0].labels is not None and first.labels is not None:
            row |= _compared(runs[0].labels[part], first.labels[part], None if first.lead is None else first.lead[part])
        rows.append(row)
    return rows


def _compared(
    labels: npt.NDArray[Any], reference: npt.NDArray[Any], lead: npt.NDArray[np.float16] | None
) -> dict[str, Any]:
    """Share of equal labels, of equal labels where the reference leads by 0.01 or more, and Dice of all labels."""
    equal = labels == reference
    compared: dict[str, Any] = {"agreement": float(equal.mean()), "dice": float(dice(labels > 0, reference > 0))}
    if lead is not None:
        decided = lead >= _DECIDED
        compared["decided"] = float(decided.mean())
        compared["agreement_decided"] = float(equal[decided].mean()) if decided.any() else float("nan")
    return compared


def ratios(rows: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Quotients of the medians, for those pairs of systems that both ran."""
    seconds = {r["system"]: r["seconds"] for r in rows if "seconds" in r}
    return {f"{a} / {b}": seconds[a] / seconds[b] for a, b in pairs if a in seconds and b in seconds}


def machine() -> dict[str, Any]:
    """Where and with what this runs; call it before anything is measured."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "load_before": [round(v, 2) for v in psutil.getloadavg()],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def numbers(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """An argparse type: numbers of a kind with commas between them."""

    def parse(text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 1,2,3") from error

    return parse


def show(record: Mapping[str, Any], as_json: bool) -> None:
    """Print a record of ``machine``, ``input`` and ``results`` as one JSON object or as tables."""
    if as_json:
        print(json.dumps(record))
        return
    print(", ".join(f"{key} {value}" for key, value in record["machine"].items() if key != "versions"))
    print(", ".join(f"{key} {value}" for key, value in record["machine"]["versions"].items() if value))
    print(", ".join(f"{key} {value}" for key, value in record["input"].items()))
    for result in record["results"]:
        print()
        facts = {k: v for k, v in result.items() if k not in ("rows", "ratios")}
        if facts:
            print(", ".join(f"{key} {value}" for key, value in facts.items()))
        _print_rows(result["rows"])
        for pair, ratio in result.get("ratios", {}).items():
            print(f"{pair} = {ratio:.2f}")


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    columns = [key for key in dict.fromkeys(k for row in rows for k in row) if key != "failed"]
    cells = [[_cell(c, row[c]) if c in row else "-" for c in columns] for row in rows]
    widths = [max(len(c), *(len(line[k]) for line in cells)) for k, c in enumerate(columns)]
    print("  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip())
    for row, line in zip(rows, cells, strict=True):
        text = "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip(" -")
        print(f"{line[0].ljust(widths[0])}  {row['failed']}" if "failed" in row else text)


def _cell(column: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{_DIGITS.get(column, 3)}f}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
