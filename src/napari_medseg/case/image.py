"""One image on the desk, read lazily."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_medseg.case.geometry import Geometry

Intensity = Literal["arbitrary", "HU", "RGB", "stain RGB"]

_AXIS_ORDER = "tzyxc"
_END_BYTES = 1 << 16


class Modality(StrEnum):
    """What made the image: DICOM modality codes, and FL for near-infrared fluorescence."""

    CT = "CT"
    MR = "MR"
    SM = "SM"
    ES = "ES"
    XC = "XC"
    US = "US"
    OP = "OP"
    FL = "FL"
    OT = "OT"

    @property
    def description(self) -> str:
        """The code in words."""
        return _MODALITY_WORDS[self]


_MODALITY_WORDS = {
    Modality.CT: "computed tomography",
    Modality.MR: "magnetic resonance",
    Modality.SM: "slide microscopy",
    Modality.ES: "endoscopy",
    Modality.XC: "external camera",
    Modality.US: "ultrasound",
    Modality.OP: "fundus photograph",
    Modality.FL: "near-infrared fluorescence",
    Modality.OT: "other",
}


@dataclass(frozen=True)
class Source:
    """The files an image came from. Paths stay out of every record that is written or shown."""

    format: str
    paths: tuple[Path, ...] = ()

    def sha256(self) -> str | None:
        """Hash of the content of all files, independent of their names and order; ``None`` without files.

        Folders count with every file below them. This reads everything once: call it in a job.
        """
        if not self.paths:
            return None
        files = [f for p in self.paths for f in (sorted(p.rglob("*")) if p.is_dir() else [p]) if f.is_file()]
        hashes = sorted(_sha256_of_file(f) for f in files)
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def fingerprint(self) -> str | None:
        """A quick hash of the sizes and the ends of all files, to tell files apart; ``None`` without files."""
        if not self.paths:
            return None
        files = [f for p in self.paths for f in (sorted(p.rglob("*")) if p.is_dir() else [p]) if f.is_file()]
        return hashlib.sha256("".join(sorted(_ends_of_file(f) for f in files)).encode()).hexdigest()


def _ends_of_file(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_END_BYTES)
        stream.seek(max(0, size - _END_BYTES))
        return hashlib.sha256(head + stream.read(_END_BYTES)).hexdigest() + str(size)


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, eq=False)
class MedicalImage:
    """A lazy pyramid of arrays with a place in the world.

    Parameters
    ----------
    levels
        Arrays (numpy, dask or zarr) from fine to coarse, all with axes `axes`; read only what is sliced.
    axes
        Names of the array axes, some of ``t z y x c`` in that order.
    geometry
        The grid of ``levels[0]``'s spatial axes.
    modality, intensity
        What made the image and what its numbers mean.
    name
        Short name for a layer: never a patient's.
    source
        Where it came from.
    channels
        Names of the channels, one for each index of axis ``c``; empty without that axis.
    seconds_per_frame
        Time between frames along ``t``; ``None`` when unknown or without that axis.
    objective_power
        Magnification of a slide scanner's objective; ``None`` when unknown.
    details
        Plain facts for people (vendor, series description, echo time, ...), free of patient identifiers.
    identifiers_present
        Whether the source holds patient identifiers. Their values are never kept.
    warnings
        What a person should know before trusting the image, one sentence each.

    Raises
    ------
    ValueError
        If arrays, axes, geometry and channel names do not fit together.
    """

    levels: tuple[Any, ...]
    axes: str
    geometry: Geometry
    modality: Modality = Modality.OT
    intensity: Intensity = "arbitrary"
    name: str = "image"
    source: Source = field(default_factory=lambda: Source("memory"))
    channels: tuple[str, ...] = ()
    seconds_per_frame: float | None = None
    objective_power: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    identifiers_present: bool = False
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("an image needs at least one level")
        if not set(self.axes) <= set(_AXIS_ORDER) or self.axes != "".join(a for a in _AXIS_ORDER if a in self.axes):
            raise ValueError(f"axes {self.axes!r} are not some of {_AXIS_ORDER!r} in that order")
        if any(len(level.shape) != len(self.axes) for level in self.levels):
            raise ValueError(f"every level needs the {len(self.axes)} axes {self.axes!r}")
        if self.spatial_axes != self.geometry.axes or self.spatial_shape(0) != self.geometry.shape:
            raise ValueError(
                f"the array's grid {self.spatial_axes} {self.spatial_shape(0)} is not the geometry's "
                f"{self.geometry.axes} {self.geometry.shape}"
            )
        if self.channels and len(self.channels) != self.channel_count:
            raise ValueError(f"{len(self.channels)} channel names for {self.channel_count} channels")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the finest level, along `axes`."""
        return tuple(int(n) for n in self.levels[0].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        dtype: np.dtype[Any] = np.dtype(self.levels[0].dtype)
        return dtype

    @property
    def spatial_axes(self) -> str:
        """``"zyx"`` or ``"yx"``."""
        return "".join(a for a in self.axes if a in "zyx")

    @property
    def channel_count(self) -> int:
        """Number of channels, 1 without a channel axis."""
        return self.shape[-1] if self.axes.endswith("c") else 1

    @property
    def frame_count(self) -> int:
        """Number of time points, 1 without a time axis."""
        return self.shape[0] if self.axes.startswith("t") else 1

    @property
    def is_rgb(self) -> bool:
        """Whether the channels are red, green and blue (and possibly alpha)."""
        return self.intensity in ("RGB", "stain RGB")

    def spatial_shape(self, level: int) -> tuple[int, ...]:
        """Shape of a level along the spatial axes."""
        shape = self.levels[level].shape
        return tuple(int(shape[self.axes.index(a)]) for a in self.spatial_axes)

    def downsampling(self, level: int) -> tuple[float, ...]:
        """How many voxels of level 0 one voxel of `level` spans, per spatial axis."""
        return tuple(a / b for a, b in zip(self.spatial_shape(0), self.spatial_shape(level), strict=True))

    def level_geometry(self, level: int) -> Geometry:
        """The grid of a level: same extent as level 0."""
        if level == 0:
            return self.geometry
        return self.geometry.scaled(self.downsampling(level), self.spatial_shape(level))

    def read(
        self, region: Sequence[slice], level: int = 0, frame: int = 0, channels: Sequence[int] | None = None
    ) -> np.ndarray[Any, np.dtype[Any]]:
        """The pixels of one frame and region as an array in memory.

        Parameters
        ----------
        region
            One slice (step 1) for each spatial axis of `level`.
        level, frame
            Pyramid level and time point.
        channels
            Indices of the channels wanted; all by default.

        Returns
        -------
        array
            Shape ``(c, *spatial)``; c is 1 for images without a channel axis.
        """
        index: list[Any] = [frame] if self.axes.startswith("t") else []
        index.extend(region)
        block = np.asarray(self.levels[level][tuple(index)])
        block = np.moveaxis(block, -1, 0) if self.axes.endswith("c") else block[np.newaxis]
        every = channels is None or list(channels) == list(range(len(block)))
        return block if every else block[list(channels or ())]
