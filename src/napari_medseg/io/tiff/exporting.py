"""Write labels as OME-TIFF."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_medseg.case import InputError, Segmentation
from napari_medseg.io.tiff.metadata import PRIVATE
from napari_medseg.io.tiff.reading import TILE, read_segmentation
from napari_medseg.io.writing import staged, verify

_OME_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")
_CLASSIC_LIMIT = 3_900_000_000


def write_segmentation(segmentation: Segmentation, path: Path, *, overwrite: bool = False) -> None:
    """Write labels as a compressed, tiled OME-TIFF, one plane in memory at a time; reopen it and compare.

    Raises
    ------
    InputError
        If an id needs more than 32 bits, or the name is taken.
    """
    dtype = _ome_dtype(segmentation, path)
    with staged(path, overwrite=overwrite) as temporary:
        _write(segmentation, temporary, dtype)
        reopened = read_segmentation(temporary)
        try:
            verify(segmentation, reopened, path.name)
        finally:
            # Windows neither renames nor removes open files
            reopened.data.close()


def _write(segmentation: Segmentation, path: Path, dtype: np.dtype[Any]) -> None:
    shape = tuple(int(n) for n in segmentation.data.shape)
    tiled = min(shape[-2:]) > TILE
    with tifffile.TiffWriter(path, ome=True, bigtiff=int(np.prod(shape)) * dtype.itemsize > _CLASSIC_LIMIT) as writer:
        writer.write(
            _tiles(segmentation.data, shape, dtype) if tiled else _planes(segmentation.data, shape, dtype),
            shape=shape,
            dtype=dtype,
            tile=(TILE, TILE) if tiled else None,
            photometric="minisblack",
            compression="zlib",
            metadata=_ome_metadata(segmentation),
        )


def _ome_metadata(segmentation: Segmentation) -> dict[str, Any]:
    geometry = segmentation.geometry
    record = {
        "geometry": geometry.to_dict(),
        "table": segmentation.table.to_dict(),
        "provenance": segmentation.provenance.to_dict(),
        "name": segmentation.name,
        "seconds_per_frame": segmentation.seconds_per_frame,
    }
    found: dict[str, Any] = {
        "axes": segmentation.axes.upper(),
        "MapAnnotation": {"Namespace": PRIVATE, PRIVATE: json.dumps(record)},
    }
    if geometry.spacing is not None:
        for axis, step in zip(geometry.axes.upper(), geometry.spacing, strict=True):
            found[f"PhysicalSize{axis}"] = step
            found[f"PhysicalSize{axis}Unit"] = "µm" if geometry.unit == "um" else "mm"
    if segmentation.seconds_per_frame is not None:
        found["TimeIncrement"] = segmentation.seconds_per_frame
        found["TimeIncrementUnit"] = "s"
    return found


def _planes(labels: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[np.ndarray[Any, Any]]:
    for index in np.ndindex(*shape[:-2]):
        yield np.asarray(labels[index]).astype(dtype)


def _tiles(labels: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Full tiles in file order; those at the edges are filled up with background."""
    for index in np.ndindex(*shape[:-2]):
        for y in range(0, shape[-2], TILE):
            # a row of tiles is read at once: the source's chunks are usually larger than a tile
            row = np.asarray(labels[(*index, slice(y, y + TILE), slice(None))])
            for x in range(0, shape[-1], TILE):
                part = row[:, x : x + TILE]
                tile = np.zeros((TILE, TILE), dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile


def _ome_dtype(segmentation: Segmentation, path: Path) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(segmentation.data.dtype).newbyteorder("=")
    if dtype.name in _OME_INTEGERS:
        return dtype
    largest = max((int(block.max()) for _, block in segmentation.blocks()), default=0)
    if largest > np.iinfo(np.uint32).max:
        raise InputError(
            f"{path.name}: label {largest} does not fit the 32 bits of OME-TIFF; use .zarr or smaller ids."
        )
    return np.dtype(np.uint32)
