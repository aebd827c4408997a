"""One model on one image: what is worked out before any tile is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, combinations
from typing import Any

import numpy as np

from napari_medseg.bundles.model import Model
from napari_medseg.case import InputError, MedicalImage, Modality
from napari_medseg.inference.checks import channels_for, checked_region
from napari_medseg.inference.inputs.blocks import in_blocks
from napari_medseg.inference.inputs.grid import TileReader, WorkGrid
from napari_medseg.inference.inputs.mosaic import MosaicLayout, MosaicReader
from napari_medseg.inference.inputs.stacks import StackReader
from napari_medseg.inference.inputs.tissue import TissueMask, tissue_mask
from napari_medseg.inference.options import SegmentOptions
from napari_medseg.inference.tiles.engine import Start, TileSource
from napari_medseg.inference.tiles.plan import TilePlan
from napari_medseg.inference.tiles.units import Box, Unit

_STATISTICS_VOXELS = 1 << 25
_TISSUE_FROM_PIXELS = 1 << 24
_AIR_HU = -1000.0
_WHOLE_VALUES, _WHOLE_SIDE = 1 << 27, 8192


@dataclass(frozen=True, eq=False)
class Task:
    """One model on one image, checked and planned.

    Raises
    ------
    InputError
        If the model cannot read this image, or an option cannot be met.
    """

    image: MedicalImage
    model: Model
    options: SegmentOptions
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Work out everything that can be refused."""
        objects = self.model.instances is not None
        _ = self.channels, self.region
        if self.options.planes == "mosaic":
            flat = self.model.spatial_dims == 2 and self.image.geometry.ndim == 3
            if objects or not flat or self.region is not None:
                raise InputError(
                    "A mosaic lays the slices of a whole volume out for a two-dimensional model of classes; "
                    "leave it out for other images, models and for regions."
                )
            if not self.grid.is_image_grid:
                raise InputError(f"Model {self.model.card.id} works at its own spacing and cannot read a mosaic.")
        _ = self.plan
        if objects and (self.options.probabilities or self.options.uncertainty):
            raise InputError(
                f"Model {self.model.card.id} finds objects; probabilities are stored for models of classes only."
            )
        if self.options.tissue == "on" and self.image.geometry.ndim != 2:
            raise InputError("Tissue is looked for on slides; leave --tissue out for this image.")

    @cached_property
    def channels(self) -> tuple[int, ...]:
        """Indices of the image's channels that the model reads."""
        return channels_for(self.image, self.model)

    @cached_property
    def grid(self) -> WorkGrid:
        """The grid the model works on."""
        return WorkGrid.plan(self.image, self.model)

    @property
    def extent(self) -> tuple[int, ...]:
        """The image's grid along the axes the network sees."""
        return self.image.geometry.shape[-self.model.spatial_dims :]

    @cached_property
    def region(self) -> tuple[slice, ...] | None:
        """The part of the image that is wanted; ``None`` for all of it."""
        return checked_region(self.image, self.options.region)

    @property
    def part(self) -> Box:
        """The part of the image that is wanted, along the axes the network sees."""
        if self.region is None:
            return tuple(slice(0, n) for n in self.extent)
        return self.region[-self.model.spatial_dims :]

    @cached_property
    def mosaic(self) -> MosaicLayout | None:
        """How the slices of a volume are laid out as one picture, if they are."""
        if self.options.planes != "mosaic":
            return None
        return MosaicLayout.near_square(*self.image.geometry.shape)

    @cached_property
    def plan(self) -> TilePlan:
        """The tiles of the whole working grid."""
        back = self.grid.to_network.inverse()
        tile = tuple(self.model.tile[k] for k in back.order)
        overlap = self.model.overlap if self.options.overlap is None else self.options.overlap
        if not 0 <= overlap < 1:
            raise InputError(f"An overlap of {overlap:g} cannot be used; accepted are 0 up to but not including 1.")
        shape = self.grid.shape if self.mosaic is None else self.mosaic.shape
        if self.model.whole:
            return self._one_tile(shape, back.flips)
        margin = self.options.margin
        if margin < 0 or 2 * margin >= min(tile):
            raise InputError(
                f"A margin of {margin} leaves nothing of this model's tiles of {' x '.join(map(str, tile))}; "
                f"accepted are 0 to {(min(tile) - 1) // 2}."
            )
        return TilePlan(shape, tile, overlap, None, back.flips, margin)

    @property
    def unused(self) -> tuple[str, ...]:
        """What was asked for and means nothing to this model, as sentences."""
        given = {"overlap": self.options.overlap, "margin": self.options.margin or None}
        named = [name for name, value in given.items() if value is not None]
        if not self.model.whole or not named:
            return ()
        words = f"{' and '.join(named)} {'was' if len(named) == 1 else 'were'}"
        return (f"Model {self.model.card.id} looks at everything at once and has no tiles: {words} left out.",)

    def _one_tile(self, shape: tuple[int, ...], flips: tuple[bool, ...]) -> TilePlan:
        """A single tile, for a model that must see everything at once."""
        values = int(np.prod(shape)) * max(1, len(self.channels))
        if values > _WHOLE_VALUES or max(shape) > _WHOLE_SIDE:
            raise InputError(
                f"Model {self.model.card.id} looks at everything at once, and {' x '.join(map(str, shape))} is too "
                f"much for it; accepted are sides up to {_WHOLE_SIDE} and {_WHOLE_VALUES} values in all. "
                "Open a smaller part, or choose a model that works in tiles."
            )
        return TilePlan(shape, shape, 0.0, None, flips, 0)

    @property
    def batch_size(self) -> int:
        """Tiles per forward pass."""
        if self.model.whole:
            return 1
        return self.options.batch_size or (4 if self.model.spatial_dims == 2 else 1)

    @property
    def mirrored(self) -> tuple[tuple[int, ...], ...]:
        """Sets of axes to flip for test-time augmentation."""
        axes = range(self.model.spatial_dims) if self.options.mirror else ()
        return tuple(chain.from_iterable(combinations(axes, k) for k in range(len(axes) + 1)))

    @cached_property
    def planes(self) -> list[tuple[int, int | None]]:
        """Every frame, and every plane of it for a two-dimensional model on a volume."""
        planes: list[int | None] = [None]
        if self.image.geometry.ndim > self.model.spatial_dims and self.mosaic is None:
            part = self.region[0] if self.region else slice(0, self.image.geometry.shape[0])
            planes = list(range(part.start, part.stop))
        return [(frame, plane) for frame in range(self.image.frame_count) for plane in planes]

    @property
    def has_time(self) -> bool:
        """Whether the labels have a time axis."""
        return self.image.axes.startswith("t")

    def place(self, unit: Unit) -> tuple[int, ...]:
        """Index of a unit along the axes before those the network sees: frame and plane."""
        return (*((unit.frame,) if self.has_time else ()), *(() if unit.plane is None else (unit.plane,)))

    @cached_property
    def _pixels(self) -> MedicalImage:
        """The image with the level that is used read in blocks."""
        levels = list(self.image.levels)
        spatial = tuple(self.image.axes.index(a) for a in self.image.spatial_axes)
        levels[self.grid.level] = in_blocks(levels[self.grid.level], spatial)
        return replace(self.image, levels=tuple(levels))

    def source(self, frame: int, plane: int | None) -> TileSource:
        """Where tiles of one plane or volume come from."""
        key = ("source", frame, plane)
        if key not in self._cache:
            for old in [k for k in self._cache if k[0] == "source"]:
                del self._cache[old]
            reader = self._reader(frame, plane)
            if self.mosaic is None:
                statistics = _statistics([reader], self.model)
            else:
                # the mosaic's empty tiles are no part of the image
                slices = range(self.mosaic.depth)
                statistics = _statistics([self._stacked(frame, k) for k in slices], self.model)
            self._cache[key] = TileSource(reader, self.model, statistics, self.plan.tile)
        source: TileSource = self._cache[key]
        return source

    def _reader(self, frame: int, plane: int | None) -> Any:
        if self.mosaic is not None:
            fill = _AIR_HU if self.image.intensity == "HU" else 0.0
            return MosaicReader(
                lambda k, start, shape: self._stacked(frame, k).read(start, shape),
                self.mosaic,
                self.model.card.in_channels,
                fill,
            )
        return self._stacked(frame, plane)

    def _stacked(self, frame: int, plane: int | None) -> TileReader:
        if self.model.slices == 1 or plane is None:
            return TileReader(self._pixels, self.grid, frame, plane, self.channels)
        key = ("stack", frame)
        if key not in self._cache:
            self._cache[key] = StackReader(
                lambda k, start, shape: TileReader(self._pixels, self.grid, frame, k, self.channels).read(start, shape),
                self.model.slices,
                self.image.geometry.shape[0],
            )
        return TileReader(self._pixels, self.grid, frame, plane, self.channels, self._cache[key])

    @property
    def looks_for_tissue(self) -> bool:
        """Whether tiles without tissue are left out."""
        if self.options.tissue == "auto":
            size = int(np.prod(self.image.geometry.shape))
            slide = self.image.modality is Modality.SM and self.image.is_rgb and self.image.geometry.ndim == 2
            return slide and size >= _TISSUE_FROM_PIXELS
        return self.options.tissue == "on"

    def tissue(self, frame: int) -> TissueMask | None:
        """Where tissue may be in a frame; ``None`` where nobody looks."""
        if not self.looks_for_tissue:
            return None
        key = ("tissue", frame)
        if key not in self._cache:
            self._cache[key] = tissue_mask(self.image, frame=frame)
        mask: TissueMask = self._cache[key]
        return mask

    def wanted(self, frame: int) -> Callable[[Start], bool] | None:
        """Whether the tile at a start is to be computed; ``None`` if every tile is."""
        mask = self.tissue(frame)
        if mask is None:
            return None

        def touches(start: Start) -> bool:
            top, left = (
                slice(int(np.floor(s * f)), int(np.ceil((s + t) * f)))
                for s, t, f in zip(start, self.plan.tile, self.grid.factors, strict=True)
            )
            return mask.touches((top, left))

        return touches

    def header(self) -> dict[str, Any]:
        """What decides the labels, for the ledger: plain values without names, paths or identifiers."""
        image, model = self.image, self.model
        return {
            "image": {
                "shape": list(image.shape),
                "axes": image.axes,
                "dtype": str(image.dtype),
                "grid": image.geometry.to_dict(),
                "content": image.source.fingerprint() or _sampled(image),
            },
            "model": {"id": model.card.id, "weights": model.sha256, "tile": list(model.tile)},
            "options": self.options.to_dict(),
        }


def _statistics(readers: Sequence[Any], model: Model) -> Any:
    """What the intensity steps need, from everything that is read or an even sample of its rows."""
    if not model.intensity.needs_statistics:
        return None
    shape = readers[0].shape
    per_row = int(np.prod(shape[1:])) * readers[0].channel_count
    every = [(k, row) for k in range(len(readers)) for row in range(shape[0])]
    if len(every) * per_row <= _STATISTICS_VOXELS:
        whole = [reader.read((0,) * len(shape), shape) for reader in readers]
        return model.intensity.statistics(whole[0] if len(whole) == 1 else np.concatenate(whole, axis=1))
    number = max(1, _STATISTICS_VOXELS // per_row)
    chosen = np.unique(np.linspace(0, len(every) - 1, number).astype(int))
    sample = [
        readers[k].read((row, *(0,) * (len(shape) - 1)), (1, *shape[1:])) for k, row in (every[i] for i in chosen)
    ]
    return model.intensity.statistics(np.concatenate(sample, axis=1))


def _sampled(image: MedicalImage) -> str:
    """Hash of an image that lies in no file: of its coarsest level, thinned out where that is large."""
    level = image.levels[-1]
    step = max(1, round((int(np.prod(level.shape)) / _TISSUE_FROM_PIXELS) ** (1 / len(level.shape))))
    block = np.ascontiguousarray(np.asarray(level[(slice(None, None, step),) * len(level.shape)]))
    return hashlib.sha256(block.reshape(-1).view(np.uint8).data).hexdigest()
