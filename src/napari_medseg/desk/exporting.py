"""What the Export dock asks for, as plain functions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from napari.layers import Labels, Layer

from napari_medseg.case import InputError, Step
from napari_medseg.desk.layers import segmentation, source_of
from napari_medseg.io import FORMATS, Format, write_segmentation
from napari_medseg.io.formats import label_format
from napari_medseg.jobs import Progress


@dataclass(frozen=True)
class Order:
    """What to write where: `ngff` and `with_image` count for OME-Zarr only."""

    path: Path
    replace_existing: bool = False
    ngff: Literal["0.4", "0.5"] = "0.5"
    with_image: bool = False


def label_formats() -> list[Format]:
    """Formats that can hold labels, OME-Zarr first."""
    return [form for form in FORMATS if form.writes_labels]


def ending_of(form: Format) -> str:
    """The usual ending of a format's files."""
    return {"nifti": ".nii.gz", "tiff": ".tif"}.get(form.module, form.extensions[0])


def suggested_path(folder: Path, layer_name: str, form: Format) -> Path:
    """A file name in `folder` made of the layer's name."""
    words = "".join(c if c.isalnum() or c in "-_" else "_" for c in layer_name).strip("_") or "labels"
    return folder / f"{words}{ending_of(form)}"


def export(layer: Labels, others: Iterable[Layer], order: Order, *, progress: Progress) -> Path:
    """Write the labels of a layer, verified by reopening, with one more step in their history.

    Raises
    ------
    InputError
        If the file exists and may not be replaced, or the format cannot hold these labels.
    """
    others = list(others)
    form = label_format(order.path)
    progress.begin(1, "collecting the labels")
    labels = segmentation(layer, others)
    history = labels.provenance.with_step(Step.now("export", format=form.name))
    labels = replace(labels, provenance=history)
    image: Any = None
    if order.with_image and "image" in form.write_options:
        image = source_of(layer, others)
        if image is None:
            raise InputError(f"{layer.name}: the image of these labels is not open; open it, or leave the image out.")
        if labels.geometry is not image.geometry and not labels.geometry.is_close(image.geometry):
            raise InputError(f"{layer.name}: its layer was moved away from the image; leave the image out.")
    progress.check()
    progress.begin(1, "writing and verifying")
    like = series_of(layer, others) if "like" in form.write_options else None
    write_segmentation(labels, order.path, overwrite=order.replace_existing, ngff=order.ngff, image=image, like=like)
    return order.path


def series_of(layer: Labels, others: Iterable[Layer]) -> Path | None:
    """The folder or file of the DICOM series that the labels were made on, if its image is open."""
    image = source_of(layer, others)
    if image is None or not image.source.paths or not image.source.format.startswith("DICOM"):
        return None
    paths = image.source.paths
    return paths[0] if len(paths) == 1 else Path(os.path.commonpath(paths))
