"""Parameters of the cascade."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from napari_medseg.networks.parameters import NetworkParameters


class PancreasCascadeParameters(NetworkParameters):
    """Parameters of `PancreasCascade`.

    The paper prints no widths. Base 8, 16 and 64 give 645,889, 2,576,321 and 41,134,337 parameters in the first stage
    and 1,433,791, 5,701,167 and 90,811,023 in the second.
    """

    out_channels: int = Field(default=3, ge=3, le=3, description="Maps that the network gives: rest, organ, lesion.")
    base: int = Field(
        default=16,
        ge=4,
        le=128,
        multiple_of=4,
        description="Channels of the finest level; they double at each of four.",
    )
    margin: int = Field(default=20, ge=0, le=1024, description="Pixels by which the organ's box is grown.")
    threshold: float = Field(
        default=0.5, gt=0.0, lt=1.0, description="Organ probability from which a pixel counts for the box."
    )
    window: int = Field(
        default=256,
        ge=16,
        le=4096,
        multiple_of=16,
        description="Side in pixels of what the second stage sees; a larger box is shrunk into it.",
    )
    stretch: bool = Field(
        default=False, description="Whether a smaller box is stretched over the window instead of padded with zeros."
    )
    norm: Literal["group", "batch"] = Field(
        default="group",
        description="Normalisation: group (8 groups, bears batches of one image) or batch, as in the paper.",
    )
