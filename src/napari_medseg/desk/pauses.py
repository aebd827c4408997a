"""Keep Python's garbage collector from stopping the window.

With napari loaded a full collection walks about a million objects and holds the window for a quarter of a
second (measured by ``benchmarks/window_gap.py``). While a job runs, what exists already is set aside; it is
looked at again when the last job has ended.
"""

from __future__ import annotations

import gc
import threading

_lock = threading.Lock()
_jobs = 0


def begin() -> None:
    """A job starts: collections look at new objects only."""
    global _jobs
    with _lock:
        _jobs += 1
        if _jobs == 1:
            gc.freeze()


def end() -> None:
    """A job has ended."""
    global _jobs
    with _lock:
        _jobs -= 1
        if _jobs == 0:
            gc.unfreeze()
