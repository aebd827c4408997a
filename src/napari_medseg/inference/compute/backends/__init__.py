"""What computes the maps of tiles: torch, or a faster copy of the network that is exported and agrees with torch."""

from napari_medseg.inference.compute.backends.choose import BACKENDS, Choice, choose_runner, missing
from napari_medseg.inference.compute.backends.runner import Agreement, BackendError, Runner, compare
from napari_medseg.inference.compute.backends.torch_runner import TorchRunner

__all__ = [
    "BACKENDS",
    "Agreement",
    "BackendError",
    "Choice",
    "Runner",
    "TorchRunner",
    "choose_runner",
    "compare",
    "missing",
]
