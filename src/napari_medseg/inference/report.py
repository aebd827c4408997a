"""What a run tells the person who started it."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from napari_medseg.case import Geometry


@dataclass(frozen=True)
class LabelAmount:
    """How much of one label was found.

    `size` is its volume (or area in two dimensions) in `size_unit`, ``None`` where the spacing is
    unknown; `count` is the number of objects for instance models.
    """

    id: int
    name: str
    voxels: int
    size: float | None
    size_unit: str | None
    count: int | None

    @classmethod
    def of(cls, label_id: int, name: str, voxels: int, geometry: Geometry, count: int | None) -> LabelAmount:
        """The amount of `voxels` voxels of a grid."""
        each = geometry.voxel_volume
        if each is None:
            return cls(label_id, name, voxels, None, None, count)
        return cls(label_id, name, voxels, voxels * each, f"{geometry.unit}{geometry.ndim}", count)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the unit in the key: ``volume_mm3``, ``area_um2``."""
        record: dict[str, Any] = {"id": self.id, "name": self.name, "voxels": self.voxels}
        if self.size_unit is not None:
            record[f"{'volume' if self.size_unit.endswith('3') else 'area'}_{self.size_unit}"] = self.size
        if self.count is not None:
            record["count"] = self.count
        return record


@dataclass(frozen=True)
class SegmentReport:
    """How a run went: times in seconds, memory in bytes."""

    model: str
    labels: tuple[LabelAmount, ...]
    seconds: float
    peak_rss: int
    peak_device_memory: int | None
    device: str
    device_reason: str
    precision: str
    backend: str
    tiles: dict[str, int]
    backend_reason: str = ""
    agreement: dict[str, float] | None = None
    tissue: dict[str, Any] | None = None
    ladder: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            **asdict(self),
            "labels": [a.to_dict() for a in self.labels],
            "ladder": list(self.ladder),
            "warnings": list(self.warnings),
        }


def peak_rss() -> int:
    """Largest memory this process has held so far, in bytes."""
    if sys.platform == "linux":
        # what the system's own accounting says was begun by the parent process
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_memory(device: str) -> int | None:
    """Largest memory held on a CUDA device since the run began, in bytes; ``None`` elsewhere."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))
