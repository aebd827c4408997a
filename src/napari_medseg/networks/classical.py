"""Methods without learned weights in the place of a network, so that they stand in the same list and run alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from napari_medseg.case import InputError
from napari_medseg.classical import find_method
from napari_medseg.networks.parameters import AnyDimensional

_SURE = 20.0


class ClassicalSegmenterParameters(AnyDimensional):
    """Parameters of `ClassicalSegmenter`."""

    method: str = Field(default="otsu", description="Name of a method of napari_medseg.classical.")
    values: dict[str, Any] = Field(default_factory=dict, description="The method's own parameters.")


class ClassicalSegmenter(torch.nn.Module):
    """A method of `napari_medseg.classical` that gives maps as a network would.

    It must see a whole picture at once (``whole`` in the bundle's metadata): a threshold chosen tile by tile would
    differ from tile to tile. There is nothing to learn and nothing to export.

    Parameters
    ----------
    in_channels
        Not used: methods say by themselves which channels they read.
    out_channels
        Classes with background; a label beyond the last of them counts as the last.
    spatial_dims
        2 or 3.
    method, values
        Name of the method, and its parameters.

    Raises
    ------
    InputError
        There is no such method, a parameter is not accepted, or the method needs more than an image.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        spatial_dims: int = 2,
        method: str = "otsu",
        values: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self._method = find_method(method)
        needed = [name for name in self._method.inputs if name != "initial"]
        if needed:
            raise InputError(f"{self._method.title} needs {' or '.join(needed)} beside the image and is no model.")
        self._values = {**(values or {}), "spatial_dims": spatial_dims}
        self._method.check(self._values)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out, *spatial)`` of images ``(n, c, *spatial)``: sure of the class that the method found."""
        found = [torch.from_numpy(self._method.run(one.float().cpu().numpy(), self._values)) for one in image]
        labels = torch.stack(found).long().clamp(max=self.out_channels - 1)
        maps = torch.nn.functional.one_hot(labels, self.out_channels).movedim(-1, 1)
        # where the image carries what MONAI's writers need to know of it, the maps do as well
        return _SURE * maps.to(image)
