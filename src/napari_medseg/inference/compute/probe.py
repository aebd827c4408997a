"""What this machine, its drivers and its torch say of GPUs, without judging it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

_SMI_SECONDS = 10


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
