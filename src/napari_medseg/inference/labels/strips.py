"""Ids of the objects of one unit, kept in a file of their own until all units around it are done."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from napari_medseg.case import MedsegError
from napari_medseg.inference.labels.objects import Box, Ids


class Strips:
    """The strips of a run, in a folder.

    Parameters
    ----------
    folder
        Where the files lie; made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, unit: int, reach: Box, ids: Ids) -> int:
        """Keep the ids of `unit`, which cover `reach` of the working grid; their checksum."""
        from numcodecs import Blosc  # type: ignore[import-untyped]

        corner = np.array([[r.start, r.stop] for r in reach], "<i8")
        packed = corner.tobytes() + Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE).encode(
            np.ascontiguousarray(ids, "<u4")
        )
        file = self._folder / f"{unit}.strip"
        hidden = file.with_suffix(".new")
        hidden.write_bytes(packed)
        hidden.replace(file)
        return zlib.crc32(packed)

    def is_there(self, unit: int, checksum: int) -> bool:
        """Whether the strip of `unit` is there as it was saved."""
        file = self._folder / f"{unit}.strip"
        return file.is_file() and zlib.crc32(file.read_bytes()) == checksum

    def load(self, unit: int, checksum: int) -> tuple[Box, Ids]:
        """What was saved of `unit`.

        Raises
        ------
        MedsegError
            If the file is no longer what it was.
        """
        from numcodecs import Blosc

        try:
            packed = (self._folder / f"{unit}.strip").read_bytes()
        except OSError:
            packed = b""
        if zlib.crc32(packed) != checksum:
            raise MedsegError(f"The stored objects of part {unit} changed while the run went on; resume it.")
        corner = np.frombuffer(packed[:32], "<i8").reshape(2, 2)
        reach = tuple(slice(int(a), int(b)) for a, b in corner)
        shape = tuple(r.stop - r.start for r in reach)
        ids = np.frombuffer(Blosc().decode(packed[32:]), "<u4").reshape(shape)
        return reach, ids
