"""Swin UNETR, as MONAI builds it."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

from pydantic import Field, model_validator

from napari_medseg.networks.parameters import AnyDimensional

_STAGES = 4


class SwinUNETRParameters(AnyDimensional):
    """Parameters of `monai.networks.nets.SwinUNETR` (Hatamizadeh et al., 2022).

    The defaults are those of Hou, Zou and Wang (2024) and of "Super Images" (Sobirov et al., 2023). Each side of the
    image has to be a multiple of 32 pixels, and one of them 64 or more: the coarsest level is normalised over its
    pixels.
    """

    in_channels: int = Field(default=1, ge=1, le=1024, description="Channels of the image.")
    out_channels: int = Field(default=1, ge=1, le=1024, description="Maps that the network gives, one a class.")
    feature_size: int = Field(
        default=24,
        ge=12,
        le=192,
        multiple_of=12,
        description="Channels of the finest level; doubled at each coarser one.",
    )
    depths: tuple[int, int, int, int] = Field(
        default=(2, 2, 2, 2), description="Transformer blocks of each of the four stages."
    )
    num_heads: tuple[int, int, int, int] = Field(
        default=(3, 6, 12, 24), description="Attention heads of each stage; they divide the channels of the stage."
    )
    drop_rate: float = Field(default=0.0, ge=0, lt=1, description="Share of values dropped in training.")
    attn_drop_rate: float = Field(default=0.0, ge=0, lt=1, description="Share of attention dropped in training.")
    dropout_path_rate: float = Field(default=0.0, ge=0, lt=1, description="Share of blocks skipped in training.")
    use_v2: bool = Field(default=False, description="A residual convolution before each stage (Swin UNETR-V2).")

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> SwinUNETRParameters:
        if min(*self.depths, *self.num_heads) < 1:
            raise ValueError("depths and num_heads are 1 or more")
        channels = [self.feature_size * 2**stage for stage in range(_STAGES)]
        if any(c % h for c, h in zip(channels, self.num_heads, strict=True)):
            raise ValueError(f"num_heads {self.num_heads} have to divide the channels of the stages, {tuple(channels)}")
        return self

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of MONAI's class in the installed version."""
        found = super().arguments()
        if _monai_version() < (1, 5):
            # asked for until 1.5, though sizes are looked at in each forward pass; any multiple of 32 will do
            found["img_size"] = (64,) * self.spatial_dims
        return found


def _monai_version() -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", metadata.version("monai"))[:2])
