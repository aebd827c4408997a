"""Why a GPU is used or not, in one sentence that says what to do about it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from napari_medseg.inference.compute.probe import Gpu, Probe, look

_LEAST_FREE = 1 << 30
_GIB = float(1 << 30)
# CUDA release notes, "minor version compatibility": the oldest driver for each major version
_OLDEST_DRIVER = {
    "Linux": {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"},
    "Windows": {11: "452.39", 12: "527.41", 13: "580"},
}


@dataclass(frozen=True)
class GpuFindings:
    """Whether the GPU that is chosen by default can be used, why or why not, and what was looked at."""

    usable: bool
    reason: str
    details: dict[str, Any]


def gpu_findings(probe: Probe | None = None) -> GpuFindings:
    """Whether a GPU can be used, and if not, the cause and the remedy in one sentence.

    Parameters
    ----------
    probe
        What was found; by default this machine is looked at, which takes up to ten seconds and starts torch's GPU.
    """
    probe = probe or look()
    usable, reason = _judge(probe)
    return GpuFindings(usable, reason, asdict(probe))


def _judge(probe: Probe) -> tuple[bool, str]:
    if probe.available and probe.gpus:
        return _seen(probe)
    if probe.mps_available:
        return True, "GPU in use: Apple."
    if probe.system == "Darwin" and probe.apple_silicon:
        return False, _apple(probe)
    if _hidden(probe):
        return False, (
            f'No GPU: CUDA_VISIBLE_DEVICES is "{probe.visible}" and hides every GPU from this process; unset it and '
            f"start again."
        )
    if probe.nvidia and not (probe.amd and probe.hip):
        return False, _nvidia(probe)
    if probe.amd:
        return False, _amd(probe)
    return False, "No GPU: no NVIDIA or AMD driver and no Apple GPU was found, so the processor is used."


def _seen(probe: Probe) -> tuple[bool, str]:
    """The verdict on the first GPU that torch sees, which is the one that torch takes."""
    gpu = probe.gpus[0]
    problem = _problem(gpu, probe)
    if problem is None:
        return True, f"GPU in use: {gpu.name}."
    better = next((k for k, other in enumerate(probe.gpus) if _problem(other, probe) is None), None)
    other = f", or choose device cuda:{better} ({probe.gpus[better].name})" if better is not None else ""
    return False, f"{problem}{other}."


def _problem(gpu: Gpu, probe: Probe) -> str | None:
    """What keeps torch from using a GPU it sees, with the remedy and without a full stop; ``None`` if nothing does."""
    if gpu.error:
        return f"{gpu.name} is present but cannot be started ({gpu.error}); close other programs that use it and retry"
    if gpu.capability and not probe.hip and not _runs_on(gpu.capability, probe.architectures):
        has = f"{gpu.capability[0]}.{gpu.capability[1]}"
        built = ", ".join(probe.architectures)
        newest = max(_generation(a) for a in probe.architectures)
        remedy = (
            "install a newer torch, built for this generation of GPUs"
            if gpu.capability > newest
            else "install an older torch that was still built for this generation of GPUs"
        )
        return (
            f"{gpu.name} is present but its compute capability {has} is not among those that torch {probe.torch} was "
            f"built for ({built}); {remedy}"
        )
    if gpu.free is not None and gpu.total and gpu.free < _LEAST_FREE:
        return (
            f"{gpu.name} is present but its memory is {1 - gpu.free / gpu.total:.0%} full "
            f"({gpu.free / _GIB:.1f} of {gpu.total / _GIB:.1f} GiB free); close other programs that use the GPU"
        )
    return None


def _runs_on(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether code built for `architectures` runs on a GPU of this compute capability.

    Machine code (``sm_``) runs on the same major version from its minor version on, intermediate code
    (``compute_``) on everything newer, and code with a letter at its end on exactly its own.
    """
    for name in architectures:
        built = _generation(name)
        if name[-1].isalpha():
            fits = capability == built
        elif name.startswith("compute_"):
            fits = capability >= built
        else:
            fits = capability[0] == built[0] and capability[1] >= built[1]
        if fits:
            return True
    # a torch that does not say what it was built for is not blamed
    return not architectures


def _generation(name: str) -> tuple[int, int]:
    digits = re.sub(r"\D", "", name)
    return int(digits[:-1] or 0), int(digits[-1])


def _hidden(probe: Probe) -> bool:
    if probe.visible is None:
        return False
    first = probe.visible.split(",")[0].strip()
    if not re.fullmatch(r"-?\d+", first):
        return first == "" or first == "NoDevFiles"
    # CUDA stops reading the list at the first number that is no GPU
    return int(first) < 0 or bool(probe.installed and int(first) >= len(probe.installed))


def _nvidia(probe: Probe) -> str:
    name = probe.installed[0].name if probe.installed else "An NVIDIA GPU driver"
    if probe.driver_error and probe.driver is None:
        return _silent(name, probe)
    if probe.cuda is None:
        made = "the build for AMD GPUs" if probe.hip else "the build for processors only"
        return f"{name} is present but torch {probe.torch} is {made}; install the CUDA build of torch to use the GPU."
    major = int(probe.cuda.split(".")[0])
    oldest = _OLDEST_DRIVER.get(probe.system, {})
    if probe.driver and major in oldest and _version(probe.driver) < _version(oldest[major]):
        fitting = [m for m, needed in oldest.items() if _version(needed) <= _version(probe.driver)]
        other = f", or install a torch built for CUDA {max(fitting)}" if fitting else ""
        return (
            f"{name} is present but its driver {probe.driver} is too old for this torch, built for CUDA {probe.cuda}; "
            f"update the driver to {oldest[major]} or newer{other}."
        )
    if not probe.nvidia_devices:
        return (
            "An NVIDIA GPU driver is present but this process cannot reach a GPU; "
            "if it runs in a container, start that with access to the GPU."
        )
    if probe.driver_error:
        return _silent(name, probe)
    said = f" ({probe.torch_error})" if probe.torch_error else ""
    return (
        f"{name} is present but torch, built for CUDA {probe.cuda}, cannot start it{said}; "
        f"restart the computer, then update the driver or install a torch built for its CUDA version."
    )


def _silent(name: str, probe: Probe) -> str:
    return (
        f"{name} is present but does not answer ({probe.driver_error}); restart the computer, and if that does not "
        f"help install the driver again."
    )


def _amd(probe: Probe) -> str:
    if probe.hip:
        return (
            f"An AMD GPU is present but torch, built for ROCm {probe.hip}, cannot start it; make sure that your user "
            f"may use it (groups render and video) and that ROCm supports this GPU."
        )
    built = f"built for CUDA {probe.cuda}, that is for NVIDIA GPUs" if probe.cuda else "the build for processors only"
    if probe.system != "Linux":
        return f"An AMD GPU is present but torch {probe.torch} is {built}; use Linux and the ROCm build of torch."
    return f"An AMD GPU is present but torch {probe.torch} is {built}; install the ROCm build of torch to use the GPU."


def _apple(probe: Probe) -> str:
    if probe.machine != "arm64":
        return (
            f"An Apple GPU is present but this Python is built for Intel processors ({probe.machine}); install Python "
            f"and napari-medseg for Apple silicon (arm64)."
        )
    if not probe.mps_built:
        return (
            f"An Apple GPU is present but torch {probe.torch} is built without Metal (MPS); install torch again from "
            f"the official packages for macOS."
        )
    return "An Apple GPU is present but this macOS is too old for torch's Metal (MPS); update macOS."


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))
