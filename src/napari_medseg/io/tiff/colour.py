"""Pixels of a TIFF as people expect them: ink colours, palettes and transparency become red, green, blue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tifffile import PHOTOMETRIC

from napari_medseg.case import InputError
from napari_medseg.case.image import Intensity
from napari_medseg.io.lazy import AnyArray, LazyArray, PixelMap


@dataclass(frozen=True)
class Display:
    """The levels to show, their axes, what their numbers mean and what was done to them."""

    levels: Sequence[LazyArray]
    axes: str
    intensity: Intensity
    warnings: tuple[str, ...] = ()


def to_display(levels: Sequence[LazyArray], axes: str, page: Any, where: str) -> Display:
    """Grey or red-green-blue from whatever the page's photometric tag says.

    Raises
    ------
    InputError
        For colour models that are not converted.
    """
    photometric = page.photometric
    samples = levels[0].shape[-1] if axes.endswith("c") else 1
    spatial = axes.rstrip("c")
    top = int(np.iinfo(levels[0].dtype).max) if levels[0].dtype.kind in "ui" else 1
    if photometric == PHOTOMETRIC.PALETTE and samples == 1:
        lookup = (np.asarray(page.colormap) >> 8).astype(np.uint8).T
        return _mapped(levels, spatial, lambda block: lookup[block], np.uint8, "Its palette colours were looked up.")
    if photometric == PHOTOMETRIC.SEPARATED:
        if samples != 4:
            raise InputError(f"{where}: holds {samples} inks; accepted are grey, RGB and CMYK.")
        said = "Its ink colours (CMYK) were converted to RGB without a colour profile."
        return _mapped(levels, spatial, lambda block: ink_to_rgb(block, top), levels[0].dtype, said)
    if photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR) and page.samplesperpixel >= 3:
        # tifffile decodes JPEG to RGB; brightness and colour difference are left as they are elsewhere
        if photometric == PHOTOMETRIC.YCBCR and page.compression.name not in ("JPEG", "OJPEG", "JPEG_LOSSY"):
            raise InputError(f"{where}: holds YCbCr colours outside JPEG; accepted are grey, RGB and CMYK.")
        if samples > 3 and page.extrasamples:
            said = "Its transparency (alpha) is ignored."
            return _mapped(levels, spatial, lambda block: block[..., :3], levels[0].dtype, said)
        return Display(levels, axes, "RGB")
    if photometric in (PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB, PHOTOMETRIC.ITULAB):
        raise InputError(f"{where}: holds L*a*b* colours; accepted are grey, RGB and CMYK.")
    if photometric == PHOTOMETRIC.MINISWHITE and page.bitspersample == 1:
        # masks are written this way without meaning it: their 1 is kept as 1
        return Display(levels, axes, "arbitrary", ("It is a one-bit picture whose 1 is meant to be black.",))
    if photometric == PHOTOMETRIC.MINISWHITE and levels[0].dtype.kind == "u":
        turned = [
            PixelMap(level, lambda block: top - block, len(spatial), samples if "c" in axes else None, level.dtype)
            for level in levels
        ]
        return Display(turned, axes, "arbitrary", ("It is stored with white as 0; its values were turned round.",))
    return Display(levels, axes, "arbitrary")


def ink_to_rgb(block: AnyArray, top: int) -> AnyArray:
    """Cyan, magenta, yellow and black (0 to `top`, last axis) to red, green and blue of the same range."""
    share = 1.0 - block.astype(np.float32) / top
    found: AnyArray = np.rint(share[..., :3] * share[..., 3:] * top).astype(block.dtype)
    return found


def _mapped(
    levels: Sequence[LazyArray], spatial: str, convert: Callable[[AnyArray], AnyArray], dtype: Any, said: str
) -> Display:
    turned = [PixelMap(level, convert, len(spatial), 3, dtype) for level in levels]
    return Display(turned, spatial + "c", "RGB", (said,))
