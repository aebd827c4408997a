"""ResNet-50 encoder to a small latent picture, and a decoder without skip connections, for slices.

R. Zoetmulder et al., "Domain- and task-specific transfer learning for medical segmentation tasks", Computer Methods and
Programs in Biomedicine 214:106539, 2022. One network segments and, with as many maps as the image has channels,
reconstructs: its encoder is what is carried from one task to the other. A latent picture of 16 x 16 x 4 loses small
structures; the network is there to compare starts, not to give the best masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import nn

from napari_medseg.networks.parameters import NetworkParameters

SLOPE = 0.2
"""Slope of the leaky rectifiers below zero."""


class LatentEncoderParameters(NetworkParameters):
    """What every network with this encoder has in common."""

    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(3, 4, 6, 3), description="Bottlenecks of the ResNet's stages."
    )
    width: int = Field(default=64, ge=2, le=256, description="Channels of the ResNet's first layer.")
    latent_channels: int = Field(default=4, ge=1, le=512, description="Channels of the latent picture.")


class LatentSegmenterParameters(LatentEncoderParameters):
    """Parameters of the encoder-decoder (Zoetmulder et al., 2022)."""

    decoder_width: int = Field(
        default=256, ge=16, le=1024, multiple_of=16, description="Channels of the decoder's first layer, halved later."
    )


class LatentEncoder(nn.Module):
    """ResNet whose fully connected layer is replaced by one transposed convolution: 256 x 256 to 16 x 16.

    Its ``backbone`` is MONAI's ResNet, whose tensors carry the names of torchvision's.
    """

    def __init__(self, in_channels: int, blocks: Sequence[int], width: int, latent_channels: int) -> None:
        super().__init__()
        from monai.networks.nets import ResNet

        self.backbone: Any = ResNet(
            block="bottleneck",
            layers=list(blocks),
            block_inplanes=[width, 2 * width, 4 * width, 8 * width],
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        self.latent = nn.ConvTranspose2d(32 * width, latent_channels, 3, 2, padding=1, output_padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(n, in_channels, h, w)`` to ``(n, latent_channels, 2 ceil(h / 32), 2 ceil(w / 32))``."""
        net = self.backbone
        # MONAI's own forward pass pools the last stage to one number a channel
        features = net.maxpool(net.act(net.bn1(net.conv1(image))))
        features = net.layer4(net.layer3(net.layer2(net.layer1(features))))
        latent: torch.Tensor = self.latent(features)
        return latent


class LatentDecoder(nn.Sequential):
    """Ten 3 x 3 layers: two convolutions, then four times a transposed convolution of stride 2 and a convolution.

    Batch normalisation and a leaky rectifier follow each layer but the last.
    """

    def __init__(self, latent_channels: int, out_channels: int, width: int) -> None:
        layers: list[nn.Module] = [*_convolution(latent_channels, width), *_convolution(width, width)]
        for level in range(4):
            wide, narrow = width >> level, width >> (level + 1)
            up = nn.ConvTranspose2d(wide, narrow, 3, 2, padding=1, output_padding=1, bias=False)
            layers += [up, nn.BatchNorm2d(narrow), nn.LeakyReLU(SLOPE)]
            layers += _convolution(narrow, narrow) if level < 3 else [nn.Conv2d(narrow, out_channels, 3, padding=1)]
        super().__init__(*layers)


class LatentSegmenter(nn.Module):
    """Encoder to a latent picture and decoder back to the image's size, with nothing carried past the latent picture.

    Parameters
    ----------
    in_channels
        Channels of the image: 1 for a grey slice, 3 for an encoder from natural images.
    out_channels
        Classes; for reconstruction the image's channels, the result then being intensities.
    blocks
        Bottlenecks of the ResNet's stages.
    width
        Channels of the ResNet's first layer.
    latent_channels
        Channels of the latent picture.
    decoder_width
        Channels of the decoder's first layer.
    """

    IMAGE_LAYER: ClassVar[str] = "encoder.backbone.conv1.weight"

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        latent_channels: int = 4,
        decoder_width: int = 256,
    ) -> None:
        super().__init__()
        self.encoder = LatentEncoder(in_channels, blocks, width, latent_channels)
        self.decoder = LatentDecoder(latent_channels, out_channels, decoder_width)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(n, in_channels, h, w)`` to maps ``(n, out_channels, h, w)``."""
        h, w = image.shape[-2:]
        # every stride rounds up and starts at the first pixel, so that the rest lies at the far edges
        maps: torch.Tensor = self.decoder(self.encoder(image))
        return maps[..., :h, :w]


def _convolution(channels: int, out_channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.LeakyReLU(SLOPE)]
