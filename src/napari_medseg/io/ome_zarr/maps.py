"""Maps of numbers on a label image's grid: probabilities, uncertainty. Beside the labels, under ``maps/<name>``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_medseg.io.ome_zarr import chunks, metadata
from napari_medseg.io.ome_zarr.labels import LabelFrame, create_array, default_chunks

_CHUNK_VALUES = 1 << 22


class MapGroup:
    """One map with channels, float16, filled box by box; a plain NGFF image that any reader opens.

    Parameters
    ----------
    root
        The store's root group, opened for writing.
    frame
        The labels it belongs to: their grid, name, frames and chunks.
    kind
        What it holds, and its name: ``"probabilities"`` or ``"uncertainty"``.
    channels
        Names of the channels.
    resume
        Use the array that is there already.
    """

    def __init__(self, root: Any, frame: LabelFrame, kind: str, channels: Sequence[str], *, resume: bool) -> None:
        self.frame, self.channels = frame, tuple(channels)
        self._leading = 1 if frame.axes.startswith("t") else 0
        parent = root.require_group("maps").require_group(frame.name)
        if resume and kind in parent:
            self._group = parent[kind]
            self.array = self._group["0"]
            return
        self._group = parent.create_group(kind)
        shape = (*frame.shape[: self._leading], len(channels), *frame.shape[self._leading :])
        spatial = (frame.chunks or default_chunks(frame.axes, frame.shape))[self._leading :]
        rows = max(1, min(spatial[0], _CHUNK_VALUES // (len(channels) * int(np.prod(spatial[1:])))))
        # a band of labels must hold whole chunks of the map
        while spatial[0] % rows:
            rows -= 1
        chunk = (*(1,) * self._leading, len(channels), rows, *spatial[1:])
        axes = metadata.stored_axes(frame.axes + "c")
        self.array = create_array(self._group, "0", shape, np.dtype(np.float16), chunk, axes, frame.ngff)

    @property
    def rows(self) -> int:
        """Rows of the first spatial axis in a chunk."""
        return int(self.array.chunks[self._leading + 1])

    def write(self, place: Sequence[int], box: Sequence[slice], values: Any) -> None:
        """Store ``(c, *box)``; `place` is the index along the axes before those of the box: frame and plane."""
        index = (*place[: self._leading], slice(None), *place[self._leading :], *box)
        self.array[index] = np.asarray(values, dtype=np.float16)

    def write_records(self) -> None:
        """Say what the map is."""
        frame = self.frame
        record = metadata.multiscales(
            frame.geometry,
            frame.axes + "c",
            [(1,) * frame.geometry.ndim],
            name=frame.name,
            seconds_per_frame=frame.seconds_per_frame,
            ngff=frame.ngff,
        )
        window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
        shown = [{"label": n, "color": "FFFFFF", "active": True, "window": window} for n in self.channels]
        private = {
            "geometry": frame.geometry.to_dict(),
            "axes": frame.axes + "c",
            "modality": "OT",
            "intensity": "arbitrary",
            "complete": True,
            **chunks.record(self.array),
        }
        part = {"multiscales": [record], "omero": {"channels": shown}}
        self._group.attrs.update(metadata.attributes(part, private, frame.ngff))
