"""Labels into an OME-Zarr store, piece by piece: memory depends on the chunk, never on the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
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

Region = tuple[slice, ...]


class LabelStoreWriter:
    """A label store that is filled region by region and appears under its name only when finished.

    Use it as a context manager. Write to `array`; call `finish` at the end. Leaving the block without
    `finish`, or with an exception, removes everything that was written. Regions written at the same time by
    several threads must not share a chunk (``array.chunks``).

    Labels of 0 take no room: chunks of nothing but background are not stored. The attribute
    ``medseg.complete`` of a finished store says that their absence is meant, ``medseg.stored_chunks`` how many
    chunks of the finest level are there.
    """

    def __init__(
        self,
        store: Path,
        geometry: Geometry,
        *,
        name: str,
        axes: str,
        seconds_per_frame: float | None,
        dtype: npt.DTypeLike,
        frames: int | None,
        ngff: Ngff,
        chunks: Sequence[int] | None,
        stack: ExitStack,
    ) -> None:
        self.store, self.geometry, self.name, self.ngff = store, geometry, name, ngff
        self.axes, self.seconds_per_frame = axes, seconds_per_frame
        self._stack = stack
        shape = (*([frames or 1] if axes.startswith("t") else []), *geometry.shape)
        self.factors = level_factors(geometry)
        self.root = zarr.open_group(store, mode="w", zarr_format=3 if ngff == "0.5" else 2)
        self._group = self.root.create_group("labels").create_group(name)
        self.array = self._create(0, shape, np.dtype(dtype), default_chunks(axes, shape) if chunks is None else chunks)

    @classmethod
    def create(
        cls,
        path: Path,
        geometry: Geometry,
        *,
        name: str = "labels",
        axes: str = "",
        seconds_per_frame: float | None = None,
        dtype: npt.DTypeLike = np.uint8,
        frames: int | None = None,
        overwrite: bool = False,
        ngff: Ngff = "0.5",
        chunks: Sequence[int] | None = None,
    ) -> LabelStoreWriter:
        """Start a store that will appear at `path`.

        Parameters
        ----------
        path
            Name of the store, ending in ``.zarr``.
        geometry
            The grid of the labels.
        name
            Name of the label image: the store keeps it as ``labels/<name>``.
        axes
            ``"zyx"`` or ``"yx"``, with a leading ``t`` for video; those of `geometry` by default.
        seconds_per_frame, frames
            Time between frames and their number along ``t``.
        dtype
            An integer type that holds every id.
        overwrite
            Whether a label store of that name may be replaced; an image made by another program never is.
        ngff
            ``"0.5"`` (zarr v3) or ``"0.4"`` (zarr v2).
        chunks
            Shape of a chunk along `axes`; 1024 x 1024 or 64 x 256 x 256 by default.

        Raises
        ------
        InputError
            If the name is taken, the folder cannot be written to, or a parameter is not one of the above.
        """
        axes = axes or geometry.axes
        if axes not in (geometry.axes, "t" + geometry.axes):
            raise InputError(f"{path.name}: axes {axes!r} do not fit a grid of {geometry.axes!r}.")
        if np.dtype(dtype).kind not in "ui":
            raise InputError(f"{path.name}: labels are integers, not {np.dtype(dtype)}.")
        if ngff not in ("0.4", "0.5"):
            raise InputError(f"{path.name}: NGFF version {ngff!r} is not written; accepted are 0.4 and 0.5.")
        if not name or name.startswith((".", "_")) or set(name) & set('/\\:*?"<>|'):
            raise InputError(f"{path.name}: {name!r} is no name for a label image; use letters, digits, - and _.")
        if overwrite and path.is_dir():
            _refuse_foreign_image(path)
        stack = ExitStack()
        store = stack.enter_context(staged(path, overwrite=overwrite))
        try:
            return cls(
                store,
                geometry,
                name=name,
                axes=axes,
                seconds_per_frame=seconds_per_frame,
                dtype=dtype,
                frames=frames,
                ngff=ngff,
                chunks=chunks,
                stack=stack,
            )
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
            voxels = self._build_pyramid()
            self._write_records(table, provenance, voxels)
            if check is not None:
                check(self.store, voxels)
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        self._stack.close()
        return voxels

    def _create(self, level: int, shape: Sequence[int], dtype: np.dtype[Any], chunks: Sequence[int]) -> Any:
        return create_array(self._group, str(level), shape, dtype, chunks, self.axes, self.ngff)

    def _build_pyramid(self) -> dict[int, int]:
        """Write the coarser levels, each from the one before, and count the voxels on the way.

        Every second voxel is taken along the axes that shrink: ids are copied, never mixed.
        """
        voxels: dict[int, int] = {}
        fine, leading = self.array, len(self.axes) - self.geometry.ndim
        for level, (before, after) in enumerate(zip(self.factors, [*self.factors[1:], None], strict=True), start=1):
            if after is None:
                if level == 1:
                    for region in chunk_regions(fine.shape, fine.chunks):
                        _count(np.asarray(fine[region]), voxels)
                break
            stride = (1,) * leading + tuple(int(b / a) for a, b in zip(before, after, strict=True))
            shape = tuple(-(-n // s) for n, s in zip(fine.shape, stride, strict=True))
            coarse = self._create(level, shape, fine.dtype, self.array.chunks)
            for region in chunk_regions(shape, coarse.chunks):
                block = np.zeros(tuple(part.stop - part.start for part in region), fine.dtype)
                self._shrink(fine, region, stride, block, voxels if level == 1 else None)
                if block.any():
                    coarse[region] = block
            fine = coarse
        return dict(sorted(voxels.items()))

    @staticmethod
    def _shrink(
        fine: Any, region: Region, stride: Sequence[int], block: npt.NDArray[Any], voxels: dict[int, int] | None
    ) -> None:
        """Fill `block`, the coarse `region`, from one fine chunk after the other."""
        for inner in chunk_regions(block.shape, [max(1, c // s) for c, s in zip(fine.chunks, stride, strict=True)]):
            source = tuple(
                slice((r.start + i.start) * s, min((r.start + i.stop) * s, n))
                for r, i, s, n in zip(region, inner, stride, fine.shape, strict=True)
            )
            piece = np.asarray(fine[source])
            if voxels is not None:
                _count(piece, voxels)
            block[inner] = piece[tuple(slice(None, None, s) for s in stride)]

    def _write_records(self, table: LabelTable, provenance: Provenance, voxels: Mapping[int, int]) -> None:
        record = metadata.multiscales(
            self.geometry,
            self.axes,
            self.factors,
            name=self.name,
            seconds_per_frame=self.seconds_per_frame,
            ngff=self.ngff,
        )
        private = {
            "geometry": self.geometry.to_dict(),
            "table": table.to_dict(),
            "provenance": provenance.to_dict(),
            "axes": self.axes,
            "seconds_per_frame": self.seconds_per_frame,
            "complete": True,
            **chunk_files.record(self.array),
        }
        label = {"multiscales": [record], "image-label": metadata.image_label(table, voxels, self.ngff)}
        self._group.attrs.update(metadata.attributes(label, private, self.ngff))
        labels = self.root["labels"]
        labels.attrs.update(metadata.attributes({"labels": [self.name]}, None, self.ngff))
        if not self.root.attrs:
            # without an image of its own the root is a collection of labels, so that readers given the
            # store's name find them
            self.root.attrs.update(
                metadata.attributes({"labels": [f"labels/{self.name}"]}, {"kind": "labels"}, self.ngff)
            )


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


def _count(piece: npt.NDArray[Any], voxels: dict[int, int]) -> None:
    """Add the number of voxels of every id except 0."""
    if not piece.any():
        return
    if int(piece.min()) >= 0 and int(piece.max()) < _COUNT_DIRECTLY_BELOW:
        numbers = np.bincount(piece.ravel().astype(np.intp, copy=False))
        ids = np.flatnonzero(numbers)
        numbers = numbers[ids]
    else:
        ids, numbers = np.unique(piece, return_counts=True)
    for label, number in zip(ids.tolist(), numbers.tolist(), strict=True):
        if label:
            voxels[label] = voxels.get(label, 0) + number


def _refuse_foreign_image(path: Path) -> None:
    try:
        ngff, private = metadata.split_attributes(zarr.open_group(path, mode="r").attrs.asdict())
    except (FileNotFoundError, ValueError):
        return
    if "multiscales" in ngff and not private:
        raise InputError(f"{path.name}: holds an image that the labels would replace; choose another name.")
