"""Residual U-Nets after Myronenko (BrainLes 2018, LNCS 11384, pp. 311-320), as MONAI builds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from napari_medseg.networks.parameters import AnyDimensional


class SegResNetParameters(AnyDimensional):
    """Parameters of `monai.networks.nets.SegResNet`: asymmetric, without the branch that rebuilds the image.

    With the defaults it has 1.18 million parameters in three dimensions.
    """

    spatial_dims: int = Field(default=3, ge=2, le=3, description="2 for pictures and single slices, 3 for volumes.")
    init_filters: int = Field(
        default=8, ge=8, le=256, multiple_of=8, description="Channels of the finest level; doubled each level."
    )
    blocks_down: tuple[int, ...] = Field(
        default=(1, 2, 2, 4), min_length=2, max_length=8, description="Residual blocks of each level on the way down."
    )
    blocks_up: tuple[int, ...] = Field(
        default=(1, 1, 1), min_length=1, max_length=7, description="Residual blocks of each level on the way up."
    )
    dropout_prob: float | None = Field(
        default=None, gt=0, lt=1, description="Share of channels left out after the first level while training."
    )

    @model_validator(mode="after")
    def _fits(self) -> SegResNetParameters:
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError(f"blocks_up needs {len(self.blocks_down) - 1} numbers, one less than blocks_down")
        if min(*self.blocks_down, *self.blocks_up) < 1:
            raise ValueError("every level needs a block at least")
        return self


class SupervisedSegResNetParameters(AnyDimensional):
    """Parameters of `SupervisedSegResNet`; the defaults are those of MONAI's Auto3DSeg, 87 million parameters in 3D."""

    spatial_dims: int = Field(default=3, ge=2, le=3, description="2 for pictures and single slices, 3 for volumes.")
    init_filters: int = Field(default=32, ge=1, le=256, description="Channels of the finest level; doubled each level.")
    blocks_down: tuple[int, ...] = Field(
        default=(1, 2, 2, 4, 4), min_length=2, max_length=8, description="Residual blocks of each level going down."
    )
    supervised_levels: int = Field(
        default=4, ge=1, le=7, description="Levels whose logits are compared with labels while training."
    )
    norm: Literal["instance", "batch"] = Field(default="instance", description="Normalisation.")

    @model_validator(mode="after")
    def _fits(self) -> SupervisedSegResNetParameters:
        if min(self.blocks_down) < 1 or self.supervised_levels >= len(self.blocks_down):
            raise ValueError("every level needs a block, and all but the coarsest can be supervised")
        return self


class SupervisedSegResNet(nn.Module):
    """`monai.networks.nets.SegResNetDS` that gives one tensor in training as well.

    Parameters
    ----------
    spatial_dims, in_channels, out_channels, init_filters, blocks_down, supervised_levels, norm
        As in `SupervisedSegResNetParameters`.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        init_filters: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4, 4),
        supervised_levels: int = 4,
        norm: str = "instance",
    ) -> None:
        from monai.networks.nets import SegResNetDS

        super().__init__()
        self.network: nn.Module = SegResNetDS(
            spatial_dims=spatial_dims,
            init_filters=init_filters,
            in_channels=in_channels,
            out_channels=out_channels,
            norm=norm,
            blocks_down=tuple(blocks_down),
            dsdepth=supervised_levels,
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, *spatial)``; ``2**(levels-1)`` divides each side of the image."""
        return self.supervised_logits(image)[0]

    def supervised_logits(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Logits of the supervised levels, the finest first, each half the size of the one before.

        In evaluation mode MONAI works out the finest alone, and the list has that one.
        """
        made: Any = self.network(image)
        return [made] if isinstance(made, torch.Tensor) else list(made)
