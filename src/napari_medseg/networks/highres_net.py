"""High-resolution residual network with growing dilation, as MONAI builds it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from napari_medseg.networks.parameters import AnyDimensional


class HighResNetParameters(AnyDimensional):
    """Parameters of `monai.networks.nets.HighResNet` (Li et al., IPMI 2017, LNCS 10265, pp. 348-360).

    Nothing is ever made smaller: three groups of residual blocks see 1, 2 and 4 samples apart. With 4 channels in
    and 4 out it has 0.81 million parameters in three dimensions.
    """

    spatial_dims: int = Field(default=3, ge=2, le=3, description="2 for pictures and single slices, 3 for volumes.")
    width: int = Field(
        default=16, ge=1, le=256, description="Channels of the first group; the second has twice, the third four times."
    )
    repeats: int = Field(default=3, ge=1, le=16, description="Residual blocks a group, each of two convolutions.")
    last_width: int = Field(default=80, ge=1, le=1024, description="Channels of the convolution before the last.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of features left out there while training.")
    norm: Literal["batch", "instance"] = Field(default="batch", description="Normalisation.")

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of MONAI's class."""
        groups: list[dict[str, Any]] = [
            {"name": f"res_{k + 1}", "n_features": self.width * 2**k, "kernels": [3, 3], "repeat": self.repeats}
            for k in range(3)
        ]
        first: dict[str, Any] = {"name": "conv_0", "n_features": self.width, "kernel_size": 3}
        last = [
            {"name": "conv_1", "n_features": self.last_width, "kernel_size": 1},
            {"name": "conv_2", "kernel_size": 1},
        ]
        return {
            "spatial_dims": self.spatial_dims,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "norm_type": [self.norm, {"affine": True}],
            "dropout_prob": self.dropout,
            "layer_params": [first, *groups, *last],
        }
