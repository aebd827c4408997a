"""What the parameters of every architecture have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class NetworkParameters(BaseModel):
    """Parameters of a network: validated, unchangeable, and what a form is made from.

    Every field has a default that the source of the architecture uses, a range, and a description with its unit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: int = Field(default=1, ge=1, le=1024, description="Channels of the image.")
    out_channels: int = Field(default=2, ge=1, le=1024, description="Maps that the network gives, one a class.")

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the network's class."""
        return self.model_dump()


class AnyDimensional(NetworkParameters):
    """Parameters of a network that exists for pictures and for volumes."""

    spatial_dims: int = Field(default=2, ge=2, le=3, description="2 for pictures and single slices, 3 for volumes.")
