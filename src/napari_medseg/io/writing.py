"""What every writer shares: write beside, verify, rename; never half a file."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from napari_medseg.case import InputError, MedsegError, Segmentation

_OWN_MARK = "medseg"


@contextmanager
def staged(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the place of `path` only if all went well.

    The temporary name keeps the ending of `path`, because libraries choose the format by it.

    Raises
    ------
    InputError
        If `path` exists and `overwrite` is false, or its folder cannot be written to.
    """
    refuse_existing(path, overwrite=overwrite)
    require_folder(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        _replace(temporary, path)
    except PermissionError as error:
        raise InputError(f"{path.name}: no permission to write here; choose another folder.") from error
    finally:
        _remove(temporary)


def partial_path(path: Path) -> Path:
    """Where an unfinished store waits beside the name it will get: ``labels.partial.zarr`` for ``labels.zarr``."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def publish(partial: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished store its name, in the place of what `refuse_existing` lets be replaced.

    Raises
    ------
    InputError
        If something is at `path` that may not be replaced; the partial store stays.
    """
    refuse_existing(path, overwrite=overwrite)
    for leftover in partial.rglob("*.partial"):
        # a chunk that was being written when the process was killed
        leftover.unlink(missing_ok=True)
    _replace(partial, path)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise `InputError` if something is already there and may not be replaced.

    A folder is replaced only by a store and only if it is a store of ours: nobody's other files go with it.
    """
    if not path.exists():
        return
    if not overwrite:
        raise InputError(f"{path.name}: already exists; choose another name or allow overwriting.")
    if path.is_dir() and not (path.suffix == ".zarr" and _is_own_store(path)):
        raise InputError(
            f"{path.name}: is a folder that napari-medseg did not write and never replaces; choose another name."
        )
    if path.is_file() and path.suffix == ".zarr":
        raise InputError(f"{path.name}: is a file, and a store is a folder; choose another name.")


def require_folder(path: Path) -> None:
    """Raise `InputError` if the folder that `path` is to be written into is not there."""
    if not path.parent.is_dir():
        raise InputError(f"{path.parent.name or path.parent}: there is no such folder to write {path.name} into.")


def _is_own_store(path: Path) -> bool:
    """Whether the group at `path` carries our mark; an empty folder counts too."""
    if not any(path.iterdir()):
        return True
    for record in ("zarr.json", ".zattrs"):
        file = path / record
        if file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                return False
            return isinstance(found, dict) and _OWN_MARK in found.get("attributes", found)
    return False


def _replace(temporary: Path, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        aside = path.with_name(f".{uuid.uuid4().hex[:8]}-replaced")
        path.rename(aside)
        try:
            temporary.rename(path)
        except OSError:
            aside.rename(path)
            raise
        shutil.rmtree(aside)
    else:
        temporary.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def verify(written: Segmentation, reopened: Segmentation, where: str) -> None:
    """Compare what was meant with what a fresh look at the file gives.

    Grid, label ids, voxel counts and the world position of every label's centroid must agree
    (to a thousandth of a voxel).

    Raises
    ------
    MedsegError
        If anything differs: the file must not be kept.
    """
    if not written.geometry.is_close(reopened.geometry):
        raise MedsegError(f"{where}: the written grid does not match the labels' grid; nothing was kept.")
    if tuple(written.data.shape) != tuple(reopened.data.shape):
        raise MedsegError(f"{where}: the written shape {reopened.data.shape} is not {written.data.shape}.")
    meant, found = written.extents(), reopened.extents()
    if {k: v.voxels for k, v in meant.items()} != {k: v.voxels for k, v in found.items()}:
        raise MedsegError(f"{where}: the written label ids or voxel counts differ from the labels; nothing was kept.")
    n = written.geometry.ndim
    for label, extent in meant.items():
        here = written.geometry.index_to_world(extent.centroid[-n:])
        there = reopened.geometry.index_to_world(found[label].centroid[-n:])
        if np.linalg.norm(here - there) > 1e-3 * min(written.geometry.steps):
            raise MedsegError(f"{where}: label {label} was written at another place; nothing was kept.")
