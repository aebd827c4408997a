"""Torch itself, on any device."""

from __future__ import annotations

import torch

from napari_medseg.inference.compute.devices import Device, autocast


class TorchRunner:
    """Runs a network with torch.

    Parameters
    ----------
    network
        In evaluation mode and already on the device; it is not changed.
    device
        Where and in which precision to compute.
    channels_last
        Whether tiles are laid out with their channels together, which some processors compute faster.
    """

    backend = "torch"

    def __init__(self, network: torch.nn.Module, device: Device, *, channels_last: bool = False) -> None:
        self.precision = device.precision
        self._network = network
        self._device = device
        self.channels_last = channels_last

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Maps ``(n, c_out, *tile)`` in float32, on the device, of tiles ``(n, c_in, *tile)``."""
        to_gpu = self._device.name.startswith("cuda")
        if to_gpu and tiles.device.type == "cpu":
            # only pinned memory is copied while the device computes
            tiles = tiles.pin_memory()
        tiles = tiles.to(self._device.name, non_blocking=to_gpu)
        if self.channels_last:
            together = {4: torch.channels_last, 5: torch.channels_last_3d}[tiles.ndim]
            # the weights stay as they are: other runners may share this network
            tiles = tiles.contiguous(memory_format=together)
        with torch.inference_mode(), autocast(self._device):
            maps = self._network(tiles)
        result: torch.Tensor = maps.float().contiguous()
        return result
