"""What is written on the command line, as values."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import typer

from napari_medseg.case import InputError, MedicalImage, Segmentation

OnGrid = TypeVar("OnGrid", MedicalImage, Segmentation)


def refuse_same(source: Path, out: Path) -> None:
    """Raise `InputError` if `out` is what is read, holds it, or lies in it."""
    read, written = source.expanduser().resolve(), out.expanduser().resolve()
    if read == written or written in read.parents or read in written.parents:
        raise InputError(f"{out.name}: is what is read, or holds it; choose another place for what is written.")


def one_image(path: Path, series: int | None) -> MedicalImage:
    """The image of a file or folder; with several, that of number `series`, from 1."""
    from napari_medseg.io import open_images

    images = open_images(path)
    if len(images) == 1 and series in (None, 1):
        return images[0]
    if series is None:
        listed = "; ".join(f"{k}: {i.name} {'x'.join(map(str, i.shape))}" for k, i in enumerate(images, start=1))
        raise InputError(f"{path.name}: holds {len(images)} images; choose one with --series ({listed}).")
    if series > len(images):
        raise InputError(f"{path.name}: there is no series {series}; it holds {len(images)}.")
    return images[series - 1]


def parsed_region(text: str) -> tuple[slice, ...]:
    """Slices of ``z0:z1,y0:y1,x0:x1``."""
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return tuple(slice(int(low), int(high)) for low, high in pairs)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not of the form z0:z1,y0:y1,x0:x1") from error


def parsed_bytes(text: str) -> int:
    """Bytes of ``2G`` or ``800M``."""
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    shift = units.get(number[-1:], 0)
    try:
        size = int(float(number[:-1] if shift else number) * (1 << shift))
        if size < 1:
            raise ValueError(text)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is no size of memory; e.g. 2G, 800M") from error
    return size


def labels_and_doubts(path: Path, name: str | None) -> tuple[Segmentation, list[str]]:
    """The labels of a file or store, and what a person should know about them, one sentence each."""
    from napari_medseg.io import open_segmentation
    from napari_medseg.io.formats import format_of, says_labels

    segmentation = open_segmentation(path, name=name)
    if format_of(path.expanduser()).module == "ome_zarr" or says_labels(path):
        return segmentation, []
    return segmentation, [f"{path.name}: does not say that it holds labels; its whole numbers were taken as ids."]


def with_spacing(image: OnGrid, text: str | None) -> OnGrid:
    """The image or labels with the spacing that ``0.5,0.5um`` states for those that state none."""
    from dataclasses import replace

    if text is None:
        return image
    unit = text[-2:]
    try:
        steps = tuple(float(part) for part in text[:-2].split(","))
        if unit not in ("mm", "um"):
            raise ValueError(unit)
        geometry = image.geometry.with_spacing(steps, "mm" if unit == "mm" else "um")
    except ValueError as error:
        axes = ",".join(image.geometry.axes)
        raise typer.BadParameter(f"{text!r} is not of the form {axes} followed by mm or um, e.g. 0.5,0.5um") from error
    if image.geometry.unit is not None:
        raise InputError(f"{image.name}: states its spacing itself; --spacing is for those that do not.")
    return replace(image, geometry=geometry)
