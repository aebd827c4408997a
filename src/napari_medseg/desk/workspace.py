"""Where results lie until they are exported: one folder for each running program, gone when it ends."""

from __future__ import annotations

import atexit
import os
import shutil
from functools import cache
from pathlib import Path
from uuid import uuid4

import platformdirs
import psutil


@cache
def workspace() -> Path:
    """The folder of this program; folders that programs left behind when they crashed are removed."""
    runs = Path(platformdirs.user_cache_dir("napari-medseg", appauthor=False)) / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for old in runs.iterdir():
        owner = old.name.partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    folder = runs / f"{os.getpid()}-{uuid4().hex[:8]}"
    folder.mkdir()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def new_store() -> Path:
    """A name for one more result, not yet there."""
    return workspace() / f"{uuid4().hex}.zarr"
