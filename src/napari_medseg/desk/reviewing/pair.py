"""Two Labels layers as the labels of one grid, and the way between that grid and the layer's own axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels, Layer

from napari_medseg.case import AxisMap, InputError, Segmentation
from napari_medseg.desk.layers import LabelsRecord, layer_affine, record_of, segmentation, source_of
from napari_medseg.desk.placement import Placement
from napari_medseg.desk.workspace import workspace
from napari_medseg.evaluate.grids import GridMismatch, check_same_grid, on_grid

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Pair:
    """A candidate and its reference on the candidate's own grid, that of its file.

    Parameters
    ----------
    candidate, reference
        The labels; those of a candidate in memory are a view of its layer's, so that edits show.
    turn
        From the spatial axes of the file to those of the layer.
    uncertainty
        A map on the same grid, or ``None``.
    """

    candidate: Segmentation
    reference: Segmentation
    turn: AxisMap
    uncertainty: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the labels on their own grid."""
        return tuple(int(n) for n in self.candidate.data.shape)

    @property
    def _lead(self) -> int:
        return len(self.shape) - len(self.turn.order)

    def layer_box(self, box: Sequence[tuple[int, int]]) -> Box:
        """First index and the one after the last along each axis of the layer, of a box on the labels' own grid."""
        return _turned_box(box, self.shape, self.turn, self._lead)

    def own_box(self, box: Sequence[tuple[int, int]]) -> Box:
        """The reverse of `layer_box`."""
        lead = self._lead
        shape = (*self.shape[:lead], *(self.shape[lead + k] for k in self.turn.order))
        return _turned_box(box, shape, self.turn.inverse(), lead)

    def layer_points(self, points: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Indices ``(n, axes)`` of voxels of the labels' own grid, as indices of the layer."""
        lead = self._lead
        turned = [points[:, axis] for axis in range(lead)]
        for k, flip in zip(self.turn.order, self.turn.flips, strict=True):
            index = points[:, lead + k]
            turned.append(self.shape[lead + k] - 1 - index if flip else index)
        return np.stack(turned, -1)


def read_pair(candidate: Labels, reference: Labels, layers: Sequence[Layer], uncertainty: Image | None = None) -> Pair:
    """The labels of two layers on one grid. Reads labels that are in memory once: call it in a job.

    A reference whose voxels are the same in another order is turned; nothing is resampled.

    Raises
    ------
    InputError
        If the two are one layer, or lie on different grids, or the uncertainty map on another one.
    """
    if candidate is reference:
        raise InputError(f"{candidate.name} is both candidate and reference; choose two different Labels layers.")
    own, wanted = segmentation(candidate, layers), segmentation(reference, layers)
    try:
        check_same_grid(own, wanted)
    except GridMismatch as error:
        if not error.lossless:
            why = error.obstacle or "resample one of them first, or choose labels of the same image"
            raise InputError(
                f"{candidate.name} and {reference.name} lie on different grids and are not compared: "
                f"{', '.join(error.differences)}; {why}."
            ) from error
        wanted = on_grid(wanted, own.geometry)
    turn = _turn_of(candidate, layers, own)
    return Pair(own, wanted, turn, None if uncertainty is None else _map_of(uncertainty, candidate, turn))


def kept_at(layer: Labels) -> Path | None:
    """The file, or the label image in a store, that the layer was opened from; ``None`` for labels in memory only."""
    if layer.source.path is None:
        return None
    path = Path(str(layer.source.path))
    if not path.exists() or path.is_relative_to(workspace()):
        return None
    record = record_of(layer)
    if path.is_dir() and isinstance(record, LabelsRecord):
        inside = path / "labels" / record.segmentation.name
        return inside if inside.is_dir() else path
    return path


def _turn_of(layer: Labels, layers: Sequence[Layer], own: Segmentation) -> AxisMap:
    """How `segmentation` turned the layer's axes, backwards."""
    record = record_of(layer)
    placement = None if record is None else record.placement
    if placement is None:
        image = source_of(layer, layers)
        placement = None if image is None else Placement(image.geometry)
    data = layer.data[0] if layer.multiscale else layer.data
    if placement is not None and len(placement.axis_map.order) == own.geometry.ndim:
        first = len(own.axes) - own.geometry.ndim
        order = placement.axis_map.order
        turned = (*own.data.shape[:first], *(own.data.shape[first + k] for k in order))
        if tuple(turned) == tuple(data.shape):
            return placement.axis_map
    return AxisMap.identity(own.geometry.ndim)


def _map_of(uncertainty: Image, candidate: Labels, turn: AxisMap) -> Any:
    data = uncertainty.data[0] if uncertainty.multiscale else uncertainty.data
    labels = candidate.data[0] if candidate.multiscale else candidate.data
    if tuple(data.shape) != tuple(labels.shape) or not np.allclose(
        layer_affine(uncertainty), layer_affine(candidate), rtol=1e-6, atol=1e-6
    ):
        raise InputError(
            f"{uncertainty.name} does not lie on the grid of {candidate.name}; choose the uncertainty map that was "
            "made with these labels, or none."
        )
    if turn.is_identity:
        return data
    if not isinstance(data, np.ndarray):
        import dask.array

        data = data if isinstance(data, dask.array.Array) else dask.array.from_array(data)
    return turn.inverse().apply(data, len(data.shape) - len(turn.order))


def _turned_box(box: Sequence[tuple[int, int]], shape: Sequence[int], turn: AxisMap, lead: int) -> Box:
    turned = [(int(a), int(b)) for a, b in box[:lead]]
    for k, flip in zip(turn.order, turn.flips, strict=True):
        (a, b), n = box[lead + k], shape[lead + k]
        turned.append((n - b, n - a) if flip else (int(a), int(b)))
    return tuple(turned)
