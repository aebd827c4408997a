"""A bundle once it is read: everything needed to run it and to say what it is. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_medseg.bundles.instances import InstanceDecoder
from napari_medseg.bundles.intensity import IntensityPlan
from napari_medseg.case import LabelTable

if TYPE_CHECKING:
    import torch

Kind = Literal["semantic", "instance"]
Activation = Literal["softmax", "sigmoid", "none"]
Padding = Literal["constant", "reflect", "replicate"]


@dataclass(frozen=True)
class ModelCard:
    """What a person should know before using a model.

    Parameters
    ----------
    id, name, version, description
        How the model is called and what it does.
    task
        ``"segmentation"``.
    kind
        ``"semantic"``: a class for every voxel; ``"instance"``: separate objects of one class.
    modality
        DICOM codes of the images it was made for, for instance ``("CT",)``; empty when the bundle does not say.
    labels
        What its label ids mean; 0 is background and not listed.
    in_channels, channels
        Number and names of the channels it reads; 0 where it takes any number.
    licence
        Licence of the weights.
    training_data
        One entry a data set: ``name``, ``licence``, ``attribution``, ``images``.
    recipe, validation
        How it was trained, and how it was scored.
    reference_scores
        What it reached on images kept apart.
    intended_use
        What it is and is not for.
    references
        Publications to cite.
    """

    id: str
    name: str
    version: str
    description: str
    task: str
    kind: Kind
    modality: tuple[str, ...]
    labels: LabelTable
    in_channels: int
    channels: tuple[str, ...]
    licence: str
    training_data: tuple[Mapping[str, Any], ...]
    recipe: str
    validation: str
    reference_scores: Mapping[str, Any]
    intended_use: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Model:
    """A bundle that was read and checked, ready to run.

    Parameters
    ----------
    card
        What it is.
    path
        The bundle's folder.
    weights
        The file with the weights.
    sha256, size
        Of the file with the weights; size in bytes.
    source
        ``"built-in"``, ``"user folder"`` or the folder it was found in.
    spatial_dims
        2 or 3.
    spacing, unit
        Distance between samples that the network expects, one number a network axis, and its unit (``"mm"`` or
        ``"um"``); ``None`` means the image's own grid.
    orientation
        Where each network axis points, for instance ``("R", "A", "S")``; ``None`` for two dimensions.
    tile
        Shape of one tile, network axis order.
    overlap
        Share of a tile that neighbours share, 0 to below 1.
    padding
        How a tile that passes the image's edge is filled, after the intensity steps.
    divisible_by
        Tile sizes must be multiples of these.
    out_channels
        Channels of the network's output.
    intensity
        What is done to intensities before the network.
    activation
        Applied to the network's output.
    threshold
        Smallest probability that makes a voxel positive after a sigmoid; ``None`` takes the largest channel.
    instances
        Makes objects of the maps; ``None`` for semantic models.
    network_def
        Class and arguments of the network, already checked.
    trusted
        Whether the user agreed that code of exactly this bundle may run.
    slices
        How many neighbouring slices a two-dimensional model reads as channels (2.5-D); 1 for the slice alone.
    whole
        Whether the network must see a whole picture or volume at once, as methods do that cut it where it differs
        from its surroundings; there are no tiles then.
    verified
        Whether the files were checked against the bundle's ``SHA256SUMS``; false when it states no hashes.
    """

    card: ModelCard
    path: Path
    weights: Path
    sha256: str
    size: int
    source: str
    spatial_dims: int
    spacing: tuple[float, ...] | None
    unit: Literal["mm", "um"] | None
    orientation: tuple[str, ...] | None
    tile: tuple[int, ...]
    overlap: float
    padding: Padding
    divisible_by: tuple[int, ...]
    out_channels: int
    intensity: IntensityPlan
    activation: Activation
    threshold: float | None
    instances: InstanceDecoder | None
    network_def: Mapping[str, Any] = field(repr=False)
    trusted: bool = False
    slices: int = 1
    whole: bool = False
    verified: bool = True

    def network(self) -> torch.nn.Module:
        """Build the network with its weights, in evaluation mode and float32 on the processor.

        Raises
        ------
        RefusedError
            The weights changed since the bundle was verified, or are stored as executable Python.
        InputError
            The weights do not fit the network.
        """
        from napari_medseg.bundles.network import build_network, load_weights

        network = build_network(self.network_def, trusted=self.trusted)
        load_weights(network, self.weights, self.sha256)
        return network.float().eval()
