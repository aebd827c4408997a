"""The chunks of an array that a store holds: counted when it is written, compared when it is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from napari_medseg.case import InputError

COUNTED_CHUNKS = 200_000
"""Counting more files than these takes long: then only an empty folder is noticed."""


def count(folder: Path, limit: int | None = None) -> int:
    """Number of chunk files in the folder of an array, counted up to `limit`."""
    files = (n for _, _, names in os.walk(folder) for n in names if n.replace(".", "").isdecimal())
    return sum(1 for _ in islice(files, limit))


def record(array: Any) -> dict[str, Any]:
    """What our attribute says of the chunks of `array`, an array in a folder that is written completely."""
    return {
        "stored_chunks": count(Path(array.store.root) / array.path),
        "array_shape": [int(n) for n in array.shape],
        "chunk_shape": [int(n) for n in array.chunks],
    }


def require_recorded(array: Any, folder: Path, private: Mapping[str, Any], where: str) -> None:
    """Refuse an array that has lost chunks since `record` counted them.

    Stores without that record, and arrays that another program cropped or cut into other chunks, are let
    through.

    Raises
    ------
    InputError
        If fewer chunks are there than were written.
    """
    meant = private.get("stored_chunks")
    same = private.get("array_shape") == list(array.shape) and private.get("chunk_shape") == list(array.chunks)
    if not isinstance(meant, int) or not same:
        return
    stored = count(folder, 1 if meant > COUNTED_CHUNKS else None)
    if stored and meant > COUNTED_CHUNKS:
        return
    if stored < meant:
        raise InputError(
            f"{where}: {meant - stored} of {meant} stored chunks are missing; copy or export the store again."
        )
