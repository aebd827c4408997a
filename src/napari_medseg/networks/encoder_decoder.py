"""U-Net, UNet++ and DeepLab v3+ around a swappable encoder, as segmentation-models-pytorch builds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch.nn import functional

from napari_medseg.case import InputError
from napari_medseg.networks.parameters import NetworkParameters
from napari_medseg.networks.torchvision_repair import repair_torchvision

Decoder = Literal["unet", "unetplusplus", "deeplabv3plus"]

_CLASSES = {"unet": "Unet", "unetplusplus": "UnetPlusPlus", "deeplabv3plus": "DeepLabV3Plus"}


class EncoderDecoderParameters(NetworkParameters):
    """Parameters of `EncoderDecoder`; the defaults are the U-Net of Hou, Zou and Wang (2024)."""

    in_channels: int = Field(default=1, ge=1, le=1024, description="Channels of the image: 1 for grey, 3 for colour.")
    out_channels: int = Field(default=1, ge=1, le=1024, description="Maps that the network gives, one a class.")
    decoder: Decoder = Field(
        default="unet",
        description="unet and unetplusplus keep many small targets apart; deeplabv3plus sees far around a large one.",
    )
    encoder: str = Field(
        default="efficientnet-b3",
        pattern=r"^[A-Za-z0-9_.\-]+$",
        description="Encoder by its name in segmentation-models-pytorch, such as resnet34, resnet50, mobilenet_v2 "
        "or efficientnet-b3; tu- before a name of timm's, such as tu-convnext_tiny.",
    )
    encoder_depth: int = Field(default=5, ge=3, le=5, description="Times the encoder halves the image.")
    decoder_channels: tuple[int, ...] = Field(
        default=(256, 128, 64, 32, 16),
        min_length=3,
        description="Channels of the decoder's steps from coarse to fine, as many as the encoder's depth are used; "
        "not for deeplabv3plus.",
    )
    pyramid_channels: int = Field(default=256, ge=8, le=2048, description="Channels of deeplabv3plus' decoder.")
    atrous_rates: tuple[int, int, int] = Field(
        default=(12, 24, 36), description="Dilations of deeplabv3plus' pyramid, in pixels of its coarsest map."
    )
    output_stride: Literal[8, 16] = Field(
        default=16, description="Pixels of the image to one of deeplabv3plus' coarsest map."
    )

    @model_validator(mode="after")
    def _enough_steps(self) -> EncoderDecoderParameters:
        if len(self.decoder_channels) < self.encoder_depth:
            raise ValueError(
                f"decoder_channels has {len(self.decoder_channels)} values; an encoder_depth of {self.encoder_depth} "
                "needs as many"
            )
        if min(*self.decoder_channels, *self.atrous_rates) < 1:
            raise ValueError("decoder_channels and atrous_rates are 1 or more")
        return self


class EncoderDecoder(torch.nn.Module):
    """An image encoder, a decoder that brings its maps back to full size, and a head that gives one map a class.

    The networks that Hou, Zou and Wang, "Tumor Segmentation in Intraoperative Fluorescence Images Based on Transfer
    Learning and Convolutional Neural Networks" (2024) compare, and the DeepLab v3+ of Gil et al., "A Deep Learning
    Based Approach to Semantic Segmentation of Lung Tumour Areas in Gross Pathology Images" (2023): U-Net
    (Ronneberger et al., 2015), UNet++ (Zhou et al., 2018) and DeepLab v3+ (Chen et al., 2018), built by
    segmentation-models-pytorch. The weights are random; `encoder_weights` gives the encoder those of ImageNet.

    Its parts are `encoder`, `decoder` and `head`, so that each can be trained at a rate of its own or not at all.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the image and of the result.
    decoder
        "unet", "unetplusplus" or "deeplabv3plus".
    encoder
        A name of segmentation-models-pytorch, or ``tu-`` and a name of timm.
    encoder_depth
        Times the encoder halves the image, 3 to 5.
    decoder_channels
        Channels of the steps of the U-Net and UNet++ from coarse to fine; the first `encoder_depth` are used.
    pyramid_channels, atrous_rates, output_stride
        Of DeepLab v3+ only: channels of its decoder, dilations of its pyramid (pixels of its coarsest map) and
        pixels of the image to one of that map.

    Raises
    ------
    InputError
        There is no such encoder, or the decoder cannot be built on it.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        decoder: Decoder = "unet",
        encoder: str = "efficientnet-b3",
        encoder_depth: int = 5,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        pyramid_channels: int = 256,
        atrous_rates: Sequence[int] = (12, 24, 36),
        output_stride: int = 16,
    ) -> None:
        super().__init__()
        if decoder not in _CLASSES:
            raise InputError(f"there is no decoder {decoder!r}; there are {', '.join(_CLASSES)}.")
        repair_torchvision()
        import segmentation_models_pytorch

        _check_encoder(encoder)
        arguments: dict[str, Any] = {
            "encoder_name": encoder,
            "encoder_depth": encoder_depth,
            # never from the network: a constructor that downloads would also do so for a bundle that brings its own
            "encoder_weights": None,
            "in_channels": in_channels,
            "classes": out_channels,
        }
        if decoder == "deeplabv3plus":
            arguments |= {
                "encoder_output_stride": output_stride,
                "decoder_channels": pyramid_channels,
                "decoder_atrous_rates": tuple(atrous_rates),
            }
        else:
            arguments["decoder_channels"] = tuple(decoder_channels)[:encoder_depth]
        try:
            built = getattr(segmentation_models_pytorch, _CLASSES[decoder])(**arguments)
        except (AssertionError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{decoder} cannot be built on the encoder {encoder!r}: {error}") from error
        self.encoder: torch.nn.Module = built.encoder
        self.decoder: torch.nn.Module = built.decoder
        self.head: torch.nn.Module = built.segmentation_head
        self.encoder_name = encoder
        self._multiple = int(built.encoder.output_stride)
        self._pools_whole_image = decoder == "deeplabv3plus"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, y, x)`` of `image` ``(n, in_channels, y, x)`` of any size.

        An image that the encoder cannot halve often enough is continued below and to the right by its last row and
        column, and the result cut back.

        Raises
        ------
        InputError
            DeepLab v3+ is trained on a single image: it normalises one number an image and channel over the batch.
        """
        height, width = image.shape[-2:]
        if self._pools_whole_image and self.decoder.training and image.shape[0] == 1:
            raise InputError("DeepLab v3+ is trained on batches of two images or more; this batch holds one.")
        # always padded, if by nothing: a choice by size would be fixed when the network is traced
        padding = (0, -width % self._multiple, 0, -height % self._multiple)
        features = self.encoder(functional.pad(image, padding, mode="replicate"))
        logits: torch.Tensor = self.head(self.decoder(features))
        return logits[..., :height, :width]


def _check_encoder(encoder: str) -> None:
    """Refuse what is no encoder for images of any size on this computer.

    timm also takes names that stand for a file or for something on the network; a bundle must not reach for either.
    """
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    known, name = get_encoder_names(), encoder.removeprefix("tu-")
    if encoder in known:
        return
    if name == encoder or ":" in name or "/" in name or not timm.is_model(name):
        raise InputError(
            f"there is no encoder {encoder!r}; there are tu- with a name of timm's, and {', '.join(sorted(known))}."
        )
    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:
        raise InputError(f"the encoder {encoder!r} takes images of one size only; choose a convolutional one.")
