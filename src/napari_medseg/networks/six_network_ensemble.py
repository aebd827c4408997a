"""Six networks whose probabilities are averaged, for tumours in photographs of resected lung."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field, model_validator
from torch.nn import functional

from napari_medseg.networks.encoder_decoder import EncoderDecoder
from napari_medseg.networks.parameters import NetworkParameters

_UNET_DEPTH = 4
_LOSSES = ("cross_entropy", "dice")


class SixNetworkEnsembleParameters(NetworkParameters):
    """Parameters of `SixNetworkEnsemble`; the defaults are those of Gil et al. (2023)."""

    in_channels: int = Field(default=3, ge=1, le=1024, description="Channels of the image: 3 for a colour photograph.")
    out_channels: int = Field(
        default=1, ge=1, le=1024, description="Maps that the network gives: 1 for the chance of tumour, or one a class."
    )
    atrous_rates: tuple[int, int, int] = Field(
        default=(6, 12, 18), description="Dilations of the DeepLab v3+ pyramids, in pixels of their coarsest map."
    )
    unet_encoder: str = Field(
        default="resnet34",
        pattern=r"^[A-Za-z0-9_.\-]+$",
        description="Encoder of the two U-Nets; a plain one has no ImageNet weights to start from.",
    )

    @model_validator(mode="after")
    def _rates_are_positive(self) -> SixNetworkEnsembleParameters:
        if min(self.atrous_rates) < 1:
            raise ValueError("atrous_rates are 1 or more")
        return self


class SixNetworkEnsemble(torch.nn.Module):
    """The mean of six networks' probabilities, per pixel.

    The networks 1 to 6 of Gil et al., "A Deep Learning Based Approach to Semantic Segmentation of Lung Tumour Areas in
    Gross Pathology Images" (2023), section 5: DeepLab v3+ on ResNet50 and on MobileNetV2, and a U-Net of depth 4,
    each once trained with cross-entropy and once with the Dice loss. The paper's U-Net has no ImageNet weights, so
    this one is built on the first four stages of ResNet34. Background removal and morphology are no part of it.

    `members` holds the six `EncoderDecoder` by name, in the paper's order; each is trained by itself.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the image and of the result. One map holds the logit of a sigmoid, several those of a softmax.
    atrous_rates
        Dilations of the DeepLab v3+ pyramids.
    unet_encoder
        Encoder of the two U-Nets, by its name in segmentation-models-pytorch.

    Raises
    ------
    InputError
        There is no such encoder.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        atrous_rates: Sequence[int] = (6, 12, 18),
        unet_encoder: str = "resnet34",
    ) -> None:
        super().__init__()
        common: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels}
        deeplab = common | {"decoder": "deeplabv3plus", "atrous_rates": atrous_rates}
        kinds: dict[str, dict[str, Any]] = {
            "deeplabv3plus_resnet50": deeplab | {"encoder": "resnet50"},
            "deeplabv3plus_mobilenet_v2": deeplab | {"encoder": "mobilenet_v2"},
            "unet": common | {"decoder": "unet", "encoder": unet_encoder, "encoder_depth": _UNET_DEPTH},
        }
        self.members = torch.nn.ModuleDict(
            {f"{kind}_{loss}": EncoderDecoder(**kinds[kind]) for kind in kinds for loss in _LOSSES}
        )
        self._one_map = out_channels == 1

    def _logits(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        return (member(image) for member in self.members.values())

    def member_probabilities(self, image: torch.Tensor) -> torch.Tensor:
        """Each member's probabilities ``(n, 6, out_channels, y, x)``, in the order of `members`."""
        logits = torch.stack(list(self._logits(image)), 1)
        return torch.sigmoid(logits) if self._one_map else torch.softmax(logits, 2)

    def mean_and_deviation(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean probability and the standard deviation between the members, each ``(n, out_channels, y, x)``.

        The deviation is that of the six values themselves (divided by 6), 0 to 0.5: high where they disagree.
        """
        found = self.member_probabilities(image)
        return found.mean(1), found.std(1, correction=0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, y, x)`` whose sigmoid (softmax, if several) is the members' mean probability.

        For one map this is the log of the mean chance of tumour less that of its absence, each summed from
        logarithms, so that it stays exact where all members are sure.
        """
        logits = torch.stack(list(self._logits(image)), 1)
        if self._one_map:
            return torch.logsumexp(functional.logsigmoid(logits), 1) - torch.logsumexp(
                functional.logsigmoid(-logits), 1
            )
        return torch.logsumexp(torch.log_softmax(logits, 2), 1) - math.log(len(self.members))
