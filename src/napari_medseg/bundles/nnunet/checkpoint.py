"""Read what nnU-Net v2 stores of a training, without running anything that the file says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.case import InputError, RefusedError

_NUMBERS = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of nnU-Net v2: tensors, plain values and NumPy's numbers, and nothing else.

    Raises
    ------
    InputError
        It is no such checkpoint, or this torch cannot read one safely.
    RefusedError
        It holds any other object.
    """
    # only for the name of the error that torch raises
    import pickle

    import torch

    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise InputError(f"Checkpoints of nnU-Net are read safely from torch 2.6 on; here is {torch.__version__}.")
    number = np.float64(0).__reduce__()[0]
    # NumPy before and after version 2 write different names for the same function
    names = [(number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    allowed: list[Any] = [*names, np.dtype, *(type(np.dtype(code)) for code in _NUMBERS)]
    try:
        with torch.serialization.safe_globals(allowed):
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        which = re.search(r"GLOBAL (\S+)", str(error))
        what = which.group(1) if which else "more than numbers"
        raise RefusedError(f"{path.name} holds {what}, which could run code when opened, and is not read.") from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise InputError(f"{path.name} is no checkpoint of torch: {' '.join(str(error).split())[:200]}") from error
    parts = stored if isinstance(stored, dict) else {}
    weights = parts.get("network_weights")
    tensors = isinstance(weights, Mapping) and all(isinstance(v, torch.Tensor) for v in weights.values())
    if not tensors or not isinstance(parts.get("init_args"), Mapping):
        raise InputError(f"{path.name} is no checkpoint of nnU-Net v2: network_weights and init_args are expected.")
    return dict(parts)
