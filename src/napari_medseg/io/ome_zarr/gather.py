"""Several label images in one store."""

from __future__ import annotations

import shutil
from pathlib import Path

import zarr

from napari_medseg.case import InputError
from napari_medseg.io.ome_zarr import metadata
from napari_medseg.io.ome_zarr.metadata import Ngff
from napari_medseg.io.ome_zarr.reading import label_names


def move_labels(source: Path, target: Path, ngff: Ngff) -> None:
    """Move every label image of the store `source` into the store `target`, then remove `source`.

    Both were written in NGFF version `ngff`.

    Raises
    ------
    InputError
        If `target` already holds labels of a name in `source`.
    """
    have, more = label_names(target), label_names(source)
    taken = sorted(set(have) & set(more))
    if taken:
        raise InputError(f"{target.name}: already holds labels named {', '.join(taken)}; choose another name.")
    for name in more:
        (source / "labels" / name).rename(target / "labels" / name)
    names = [*have, *more]
    root = zarr.open_group(target, mode="r+")
    root["labels"].attrs.update(metadata.attributes({"labels": names}, None, ngff))
    public, private = metadata.split_attributes(root.attrs.asdict())
    if "multiscales" not in public:
        root.attrs.update(metadata.attributes({"labels": [f"labels/{n}" for n in names]}, private, ngff))
    shutil.rmtree(source)
