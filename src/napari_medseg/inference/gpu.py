"""Why a GPU is used or not, in one sentence that says what to do about it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_SMI_SECONDS = 10
_LEAST_FREE = 1 << 30
_GIB = float(1 << 30)
# CUDA release notes, "minor version compatibility": the oldest driver for each major version
_OLDEST_DRIVER = {
    "Linux": {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"},
    "Windows": {11: "452.39", 12: "527.41", 13: "580"},
}


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch or the driver's own tool describes it; memory in bytes, ``None`` where it is not told."""

    name: str
    capability: tuple[int, int] | None = None
    total: int | None = None
    free: int | None = None
    error: str = ""


@dataclass(frozen=True)
class Probe:
    """What was found on this machine and in this torch.

    Parameters
    ----------
    system
        ``"Linux"``, ``"Windows"`` or ``"Darwin"``.
    machine
        What Python was built for, for instance ``"x86_64"``.
    apple_silicon
        Whether the processor is Apple's, even if Python was built for another.
    visible
        The environment variable CUDA_VISIBLE_DEVICES, ``None`` if not set.
    nvidia
        Whether an NVIDIA driver is installed.
    nvidia_devices
        Whether this process may reach its GPUs; false in a container that was started without them.
    driver
        Version of the NVIDIA driver, ``None`` if unknown.
    installed
        NVIDIA GPUs that the driver's tool lists, whatever torch sees.
    driver_error
        What the driver's tool says where it fails.
    amd
        Whether there is an AMD GPU with its compute driver.
    torch, cuda, hip
        Version of torch and of CUDA and ROCm that it was built for; ``None`` where it was built without.
    architectures
        GPU generations that torch was built for, for instance ``"sm_90"``.
    available
        Whether torch can use CUDA, or ROCm, which has the same name in torch.
    torch_error
        What torch says where it cannot.
    gpus
        GPUs that torch sees, in its order.
    mps_built, mps_available
        Whether torch was built for Apple's GPUs and can use one.
    """

    system: str = "Linux"
    machine: str = "x86_64"
    apple_silicon: bool = False
    visible: str | None = None
    nvidia: bool = False
    nvidia_devices: bool = True
    driver: str | None = None
    installed: tuple[Gpu, ...] = ()
    driver_error: str = ""
    amd: bool = False
    torch: str = ""
    cuda: str | None = None
    hip: str | None = None
    architectures: tuple[str, ...] = ()
    available: bool = False
    torch_error: str = ""
    gpus: tuple[Gpu, ...] = ()
    mps_built: bool = False
    mps_available: bool = False


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


# -- looking at this machine -----------------------------------------------------------------------


def look() -> Probe:
    """Look at this machine's GPUs, drivers and torch."""
    import torch

    system = platform.system()
    kernel = kernel_driver()
    installed, driver, error = ask_nvidia_smi()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    return Probe(
        system=system,
        machine=platform.machine(),
        apple_silicon=system == "Darwin" and apple_silicon(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        nvidia=bool(kernel or installed or error or nvidia_library(system)),
        nvidia_devices=bool(installed) or system != "Linux" or not kernel or Path("/dev/nvidiactl").exists(),
        driver=driver or kernel,
        installed=installed,
        driver_error=error,
        amd=amd_present(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        architectures=tuple(torch.cuda.get_arch_list()) if available else (),
        available=available,
        torch_error=_first_line(str(said[0].message)) if said and not available else "",
        gpus=torch_gpus() if available else (),
        mps_built=torch.backends.mps.is_built(),
        mps_available=torch.backends.mps.is_available(),
    )


def torch_gpus() -> tuple[Gpu, ...]:
    """The GPUs that torch sees; what this process already holds on them counts as free."""
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        name = f"GPU {number}"
        try:
            name = torch.cuda.get_device_name(number)
            capability = torch.cuda.get_device_capability(number)
            free, total = torch.cuda.mem_get_info(number)
            found.append(Gpu(name, capability, total, free + torch.cuda.memory_reserved(number)))
        except RuntimeError as error:
            found.append(Gpu(name, error=_first_line(str(error))))
    return tuple(found)


def kernel_driver(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Version of the NVIDIA driver in the Linux kernel, ``None`` without one."""
    try:
        text = path.read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return found.group(1) if found else None


def ask_nvidia_smi(command: tuple[str, ...] = ("nvidia-smi",)) -> tuple[tuple[Gpu, ...], str | None, str]:
    """GPUs and driver version that NVIDIA's tool tells, and what it says where it fails; all empty without it."""
    fields = "name,driver_version,memory.total,memory.free"
    # tools older than CUDA 11.6 do not know the last field and refuse all of it
    for asked in (f"{fields},compute_cap", fields):
        try:
            answer = subprocess.run(
                [*command, f"--query-gpu={asked}", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SMI_SECONDS,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                check=False,
            )
        except FileNotFoundError:
            return (), None, ""
        except subprocess.TimeoutExpired:
            return (), None, f"nvidia-smi gave no answer within {_SMI_SECONDS} s"
        except OSError as error:
            return (), None, f"nvidia-smi cannot be run: {error.strerror}"
        rows = [row for line in answer.stdout.splitlines() if len(row := line.split(", ")) >= 4]
        if answer.returncode == 0 and rows:
            return tuple(_listed(row) for row in rows), rows[0][1].strip(), ""
    return (), None, _first_line(answer.stdout or answer.stderr) or "nvidia-smi lists no GPU"


def _listed(row: list[str]) -> Gpu:
    capability = re.fullmatch(r"(\d+)\.(\d+)", row[4].strip()) if len(row) > 4 else None
    total, free = (int(m.group(1)) << 20 if (m := re.match(r"\s*(\d+) MiB", part)) else None for part in row[2:4])
    return Gpu(row[0].strip(), (int(capability[1]), int(capability[2])) if capability else None, total, free)


def nvidia_library(system: str) -> bool:
    """Whether Windows has NVIDIA's driver library."""
    from ctypes.util import find_library

    return system == "Windows" and find_library("nvcuda") is not None


def amd_present(nodes: Path = Path("/sys/class/kfd/kfd/topology/nodes")) -> bool:
    """Whether the Linux kernel's compute driver for AMD lists a GPU; processors are listed there too."""
    for properties in nodes.glob("*/properties"):
        try:
            found = re.search(r"^simd_count (\d+)", properties.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found and int(found.group(1)) > 0:
            return True
    return False


def apple_silicon() -> bool:
    """Whether macOS runs on Apple's processor, also where Python is translated from Intel's."""
    if platform.machine() == "arm64":
        return True
    try:
        answer = subprocess.run(
            ["sysctl", "-n", "hw.optional.arm64"], capture_output=True, text=True, timeout=_SMI_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.strip() == "1"


def _first_line(text: str) -> str:
    return next((line.strip().rstrip(".") for line in text.splitlines() if line.strip()), "")
