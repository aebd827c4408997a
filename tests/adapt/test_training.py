"""The loop learns, averages, keeps its record, and gives the same weights for the same seed."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_medseg.adapt.training import Trainer, export_weights
from napari_medseg.case import InputError, MedsegError


def line_batches(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        x = torch.rand(16, 1, generator=generator)
        yield {"image": x, "label": 3 * x - 1}


class _Batches:
    def __iter__(self):
        return line_batches(7)


def trainer(directory, **more):
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    settings = {"steps": 400, "learning_rate": 0.05, "ema_decay": 0.9, "bf16": False, "save_every": 150, **more}
    return Trainer(network, _Batches(), torch.nn.functional.mse_loss, directory=directory, **settings)


def test_a_line_is_learned_by_the_averaged_weights(tmp_path):
    run = trainer(tmp_path / "run", score=lambda n: {"training": float(n.training)})
    path = run.run()
    assert path == tmp_path / "run" / "model.safetensors"
    x = torch.linspace(0.1, 0.9, 9)[:, None]
    assert (run.average(x) - (3 * x - 1)).abs().max() < 0.1
    stored = load_file(path)
    assert stored.keys() == run.average.state_dict().keys()
    assert all(torch.equal(stored[k], v) for k, v in run.average.state_dict().items())
    assert int(stored["1.num_batches_tracked"]) == 400
    lines = [json.loads(line) for line in (tmp_path / "run" / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [150, 300, 400]
    assert lines[-1]["loss"] < lines[0]["loss"] < 2
    assert all(line["training"] == 0.0 for line in lines)
    assert not list((tmp_path / "run").glob("*.partial"))


def test_one_seed_gives_one_result(tmp_path):
    a, b = (load_file(trainer(tmp_path / n, steps=20).run()) for n in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_stopping_early_gives_the_weights_of_that_step(tmp_path):
    stopped = load_file(trainer(tmp_path / "a", steps=40, stop_after=20, save_every=15).run())
    run = trainer(tmp_path / "b", steps=40, save_every=20)
    seen = []
    run.score = lambda network: seen.append({k: v.clone() for k, v in network.state_dict().items()}) or {}
    run.run()
    assert all(torch.equal(stopped[k], seen[0][k]) for k in stopped)
    steps = [json.loads(line)["step"] for line in (tmp_path / "a" / "progress.jsonl").read_text().splitlines()]
    assert steps == [15, 20]


def test_training_may_go_on_from_stored_weights(tmp_path):
    first = trainer(tmp_path / "a", steps=200)
    path = first.run()
    run = trainer(tmp_path / "b", steps=1, learning_rate=0.0, start=path)
    assert not torch.equal(run.network[0].weight, first.average[0].weight)
    run.run()
    assert torch.equal(run.network[0].weight, first.average[0].weight)
    assert torch.equal(run.average[2].weight, first.average[2].weight)


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_last_checkpoint(tmp_path):
    run = trainer(tmp_path / "run", steps=40, save_every=10)
    fine, calls = run.loss, []

    def overflowing(output, label):
        calls.append(1)
        return fine(output, label) * (math.nan if len(calls) == 15 else 1)

    run.loss = overflowing
    with pytest.raises(MedsegError, match="nan at step 15: a smaller learning rate"):
        run.run()
    assert all(v.isfinite().all() for v in load_file(tmp_path / "run" / "model.safetensors").values())


def test_bfloat16_and_threads_are_accepted(tmp_path):
    before = torch.get_num_threads()
    try:
        assert trainer(tmp_path, steps=3, bf16=True, threads=1).run().is_file()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_rate_rises_then_falls_along_a_cosine(tmp_path):
    run = trainer(tmp_path, steps=1000, learning_rate=0.1)
    assert run.rate(0) == pytest.approx(0.1 / 30)
    assert run.rate(29) == pytest.approx(0.1)
    assert run.rate(30 + 485) == pytest.approx(0.05)
    assert run.rate(999) == pytest.approx(0.05 * (1 + math.cos(math.pi * 969 / 970)))


def test_exported_weights_are_half_as_large_except_statistics(tmp_path):
    state = {
        "a.weight": torch.randn(50, 50),
        "n.running_var": torch.tensor([1e6]),
        "n.num_batches_tracked": torch.tensor(3),
    }
    save_file(state, tmp_path / "full.safetensors")
    export_weights(tmp_path / "full.safetensors", tmp_path / "half.safetensors")
    half = load_file(tmp_path / "half.safetensors")
    assert half["a.weight"].dtype == torch.float16
    assert torch.allclose(half["a.weight"].float(), state["a.weight"], atol=2e-3)
    assert half["n.running_var"].item() == 1e6
    assert half["n.num_batches_tracked"].item() == 3
    save_file({"a.weight": torch.tensor([1e6])}, tmp_path / "full.safetensors")
    with pytest.raises(InputError, match=r"a\.weight holds 1e\+06"):
        export_weights(tmp_path / "full.safetensors", tmp_path / "half.safetensors")
