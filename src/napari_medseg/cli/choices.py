"""Choices and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Precision(StrEnum):
    """Number formats a model can run in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Backend(StrEnum):
    """What runs the network."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"
    ONNX = "onnx"


class Tissue(StrEnum):
    """Whether tiles of a slide that hold only glass are left out."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Planes(StrEnum):
    """How a two-dimensional model reads a volume."""

    SLICES = "slices"
    MOSAIC = "mosaic"


class Ensemble(StrEnum):
    """How the labels of several models become one more."""

    MEAN = "mean"
    VOTE = "vote"
    STAPLE = "staple"


class Ngff(StrEnum):
    """Versions of OME-Zarr that are written."""

    V04 = "0.4"
    V05 = "0.5"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already there.")]
Series = Annotated[
    int | None, typer.Option("--series", min=1, help="Which image of a file or folder that holds several, from 1.")
]
