"""Arrays that read only what is sliced: one small base for zarr stores, slides, TIFF pages and video."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError

AnyArray = npt.NDArray[Any]

# what zarr, its codecs and tifffile raise for bytes that are not what they should be
_UNREADABLE = (ValueError, RuntimeError, OSError, EOFError, KeyError, TypeError, zlib.error)

# a strided read of more than this is put together block by block
_STRIDED_BYTES = 1 << 26


def stored_chunk(array: Any, shards: bool = False) -> tuple[int, ...] | None:
    """Shape of the pieces an array is stored in, the largest if they differ; ``None`` for numpy, which has none.

    Dask says it in ``chunksize``, zarr and arrays of ours in ``chunks``. With `shards` the pieces are the files that
    chunks of zarr are packed into, where they are.
    """
    found = getattr(array, "chunksize", None) or (shards and getattr(array, "shards", None))
    found = found or getattr(array, "chunks", None)
    return tuple(max(1, int(c)) for c in found) if found else None


class LazyArray(ABC):
    """An array whose parts are read when they are sliced.

    Understands integers, slices (any step), an ellipsis, and one list of integers per axis (taken axis by
    axis). Everything else goes through `to_dask`, which makes a view without reading.

    Parameters
    ----------
    shape
        Size along each axis.
    dtype
        Type of the numbers, in the machine's byte order.
    chunks
        Shape of the pieces that are cheapest to read.
    """

    def __init__(self, shape: Sequence[int], dtype: npt.DTypeLike, chunks: Sequence[int]) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
        self.chunks = tuple(max(1, min(int(c), n)) for c, n in zip(chunks, self.shape, strict=True))

    @abstractmethod
    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        """The pixels of `region`: one slice with definite bounds and step 1 for each axis, never empty."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shape} {self.dtype}>"

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> AnyArray:
        if copy is False:
            raise ValueError("the pixels have to be read: they cannot be had without a copy")
        return np.asarray(self[()], dtype=dtype)

    def __getitem__(self, key: Any) -> AnyArray:
        picks = [_pick(part, size) for part, size in zip(self._full_key(key), self.shape, strict=True)]
        if any(pick.count == 0 for pick in picks):
            found: AnyArray = np.empty(tuple(pick.count for pick in picks), self.dtype)
        elif self._is_sparse(picks):
            found = self._gather(picks)
        else:
            found = _take(self._checked([slice(p.first, p.last + 1) for p in picks]), [p.inner for p in picks])
        return found[tuple(0 if pick.drop else slice(None) for pick in picks)]

    def transpose(self, *axes: Any) -> Any:
        """A view with the axes rearranged (a dask array; nothing is read)."""
        return self.to_dask().transpose(*axes)

    def to_dask(self) -> Any:
        """The same as a dask array with blocks of `chunks`; nothing is read."""
        import dask.array

        return dask.array.from_array(self, chunks=self.chunks, asarray=True, fancy=False, meta=np.empty(0, self.dtype))

    def _full_key(self, key: Any) -> tuple[Any, ...]:
        parts = key if isinstance(key, tuple) else (key,)
        dots = [k for k, part in enumerate(parts) if part is Ellipsis]
        if len(dots) > 1 or len(parts) - len(dots) > self.ndim:
            raise IndexError(f"too many indices for {self.ndim} axes")
        at = dots[0] if dots else len(parts)
        tail = parts[at + 1 :]
        return (*parts[:at], *(slice(None),) * (self.ndim - at - len(tail)), *tail)

    def _checked(self, region: Sequence[slice]) -> AnyArray:
        return np.asarray(self._read(tuple(region)), dtype=self.dtype)

    def _is_sparse(self, picks: Sequence[_Pick]) -> bool:
        spans = [p.last + 1 - p.first for p in picks]
        strided = any(span > p.count for span, p in zip(spans, picks, strict=True))
        return strided and int(np.prod(spans, dtype=np.int64)) * self.dtype.itemsize > _STRIDED_BYTES

    def _gather(self, picks: Sequence[_Pick]) -> AnyArray:
        """A strided selection, put together chunk by chunk so that what is skipped is never held at once."""
        found = np.empty(tuple(p.count for p in picks), self.dtype)
        for parts in product(*(p.by_chunk(c) for p, c in zip(picks, self.chunks, strict=True))):
            block = self._checked([slice(int(w.min()), int(w.max()) + 1) for _, w in parts])
            found[tuple(target for target, _ in parts)] = _take(block, [w - w.min() for _, w in parts])
        return found


class _Pick:
    """What one index picks along one axis, as positions."""

    def __init__(self, positions: npt.NDArray[np.int64], drop: bool) -> None:
        self.positions = positions
        self.drop = drop
        self.count = len(positions)
        self.first = int(positions.min()) if self.count else 0
        self.last = int(positions.max()) if self.count else 0
        self.inner = positions - self.first

    def by_chunk(self, chunk: int) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
        """Runs of picks that lie in the same chunk: where they go, and their positions."""
        edges = np.flatnonzero(np.diff(self.positions // chunk)) + 1
        for start, stop in zip((0, *edges.tolist()), (*edges.tolist(), self.count), strict=True):
            yield slice(start, stop), self.positions[start:stop]


def _pick(part: Any, size: int) -> _Pick:
    if isinstance(part, slice):
        return _Pick(np.arange(*part.indices(size), dtype=np.int64), drop=False)
    wanted = np.asarray(part)
    if wanted.dtype == bool:
        wanted = np.flatnonzero(wanted)
    if wanted.ndim > 1 or (wanted.size and wanted.dtype.kind not in "ui"):
        raise IndexError("only integers, slices, an ellipsis and lists of integers are understood")
    wanted = wanted.astype(np.int64)
    if wanted.size and (wanted.min() < -size or wanted.max() >= size):
        raise IndexError(f"index {part} is outside an axis of {size}")
    return _Pick(np.atleast_1d(np.where(wanted < 0, wanted + size, wanted)), drop=wanted.ndim == 0)


def _take(block: AnyArray, inner: Sequence[npt.NDArray[np.int64]]) -> AnyArray:
    """The positions `inner` of each axis; by slices (views) where the positions run evenly."""
    slices: list[slice] = []
    for axis, positions in enumerate(inner):
        steps = np.unique(np.diff(positions))
        if len(positions) == 1 or (len(steps) == 1 and steps[0] != 0):
            step = int(steps[0]) if len(steps) else 1
            stop = int(positions[-1]) + (1 if step > 0 else -1)
            slices.append(slice(int(positions[0]), None if stop < 0 else stop, step))
        else:
            block = np.take(block, positions, axis)
            slices.append(slice(None))
    return block[tuple(slices)]


class ZarrArray(LazyArray):
    """A zarr array with its axes in our order; axes of the store that we do not use are held at 0.

    Parameters
    ----------
    array
        The zarr array; tifffile offers TIFF files as such.
    stored, wanted
        Names of its axes, and those wanted in their order.
    where
        What to call the file in a message.
    keep
        Kept alive as long as this array, for sources that close their file otherwise.
    """

    def __init__(self, array: Any, stored: str, wanted: str, where: str, keep: object = None) -> None:
        self._array, self._where, self._keep = array, where, keep
        self._order = tuple(stored.index(a) for a in wanted)
        # what remains after the unused axes are dropped, in stored order, then brought to ours
        kept = sorted(self._order)
        self._turn = tuple(kept.index(k) for k in self._order)
        super().__init__(
            [array.shape[k] for k in self._order],
            np.uint8 if array.dtype == bool else array.dtype,
            [array.chunks[k] for k in self._order],
        )

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        index: list[Any] = [0] * self._array.ndim
        for k, part in zip(self._order, region, strict=True):
            index[k] = part
        try:
            block = np.asarray(self._array[tuple(index)])
        except _UNREADABLE as error:
            raise InputError(
                f"{self._where}: a stored piece of its pixels is damaged or cut short; copy or export it again."
            ) from error
        return block.transpose(self._turn)

    def close(self) -> None:
        """Close the file behind the array, if there is one; nothing can be read afterwards."""
        close = getattr(self._keep, "close", None)
        if close is not None:
            close()


class PixelMap(LazyArray):
    """Another array seen through a function of its pixels, e.g. ink colours as red, green and blue.

    Parameters
    ----------
    source
        Array with axes ``(..., c)``, or without channels.
    convert
        Turns a block with all channels of the source into one with all channels of the result.
    spatial
        Number of leading axes that both have in common.
    channels
        Channels of the result; ``None`` for none.
    dtype
        Type of the result.
    """

    def __init__(
        self,
        source: LazyArray,
        convert: Callable[[AnyArray], AnyArray],
        spatial: int,
        channels: int | None,
        dtype: npt.DTypeLike,
    ) -> None:
        self._source, self._convert, self._spatial = source, convert, spatial
        tail = () if channels is None else (channels,)
        super().__init__((*source.shape[:spatial], *tail), dtype, (*source.chunks[:spatial], *tail))

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        block = self._convert(self._source[region[: self._spatial]])
        return block[(slice(None),) * self._spatial + region[self._spatial :]]
