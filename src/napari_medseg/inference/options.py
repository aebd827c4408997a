"""What a person may ask of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from napari_medseg.inference.tiles.blend import Blending

Tissue = Literal["auto", "on", "off"]
Planes = Literal["slices", "mosaic"]


@dataclass(frozen=True)
class SegmentOptions:
    """How to run; the defaults are what the model card asks for on the best device here.

    Parameters
    ----------
    device, precision
        See `napari_medseg.inference.compute.devices.choose_device`.
    backend
        What computes: ``"auto"``, ``"torch"``, ``"openvino"`` or ``"onnx"``.
    overlap
        Share of a tile that neighbours have in common; the model's own when ``None``.
    margin
        Voxels at a tile's rim that are not used, for networks that must see their surroundings.
    batch_size
        Tiles per forward pass; 4 in 2-D and 1 in 3-D when ``None``.
    region
        One slice for each spatial axis of the image; labels outside stay 0. Of objects, those whose centre lies
        in it are labelled.
    mirror
        Average the maps over all mirror images of each tile (test-time augmentation).
    blending
        How overlapping tiles are weighted.
    tissue
        Whether tiles of a slide that hold only glass are left out: ``"on"``, ``"off"``, or ``"auto"`` for
        slides.
    planes
        How a two-dimensional model reads a volume: ``"slices"``, or ``"mosaic"`` for all slices as one picture.
    max_memory
        Bytes that the process should stay below; columns become narrower, and sums shorter, for it.
    probabilities, uncertainty
        Whether to store the probability of every class, and the entropy of the probabilities (0 sure, 1 no idea).
    """

    device: str = "auto"
    precision: str = "auto"
    backend: str = "auto"
    overlap: float | None = None
    margin: int = 0
    batch_size: int | None = None
    region: tuple[slice, ...] | None = None
    mirror: bool = False
    blending: Blending = "gaussian"
    tissue: Tissue = "auto"
    planes: Planes = "slices"
    max_memory: int | None = None
    probabilities: bool = False
    uncertainty: bool = False

    def to_dict(self) -> dict[str, Any]:
        """What decides the labels, as plain values."""
        return {
            "region": None if self.region is None else [[r.start, r.stop] for r in self.region],
            "overlap": self.overlap,
            "margin": self.margin,
            "batch_size": self.batch_size,
            "mirror": self.mirror,
            "blending": self.blending,
            "tissue": self.tissue,
            "planes": self.planes,
            "probabilities": self.probabilities,
            "uncertainty": self.uncertainty,
        }
