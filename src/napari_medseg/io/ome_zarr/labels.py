"""The arrays of one label image in a store, and a store of labels that appears only when it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec

from napari_medseg.case import Geometry, InputError, LabelTable, Provenance
from napari_medseg.io.ome_zarr import chunks as chunk_files
from napari_medseg.io.ome_zarr import metadata
from napari_medseg.io.ome_zarr.metadata import Ngff
from napari_medseg.io.writing import staged

# pyramids stop once the longest side is this short
_COARSEST_SIDE = 512
_CHUNK_2D = (1024, 1024)
_CHUNK_3D = (64, 256, 256)
_COUNT_DIRECTLY_BELOW = 1 << 20
_BOX_VOXELS = 1 << 24
_COUNTED_AT_ONCE = 1 << 21

Region = tuple[slice, ...]


@dataclass(frozen=True)
class LabelFrame:
    """What a label image is, before any label is known.

    Parameters
    ----------
    geometry
        The grid of the labels.
    name
        Name of the label image: the store keeps it as ``labels/<name>``.
    axes
        ``"zyx"`` or ``"yx"``, with a leading ``t`` for video; those of `geometry` when empty.
    seconds_per_frame, frames
        Time between frames and their number along ``t``.
    dtype
        An integer type that holds every id.
    ngff
        ``"0.5"`` (zarr v3) or ``"0.4"`` (zarr v2).
    chunks
        Shape of a chunk along `axes`; 1024 x 1024 or 64 x 256 x 256 when ``None``.

    Raises
    ------
    InputError
        If a parameter is not one of the above.
    """

    geometry: Geometry
    name: str = "labels"
    axes: str = ""
    seconds_per_frame: float | None = None
    dtype: npt.DTypeLike = np.uint8
    frames: int | None = None
    ngff: Ngff = "0.5"
    chunks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.axes:
            object.__setattr__(self, "axes", self.geometry.axes)
        if self.axes not in (self.geometry.axes, "t" + self.geometry.axes):
            raise InputError(f"Axes {self.axes!r} do not fit a grid of {self.geometry.axes!r}.")
        if np.dtype(self.dtype).kind not in "ui":
            raise InputError(f"Labels are integers, not {np.dtype(self.dtype)}.")
        if self.ngff not in ("0.4", "0.5"):
            raise InputError(f"NGFF version {self.ngff!r} is not written; accepted are 0.4 and 0.5.")
        if not self.name or self.name.startswith((".", "_")) or set(self.name) & set('/\\:*?"<>|'):
            raise InputError(f"{self.name!r} is no name for a label image; use letters, digits, - and _.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the finest level along `axes`."""
        return (*([self.frames or 1] if self.axes.startswith("t") else []), *self.geometry.shape)


class LabelGroup:
    """One label image inside a store: its arrays from fine to coarse, filled box by box.

    Labels of 0 take no room: chunks of nothing but background are not stored. The attribute
    ``medseg.complete`` of a finished label image says that their absence is meant, ``medseg.stored_chunks`` how
    many chunks of the finest level are there.

    Parameters
    ----------
    root
        The store's root group, opened for writing.
    frame
        What the label image is.
    resume
        Use the arrays that are there already instead of making them.
    """

    def __init__(self, root: Any, frame: LabelFrame, *, resume: bool = False) -> None:
        self.root, self.frame = root, frame
        self.factors = level_factors(frame.geometry)
        if resume:
            self._group = root["labels"][frame.name]
            self.levels = [self._group[str(level)] for level in range(len(self.factors))]
            return
        self._group = root.require_group("labels").create_group(frame.name)
        chunks = frame.chunks or default_chunks(frame.axes, frame.shape)
        self.levels = []
        for level in range(len(self.factors)):
            shape = tuple(-(-n // s) for n, s in zip(frame.shape, self._stride(level), strict=True))
            self.levels.append(
                create_array(self._group, str(level), shape, np.dtype(frame.dtype), chunks, frame.axes, frame.ngff)
            )

    @property
    def array(self) -> Any:
        """The finest level."""
        return self.levels[0]

    def _stride(self, level: int) -> tuple[int, ...]:
        return (1,) * (len(self.frame.axes) - self.frame.geometry.ndim) + self.factors[level]

    def shrink(self, region: Region, block: npt.NDArray[Any]) -> None:
        """Bring `block`, the labels of `region` of the finest level, into every coarser level.

        Every n-th voxel is taken along the axes that shrink: ids are copied, never mixed. Boxes may come in any
        order, one at a time.
        """
        if not block.any():
            return
        for level, array in enumerate(self.levels[1:], start=1):
            stride = self._stride(level)
            target = tuple(slice(-(-r.start // s), -(-r.stop // s)) for r, s in zip(region, stride, strict=True))
            if any(t.stop <= t.start for t in target):
                continue
            taken = tuple(slice(t.start * s - r.start, None, s) for t, r, s in zip(target, region, stride, strict=True))
            array[target] = block[taken]

    def count_and_shrink(self) -> dict[int, int]:
        """Fill the coarser levels from the finest; voxels of every id in it except 0."""
        voxels: dict[int, int] = {}
        for region in boxes(self.array.shape, self.array.chunks):
            block = np.asarray(self.array[region])
            count_ids(block, voxels)
            self.shrink(region, block)
        return dict(sorted(voxels.items()))

    def write_records(
        self,
        table: LabelTable,
        provenance: Provenance,
        voxels: Mapping[int, int],
        *,
        complete: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Say what the labels are, so that any reader of OME-Zarr understands them.

        Parameters
        ----------
        table, provenance
            What the ids mean and how they came to be.
        voxels
            Voxels of every id.
        complete
            Whether all labels are there.
        extra
            More entries of our own attribute.
        """
        frame = self.frame
        record = metadata.multiscales(
            frame.geometry,
            frame.axes,
            self.factors,
            name=frame.name,
            seconds_per_frame=frame.seconds_per_frame,
            ngff=frame.ngff,
        )
        private = {
            "geometry": frame.geometry.to_dict(),
            "table": table.to_dict(),
            "provenance": provenance.to_dict(),
            "axes": frame.axes,
            "seconds_per_frame": frame.seconds_per_frame,
            "complete": complete,
            **(chunk_files.record(self.array) if complete else {}),
            **(extra or {}),
        }
        label = {"multiscales": [record], "image-label": metadata.image_label(table, voxels, frame.ngff)}
        self._group.attrs.update(metadata.attributes(label, private, frame.ngff))
        self._list_in_store()

    def _list_in_store(self) -> None:
        ngff = self.frame.ngff
        labels = self.root["labels"]
        listed, _ = metadata.split_attributes(labels.attrs.asdict())
        names = list(dict.fromkeys([*listed.get("labels", []), self.frame.name]))
        labels.attrs.update(metadata.attributes({"labels": names}, None, ngff))
        public, private = metadata.split_attributes(self.root.attrs.asdict())
        if "multiscales" not in public:
            # without an image of its own the root is a collection of labels, so that readers given the
            # store's name find them
            private = private or {"kind": "labels"}
            self.root.attrs.update(metadata.attributes({"labels": [f"labels/{n}" for n in names]}, private, ngff))


def open_root(store: Path, ngff: Ngff, *, resume: bool = False) -> Any:
    """The root group of a store: a new one, or with `resume` the one that is there."""
    if resume:
        return zarr.open_group(store, mode="r+")
    return zarr.open_group(store, mode="w", zarr_format=3 if ngff == "0.5" else 2)


class LabelStoreWriter:
    """A store with one label image that appears under its name only when finished.

    Use it as a context manager. Write to `array`; call `finish` at the end. Leaving the block without
    `finish`, or with an exception, removes everything that was written. Regions written at the same time by
    several threads must not share a chunk (``array.chunks``).
    """

    def __init__(self, store: Path, frame: LabelFrame, stack: ExitStack) -> None:
        self.store, self.frame = store, frame
        self._stack = stack
        self.root = open_root(store, frame.ngff)
        self.labels = LabelGroup(self.root, frame)
        self.array = self.labels.array

    @classmethod
    def create(cls, path: Path, frame: LabelFrame, *, overwrite: bool = False) -> LabelStoreWriter:
        """Start a store that will appear at `path`.

        Parameters
        ----------
        path
            Name of the store, ending in ``.zarr``.
        frame
            What the labels are.
        overwrite
            Whether a label store of that name may be replaced; an image made by another program never is.

        Raises
        ------
        InputError
            If the name is taken or the folder cannot be written to.
        """
        if overwrite and path.is_dir():
            refuse_foreign_image(path)
        stack = ExitStack()
        store = stack.enter_context(staged(path, overwrite=overwrite))
        try:
            return cls(store, frame, stack)
        except BaseException as error:
            stack.__exit__(type(error), error, error.__traceback__)
            raise

    def __enter__(self) -> LabelStoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
        elif self.store.exists():
            # left without `finish`: the same as giving up
            self._stack.__exit__(RuntimeError, RuntimeError("left without finish"), None)

    def finish(
        self,
        table: LabelTable,
        provenance: Provenance,
        *,
        check: Callable[[Path, dict[int, int]], None] | None = None,
    ) -> dict[int, int]:
        """Build the pyramid, write the records, check what was written and give the store its name.

        Parameters
        ----------
        table, provenance
            What the ids mean and how they came to be.
        check
            Called with the still hidden store and the voxels counted in it; what it raises keeps the store from
            appearing.

        Returns
        -------
        voxels
            Number of voxels of every id present except 0.
        """
        try:
            voxels = self.labels.count_and_shrink()
            self.labels.write_records(table, provenance, voxels)
            if check is not None:
                check(self.store, voxels)
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        self._stack.close()
        return voxels


def create_array(
    group: Any, path: str, shape: Sequence[int], dtype: np.dtype[Any], chunks: Sequence[int], axes: str, ngff: Ngff
) -> Any:
    """An empty, compressed array with 0 where nothing is written, laid out as NGFF asks."""
    common = {
        "shape": tuple(shape),
        "dtype": dtype.newbyteorder("<"),
        "chunks": tuple(max(1, min(int(c), int(n))) for c, n in zip(chunks, shape, strict=True)),
        "fill_value": 0,
    }
    if ngff == "0.5":
        codec = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
        return group.create_array(path, **common, compressors=codec, dimension_names=list(axes))
    from numcodecs import Blosc  # type: ignore[import-untyped]

    codec = Blosc(cname="zstd", clevel=3, shuffle=Blosc.SHUFFLE)
    return group.create_array(path, **common, compressors=codec, chunk_key_encoding={"name": "v2", "separator": "/"})


def default_chunks(axes: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Chunks of 1024 x 1024 or 64 x 256 x 256; one frame each along ``t``, all of ``c``."""
    space = _CHUNK_3D if "z" in axes else _CHUNK_2D
    lengths = dict(zip("zyx"[-len(space) :], space, strict=True))
    return tuple(1 if a == "t" else min(n, lengths.get(a, n)) for a, n in zip(axes, shape, strict=True))


def level_factors(geometry: Geometry) -> list[tuple[int, ...]]:
    """How many voxels of the finest level one voxel of each level spans, per spatial axis.

    From level to level the axes of fine steps are halved, those of steps twice as long or longer wait:
    thick slices stay until the pixels within them have grown to their thickness.
    """
    factors = [(1,) * geometry.ndim]
    while True:
        shape = [-(-n // f) for n, f in zip(geometry.shape, factors[-1], strict=True)]
        if max(shape) <= _COARSEST_SIDE:
            return factors
        steps = [s * f for s, f in zip(geometry.steps, factors[-1], strict=True)]
        finest = min(s for s, n in zip(steps, shape, strict=True) if n > 1)
        halved = [n > 1 and s < 1.999 * finest for s, n in zip(steps, shape, strict=True)]
        factors.append(tuple(f * 2 if h else f for f, h in zip(factors[-1], halved, strict=True)))


def chunk_regions(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[Region]:
    """The chunks of an array as slices, in storage order."""
    for start in product(*(range(0, n, c) for n, c in zip(shape, chunks, strict=True))):
        yield tuple(slice(s, min(s + c, n)) for s, c, n in zip(start, chunks, shape, strict=True))


def boxes(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[Region]:
    """Boxes of whole chunks that cover an array, as wide along the last axes as memory comfortably holds."""
    edges = [max(1, int(c)) for c in chunks]
    for axis in reversed(range(len(edges))):
        room = max(1, _BOX_VOXELS // int(np.prod(edges)))
        edges[axis] *= min(room, -(-int(shape[axis]) // edges[axis]))
    yield from chunk_regions(shape, edges)


def count_ids(piece: npt.NDArray[Any], voxels: dict[int, int]) -> None:
    """Add the number of voxels of every id except 0 to `voxels`."""
    flat = piece.reshape(-1)
    # counting makes 8-byte copies, so it is done a part at a time
    for start in range(0, flat.size, _COUNTED_AT_ONCE):
        _count_part(flat[start : start + _COUNTED_AT_ONCE], voxels)


def _count_part(part: npt.NDArray[Any], voxels: dict[int, int]) -> None:
    if not part.any():
        return
    if int(part.min()) >= 0 and int(part.max()) < _COUNT_DIRECTLY_BELOW:
        numbers = np.bincount(part.astype(np.intp, copy=False))
        ids = np.flatnonzero(numbers)
        numbers = numbers[ids]
    else:
        ids, numbers = np.unique(part, return_counts=True)
    for label, number in zip(ids.tolist(), numbers.tolist(), strict=True):
        if label:
            voxels[label] = voxels.get(label, 0) + number


def refuse_foreign_image(path: Path) -> None:
    """Raise `InputError` if the store at `path` holds an image that another program wrote."""
    try:
        ngff, private = metadata.split_attributes(zarr.open_group(path, mode="r").attrs.asdict())
    except (FileNotFoundError, ValueError):
        return
    if "multiscales" in ngff and not private:
        raise InputError(f"{path.name}: holds an image that the labels would replace; choose another name.")
