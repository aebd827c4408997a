"""Pixels for the child process: it gets an image's outline, and asks for the parts that it reads."""

from __future__ import annotations

import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from napari_medseg.case import InputError, MedicalImage, MedsegError
from napari_medseg.io.lazy import AnyArray, LazyArray


class Outline(LazyArray):
    """An array of which only shape and type travel; in the child `pixels` fetches what is sliced."""

    pixels: Pixels | None = None
    level = 0

    @classmethod
    def of(cls, array: Any) -> Outline:
        """The outline of any array."""
        shape = tuple(int(n) for n in array.shape)
        chunks = getattr(array, "chunksize", getattr(array, "chunks", None)) or shape
        return cls(shape, array.dtype, chunks)

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        assert self.pixels is not None
        return self.pixels.fetch(self.level, region)


class Pixels:
    """Asks the window's process for pixels, one region at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def fetch(self, level: int, region: tuple[slice, ...]) -> AnyArray:
        """The pixels of a region of one level; raises what reading them raised."""
        with self._lock:
            self._connection.send((level, region))
            answer = self._connection.recv()
            if isinstance(answer, Exception):
                raise answer
            shape, dtype = answer
            return np.frombuffer(self._connection.recv_bytes(), dtype=dtype).reshape(shape)

    def end(self) -> None:
        """Tell the window's process that nothing more will be asked."""
        with self._lock:
            self._connection.send(None)


def start_serving(connection: Connection, image: MedicalImage) -> threading.Thread:
    """Serve on a thread of its own; it must end before another image is served on the same connection."""
    thread = threading.Thread(target=serve, args=(connection, image), daemon=True)
    thread.start()
    return thread


def serve(connection: Connection, image: MedicalImage) -> None:
    """Answer the child's requests for pixels until it needs no more."""
    with suppress(EOFError, OSError):
        while (request := connection.recv()) is not None:
            level, region = request
            try:
                block = np.ascontiguousarray(np.asarray(image.levels[level][region]))
            except Exception as error:  # noqa: BLE001 - raised again in the child, where the pixels are wanted
                connection.send(error if isinstance(error, MedsegError) else InputError(f"{image.name}: {error}"))
                continue
            connection.send((block.shape, block.dtype))
            connection.send_bytes(block.reshape(-1).view(np.uint8).data)
