"""What a resumed run computes with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_medseg.case import Geometry, MedicalImage, Modality
from napari_medseg.inference import SegmentOptions
from napari_medseg.inference.compute import prepare as prepare_module
from napari_medseg.inference.compute.backends import Choice, TorchRunner
from napari_medseg.inference.compute.devices import Device
from napari_medseg.inference.task import Task
from napari_medseg.jobs import Progress
from tests.inference.fakes import Threshold, make_model

CPU = Device("cpu", "fp32", "asked for")


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_resumed_run_lays_its_tiles_out_as_before(channels_last: bool, monkeypatch, tmp_path: Path) -> None:
    """Another layout rounds otherwise: labels would depend on where the run had stopped."""
    geometry = Geometry.from_spacing((80, 80), (1.0, 1.0), "mm")
    pixels = np.random.default_rng(0).random((80, 80), dtype=np.float32)
    image = MedicalImage((pixels,), "yx", geometry, Modality.OT, "arbitrary", name="noise")
    task = Task(image, make_model(Threshold(), channels=1), SegmentOptions(device="cpu", backend="auto"))

    def fastest(model, network, device, backend, tiles, *, progress):
        return Choice(TorchRunner(network, device, channels_last=channels_last), "torch", "fp32", "", {}, 1, None)

    monkeypatch.setattr(prepare_module, "choose_runner", fastest)
    monkeypatch.setattr(prepare_module, "_WORTH_MEASURING", 0)
    first = prepare_module.prepare(task, CPU, progress=Progress(), said=lambda _: None)
    monkeypatch.setattr(prepare_module, "choose_runner", None)
    again = prepare_module.prepare(task, CPU, progress=Progress(), said=lambda _: None, recorded=first.header())
    assert again.header() == first.header()
    seen: list[bool] = []

    def look(_, arguments) -> None:
        seen.append(arguments[0].is_contiguous(memory_format=torch.channels_last))

    runner = again.choice.runner
    assert isinstance(runner, TorchRunner)
    runner._network.register_forward_pre_hook(look)
    runner(torch.rand(2, 3, 8, 8))
    assert seen == [channels_last]
