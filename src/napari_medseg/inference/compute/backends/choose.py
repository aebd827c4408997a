"""Which backend computes, decided by what is asked for, what is faster here, and what agrees with torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from napari_medseg.bundles.model import Model
from napari_medseg.case import InputError, MedsegError
from napari_medseg.inference.compute.backends import onnx_runner, openvino_runner
from napari_medseg.inference.compute.backends.cache import BackendCache, decision_key, export_key
from napari_medseg.inference.compute.backends.runner import Agreement, BackendError, Runner, compare
from napari_medseg.inference.compute.backends.torch_runner import TorchRunner
from napari_medseg.inference.compute.devices import Device
from napari_medseg.jobs import Progress

BACKENDS = ("auto", "torch", "openvino", "onnx")

LABELS_EQUAL = 0.999
"""Share of labels that an exported network in fp32 must have in common with torch."""

_PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime")}
_ALL_PACKAGES = tuple(name for names in _PACKAGES.values() for name in names)
_TOGETHER = "torch channels-last"
_TORCH = ("torch", _TOGETHER)
_TIMED_RUNS = 3
# No candidate is timed for longer than this once it has run for the first time, ...
_SECONDS = 10.0
# ... nor at all if its first run took this long and twice the time of the fastest so far.
_LONG_RUN, _HOPELESS = 0.25, 2.0

Clock = Callable[[], float]
Build = Callable[[], tuple[Runner, str]]
"""Makes a runner; with it comes a sentence about its making, mostly empty."""


@dataclass(frozen=True)
class Choice:
    """What computes, and why.

    Parameters
    ----------
    runner, backend, precision
        What was chosen; its backend and the precision it computes in.
    reason
        Why, in a sentence or a few.
    milliseconds
        Median time of the first tiles with each candidate, by its name; empty where nothing was measured.
    tiles
        How many tiles those were.
    agreement
        ``max_difference`` and ``label_agreement`` against torch in fp32 (see `Agreement`); ``None`` for torch.
    """

    runner: Runner
    backend: str
    precision: str
    reason: str
    milliseconds: dict[str, float]
    tiles: int
    agreement: dict[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            "backend": self.backend,
            "precision": self.precision,
            "reason": self.reason,
            "milliseconds": dict(self.milliseconds),
            "tiles": self.tiles,
            "agreement": None if self.agreement is None else dict(self.agreement),
        }


def missing(backend: str) -> str | None:
    """Why `backend` cannot be used here and what installs it, as one sentence; ``None`` if it is installed."""
    absent = [name for name in _PACKAGES.get(backend, ()) if find_spec(name) is None]
    if not absent:
        return None
    return f'Backend {backend} needs {" and ".join(absent)}; install it with pip install "napari-medseg[{backend}]".'


def choose_runner(
    model: Model,
    network: torch.nn.Module,
    device: Device,
    backend: str,
    first_tiles: torch.Tensor,
    *,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> Choice:
    """What runs `network` on `device`.

    Parameters
    ----------
    model
        Says how maps become labels; its SHA-256 names the weights that `network` holds.
    network
        In evaluation mode and already on the device.
    backend
        ``"torch"``; ``"openvino"`` or ``"onnx"``, used only if it agrees with torch; ``"auto"``: on a processor in
        fp32 the fastest that agrees, elsewhere torch.
    first_tiles
        Tiles ``(n, c_in, *tile)`` of the image itself, as they will be given to the runner.
    clock
        Gives seconds.

    Raises
    ------
    InputError
        If the backend is not known, not installed, or cannot compute on this device in this precision.
    MedsegError
        If the backend that was asked for fails on this network or does not agree with torch.
    CancelledError
        Within one candidate of the request.
    """
    if backend not in BACKENDS:
        raise InputError(f"Backend {backend!r} is not known; accepted are {', '.join(BACKENDS)}.")
    on_processor = device.name == "cpu"
    if backend == "torch":
        return _torch_alone(network, device, first_tiles, "torch was chosen by the user.")
    if backend == "auto" and not on_processor:
        return _torch_alone(network, device, first_tiles, f"torch computes on {device.name}.")
    if backend == "auto" and device.precision != "fp32":
        why = f"torch computes in {device.precision}; other backends are chosen by themselves in fp32 only."
        return _torch_alone(network, device, first_tiles, why)
    progress = progress or Progress()
    if backend == "auto":
        return _fastest(model, network, device, first_tiles, progress, clock)
    if not on_processor:
        raise InputError(
            f"Backend {backend} computes on the processor and the device is {device.name}; "
            f"choose the device cpu or the backend torch."
        )
    accepted = ("fp32",) if backend == "onnx" else ("fp32", "bf16")
    if device.precision not in accepted:
        raise InputError(
            f"Backend {backend} does not compute in {device.precision}; accepted is {' or '.join(accepted)}."
        )
    if (sentence := missing(backend)) is not None:
        raise InputError(sentence)
    return _as_asked(model, network, device, backend, first_tiles, progress)


def candidates(model: Model, network: torch.nn.Module, device: Device, tiles: torch.Tensor) -> dict[str, Build]:
    """What can run `network` on a processor in fp32, by name; ``"torch"`` is among them."""
    # ONNX Runtime was slower than OpenVINO on every network measured, and exporting costs seconds
    exported = next((b for b in ("openvino", "onnx") if missing(b) is None), None)
    builds: dict[str, Build] = {}
    if exported is not None:
        builds[exported] = partial(_exported, exported, model, network, device, tiles)
    builds[_TOGETHER] = lambda: (TorchRunner(network, device, channels_last=True), "")
    builds["torch"] = lambda: (TorchRunner(network, device), "")
    return builds


def _torch_alone(network: torch.nn.Module, device: Device, tiles: torch.Tensor, reason: str) -> Choice:
    return Choice(TorchRunner(network, device), "torch", device.precision, reason, {}, len(tiles), None)


def _as_asked(
    model: Model, network: torch.nn.Module, device: Device, backend: str, tiles: torch.Tensor, progress: Progress
) -> Choice:
    progress.begin(2, f"preparing {backend}")
    started = _start(backend, partial(_exported, backend, model, network, device, tiles), tiles, time.perf_counter)
    progress.advance()
    reference = TorchRunner(network, replace(device, precision="fp32"))(tiles)
    agreement = _agreement(started, tiles, reference, model)
    progress.advance()
    if device.precision == "fp32" and agreement.label_agreement < LABELS_EQUAL:
        raise BackendError(f"{_refusal(backend, model, agreement)}; choose the backend torch or auto.")
    said = [f"{backend} was chosen by the user; against torch {agreement}.", started.note]
    runner = started.runner
    if runner.precision != device.precision:
        said.append(f"This processor does not compute in {device.precision}, so {runner.precision} is used.")
    reason = " ".join(s for s in said if s)
    return Choice(runner, backend, runner.precision, reason, {}, len(tiles), agreement.to_dict())


def _fastest(
    model: Model,
    network: torch.nn.Module,
    device: Device,
    tiles: torch.Tensor,
    progress: Progress,
    clock: Clock,
) -> Choice:
    builds = candidates(model, network, device, tiles)
    cache, key = BackendCache.of(model), decision_key(model, tiles, _ALL_PACKAGES, list(builds))
    said: list[str] = []
    name, times = _kept(cache.decision(key))
    why = f"{name} was the fastest when this was measured before ({_listed(times, len(tiles))})"
    if name in _TORCH:
        return _choice(builds[name]()[0], why, None, said, times, tiles)
    if name in builds:
        progress.begin(1, "checking the backend")
        try:
            started = _start(name, builds[name], tiles, clock)
            agreement = _accepted(name, started, tiles, builds["torch"]()[0](tiles), model)
            progress.advance()
            return _choice(started.runner, why, agreement, [started.note], times, tiles)
        except BackendError as error:
            said.append(str(error))
            del builds[name]
    times = {}
    running: dict[str, _Started] = {}
    progress.begin(len(builds), "measuring backends")
    for name, build in builds.items():
        try:
            started = _start(name, build, tiles, clock)
        except BackendError as error:
            said.append(str(error))
        else:
            best = min(times.values(), default=None)
            running[name] = started
            times[name] = round(_milliseconds(partial(started.runner, tiles), started.seconds, best, clock), 3)
            said.append(started.note)
        progress.advance()
    for name in sorted(times, key=lambda n: times[n]):
        try:
            agreement = _accepted(name, running[name], tiles, running["torch"].maps, model)
        except BackendError as error:
            said.append(str(error))
            continue
        said.append(cache.keep_decision(key, {"candidate": name, "milliseconds": times}))
        why = f"{name} is the fastest that agrees ({_listed(times, len(tiles))})"
        return _choice(running[name].runner, why, agreement, said, times, tiles)
    raise AssertionError("torch always agrees with itself")


def _kept(decision: Mapping[str, Any] | None) -> tuple[str, dict[str, float]]:
    """Name and times of a kept decision; no name where there is none."""
    decision = decision or {}
    times = decision.get("milliseconds")
    if not isinstance(times, dict) or not all(isinstance(t, int | float) for t in times.values()):
        return "", {}
    return str(decision.get("candidate", "")), {str(n): float(t) for n, t in times.items()}


def _choice(
    runner: Runner,
    why: str,
    agreement: Agreement | None,
    said: list[str],
    times: dict[str, float],
    tiles: torch.Tensor,
) -> Choice:
    sentences = [f"{why}{'' if agreement is None else f': {agreement}'}.", *said]
    reason = " ".join(s for s in sentences if s)
    numbers = None if agreement is None else agreement.to_dict()
    return Choice(runner, runner.backend, runner.precision, reason, times, len(tiles), numbers)


def _exported(
    backend: str, model: Model, network: torch.nn.Module, device: Device, tiles: torch.Tensor
) -> tuple[Runner, str]:
    """A runner of the kept export of `network`, or of a new one, and what happened to it."""
    room = {"openvino": openvino_runner, "onnx": onnx_runner}[backend]
    make = partial(room.export, network, tiles[:1])
    files, note = BackendCache.of(model).files(
        backend, export_key(model, tiles, _PACKAGES[backend]), room.SUFFIXES, make
    )
    if backend == "onnx":
        return onnx_runner.OnnxRunner(files), note
    return openvino_runner.OpenVinoRunner(files, device.precision), note


@dataclass(frozen=True, eq=False)
class _Started:
    """A runner after its first run: the maps and seconds of that run, and what was said of its making."""

    runner: Runner
    maps: torch.Tensor
    seconds: float
    note: str


def _start(name: str, build: Build, tiles: torch.Tensor, clock: Clock) -> _Started:
    """Make a runner and run it once; what an exported network cannot do comes out here as a `BackendError`."""

    def first_run() -> _Started:
        runner, note = build()
        began = clock()
        maps = runner(tiles)
        return _Started(runner, maps, clock() - began, note)

    if name in _TORCH:
        return first_run()
    try:
        return first_run()
    except MedsegError:
        raise
    except Exception as error:
        # exporters and compilers raise errors of every kind
        first = (str(error).strip().splitlines() or [""])[0][:200].rstrip(".")
        raise BackendError(f"{name} cannot run this network ({type(error).__name__}: {first}).") from error


def _agreement(started: _Started, tiles: torch.Tensor, reference: torch.Tensor, model: Model) -> Agreement:
    """The worse of all tiles at once and of the last one alone, because a run ends with fewer than it began."""
    runner = started.runner
    found = [compare(started.maps, reference, model, runner.backend)]
    if len(tiles) > 1:
        found.append(compare(runner(tiles[-1:]), reference[-1:], model, runner.backend))
    return Agreement(max(a.max_difference for a in found), min(a.label_agreement for a in found))


def _accepted(
    name: str, started: _Started, tiles: torch.Tensor, reference: torch.Tensor, model: Model
) -> Agreement | None:
    """How near a candidate is to torch, near enough; ``None`` for torch itself."""
    if name in _TORCH:
        return None
    agreement = _agreement(started, tiles, reference, model)
    if agreement.label_agreement < LABELS_EQUAL:
        raise BackendError(f"{_refusal(name, model, agreement)}.")
    return agreement


def _refusal(name: str, model: Model, agreement: Agreement) -> str:
    needed = f"{100 * LABELS_EQUAL:g} % are needed"
    return f"{name} does not agree with torch on model {model.card.id}: {agreement}, where {needed}"


def _milliseconds(run: Callable[[], torch.Tensor], first: float, best: float | None, clock: Clock) -> float:
    """Median time of a few runs after one that took `first` seconds; that one where more are long or hopeless."""
    if first > _SECONDS or (best is not None and first > _LONG_RUN and 1000 * first > _HOPELESS * best):
        return 1000 * first
    spent: list[float] = []
    while len(spent) < _TIMED_RUNS and sum(spent) < _SECONDS:
        began = clock()
        run()
        spent.append(clock() - began)
    return 1000 * statistics.median(spent)


def _listed(times: Mapping[str, float], tiles: int) -> str:
    each = ", ".join(f"{name} {times[name]:.0f} ms" for name in sorted(times, key=lambda n: times[n]))
    return f"{each} for {tiles} tile{'s' * (tiles != 1)}"
