"""What computes a task: device, precision, backend, and the ladder for when memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from napari_medseg.case import InputError
from napari_medseg.inference.compute.backends import Choice, TorchRunner, choose_runner
from napari_medseg.inference.compute.devices import Device, choose_device
from napari_medseg.inference.compute.ladder import Ladder
from napari_medseg.inference.task import Task
from napari_medseg.inference.tiles.engine import Forward, rearrange
from napari_medseg.jobs import Progress

# measuring and compiling take about as long as this many passes
_WORTH_MEASURING = 12
# maps of the first tiles that are held at a time while two backends are compared
_COPIES_COMPARED = 8


@dataclass(frozen=True, eq=False)
class Compute:
    """A network that is ready to run.

    Parameters
    ----------
    forward
        Maps of tiles.
    device, choice
        Where and with what it computes, and why.
    """

    forward: Forward
    device: Device
    choice: Choice

    def header(self) -> dict[str, Any]:
        """What of it decides the labels, for the ledger."""
        runner = self.choice.runner
        return {
            "channels_last": isinstance(runner, TorchRunner) and runner.channels_last,
            "device": self.device.name.split(":")[0],
            "precision": self.choice.precision,
            "backend": self.choice.backend,
        }


def resolve_device(task: Task, recorded: Mapping[str, Any] | None) -> Device:
    """The device and precision that were asked for; those of the run that is resumed where anything goes.

    Raises
    ------
    InputError
        If the device is not there.
    """
    options = task.options
    if recorded is None:
        return choose_device(options.device, options.precision)
    device = str(recorded["device"]) if options.device == "auto" else options.device
    precision = str(recorded["precision"]) if options.precision == "auto" else options.precision
    try:
        return choose_device(device, precision)
    except InputError as error:
        raise InputError(f"The unfinished run was made on {recorded['device']}. {error}") from error


def prepare(
    task: Task,
    device: Device,
    *,
    progress: Progress,
    said: Callable[[str], None],
    recorded: Mapping[str, Any] | None = None,
) -> Compute:
    """Load the network and choose what runs it.

    Parameters
    ----------
    recorded
        What the run that is resumed computed with; its backend is taken again.
    said
        Called with one sentence for every step up the ladder.

    Raises
    ------
    InputError
        If the backend is not installed or does not fit the device.
    MedsegError
        If the backend that was asked for does not agree with torch.
    """
    model = task.model
    progress.begin(1, "loading the model")
    network = model.network().to(device.name)
    if device.name.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device.name)
    backend = task.options.backend
    if backend == "auto" and recorded is not None:
        backend = str(recorded["backend"])
    channels_last = recorded is not None and bool(recorded["channels_last"])
    choice = _choice(task, network, device, backend, channels_last, progress)
    torch_here = isinstance(choice.runner, TorchRunner)

    def half() -> TorchRunner:
        return TorchRunner(network, replace(device, precision="bf16" if device.name == "cpu" else "fp16"))

    def on_cpu() -> TorchRunner:
        return TorchRunner(model.network(), Device("cpu", "fp32", "the device had no room"))

    ladder = Ladder(
        choice.runner,
        half=half if torch_here and device.precision == "fp32" else None,
        on_cpu=None if device.name == "cpu" else on_cpu,
        divisible_by=model.divisible_by,
        key=f"{device.name} {model.card.id} {model.sha256}",
        said=said,
    )
    return Compute(Forward(ladder, task.grid.to_network, task.mirrored), device, choice)


def _choice(
    task: Task, network: torch.nn.Module, device: Device, backend: str, channels_last: bool, progress: Progress
) -> Choice:
    if backend == "torch":
        reason = "torch was chosen by the user." if task.options.backend == "torch" else "torch, as before."
        return Choice(
            TorchRunner(network, device, channels_last=channels_last), "torch", device.precision, reason, {}, 0, None
        )
    if task.model.whole:
        if backend != "auto":
            raise InputError(
                f"Model {task.model.card.id} is computed by torch alone; choose the backend torch or auto."
            )
        reason = "Torch, because this model is no network that could be exported."
        return Choice(TorchRunner(network, device), "torch", device.precision, reason, {}, 0, None)
    batches = -(-len(task.plan) * len(task.planes) // task.batch_size)
    if backend == "auto" and batches < _WORTH_MEASURING:
        reason = f"Torch, because choosing a backend would not pay for so few passes ({batches})."
        return Choice(TorchRunner(network, device), "torch", device.precision, reason, {}, 0, None)
    limit, maps = task.options.max_memory, 4 * task.model.out_channels * math.prod(task.plan.tile) * task.batch_size
    if backend == "auto" and limit is not None and _COPIES_COMPARED * maps > limit:
        reason = "Torch, because comparing another backend with it would take more memory than is allowed."
        return Choice(TorchRunner(network, device), "torch", device.precision, reason, {}, 0, None)
    return choose_runner(task.model, network, device, backend, _first_tiles(task), progress=progress)


def _first_tiles(task: Task) -> torch.Tensor:
    """A batch of tiles of the task, from its middle, as the network sees them."""
    frame, plane = task.planes[len(task.planes) // 2]
    plan = task.plan
    wanted = task.wanted(frame)
    slabs = plan.slabs
    order = sorted(range(len(slabs)), key=lambda k: abs(k - len(slabs) // 2))
    starts: list[tuple[int, ...]] = []
    for k in order:
        starts += [s for s in plan.in_slab(slabs[k]) if wanted is None or wanted(s)]
        if len(starts) >= task.batch_size:
            break
    if not starts:
        starts = [next(plan.in_slab(slabs[0]))]
    middle = max(0, (len(starts) - task.batch_size) // 2)
    tiles = task.source(frame, plane).batch(starts[middle : middle + task.batch_size])[1]
    return rearrange(tiles, task.grid.to_network)
