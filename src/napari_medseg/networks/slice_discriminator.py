"""Discriminator that judges patches of a slice and its reconstruction, for autoencoding with a GAN term.

R. Zoetmulder et al., Computer Methods and Programs in Biomedicine 214:106539, 2022. The widths, which the paper does
not give, and normalisation on all but the first and last layer are those of pix2pix (Isola et al., CVPR 2017).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from napari_medseg.networks.latent_segmenter import SLOPE
from napari_medseg.networks.parameters import NetworkParameters


class SliceDiscriminatorParameters(NetworkParameters):
    """Parameters of the discriminator (Zoetmulder et al., 2022)."""

    in_channels: int = Field(
        default=2, ge=1, le=1024, description="Channels of the image and the decoder's output together."
    )
    out_channels: int = Field(default=1, ge=1, le=1024, description="Maps that the network gives.")
    width: int = Field(default=64, ge=1, le=256, description="Channels of the first layer; each later one doubles it.")


class SliceDiscriminator(nn.Module):
    """Five convolutions to a map of logits, positive where a patch looks real; 256 x 256 gives 14 x 14.

    Parameters
    ----------
    in_channels
        Channels of the image and the decoder's output together.
    out_channels
        Maps of the result.
    width
        Channels of the first layer.
    """

    # kernel, stride and padding of each layer
    LAYERS: ClassVar[tuple[tuple[int, int, int], ...]] = ((5, 1, 2), (5, 4, 2), (5, 4, 2), (4, 1, 1), (4, 1, 1))

    def __init__(self, in_channels: int = 2, out_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        widths = (in_channels, width, 2 * width, 4 * width, 8 * width, out_channels)
        layers: list[nn.Module] = []
        for number, (kernel, stride, padding) in enumerate(self.LAYERS):
            inner = 0 < number < len(self.LAYERS) - 1
            layers.append(
                nn.Conv2d(widths[number], widths[number + 1], kernel, stride, padding=padding, bias=not inner)
            )
            if inner:
                layers.append(nn.BatchNorm2d(widths[number + 1]))
            if number < len(self.LAYERS) - 1:
                layers.append(nn.LeakyReLU(SLOPE))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image and decoder's output, joined ``(n, in_channels, h, w)``, to logits ``(n, out_channels, h', w')``.

        ``h' = ceil(ceil(h / 4) / 4) - 2``, and so for the width; sides of at least 33 are needed.
        """
        logits: torch.Tensor = self.layers(image)
        return logits
