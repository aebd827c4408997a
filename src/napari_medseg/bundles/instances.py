"""Turn a network's maps into separate objects; local, deterministic, and cheap on large images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError


@runtime_checkable
class InstanceDecoder(Protocol):
    """Makes instances of maps. `margin` is the border, in pixels, inside which a crop's result may differ."""

    @property
    def margin(self) -> int:
        """Border in pixels inside which a crop's result may differ from the whole image's."""

    def decode(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Decode activated maps (c, y, x) into labels (y, x), 0 is background."""


@dataclass(frozen=True)
class DistanceDecoder:
    """Instances from foreground, distance and contact maps (see `napari_medseg.adapt.nuclei.nucleus_maps`).

    Pixels whose smoothed distance, lowered where two objects touch, passes a threshold are seeds; a watershed
    grows the seeds over the foreground. A piece of foreground without a seed is an object of its own.

    Parameters
    ----------
    foreground
        A pixel belongs to an object where the foreground map is above this (0 to 1).
    seed
        A pixel is a seed where the lowered distance is above this (0 to 1).
    contact
        How much of the contact map is taken off the distance.
    smooth
        Standard deviation, in pixels, of the Gaussian applied to the distance.
    min_area
        Objects with fewer pixels are dropped.
    min_seed
        Seeds with fewer pixels are dropped.
    margin
        Pixels around a crop that must be decoded with it for the inside to equal the whole image's result; more
        than the largest object's diameter.
    """

    foreground: float = 0.5
    seed: float = 0.5
    contact: float = 0.5
    smooth: float = 1.0
    min_area: int = 20
    min_seed: int = 3
    margin: int = 64

    def decode(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Decode maps (3, y, x), each 0 to 1, into labels int32 (y, x) numbered 1, 2, ... row by row."""
        from scipy import ndimage
        from skimage.segmentation import watershed

        if maps.ndim != 3 or maps.shape[0] != 3:
            raise InputError(f"maps of shape {maps.shape} cannot be decoded; (3, y, x) is expected")
        foreground = maps[0] > self.foreground
        if not foreground.any():
            return np.zeros(foreground.shape, np.int32)
        height = maps[1] - self.contact * maps[2]
        if self.smooth > 0:
            height = ndimage.gaussian_filter(height, self.smooth, truncate=3.0)
        seeds, count = ndimage.label(foreground & (height > self.seed))
        if self.min_seed > 1:
            seeds = _keep(seeds, np.bincount(seeds.ravel(), minlength=count + 1) >= self.min_seed)
        pieces, pieces_count = ndimage.label(foreground)
        seeded = np.zeros(pieces_count + 1, bool)
        seeded[pieces[seeds > 0]] = True
        alone = foreground & ~seeded[pieces]
        seeds = np.where(alone, pieces + count, seeds)
        # one step of 1/256 keeps float noise of different devices from moving a boundary
        level = np.round(height * -256.0).astype(np.int16)
        grown = watershed(level, seeds.astype(np.int32), mask=foreground)
        return _keep(grown, np.bincount(grown.ravel()) >= self.min_area)


@dataclass(frozen=True)
class WatershedDecoder:
    """Instances from a foreground map alone: touching objects are parted at their waists.

    Parameters
    ----------
    foreground
        A pixel belongs to an object where the last map is above this (0 to 1).
    minimum_distance
        Centres closer than this many pixels belong to one object.
    distance_smoothing
        Standard deviation, in pixels, that smooths the distance to the edge; more joins lumpy objects.
    smallest
        Pieces of fewer pixels are dropped.
    margin
        As for `DistanceDecoder`.
    """

    foreground: float = 0.5
    minimum_distance: float = 4.0
    distance_smoothing: float = 1.0
    smallest: int = 30
    margin: int = 96

    def decode(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Decode maps (c, y, x) into labels int32 (y, x)."""
        from napari_medseg.classical.thresholds import WatershedParameters, watershed

        if maps.ndim != 3:
            raise InputError(f"maps of shape {maps.shape} cannot be decoded; (c, y, x) is expected")
        parameters = WatershedParameters(
            threshold=self.foreground,
            minimum_distance=self.minimum_distance,
            distance_smoothing=self.distance_smoothing,
            smallest=self.smallest,
        )
        return watershed(maps[-1], parameters=parameters)


class Instancesd:
    """Decode maps into instances, as a dictionary transform that MONAI can compose.

    Parameters
    ----------
    keys
        Which items to decode.
    decoder
        Makes instances of maps.
    """

    def __init__(self, keys: str | list[str], decoder: InstanceDecoder) -> None:
        self.keys = [keys] if isinstance(keys, str) else list(keys)
        self.decoder = decoder

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Replace maps (3, y, x) by labels int32 (1, y, x), as an array or tensor like the maps."""
        import torch

        decoded = dict(data)
        for key in self.keys:
            maps = decoded[key]
            labels = self.decoder.decode(np.asarray(maps, dtype=np.float32))[None]
            # a MetaTensor keeps what MONAI's writers need to know of the image
            kept = {"meta": maps.meta} if hasattr(maps, "meta") else {}
            tensor = torch.from_numpy(labels)
            decoded[key] = type(maps)(tensor, **kept) if kept else tensor if torch.is_tensor(maps) else labels
        return decoded


def _keep(labels: npt.NDArray[Any], wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Drop the ids that are not wanted and number the rest anew, in their order."""
    wanted = wanted.copy()
    wanted[0] = False
    new = np.where(wanted, np.cumsum(wanted), 0).astype(np.int32)
    kept: npt.NDArray[np.int32] = new[labels]
    return kept
