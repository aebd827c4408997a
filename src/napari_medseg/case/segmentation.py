"""Labels on an image's grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from napari_medseg.case.geometry import Geometry
from napari_medseg.case.labels import LabelTable
from napari_medseg.case.provenance import Provenance

_BLOCK_VOXELS = 1 << 24


@dataclass(frozen=True)
class LabelExtent:
    """How much of the grid one label id covers."""

    voxels: int
    centroid: tuple[float, ...]
    """Mean index in array-axis order."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Integer labels, what they mean, where they lie and how they came to be.

    Parameters
    ----------
    data
        Integer array (numpy, dask or zarr) with axes `axes`; 0 is background.
    geometry
        The grid of the spatial axes: the image's own.
    table
        Names and colours.
    provenance
        History.
    name
        Short name for a layer.
    axes
        ``"zyx"`` or ``"yx"``, with a leading ``t`` for video.
    seconds_per_frame
        Time between frames along ``t``; ``None`` when unknown or without that axis.
    coarser
        The same labels on coarser grids of the same extent, for display; no ids that `data` lacks.
    complete
        Whether all labels are there; false for those of a run that has not finished.
    """

    data: Any
    geometry: Geometry
    table: LabelTable = field(default_factory=LabelTable)
    provenance: Provenance = field(default_factory=Provenance)
    name: str = "labels"
    axes: str = ""
    seconds_per_frame: float | None = None
    coarser: tuple[Any, ...] = ()
    complete: bool = True

    def __post_init__(self) -> None:
        if not self.axes:
            leading = "t" if len(self.data.shape) == self.geometry.ndim + 1 else ""
            object.__setattr__(self, "axes", leading + self.geometry.axes)
        if self.axes not in (self.geometry.axes, "t" + self.geometry.axes):
            raise ValueError(f"axes {self.axes!r} do not fit a grid of {self.geometry.axes!r}")
        if tuple(self.data.shape[-self.geometry.ndim :]) != self.geometry.shape or len(self.data.shape) != len(
            self.axes
        ):
            raise ValueError(f"labels of shape {self.data.shape} do not lie on a grid of {self.geometry.shape}")
        if np.dtype(self.data.dtype).kind not in "ui":
            raise ValueError(f"labels are integers; this array holds {self.data.dtype}")

    def blocks(self) -> Iterator[tuple[tuple[int, ...], np.ndarray[Any, np.dtype[Any]]]]:
        """The labels piece by piece: the start index of each piece and its array in memory."""
        shape = tuple(int(n) for n in self.data.shape)
        # dask says chunksize, zarr says chunks, numpy has neither
        edges = [int(c) for c in getattr(self.data, "chunksize", getattr(self.data, "chunks", shape))]
        for axis in reversed(range(len(shape))):
            room = _BLOCK_VOXELS // max(1, int(np.prod(edges)))
            edges[axis] = min(shape[axis], edges[axis] * max(1, room))
        for start in product(*(range(0, n, e) for n, e in zip(shape, edges, strict=True))):
            region = tuple(slice(s, min(s + e, n)) for s, e, n in zip(start, edges, shape, strict=True))
            yield start, np.asarray(self.data[region])

    def extents(self) -> dict[int, LabelExtent]:
        """Voxel count and centroid index of every id present except 0, in one pass over the blocks."""
        counts: dict[int, int] = {}
        sums: dict[int, np.ndarray[Any, np.dtype[np.float64]]] = {}
        for start, block in self.blocks():
            where = np.nonzero(block)
            ids, inverse = np.unique(block[where], return_inverse=True)
            number = np.bincount(inverse, minlength=len(ids))
            totals = np.stack([np.bincount(inverse, w + s, len(ids)) for w, s in zip(where, start, strict=True)], -1)
            for k, label in enumerate(ids.tolist()):
                counts[label] = counts.get(label, 0) + int(number[k])
                sums[label] = sums.get(label, np.zeros(block.ndim)) + totals[k]
        return {
            label: LabelExtent(counts[label], tuple(float(v) for v in sums[label] / counts[label]))
            for label in sorted(counts)
        }
