"""Each reason for an unused GPU is named together with its remedy."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from napari_medseg.inference.compute import probe
from napari_medseg.inference.compute.gpu import gpu_findings
from napari_medseg.inference.compute.probe import Gpu, Probe

GIB = 1 << 30
A100 = Gpu("NVIDIA A100", (8, 0), 40 * GIB, 39 * GIB)
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
WORKING = Probe(
    nvidia=True,
    driver="580.65.06",
    installed=(A100,),
    torch="2.13.0+cu130",
    cuda="13.0",
    architectures=ARCHITECTURES,
    available=True,
    gpus=(A100,),
)
BROKEN = replace(WORKING, available=False, gpus=(), architectures=())
MAC = Probe(system="Darwin", machine="arm64", apple_silicon=True, torch="2.13.0", mps_built=True)


def reason(probe: Probe) -> str:
    found = gpu_findings(probe)
    assert not found.usable
    assert found.reason.endswith(".")
    assert "\n" not in found.reason
    return found.reason


def test_a_working_gpu_is_named():
    found = gpu_findings(WORKING)
    assert (found.usable, found.reason) == (True, "GPU in use: NVIDIA A100.")
    assert json.loads(json.dumps(found.details))["gpus"][0]["capability"] == [8, 0]


def test_apples_gpu_is_used():
    assert gpu_findings(replace(MAC, mps_available=True)).usable


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "1", "-1,0"])
def test_hidden_by_the_environment(visible):
    said = reason(replace(BROKEN, visible=visible))
    assert f'CUDA_VISIBLE_DEVICES is "{visible}" and hides every GPU' in said
    assert "unset it" in said


@pytest.mark.parametrize("visible", ["0", "0,1", "GPU-8932f937"])
def test_a_variable_that_shows_a_gpu_is_not_blamed(visible):
    assert "CUDA_VISIBLE_DEVICES" not in reason(replace(BROKEN, visible=visible))


def test_torch_for_processors_only():
    said = reason(replace(BROKEN, torch="2.13.0+cpu", cuda=None))
    assert said.startswith("NVIDIA A100 is present but torch 2.13.0+cpu is the build for processors only")
    assert "install the CUDA build of torch" in said


def test_torch_for_amd_beside_an_nvidia_gpu():
    said = reason(replace(BROKEN, cuda=None, hip="6.4"))
    assert "is the build for AMD GPUs; install the CUDA build of torch" in said


@pytest.mark.parametrize(
    ("system", "cuda", "driver", "needed", "fitting"),
    [
        ("Linux", "13.0", "580.65.05", "580.65.06", "CUDA 12"),
        ("Linux", "12.8", "470.82.01", "525.60.13", "CUDA 11"),
        ("Linux", "11.8", "390.157", "450.80.02", None),
        ("Windows", "12.8", "516.94", "527.41", "CUDA 11"),
        ("Windows", "13.0", "566.36", "580", "CUDA 12"),
    ],
)
def test_driver_too_old(system, cuda, driver, needed, fitting):
    said = reason(replace(BROKEN, system=system, cuda=cuda, driver=driver))
    assert f"its driver {driver} is too old for this torch, built for CUDA {cuda}" in said
    assert f"update the driver to {needed} or newer" in said
    assert (f"install a torch built for {fitting}" in said) if fitting else ("or install" not in said)


@pytest.mark.parametrize(("cuda", "driver"), [("13.0", "580.65.06"), ("12.8", "525.60.13"), ("12.8", None)])
def test_a_driver_new_enough_is_not_blamed_and_torch_is_quoted(cuda, driver):
    said = reason(replace(BROKEN, cuda=cuda, driver=driver, torch_error="CUDA unknown error"))
    assert "too old" not in said
    assert f"torch, built for CUDA {cuda}, cannot start it (CUDA unknown error); restart the computer" in said


def test_driver_and_kernel_do_not_match():
    error = "Failed to initialize NVML: Driver/library version mismatch"
    said = reason(replace(BROKEN, installed=(), driver_error=error))
    assert f"does not answer ({error}); restart the computer" in said
    unloaded = replace(BROKEN, installed=(), driver=None, cuda=None, driver_error="it couldn't communicate")
    assert "does not answer (it couldn't communicate)" in reason(unloaded)


def test_container_without_its_gpu():
    said = reason(replace(BROKEN, installed=(), nvidia_devices=False))
    assert "cannot reach a GPU; if it runs in a container, start that with access to the GPU" in said


@pytest.mark.parametrize(
    ("capability", "remedy"), [((6, 1), "install an older torch"), ((13, 0), "install a newer torch")]
)
def test_generation_that_torch_was_not_built_for(capability, remedy):
    card = replace(A100, name="NVIDIA X", capability=capability)
    built = replace(WORKING, gpus=(card,), architectures=("sm_75", "sm_80", "sm_120"))
    said = reason(built)
    assert f"compute capability {capability[0]}.{capability[1]} is not among those that torch 2.13.0+cu130" in said
    assert "(sm_75, sm_80, sm_120)" in said
    assert remedy in said
    beside = reason(replace(built, gpus=(card, A100)))
    assert beside.endswith("or choose device cuda:1 (NVIDIA A100).")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 9), ("sm_86",), True),
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_86",), False),
        ((9, 0), ("sm_86", "compute_86"), True),
        ((7, 5), ("sm_86", "compute_86"), False),
        ((9, 0), ("sm_90a",), True),
        ((10, 3), ("sm_100a",), False),
        ((12, 1), ("sm_120",), True),
        ((6, 1), (), True),
    ],
)
def test_which_generations_run_which_code(capability, architectures, runs):
    probe = replace(WORKING, gpus=(replace(A100, capability=capability),), architectures=architectures)
    assert gpu_findings(probe).usable is runs


def test_memory_nearly_full():
    said = reason(replace(WORKING, gpus=(replace(A100, free=GIB // 2),)))
    assert "memory is 99% full (0.5 of 40.0 GiB free); close other programs that use the GPU" in said
    assert gpu_findings(replace(WORKING, gpus=(replace(A100, free=GIB),))).usable


def test_gpu_that_fails_to_start():
    said = reason(replace(WORKING, gpus=(Gpu("NVIDIA A100", error="CUDA error: out of memory"),)))
    assert "cannot be started (CUDA error: out of memory); close other programs" in said


def test_amd_with_torch_for_nvidia_or_processors():
    amd = Probe(amd=True, torch="2.13.0", cuda="13.0")
    said = reason(amd)
    assert "An AMD GPU is present but torch 2.13.0 is built for CUDA 13.0, that is for NVIDIA GPUs" in said
    assert "install the ROCm build of torch" in said
    assert "the build for processors only" in reason(replace(amd, cuda=None))
    assert "use Linux and the ROCm build" in reason(replace(amd, system="Windows"))


def test_amd_with_its_own_torch():
    said = reason(Probe(amd=True, hip="6.4"))
    assert "built for ROCm 6.4, cannot start it" in said
    assert "groups render and video" in said
    working = Probe(amd=True, hip="6.4", available=True, gpus=(Gpu("AMD MI300X", (9, 4), 190 * GIB, 189 * GIB),))
    assert gpu_findings(replace(working, architectures=("gfx942",))).usable


def test_apple():
    said = reason(replace(MAC, machine="x86_64"))
    assert "this Python is built for Intel processors (x86_64); install Python" in said
    said = reason(replace(MAC, mps_built=False))
    assert "torch 2.13.0 is built without Metal (MPS); install torch again" in said
    assert "update macOS" in reason(MAC)


def test_nothing_there():
    assert reason(Probe()).startswith("No GPU: no NVIDIA or AMD driver and no Apple GPU was found")
    assert reason(Probe(system="Darwin", machine="x86_64")).startswith("No GPU: no NVIDIA or AMD driver")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n", "535.129.03"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (d@h)\n", "580.65.06"),
        ("something else\n", None),
    ],
)
def test_version_of_the_kernel_driver(tmp_path, text, version):
    (tmp_path / "version").write_text(text)
    assert probe.kernel_driver(tmp_path / "version") == version
    assert probe.kernel_driver(tmp_path / "missing") is None


def tool(tmp_path, body: str) -> tuple[str, ...]:
    """A stand-in for nvidia-smi."""
    (tmp_path / "smi.py").write_text(f"import sys\n{body}\n")
    return sys.executable, str(tmp_path / "smi.py")


def test_what_nvidia_smi_lists(tmp_path):
    body = (
        "print('NVIDIA H100 80GB HBM3, 535.129.03, 81559 MiB, 512 MiB, 9.0')\n"
        "print('NVIDIA GB10, 535.129.03, [N/A], [N/A], 12.1')"
    )
    cards, driver, error = probe.ask_nvidia_smi(tool(tmp_path, body))
    assert cards[0] == Gpu("NVIDIA H100 80GB HBM3", (9, 0), 81559 << 20, 512 << 20)
    assert cards[1] == Gpu("NVIDIA GB10", (12, 1))
    assert (driver, error) == ("535.129.03", "")


def test_an_old_nvidia_smi_is_asked_for_less(tmp_path):
    body = (
        "if any('compute_cap' in a for a in sys.argv):\n"
        "    print('Field \"compute_cap\" is not a valid field to query.'); sys.exit(2)\n"
        "print('Tesla K80, 418.67, 11441 MiB, 11441 MiB')"
    )
    cards, driver, error = probe.ask_nvidia_smi(tool(tmp_path, body))
    assert (cards, driver, error) == ((Gpu("Tesla K80", None, 11441 << 20, 11441 << 20),), "418.67", "")


def test_nvidia_smi_that_fails_hangs_or_is_missing(tmp_path, monkeypatch):
    body = "print('Failed to initialize NVML: Driver/library version mismatch.'); sys.exit(18)"
    assert probe.ask_nvidia_smi(tool(tmp_path, body)) == (
        (),
        None,
        "Failed to initialize NVML: Driver/library version mismatch",
    )
    assert probe.ask_nvidia_smi((str(tmp_path / "missing"),)) == ((), None, "")

    def hang(*args, timeout, **kwargs):
        raise subprocess.TimeoutExpired(args[0], timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert probe.ask_nvidia_smi()[2] == "nvidia-smi gave no answer within 10 s"


def test_amd_nodes_tell_gpus_from_processors(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "properties").write_text("cpu_cores_count 16\nsimd_count 0\n")
    assert not probe.amd_present(tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "properties").write_text("cpu_cores_count 0\nsimd_count 304\n")
    assert probe.amd_present(tmp_path)
    assert not probe.amd_present(tmp_path / "missing")


def test_this_machine():
    """Whatever is here, the verdict agrees with torch and can be stored."""
    import torch

    found = gpu_findings()
    usable = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert usable or not found.usable
    assert found.details["torch"] == torch.__version__
    assert json.dumps(found.details)
    if not usable:
        assert found.reason.startswith("No GPU: ") or "is present but" in found.reason
