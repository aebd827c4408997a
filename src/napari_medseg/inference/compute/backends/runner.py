"""What a backend is, and whether two of them say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from napari_medseg.bundles.model import Model
from napari_medseg.case import MedsegError
from napari_medseg.inference.labels.decide import activate, decide


class BackendError(MedsegError):
    """A backend cannot run a network, or does not give what torch gives."""


class Runner(Protocol):
    """Runs a network on tiles. One thread at a time."""

    @property
    def backend(self) -> str:
        """``"torch"``, ``"openvino"`` or ``"onnx"``."""

    @property
    def precision(self) -> str:
        """``"fp32"``, ``"bf16"`` or ``"fp16"``: what it computes in, which may not be what was asked for."""

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Maps ``(n, c_out, *tile)`` before any activation, of tiles ``(n, c_in, *tile)``; both float32.

        `n` may change from call to call. The maps are the caller's: no later call writes to them. They
        are on the processor, except those of a network that torch runs on another device.
        """


@dataclass(frozen=True)
class Agreement:
    """How near the maps of two backends are.

    Parameters
    ----------
    max_difference
        Largest absolute difference of two values of the maps, before any activation.
    label_agreement
        Share of voxels with the same decision, 0 to 1.
    """

    max_difference: float
    label_agreement: float

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"max_difference": self.max_difference, "label_agreement": self.label_agreement}

    def __str__(self) -> str:
        share = f"{100 * self.label_agreement:.3f} % of the labels are equal"
        return f"{share} and the maps differ by up to {self.max_difference:.2g}"


def compare(maps: torch.Tensor, reference: torch.Tensor, model: Model, backend: str) -> Agreement:
    """How near `maps` of `backend` are to those that torch gave, both ``(n, c, *tile)``.

    A voxel's decision is its label, as the run itself would take it; for models of objects it is which of
    the activated maps are above one half.

    Raises
    ------
    BackendError
        If the shapes differ, or values are no numbers where those of torch are.
    MedsegError
        If torch itself gave values that are no numbers.
    """
    if maps.shape != reference.shape:
        raise BackendError(f"{backend} gave maps of shape {tuple(maps.shape)}, torch of {tuple(reference.shape)}.")
    if not bool(torch.isfinite(maps).all()) and bool(torch.isfinite(reference).all()):
        raise BackendError(f"{backend} gave values that are no numbers where torch gave numbers.")
    ours, theirs = _decisions(maps, model), _decisions(reference, model)
    equal = (ours == theirs).all(0)
    return Agreement(
        max_difference=float((maps - reference).abs().max()),
        label_agreement=float(equal.double().mean()),
    )


def _decisions(maps: torch.Tensor, model: Model) -> torch.Tensor:
    """Decisions ``(k, n, *tile)``: voxels agree where all `k` of them are equal."""
    values = activate(maps.transpose(0, 1), model.activation)
    if model.instances is not None:
        return values > 0.5
    return torch.from_numpy(decide(values, model.threshold))[None]
