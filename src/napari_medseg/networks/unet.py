"""U-Net with residual units, as MONAI builds it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from napari_medseg.networks.parameters import AnyDimensional


class UNetParameters(AnyDimensional):
    """Parameters of `monai.networks.nets.UNet` (Kerfoot et al., 2018)."""

    channels: tuple[int, ...] = Field(
        default=(16, 32, 64, 128, 256), min_length=2, description="Channels of each level."
    )
    strides: tuple[int, ...] = Field(default=(2, 2, 2, 2), min_length=1, description="Stride between the levels.")
    num_res_units: int = Field(default=2, ge=0, le=8, description="Residual units a level; 0 for plain convolutions.")
    norm: Literal["batch", "instance"] = Field(default="batch", description="Normalisation.")
