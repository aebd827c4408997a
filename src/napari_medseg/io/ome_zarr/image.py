"""An image into an OME-Zarr store, chunk by chunk."""

from __future__ import annotations

from itertools import count, takewhile
from typing import Any

import numpy as np

from napari_medseg.case import MedicalImage
from napari_medseg.io.ome_zarr import chunks, metadata
from napari_medseg.io.ome_zarr.labels import chunk_regions, create_array, default_chunks, level_factors
from napari_medseg.io.ome_zarr.metadata import Ngff
from napari_medseg.io.shrunk import box_mean

_RGB = ("FF0000", "00FF00", "0000FF")
_GREY = "FFFFFF"


def copy_image(image: MedicalImage, root: Any, ngff: Ngff) -> None:
    """Write `image` as the multiscale image of the group `root`.

    Levels that the image has are copied; an image of a single large level gets coarser ones by local means.
    Pixels move one chunk at a time. What an earlier, unfinished copy left is replaced.
    """
    for leftover in takewhile(lambda name: name in root, map(str, count())):
        del root[leftover]
    stored = metadata.stored_axes(image.axes)
    order = tuple(image.axes.index(a) for a in stored)
    existing = [_copy_level(image.levels[n], root, n, order, stored, ngff) for n in range(len(image.levels))]
    factors: list[tuple[float, ...]] = [image.downsampling(n) for n in range(len(image.levels))]
    if len(existing) == 1:
        factors = [tuple(float(v) for v in f) for f in level_factors(image.geometry)]
        fine = existing[0]
        for level in range(1, len(factors)):
            ratio = dict(zip(image.spatial_axes, np.divide(factors[level], factors[level - 1]), strict=True))
            fine = _mean_level(fine, root, level, tuple(int(ratio.get(a, 1)) for a in stored), stored, ngff)
    record = metadata.multiscales(
        image.geometry, image.axes, factors, name=image.name, seconds_per_frame=image.seconds_per_frame, ngff=ngff
    )
    private = {
        "geometry": image.geometry.to_dict(),
        "axes": image.axes,
        "modality": str(image.modality),
        "intensity": image.intensity,
        "objective_power": image.objective_power,
        "complete": True,
        **chunks.record(existing[0]),
    }
    part: dict[str, Any] = {"multiscales": [record]}
    if image.channels or image.is_rgb:
        part["omero"] = {"channels": _channels(image)} | ({"version": ngff} if ngff == "0.4" else {})
    root.attrs.update(metadata.attributes(part, private, ngff))


def _channels(image: MedicalImage) -> list[dict[str, Any]]:
    names = image.channels or ("red", "green", "blue", "alpha")[: image.channel_count]
    colours = _RGB if image.is_rgb and image.channel_count == 3 else (_GREY,) * image.channel_count
    top = float(np.iinfo(image.dtype).max) if image.dtype.kind in "ui" else 1.0
    window = {"min": 0.0, "max": top, "start": 0.0, "end": top}
    return [
        {"label": name, "color": colour, "active": True, "window": window}
        for name, colour in zip(names, colours, strict=True)
    ]


def _copy_level(source: Any, root: Any, level: int, order: tuple[int, ...], stored: str, ngff: Ngff) -> Any:
    shape = tuple(int(source.shape[k]) for k in order)
    target = create_array(root, str(level), shape, np.dtype(source.dtype), default_chunks(stored, shape), stored, ngff)
    back = tuple(int(k) for k in np.argsort(order))
    for region in chunk_regions(target.shape, target.chunks):
        block = np.asarray(source[tuple(region[k] for k in back)])
        target[region] = block.transpose(order)
    return target


def _mean_level(fine: Any, root: Any, level: int, ratio: tuple[int, ...], stored: str, ngff: Ngff) -> Any:
    shape = tuple(-(-n // r) for n, r in zip(fine.shape, ratio, strict=True))
    coarse = create_array(root, str(level), shape, np.dtype(fine.dtype), fine.chunks, stored, ngff)
    for region in chunk_regions(shape, coarse.chunks):
        source = tuple(
            slice(part.start * r, min(part.stop * r, n)) for part, r, n in zip(region, ratio, fine.shape, strict=True)
        )
        coarse[region] = box_mean(np.asarray(fine[source]), ratio)
    return coarse
