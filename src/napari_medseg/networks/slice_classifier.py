"""Says which structures a slice contains: the encoder of the latent segmenter with a fully connected head.

R. Zoetmulder et al., Computer Methods and Programs in Biomedicine 214:106539, 2022: the source task "classification".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from napari_medseg.networks.latent_segmenter import LatentEncoder, LatentEncoderParameters


class SliceClassifierParameters(LatentEncoderParameters):
    """Parameters of the classifier of slices (Zoetmulder et al., 2022)."""

    out_channels: int = Field(default=16, ge=1, le=1024, description="Structures that are looked for.")
    hidden: int = Field(default=2048, ge=1, le=8192, description="Channels of the head's inner layer.")
    grid: int = Field(default=16, ge=1, le=64, description="Side of the latent picture that the head reads.")


class SliceClassifier(nn.Module):
    """Encoder to a latent picture, which two fully connected layers read.

    Parameters
    ----------
    in_channels
        Channels of the image.
    out_channels
        Structures that are looked for; a slice can contain several.
    blocks, width, latent_channels
        As in `LatentSegmenter`.
    hidden
        Channels of the head's inner layer.
    grid
        Side of the latent picture that the head reads: a sixteenth of the side of the slices.
    """

    IMAGE_LAYER: ClassVar[str] = "encoder.backbone.conv1.weight"

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 16,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        latent_channels: int = 4,
        hidden: int = 2048,
        grid: int = 16,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.encoder = LatentEncoder(in_channels, blocks, width, latent_channels)
        self.head = nn.Sequential(
            nn.Linear(latent_channels * grid * grid, hidden), nn.ReLU(), nn.Linear(hidden, out_channels)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Slices ``(n, in_channels, h, w)`` to logits ``(n, out_channels)``, each for a sigmoid of its own.

        The latent picture of slices of another size than ``16 grid`` is resampled to the grid.
        """
        latent = self.encoder(image)
        latent = functional.interpolate(latent, size=(self.grid, self.grid), mode="bilinear", align_corners=False)
        logits: torch.Tensor = self.head(latent.flatten(1))
        return logits
