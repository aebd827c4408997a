"""Pictures and volumes for the benchmarks of the engine, made on the spot and the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_medseg.io.lazy import AnyArray, LazyArray

_TIFF_TILE = 256
_GLASS, _GLASS_SPREAD = 250, 2
_LUMP = 16
_SEED = 0


def tissue(side: int) -> npt.NDArray[np.uint8]:
    """The IHC sample that scikit-image ships and its mirror images, side by side up to ``(side, side, 3)``."""
    from PIL import Image

    sample = np.asarray(Image.open(str(resources.files("skimage") / "data" / "ihc.png")).convert("RGB"))
    across = np.concatenate([sample, sample[:, ::-1]], 1)
    double = np.concatenate([across, across[::-1]])
    times = -(-side // double.shape[0])
    return np.ascontiguousarray(np.tile(double, (times, times, 1))[:side, :side])


def half_glass(side: int) -> npt.NDArray[np.uint8]:
    """`tissue` whose right half is blank glass: noise of 250 ± 2."""
    pixels = tissue(side)
    glass = np.random.default_rng(_SEED).integers(
        _GLASS - _GLASS_SPREAD, _GLASS + _GLASS_SPREAD, (side, side - side // 2, 3), dtype=np.uint8, endpoint=True
    )
    pixels[:, side // 2 :] = glass
    return pixels


def write_tiff(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """A tiled, losslessly compressed TIFF, in the layout of slides."""
    import tifffile

    tifffile.imwrite(path, pixels, tile=(_TIFF_TILE, _TIFF_TILE), compression="zlib", photometric="rgb")


def write_volume(path: Path, shape: Sequence[int]) -> None:
    """An uncompressed NIfTI of generated, smooth noise, int16 about -1000 to 1000; `shape` is along ``x y z``."""
    import nibabel
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    coarse = torch.randn((1, 1, *(-(-n // _LUMP) + 1 for n in shape)), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, tuple(shape), mode="trilinear", align_corners=True)[0, 0]
    smooth += 0.1 * torch.randn(tuple(shape), generator=generator)
    values = smooth.mul_(400).clamp_(-1000, 1000).to(torch.int16).numpy()
    volume = nibabel.Nifti1Image(values, np.eye(4))
    volume.header.set_xyzt_units("mm")
    nibabel.save(volume, path)


class EndlessTissue(LazyArray):
    """`tissue` repeated to any size ``(side, side, 3)`` without ever being held: what is sliced is put together."""

    def __init__(self, side: int) -> None:
        self._period = tissue(1024)
        super().__init__((side, side, 3), np.uint8, (_TIFF_TILE, _TIFF_TILE, 3))

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        rows, columns = (np.arange(r.start, r.stop) % len(self._period) for r in region[:2])
        return self._period[np.ix_(rows, columns)][..., region[2]]
