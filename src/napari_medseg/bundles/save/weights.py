"""Weights on their way into a bundle: read, counted, checked and made small."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_medseg.bundles.network import read_weights
from napari_medseg.bundles.save.description import Precision
from napari_medseg.case import InputError

if TYPE_CHECKING:
    import torch


def read_state(weights: Mapping[str, torch.Tensor] | str | Path) -> dict[str, torch.Tensor]:
    """The state dictionary, read from a file where it is one; `InputError` where there is none."""
    if not isinstance(weights, str | Path):
        return dict(weights)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(f"{path.name}: there is no such file of weights.")
    return read_weights(path)


def weights_count(state: Mapping[str, torch.Tensor]) -> int:
    """Number of learned values: running statistics and counts are none."""
    return sum(v.numel() for name, v in state.items() if v.is_floating_point() and ".running_" not in f".{name}")


def fill(network: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Put the weights into the network; `InputError` where they do not fit the network of the bundle `name`."""
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise InputError(f"{name}: the weights do not fit the network: {first}") from error


def stored_weights(state: Mapping[str, torch.Tensor], precision: Precision) -> dict[str, torch.Tensor]:
    """The weights as they are stored: floats at `precision`, running statistics always as float32.

    Raises
    ------
    InputError
        A value is no number, or too large for the precision.
    """
    import torch

    stored = {}
    for name, values in state.items():
        kept = values.detach().cpu()
        if kept.is_floating_point():
            # variances of early layers pass 65504, the largest float16
            half = precision == "float16" and ".running_" not in f".{name}"
            kept = kept.to(torch.float16 if half else torch.float32)
            if not torch.isfinite(values).all():
                raise InputError(f"{name} holds values that are no numbers; the weights cannot be used.")
            if not torch.isfinite(kept).all():
                largest = f"{values.abs().max():g}"
                raise InputError(f"{name} holds {largest}, which {precision} cannot; store the weights as float32.")
        # safetensors takes no two tensors that share memory
        stored[name] = kept.clone(memory_format=torch.contiguous_format)
    return stored
