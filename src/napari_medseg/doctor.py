"""What works on this machine, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from napari_medseg import __version__

_LIBRARIES = (
    "napari",
    "numpy",
    "torch",
    "monai",
    "zarr",
    "ome-zarr",
    "nibabel",
    "pydicom",
    "SimpleITK",
    "tifffile",
    "openslide-python",
    "av",
    "scikit-image",
)
_OPENGL_SECONDS = 60
_OPENGL_PROBE = """
from qtpy.QtGui import QGuiApplication, QOffscreenSurface, QOpenGLContext
application = QGuiApplication([])
context = QOpenGLContext()
surface = QOffscreenSurface()
surface.create()
if not context.create() or not context.makeCurrent(surface):
    raise SystemExit("no OpenGL context could be made")
version = context.format().version()
print(f"OpenGL {version[0]}.{version[1]} through {application.platformName()}")
"""


@dataclass
class Report:
    """What was found; `problems` says what to do, one sentence each, and is empty when all is well."""

    versions: dict[str, str] = field(default_factory=dict)
    devices: dict[str, Any] = field(default_factory=dict)
    backends: dict[str, str] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)
    codecs: dict[str, bool] = field(default_factory=dict)
    slides: str = ""
    opengl: str = ""
    bundle_folders: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the main job works here."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": self.ok, **self.__dict__}

    def lines(self) -> list[str]:
        """For people."""
        table = [f"{name:<20} {version}" for name, version in self.versions.items()]
        table.append(f"{'device':<20} {self.devices['default']}: {self.devices['reason']}")
        installed = ", ".join(name for name, state in self.backends.items() if state == "installed")
        table.append(f"{'backends':<20} {installed}")
        ready = sum(state == "can be built" for state in self.networks.values())
        table.append(f"{'networks':<20} {ready} of {len(self.networks)} can be built")
        table.append(f"{'codecs':<20} " + ", ".join(f"{k} {'yes' if v else 'NO'}" for k, v in self.codecs.items()))
        table.append(f"{'slides':<20} {self.slides}")
        table.append(f"{'window':<20} {self.opengl}")
        table.append(f"{'model folders':<20} {', '.join(self.bundle_folders)}")
        table.append(f"{'models':<20} {', '.join(self.models) or 'none'}")
        table += [f"note: {n}" for n in self.notes]
        table += [f"PROBLEM: {p}" for p in self.problems] or ["All is well."]
        return table


def examine() -> Report:
    """Look at everything the plugin needs; takes a few seconds."""
    report = Report()
    _versions(report)
    _devices(report)
    _networks(report)
    _codecs(report)
    _slides(report)
    _opengl(report)
    _models(report)
    return report


def _versions(report: Report) -> None:
    report.versions = {"napari-medseg": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in _LIBRARIES:
        try:
            report.versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            report.problems.append(f"{name} is not installed: run pip install napari-medseg[all].")
    if report.versions.get("torch", "").startswith("2.9."):
        report.problems.append("torch 2.9 runs 3D convolutions many times slower: install another version of torch.")


def _devices(report: Report) -> None:
    import psutil
    import torch

    from napari_medseg.inference.compute.backends import BACKENDS, missing
    from napari_medseg.inference.compute.devices import choose_device
    from napari_medseg.inference.compute.gpu import gpu_findings

    device, found = choose_device(), gpu_findings()
    report.devices = {
        "default": device.name,
        "precision": device.precision,
        "reason": found.reason,
        "gpu": found.details,
        "cpu_threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "cuda": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
    }
    if not found.usable and ("present" in found.reason or "hides" in found.reason):
        report.notes.append(found.reason)
    for backend in BACKENDS:
        if backend != "auto":
            absent = missing(backend)
            report.backends[backend] = absent or "installed"
            if absent is not None and device.name == "cpu":
                report.notes.append(absent)


def _networks(report: Report) -> None:
    from napari_medseg.case import InputError
    from napari_medseg.networks import ARCHITECTURES

    report.networks = {name: entry.missing or "can be built" for name, entry in ARCHITECTURES.items()}
    zoo = [entry for entry in ARCHITECTURES.values() if entry.extra == "zoo"]
    absent = next((entry.missing for entry in zoo if entry.missing), None)
    if absent is not None:
        report.notes.append(f"{len(zoo)} networks cannot be built: {absent}")
        return
    from napari_medseg.networks.torchvision_repair import repair_torchvision

    try:
        repaired = repair_torchvision()
    except InputError as error:
        report.problems.append(str(error))
    else:
        report.notes += [repaired] if repaired else []


def _codecs(report: Report) -> None:
    from napari_medseg.io.dicom.codecs import readable

    report.codecs = {f"DICOM {name}": there for name, there in readable().items()}
    report.codecs["video H.264"] = _video_codec("h264")
    for name, there in report.codecs.items():
        if not there:
            report.problems.append(f"{name} cannot be read: run pip install napari-medseg[all] again.")


def _video_codec(name: str) -> bool:
    from av import codec

    return name in codec.codecs_available


def _slides(report: Report) -> None:
    try:
        import openslide
    except (ImportError, OSError) as error:
        report.problems.append(f"Whole slides cannot be read ({error}): run pip install openslide-bin.")
        report.slides = "not available"
    else:
        report.slides = f"OpenSlide {openslide.__library_version__}"


def _opengl(report: Report) -> None:
    """Try OpenGL in a process of its own: a broken driver ends the process that asks."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        report.opengl = "no display; napari-medseg demo --headless DIR works off screen"
        report.notes.append("No display was found: the window needs one, the other commands do not.")
        return
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _OPENGL_PROBE], capture_output=True, text=True, timeout=_OPENGL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        report.opengl = "not working"
        report.problems.append(f"OpenGL did not answer within {_OPENGL_SECONDS} s: update the graphics driver.")
        return
    if probe.returncode == 0:
        report.opengl = probe.stdout.strip()
    else:
        said = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        report.opengl = "not working"
        report.problems.append(
            f"No OpenGL window can be opened ({said}): on Debian or Ubuntu run "
            "apt-get install libgl1 libegl1 libgl1-mesa-dri libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1."
        )


def _models(report: Report) -> None:
    from napari_medseg.bundles import list_bundles
    from napari_medseg.bundles.find import bundle_folders

    report.bundle_folders = [f"{source}: {folder}" for source, folder in bundle_folders()]
    for entry in list_bundles():
        if entry.warning:
            report.notes.append(f"Model {entry.id} cannot be used by this id: {entry.warning}")
        else:
            report.models.append(entry.id)
    if not report.models:
        report.problems.append("No model was found: reinstall napari-medseg, which brings two.")
