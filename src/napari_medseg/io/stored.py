"""Volumes that lie in a file as one run of numbers: mapped where they are raw, unpacked once where they are not."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError
from napari_medseg.io.lazy import AnyArray, LazyArray

# a compressed volume has to be unpacked as a whole; this much of what was unpacked is kept for the next slice
_KEPT_BYTES = 2 << 30
_CHUNK_BYTES = 1 << 23
_FULL_CHECK_BYTES = 1 << 26

_kept: OrderedDict[tuple[Any, ...], AnyArray] = OrderedDict()
_lock = threading.RLock()


@dataclass(frozen=True)
class Layout:
    """How numbers lie in a file and what they become.

    Parameters
    ----------
    shape
        Sizes in the order of the file, slowest axis first.
    dtype
        Type in the file, byte order included.
    order
        ``order[k]`` is the axis of `shape` that becomes axis ``k`` of the array.
    slope, intercept
        ``value = slope * number + intercept``; ``None`` when the numbers are the values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...]
    slope: float | None = None
    intercept: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        size = self.dtype.itemsize
        for n in self.shape:
            size *= int(n)
        return size

    @property
    def value_dtype(self) -> np.dtype[Any]:
        """Type of the values: the file's own unless scaled, then the smallest float that loses nothing to speak of."""
        native = self.dtype.newbyteorder("=")
        if native == np.dtype(np.longdouble) and native.itemsize > 8:
            native = np.dtype(np.float64)
        if self.slope is None:
            return native
        exact = native.itemsize <= (2 if native.kind in "ui" else 4)
        return np.dtype(np.float32 if exact else np.float64)


class StoredVolume(LazyArray):
    """An array over a `Layout`; subclasses say where the numbers come from."""

    def __init__(self, path: Path, layout: Layout) -> None:
        shape = tuple(layout.shape[k] for k in layout.order)
        super().__init__(shape, layout.value_dtype, _chunks(shape, layout))
        self.path = path
        self.layout = layout

    @abstractmethod
    def _stored(self) -> AnyArray:
        """The numbers as they lie in the file, shape ``layout.shape``; a view where possible."""

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        numbers = self._stored().transpose(self.layout.order)[region]
        slope = self.layout.slope
        if slope is None:
            return np.array(numbers, dtype=self.dtype)
        values = numbers.astype(self.dtype)
        values *= self.dtype.type(slope)
        values += self.dtype.type(self.layout.intercept)
        return values


class RawVolume(StoredVolume):
    """Numbers that lie uncompressed in a file from byte `offset` on: only the pages of a slice are read."""

    def __init__(self, path: Path, layout: Layout, offset: int) -> None:
        super().__init__(path, layout)
        self.offset = offset

    def _stored(self) -> AnyArray:
        try:
            return np.memmap(self.path, self.layout.dtype, "r", self.offset, self.layout.shape)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.path.name}: can no longer be read; it was moved or cut short after it was opened."
            ) from error


class PackedVolume(StoredVolume):
    """Numbers that have to be unpacked as a whole; `unpack` returns them as bytes in the order of the file."""

    def __init__(self, path: Path, layout: Layout, unpack: Callable[[], AnyArray]) -> None:
        super().__init__(path, layout)
        self.unpack = unpack

    def _stored(self) -> AnyArray:
        with _lock:
            key = self._key()
            if key not in _kept:
                _kept[key] = self.unpack().view(self.layout.dtype).reshape(self.layout.shape)
            _kept.move_to_end(key)
            while len(_kept) > 1 and sum(a.nbytes for a in _kept.values()) > _KEPT_BYTES:
                _kept.popitem(last=False)
            return _kept[key]

    def _key(self) -> tuple[Any, ...]:
        try:
            stat = self.path.stat()
        except OSError as error:
            raise InputError(f"{self.path.name}: can no longer be read; it was moved after it was opened.") from error
        return (str(self.path), stat.st_mtime_ns, stat.st_size, self.layout)


def _chunks(shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """Whole planes, as many as make a few megabytes: what lies together in the file is read together."""
    chunks = [1] * len(shape)
    room = max(1, _CHUNK_BYTES // layout.value_dtype.itemsize)
    for stored_axis in reversed(range(len(shape))):
        axis = layout.order.index(stored_axis)
        chunks[axis] = max(1, min(shape[axis], room))
        room //= max(1, chunks[axis])
    for axis in range(max(0, len(shape) - 3), len(shape)):
        if layout.order[axis] >= len(shape) - 2:
            chunks[axis] = shape[axis]
    return tuple(chunks)


def plane_blocks(volume: LazyArray) -> Iterator[AnyArray]:
    """The volume in pieces along its first axis, each a few megabytes or one index of it."""
    per_index = max(1, volume.nbytes // volume.shape[0])
    step = max(1, _CHUNK_BYTES // per_index)
    for start in range(0, volume.shape[0], step):
        yield volume[start : start + step]


def warning_of_missing_values(volume: LazyArray, name: str) -> str | None:
    """A sentence if some sampled values are not numbers; small volumes are searched fully.

    Raises
    ------
    InputError
        If no value in the whole volume is a finite number.
    """
    if volume.dtype.kind != "f":
        return None
    some = False
    for block in plane_blocks(volume):
        finite = np.isfinite(block)
        some |= not finite.all()
        if finite.any():
            break
    else:
        raise InputError(f"{name}: every value is NaN or infinite; export the image again with numbers in it.")
    if not some and (isinstance(volume, PackedVolume) or volume.nbytes <= _FULL_CHECK_BYTES):
        some = any(not np.isfinite(block).all() for block in plane_blocks(volume))
    elif not some:
        some = any(not np.isfinite(volume[k]).all() for k in {volume.shape[0] // 2, volume.shape[0] - 1})
    return "Some values are NaN or infinite; models read them as 0." if some else None


def read_exactly(stream: Any, nbytes: int, name: str, *, last: bool = False) -> npt.NDArray[np.uint8]:
    """`nbytes` from an open (decompressing) stream; if they are the `last`, also compare its checksum.

    Raises
    ------
    InputError
        If the stream ends early or is damaged.
    """
    import zlib

    try:
        content = np.empty(nbytes, np.uint8)
        view, done = memoryview(content.data), 0
        while done < nbytes:
            got = stream.readinto(view[done : done + _CHUNK_BYTES])
            if not got:
                break
            done += got
        # the checksum is compared only where the compressed data ends
        while last and done == nbytes and stream.read(_CHUNK_BYTES):
            pass
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: the compressed data is damaged or cut short; copy or export it again.") from error
    except MemoryError as error:
        raise InputError(f"{name}: {nbytes / 2**30:.1f} GiB do not fit in memory; store it uncompressed.") from error
    if done < nbytes:
        raise InputError(
            f"{name}: the file is cut short, {done} of {nbytes} bytes of pixels are there; copy or export it again."
        )
    return content


def check_packed_length(path: Path, nbytes: int, open_stream: Callable[[], Any]) -> None:
    """Whether a gzip file unpacks to at least `nbytes`: by the length noted at its end, unpacking only in doubt.

    Raises
    ------
    InputError
        If it does not.
    """
    with path.open("rb") as stream:
        stream.seek(-4, 2)
        noted = int.from_bytes(stream.read(4), "little")
    if noted == nbytes % 2**32:
        return
    left = nbytes
    with open_stream() as stream:
        while left:
            step = min(_CHUNK_BYTES, left)
            try:
                left -= len(read_exactly(stream, step, path.name, last=step == left))
            except InputError:
                raise InputError(
                    f"{path.name}: the file is cut short or damaged, the last {left} of {nbytes} bytes cannot all be "
                    "unpacked; copy or export it again."
                ) from None


def check_raw_length(path: Path, offset: int, nbytes: int) -> None:
    """Whether the file is long enough for `nbytes` from `offset` on.

    Raises
    ------
    InputError
        If it is not.
    """
    there = max(0, path.stat().st_size - offset)
    if there < nbytes:
        raise InputError(
            f"{path.name}: the file is cut short, {there} of {nbytes} bytes of pixels are there; "
            "copy or export it again."
        )
