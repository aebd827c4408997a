"""The grid a model works on, and how it meets the image's own grid.

The working grid keeps the image's axes and extent and only changes the distance between points, so a
position converts axis by axis: ``image = (work + 0.5) * factor - 0.5``. Tiles are turned to the axes
the network was trained on just before the forward pass and back right after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.bundles.model import Model
from napari_medseg.case import AxisMap, Geometry, InputError, MedicalImage
from napari_medseg.inference.inputs.resample import Taps
from napari_medseg.inference.inputs.stacks import StackReader

FloatArray = npt.NDArray[np.float32]

_SAME_SPACING = 1e-3


@dataclass(frozen=True, eq=False)
class WorkGrid:
    """The working grid for one image and model.

    Parameters
    ----------
    shape
        Shape of the working grid, along the image's axes that the network sees.
    factors
        Image voxels per working voxel, per axis.
    to_network
        From the image's axes to the network's.
    level
        The pyramid level that is read.
    level_factors
        Voxels of that level per working voxel, per axis.
    level_shape
        Shape of that level along the axes the network sees.
    """

    shape: tuple[int, ...]
    factors: tuple[float, ...]
    to_network: AxisMap
    level: int
    level_factors: tuple[float, ...]
    level_shape: tuple[int, ...]

    @property
    def is_image_grid(self) -> bool:
        """Whether working voxels are image voxels."""
        return all(f == 1 for f in self.factors)

    @classmethod
    def plan(cls, image: MedicalImage, model: Model) -> WorkGrid:
        """The working grid of `model` on `image`.

        Two-dimensional models work on the last two axes of a volume, plane by plane.

        Raises
        ------
        InputError
            If the model needs a volume and the image has none, needs a spacing the image does not
            state, or an orientation that photographs do not have.
        """
        geometry = image.geometry
        n = model.spatial_dims
        if n > geometry.ndim:
            raise InputError(
                f"Model {model.card.id} reads volumes with axes z y x; this image has only "
                f"{' '.join(geometry.axes)}. Open the whole series instead of one picture."
            )
        seen = slice(geometry.ndim - n, None)
        to_network = _to_network(geometry, model) if n == geometry.ndim else AxisMap.identity(n)
        factors = _factors(geometry, model, to_network)[seen]
        own = geometry.shape[seen]
        shape = tuple(max(1, round(size / f)) for size, f in zip(own, factors, strict=True))
        level = _best_level(image, factors, seen)
        down = image.downsampling(level)[seen]
        level_factors = tuple(f / d for f, d in zip(factors, down, strict=True))
        return cls(shape, factors, to_network, level, level_factors, image.spatial_shape(level)[seen])


def _to_network(geometry: Geometry, model: Model) -> AxisMap:
    if model.orientation is None:
        return AxisMap.identity(geometry.ndim)
    if geometry.frame != "patient":
        raise InputError(
            f"Model {model.card.id} needs to know left from right, and this image does not say how it lies in the "
            f"patient. Open the original DICOM, NIfTI or NRRD file."
        )
    return geometry.axis_map_to(model.orientation)


def _factors(geometry: Geometry, model: Model, to_network: AxisMap) -> tuple[float, ...]:
    n = geometry.ndim
    if model.spacing is None:
        return (1.0,) * n
    if geometry.unit is None or model.unit is None:
        raise InputError(
            f"Model {model.card.id} works at {_spacing_words(model)}, and the spacing of this image is unknown. "
            f"State it with --spacing, or set the layer's scale and units."
        )
    steps = geometry.in_unit(model.unit).steps
    wanted = list(steps)
    if len(model.spacing) == n:
        for axis, source in enumerate(to_network.order):
            wanted[source] = model.spacing[axis]
    else:
        wanted[n - len(model.spacing) :] = list(model.spacing)
    ratios = (w / s for w, s in zip(wanted, steps, strict=True))
    return tuple(1.0 if abs(r - 1) < _SAME_SPACING else r for r in ratios)


def _spacing_words(model: Model) -> str:
    return " x ".join(f"{s:g}" for s in model.spacing or ()) + f" {model.unit}"


def _best_level(image: MedicalImage, factors: tuple[float, ...], seen: slice) -> int:
    """The coarsest level that is still at least as fine as the working grid."""
    best = 0
    for level in range(1, len(image.levels)):
        down = image.downsampling(level)
        kept = all(d == 1 for d in down[: seen.start])
        if kept and all(d <= f * (1 + _SAME_SPACING) for d, f in zip(down[seen], factors, strict=True)):
            best = level
    return best


@dataclass(frozen=True, eq=False)
class TileReader:
    """Reads tiles of the working grid, resampled from the image, ready for the intensity steps.

    Every value depends on its own position only, so neighbouring tiles agree wherever they overlap.

    Parameters
    ----------
    image
        Where pixels come from.
    grid
        The working grid.
    frame
        Index along ``t``.
    plane
        Index of the leading spatial axis for a two-dimensional model on a volume, else ``None``.
    channels
        Indices of the channels that the model reads.
    stack
        Reads the neighbouring planes too, as channels, for a model that looks at them; ``None`` otherwise.
    """

    image: MedicalImage
    grid: WorkGrid
    frame: int
    plane: int | None
    channels: tuple[int, ...]
    stack: StackReader | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what can be read."""
        return self.grid.shape

    @property
    def channel_count(self) -> int:
        """Number of channels that are read."""
        return len(self.channels) * (1 if self.stack is None else self.stack.count)

    def read(self, start: tuple[int, ...], shape: tuple[int, ...]) -> FloatArray:
        """The region of the working grid as float32 ``(c, *shape)``; it must lie inside the grid."""
        if self.stack is not None:
            assert self.plane is not None
            return self.stack.read(self.plane, (start[0], start[1]), (shape[0], shape[1]))
        taps = [
            Taps.between(begin, begin + size, factor, extent)
            for begin, size, factor, extent in zip(
                start, shape, self.grid.level_factors, self.grid.level_shape, strict=True
            )
        ]
        region: list[slice] = [slice(t.first, t.first + t.count) for t in taps]
        if self.plane is not None:
            region.insert(0, slice(self.plane, self.plane + 1))
        block: npt.NDArray[Any] = self.image.read(region, self.grid.level, self.frame, self.channels)
        values = block.astype(np.float32)
        if self.image.is_rgb and block.dtype == np.uint16:
            # models of colour pictures know 0 to 255
            values /= 257.0
        if self.plane is not None:
            values = values[:, 0]
        for axis, tap in enumerate(taps, start=1):
            values = tap.apply(values, axis)
        if block.dtype.kind == "f":
            np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return values
