"""Write labels that already exist as a new OME-Zarr store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError, MedicalImage, Segmentation
from napari_medseg.io.ome_zarr.image import copy_image
from napari_medseg.io.ome_zarr.labels import LabelFrame, LabelStoreWriter, chunk_regions
from napari_medseg.io.ome_zarr.metadata import Ngff
from napari_medseg.io.ome_zarr.reading import read_segmentation
from napari_medseg.io.writing import verify


def write_segmentation(
    segmentation: Segmentation,
    path: Path,
    *,
    overwrite: bool = False,
    ngff: Ngff = "0.5",
    image: MedicalImage | None = None,
) -> None:
    """Write labels as ``labels/<name>`` of a new store, chunk by chunk; reopen it and compare.

    Parameters
    ----------
    segmentation, path
        What to write, and the name of the store, ending in ``.zarr``.
    overwrite
        Whether a label store of that name may be replaced. A store that holds an image made by another
        program is never replaced.
    ngff
        ``"0.5"`` (zarr v3) or ``"0.4"`` (zarr v2).
    image
        Copied into the store beside the labels when given, chunk by chunk.

    Raises
    ------
    InputError
        If the name is taken, or `image` does not lie on the labels' grid.
    """
    if image is not None and not image.geometry.is_close(segmentation.geometry):
        raise InputError(
            f"{path.name}: the image to copy does not lie on the labels' grid; choose the image they belong to."
        )
    frame = LabelFrame(
        segmentation.geometry,
        name=_safe_name(segmentation.name),
        axes=segmentation.axes,
        seconds_per_frame=segmentation.seconds_per_frame,
        dtype=_storage_dtype(segmentation.data.dtype),
        frames=int(segmentation.data.shape[0]) if segmentation.axes.startswith("t") else None,
        ngff=ngff,
    )
    writer = LabelStoreWriter.create(path, frame, overwrite=overwrite)
    with writer:
        _fill(writer.array, segmentation.data)
        if image is not None:
            copy_image(image, writer.root, ngff)

        def compare(store: Path, _: dict[int, int]) -> None:
            verify(segmentation, read_segmentation(store / "labels" / frame.name), path.name)

        writer.finish(segmentation.table, segmentation.provenance, check=compare)


def _fill(target: Any, labels: Any) -> None:

    for region in chunk_regions(target.shape, target.chunks):
        block = np.asarray(labels[region])
        if block.any():
            target[region] = block


def _storage_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("=")


def _safe_name(name: str) -> str:
    """A layer's name as the name of a group: other programs stumble over blanks and separators."""
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip("._")
    return kept or "labels"
