"""What the parameters of every method have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class MethodParameters(BaseModel):
    """Parameters of a method: validated, unchangeable, and what a form is made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spatial_dims: int = Field(
        default=2,
        ge=2,
        le=3,
        description="2 for pictures and single slices, 3 for volumes; an axis before is channels.",
    )


class OneChannel(MethodParameters):
    """Parameters of a method that reads one number a pixel."""

    channel: int | None = Field(
        default=None, ge=0, le=1023, description="Channel to read, from 0; the mean of all channels without."
    )
    smoothing: float = Field(
        default=0.0,
        ge=0,
        le=50,
        description="Standard deviation of a Gaussian that smooths the image first, in pixels.",
    )


class Contour(OneChannel):
    """Parameters of a contour that moves from a starting region to an edge."""

    direction: Literal["shrink", "grow"] = Field(
        default="shrink", description="Whether the contour starts around the object or inside it."
    )
    margin: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="Where no region is given: distance of the first contour from the frame, in pixels.",
    )
