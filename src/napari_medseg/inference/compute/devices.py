"""Which device and number format to compute with, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_medseg.case import InputError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Device:
    """A device as torch names it, the number format used on it, and the reason in one sentence."""

    name: str
    precision: str
    reason: str


def choose_device(device: str = "auto", precision: str = "auto") -> Device:
    """The device and precision to run on.

    Parameters
    ----------
    device
        ``"auto"`` (a CUDA GPU, else Apple's, else the processor), ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``.
    precision
        ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.

    Raises
    ------
    InputError
        If the device is not there or cannot compute in that precision.
    """
    import torch

    kind = device.split(":")[0]
    if kind not in ("auto", "cuda", "mps", "cpu"):
        raise InputError(f"Device {device!r} is not known; accepted are auto, cuda, cuda:N, mps and cpu.")
    if precision not in PRECISIONS:
        raise InputError(f"Precision {precision!r} is not known; accepted are {', '.join(PRECISIONS)}.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"Device {device} is not usable: {gpu_status()}")
    if kind == "cuda" and ":" in device and int(device.split(":")[1]) >= torch.cuda.device_count():
        raise InputError(f"Device {device} is not there: this machine has {torch.cuda.device_count()} CUDA device(s).")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("Device mps is not usable: this machine has no Apple GPU that torch can use.")
    if kind == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
        reason = gpu_status() if name == "cpu" else f"{name} is the fastest device here."
    else:
        name, reason = device, "chosen by the user."
    return Device(name, _precision(name, precision), reason)


def _precision(device: str, precision: str) -> str:
    if precision == "fp16" and device == "cpu":
        raise InputError("Precision fp16 is slower than fp32 on a processor; choose auto, fp32 or bf16.")
    if precision != "auto":
        return precision
    # bf16 keeps 8 bits of a number and moved 0.1 % of the label voxels of the reference models; fp16 keeps 11
    return "fp16" if device.startswith("cuda") else "fp32"


def gpu_status() -> str:
    """One sentence on why a GPU is or is not used."""
    from napari_medseg.inference.compute.gpu import gpu_findings

    return gpu_findings().reason


def autocast(device: Device) -> Any:
    """The context in which a forward pass runs in the device's precision."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(device.precision)
    kind = device.name.split(":")[0]
    return torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
