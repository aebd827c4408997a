"""How much memory the sums of a run may take."""

from __future__ import annotations

from dataclasses import replace

import torch

from napari_medseg.inference.compute.prepare import Compute
from napari_medseg.inference.labels import objects
from napari_medseg.inference.report import peak_rss
from napari_medseg.inference.task import Task
from napari_medseg.inference.tiles.blend import PIECE_VALUES
from napari_medseg.inference.tiles.layout import Layout, choose_layout

_CHUNK_2D = (1024, 1024)
_CHUNK_3D = (64, 256, 256)
_MOST_BYTES = 4 << 30
# pieces of maps that are being blended, decided and stored at the same time, in four-byte numbers
_PIECES_BYTES = 8 * 4 * PIECE_VALUES


def layout_for(task: Task, compute: Compute) -> Layout:
    """Chunks, columns and type of sums for a task, within the memory that was allowed or is there."""
    allowed = _allowed(task, compute)
    channels = task.model.out_channels
    if task.mosaic is not None:
        # slices are stored one by one, and columns would cut them
        sums = choose_layout(task.plan, task.plan.shape, task.plan.shape, channels, allowed).sums
        return Layout(_CHUNK_2D, (1,), sums)
    if task.model.instances is not None:
        found = choose_layout(task.plan, task.plan.shape, (objects.BLOCK, objects.BLOCK), channels, allowed)
        width = found.chunks[1] * found.column_chunks[0]
        return replace(found, chunks=_CHUNK_2D, column_chunks=(max(1, -(-width // objects.BLOCK)),))
    chunks = _CHUNK_2D if task.model.spatial_dims == 2 else _CHUNK_3D
    return choose_layout(task.plan, task.extent, chunks, channels, allowed)


def _allowed(task: Task, compute: Compute) -> int:
    """Bytes that sums may take."""
    limit = task.options.max_memory
    if limit is not None:
        frame, plane = task.planes[0]
        start = next(task.plan.in_slab(task.plan.slabs[0]))
        # one pass shows what the network itself takes
        compute.forward(task.source(frame, plane).batch([start] * task.batch_size)[1])
        return max(0, limit - peak_rss() - _PIECES_BYTES)
    if compute.device.name.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(compute.device.name)
        return min(_MOST_BYTES, int(free * 0.4))
    import psutil

    return min(_MOST_BYTES, psutil.virtual_memory().available // 4)
