"""Backends: they give what torch gives, the right one is chosen, and exports are kept and checked."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_medseg.bundles.instances import DistanceDecoder
from napari_medseg.bundles.load import load_model
from napari_medseg.case import CancelledError, InputError, MedsegError
from napari_medseg.inference.compute.backends import (
    BackendError,
    TorchRunner,
    choose_runner,
    compare,
    onnx_runner,
    openvino_runner,
)
from napari_medseg.inference.compute.backends import cache as keeping
from napari_medseg.inference.compute.backends import choose as choosing
from napari_medseg.inference.compute.backends.cache import cache_folder
from napari_medseg.inference.compute.devices import Device
from napari_medseg.jobs import Progress
from tests.inference.fakes import Identity, Threshold, make_model

CPU = Device("cpu", "fp32", "for tests")
EXPORTS = {
    "openvino": (openvino_runner, ("openvino",)),
    "onnx": (onnx_runner, ("onnx", "onnxruntime")),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "backends"


class Small(torch.nn.Module):
    """Two maps of one channel: a convolution with fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convolution = torch.nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.convolution(tiles))


def small(**changes):
    """A model, its network and three different tiles; `sha256` makes it one that is kept on disk."""
    network = Small().eval()
    model = make_model(network, **changes)
    return model, network, torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def bundle(request, tmp_path_factory):
    """A real bundle, its network and tiles that look like what it was made for."""
    model = load_model(request.param)
    if model.spatial_dims == 2:
        from skimage.data import immunohistochemistry

        picture = torch.from_numpy(immunohistochemistry().astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
        tiles = torch.stack([picture[:, k : k + 128, k : k + 128] for k in (0, 100, 300)])
    else:
        noise = torch.randn(3, 1, 32, 48, 32, generator=torch.Generator().manual_seed(0))
        tiles = torch.nn.functional.avg_pool3d(noise, 5, stride=1, padding=2) * 5
    return model, model.network(), tiles, tmp_path_factory.mktemp("exports")


def labels(maps: torch.Tensor, model) -> np.ndarray:
    """Decisions by numpy alone: the largest map, or which logits are above 0 for objects."""
    values = maps.numpy()
    return values > 0 if model.instances is not None else values.argmax(1)


@pytest.mark.parametrize("backend", EXPORTS)
@pytest.mark.parametrize("bundle", ["he_nuclei", "mr_hippocampus"], indirect=True)
def test_an_exported_bundle_gives_what_torch_gives_for_any_number_of_tiles(bundle, backend, monkeypatch):
    for package in EXPORTS[backend][1]:
        pytest.importorskip(package)
    model, network, tiles, folder = bundle
    monkeypatch.setenv("MEDSEG_CACHE", str(folder))
    choice = choose_runner(model, network, CPU, backend, tiles)
    assert (choice.backend, choice.precision) == (backend, "fp32")
    with torch.inference_mode():
        expected = network(tiles)
    earlier = []
    for count in (3, 1, 2, 3, 1):
        maps = choice.runner(tiles[:count])
        assert maps.dtype == torch.float32
        assert maps.device.type == "cpu"
        np.testing.assert_allclose(maps.numpy(), expected[:count].numpy(), atol=5e-3, rtol=1e-3)
        assert np.mean(labels(maps, model) == labels(expected[:count], model)) > 0.9995
        earlier.append(maps)
    # the same tiles give the same bytes, and no later call wrote to what an earlier one returned
    assert earlier[0].numpy().tobytes() == earlier[3].numpy().tobytes()
    assert earlier[1].numpy().tobytes() == earlier[4].numpy().tobytes()
    assert choice.agreement["label_agreement"] >= 0.999
    assert 0 < choice.agreement["max_difference"] < 5e-3


@pytest.mark.parametrize("backend", EXPORTS)
def test_neither_maps_nor_tiles_are_written_to_by_a_later_call(backend):
    for package in EXPORTS[backend][1]:
        pytest.importorskip(package)
    model, network, tiles = small()
    runner = choose_runner(model, network, CPU, backend, tiles).runner
    first_tiles, second_tiles = tiles.clone(), tiles.flip(0).clone() + 1
    first = runner(first_tiles)
    before = first.clone()
    for _ in range(3):
        second = runner(second_tiles)
    assert torch.equal(first, before)
    assert not torch.allclose(first, second)
    assert torch.equal(first_tiles, tiles)
    assert torch.equal(second_tiles, tiles.flip(0) + 1)
    with torch.inference_mode():
        np.testing.assert_allclose(second, network(second_tiles), atol=1e-5)


def test_tiles_that_lie_otherwise_in_memory_are_read_right():
    model, network, tiles = small()
    runner = choose_runner(model, network, CPU, "openvino", tiles).runner
    for _ in range(3):
        turned = torch.rand(3, 1, 8, 8).transpose(2, 3)
        with torch.inference_mode():
            np.testing.assert_allclose(runner(turned), network(turned), atol=1e-5)


def test_more_batch_sizes_than_are_kept_compiled():
    model, network, _ = small()
    tiles = torch.rand(7, 1, 8, 8)
    runner = choose_runner(model, network, CPU, "openvino", tiles).runner
    for count in (*range(1, 8), 1):
        with torch.inference_mode():
            np.testing.assert_allclose(runner(tiles[:count]), network(tiles[:count]), atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_torch_gives_float32_in_plain_layout_and_leaves_the_network_alone(channels_last):
    class Probe(Small):
        def forward(self, tiles):
            self.together = tiles.is_contiguous(memory_format=torch.channels_last)
            return super().forward(tiles)

    network = Probe().eval()
    # with two channels or more the layouts differ
    network.convolution = torch.nn.Conv2d(4, 2, 3, padding=1)
    strides = network.convolution.weight.stride()
    tiles = torch.rand(2, 4, 8, 8)
    maps = TorchRunner(network, CPU, channels_last=channels_last)(tiles)
    assert network.together is channels_last
    assert network.convolution.weight.stride() == strides
    assert maps.is_contiguous()
    with torch.inference_mode():
        np.testing.assert_allclose(maps, network(tiles), atol=1e-6)
    half = TorchRunner(network, replace(CPU, precision="bf16"), channels_last=channels_last)
    assert half.precision == "bf16"
    assert half(tiles).dtype == torch.float32
    # 8 bits of a number are kept, so it is near but not the same
    assert 0 < float((half(tiles) - maps).abs().max()) < 0.05


def test_channels_last_in_three_dimensions():
    network = torch.nn.Conv3d(2, 3, 3, padding=1)
    tiles = torch.rand(1, 2, 6, 5, 4)
    with torch.inference_mode():
        np.testing.assert_allclose(TorchRunner(network, CPU, channels_last=True)(tiles), network(tiles), atol=1e-6)


def test_agreement_of_classes_is_the_share_of_equal_winners():
    model = make_model(Identity())
    reference = torch.zeros(1, 2, 2, 5)
    reference[:, 1] = 1.0
    maps = reference.clone()
    maps[0, 1, 1, 3] = -0.5  # one of ten voxels changes its winner, by 1.5
    maps[0, 1, 0, 0] = 0.75  # this one does not
    found = compare(maps, reference, model, "openvino")
    assert found.to_dict() == {"max_difference": 1.5, "label_agreement": pytest.approx(0.9)}


def test_agreement_looks_at_the_threshold():
    model = make_model(Identity(), activation="sigmoid", threshold=0.8)  # a logit of ln 4 = 1.386
    reference = torch.full((1, 1, 2, 2), 1.5)
    maps = reference.clone()
    maps[0, 0, 0, 0] = 1.3
    assert compare(maps, reference, model, "openvino").label_agreement == 0.75
    assert compare(maps, reference, replace(model, threshold=0.5), "openvino").label_agreement == 1.0


def test_agreement_of_objects_needs_every_map_on_the_same_side_of_one_half():
    model = make_model(Identity(), activation="sigmoid", instances=DistanceDecoder(), out_channels=3)
    reference = torch.full((2, 3, 1, 4), 0.1)
    reference[:, 0] = 3.0
    maps = reference.clone()
    maps[0, 2, 0, 1] = -0.1  # the winner is the same, the third map is not
    maps[0, 1, 0, 1] = -0.1  # a second map of the same voxel
    assert compare(maps, reference, model, "openvino").label_agreement == pytest.approx(7 / 8)


def test_values_that_are_no_numbers_and_other_shapes_never_agree():
    model, reference = make_model(Identity()), torch.zeros(1, 2, 4, 4)
    maps = reference.clone()
    maps[0, 0, 0, 0] = torch.nan
    with pytest.raises(BackendError, match="no numbers where torch gave numbers"):
        compare(maps, reference, model, "openvino")
    with pytest.raises(BackendError, match=r"shape \(1, 2, 4, 3\)"):
        compare(reference[..., :3], reference, model, "openvino")


def counted(monkeypatch, backend="openvino"):
    """Counts exports; each is a line of the list returned."""
    made, export = [], EXPORTS[backend][0].export

    def counting(network, example):
        made.append(tuple(example.shape))
        return export(network, example)

    monkeypatch.setattr(EXPORTS[backend][0], "export", counting)
    return made


def test_an_export_is_made_once_and_used_again(cache, monkeypatch):
    made = counted(monkeypatch)
    model, network, tiles = small(sha256="a" * 64)
    first = choose_runner(model, network, CPU, "openvino", tiles).runner(tiles)
    again = choose_runner(model, network, CPU, "openvino", tiles)
    assert again.runner(tiles).numpy().tobytes() == first.numpy().tobytes()
    assert len(made) == 1
    assert {p.suffix for p in cache.iterdir()} == {".xml", ".bin", ".json"}
    assert not [p for p in cache.iterdir() if p.name.startswith(".")]
    # what the export depends on
    choose_runner(model, network, CPU, "openvino", tiles[:2])
    assert len(made) == 1
    choose_runner(model, network, CPU, "openvino", tiles[..., :6])
    choose_runner(replace(model, sha256="b" * 64), network, CPU, "openvino", tiles)
    choose_runner(replace(model, network_def={"strides": 2}), network, CPU, "openvino", tiles)
    assert made == [(1, 1, 8, 8), (1, 1, 8, 6), (1, 1, 8, 8), (1, 1, 8, 8)]


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *((suffix, damage) for suffix in (".xml", ".bin") for damage in ("changed", "cut", "gone")),
        # without its record there is no export at all
        (".json", "changed"),
        (".json", "cut"),
    ],
)
def test_a_damaged_export_is_made_again_and_said(cache, monkeypatch, suffix, damage):
    made = counted(monkeypatch)
    model, network, tiles = small(sha256="a" * 64)
    first = choose_runner(model, network, CPU, "openvino", tiles)
    assert "damaged" not in first.reason
    (victim,) = cache.glob(f"*{suffix}")
    content = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(content[: len(content) // 2] + (bytes(len(content) // 2) if damage == "changed" else b""))
    second = choose_runner(model, network, CPU, "openvino", tiles)
    assert "damaged and was made again" in second.reason
    assert second.runner(tiles).numpy().tobytes() == first.runner(tiles).numpy().tobytes()
    assert len(made) == 2
    assert "damaged" not in choose_runner(model, network, CPU, "openvino", tiles).reason
    assert len(made) == 2


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_a_model_made_by_hand_leaves_nothing_on_disk(cache, sha256):
    model, network, tiles = small(sha256=sha256)
    choose_runner(model, network, CPU, "openvino", tiles)
    choose_runner(model, network, CPU, "auto", tiles)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_said_and_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path / "file"))
    model, network, tiles = small(sha256="a" * 64)
    choice = choose_runner(model, network, CPU, "openvino", tiles)
    assert "could not be kept" in choice.reason
    with torch.inference_mode():
        np.testing.assert_allclose(choice.runner(tiles), network(tiles), atol=1e-5)


def test_the_cache_lies_in_the_users_cache_folder_unless_named(monkeypatch, tmp_path):
    import platformdirs

    assert cache_folder() == tmp_path / "cache" / "backends"
    monkeypatch.delenv("MEDSEG_CACHE")
    assert cache_folder() == Path(platformdirs.user_cache_dir("napari-medseg", appauthor=False)) / "backends"


class Fake:
    """Takes `seconds` of a clock of its own for each call and gives what the network gives, plus `error`."""

    precision = "fp32"

    def __init__(self, network, clock, seconds, backend="torch", error=0.0):
        self.network, self.clock, self.seconds, self.backend, self.error = network, clock, seconds, backend, error
        self.calls = []

    def __call__(self, tiles):
        self.clock.now += self.seconds[min(len(self.calls), len(self.seconds) - 1)]
        self.calls.append(len(tiles))
        with torch.inference_mode():
            maps = self.network(tiles)
        return maps if not self.error else torch.cat([maps[:, :1] + self.error, maps[:, 1:]], 1)


class FakeClock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def race(monkeypatch):
    """Runs ``auto`` among fakes: name → (seconds of each call, error), and returns the choice and the fakes."""

    def run(entries, *, sha256="0" * 64, tiles=None, **changes):
        model, network, own = small(sha256=sha256, **changes)
        tiles = own if tiles is None else tiles
        clock, fakes = FakeClock(), {}

        def maker(name, seconds, error):
            def build():
                if isinstance(error, Exception):
                    raise error
                fakes[name] = Fake(network, clock, seconds, name.split()[0], error)
                return fakes[name], ""

            return build

        builds = {name: maker(name, seconds, error) for name, (seconds, error) in entries.items()}
        monkeypatch.setattr(choosing, "candidates", lambda *_: builds)
        return choose_runner(model, network, CPU, "auto", tiles, clock=clock), fakes

    return run


def test_auto_takes_the_fastest_by_the_median_after_a_first_run(race):
    choice, fakes = race(
        {
            # slow at first, and once in between
            "openvino": ([9.0, 0.1, 5.0, 0.2], 0.0),
            "torch channels-last": ([0.2, 0.3], 0.0),
            "torch": ([0.2, 0.25], 0.0),
        }
    )
    assert choice.backend == "openvino"
    assert choice.runner is fakes["openvino"]
    assert choice.milliseconds == {"openvino": 200.0, "torch channels-last": 300.0, "torch": 250.0}
    assert choice.agreement == {"max_difference": pytest.approx(0, abs=1e-6), "label_agreement": 1.0}
    # a first run and three timed ones; then the last tile alone, for the agreement
    assert fakes["openvino"].calls == [3, 3, 3, 3, 1]
    assert fakes["torch"].calls == [3, 3, 3, 3]
    assert "openvino 200 ms, torch 250 ms, torch channels-last 300 ms for 3 tiles" in choice.reason


def test_auto_takes_torch_where_that_is_faster(race):
    choice, fakes = race({"openvino": ([0.3], 0.0), "torch channels-last": ([0.1], 0.0), "torch": ([0.2], 0.0)})
    assert choice.runner is fakes["torch channels-last"]
    assert (choice.backend, choice.agreement) == ("torch", None)


def test_auto_does_not_wait_for_the_hopeless_or_the_endless(race):
    choice, fakes = race({"openvino": ([1.0], 0.0), "torch channels-last": ([6.0], 0.0), "torch": ([1.5], 0.0)})
    assert choice.backend == "openvino"
    assert [len(fakes[n].calls) for n in ("torch channels-last", "torch")] == [1, 4]
    choice, fakes = race({"openvino": ([6.0], 0.0), "torch": ([60.0], 0.0)})
    assert [len(fakes[n].calls) for n in ("openvino", "torch")] == [1 + 2 + 1, 1]
    assert choice.milliseconds == {"openvino": 6000.0, "torch": 60000.0}


def test_auto_passes_over_the_fastest_when_it_disagrees(race):
    choice, fakes = race({"openvino": ([0.1], 0.5), "torch": ([0.2], 0.0)})
    assert choice.runner is fakes["torch"]
    assert "openvino does not agree with torch on model fake" in choice.reason
    assert "differ by up to 0.5" in choice.reason
    assert choice.milliseconds["openvino"] == 100.0


def test_auto_goes_on_without_what_cannot_be_exported_and_says_why(race):
    failure = NotImplementedError("operator aten::odd is not known\nand more")
    choice, _ = race({"openvino": ([0.1], failure), "torch": ([0.2], 0.0)})
    assert choice.backend == "torch"
    assert "openvino cannot run this network (NotImplementedError: operator aten::odd is not known)." in choice.reason
    assert list(choice.milliseconds) == ["torch"]


def test_a_decision_is_kept_but_agreement_is_checked_each_time(race, cache):
    entries = {"openvino": ([0.1], 0.0), "torch": ([0.2], 0.0)}
    first, _ = race(entries, sha256="c" * 64)
    again, fakes = race(entries, sha256="c" * 64)
    assert (again.backend, again.milliseconds) == (first.backend, first.milliseconds)
    assert fakes["openvino"].calls == [3, 1]
    assert fakes["torch"].calls == [3]
    assert again.agreement == {"max_difference": pytest.approx(0, abs=1e-6), "label_agreement": 1.0}
    assert "measured before" in again.reason

    worse, fakes = race({"openvino": ([0.1], 0.5), "torch": ([0.2], 0.0)}, sha256="c" * 64)
    assert worse.runner is fakes["torch"]
    assert "does not agree" in worse.reason
    # torch was measured then, and that is what is kept now
    now, fakes = race(entries, sha256="c" * 64)
    assert (now.backend, now.agreement) == ("torch", None)
    assert fakes["torch"].calls == []


def test_a_decision_holds_for_its_batch_threads_and_weights_only(race, cache, monkeypatch):
    entries = {"openvino": ([0.1], 0.0), "torch": ([0.2], 0.0)}
    race(entries, sha256="c" * 64)
    assert "measured before" in race(entries, sha256="c" * 64)[0].reason
    assert "measured before" not in race(entries, sha256="d" * 64)[0].reason
    assert "measured before" not in race(entries, sha256="c" * 64, tiles=torch.rand(2, 1, 8, 8))[0].reason
    monkeypatch.setattr(torch, "get_num_threads", lambda: 61)
    assert "measured before" not in race(entries, sha256="c" * 64)[0].reason


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"decision": {"candidate": "openvino"}}', b"\xff\xfe"])
def test_an_unreadable_decision_is_measured_again(race, cache, content):
    entries = {"openvino": ([0.1], 0.0), "torch": ([0.2], 0.0)}
    race(entries, sha256="c" * 64)
    (kept,) = cache.glob("decision-*.json")
    kept.write_bytes(content)
    choice, fakes = race(entries, sha256="c" * 64)
    assert "measured before" not in choice.reason
    assert len(fakes["torch"].calls) == 4


def test_auto_with_real_backends_agrees_and_is_plain_json(cache, monkeypatch):
    made = counted(monkeypatch)
    model, network, tiles = small(sha256="e" * 64)
    choice = choose_runner(model, network, CPU, "auto", tiles)
    assert set(choice.milliseconds) == {"openvino", "torch channels-last", "torch"}
    assert min(choice.milliseconds.values()) > 0
    with torch.inference_mode():
        np.testing.assert_allclose(choice.runner(tiles), network(tiles), atol=1e-5)
    record = choice.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["tiles"] == 3
    assert len(made) == 1


def test_onnx_stands_in_where_openvino_is_missing(monkeypatch):
    model, network, tiles = small()
    assert list(choosing.candidates(model, network, CPU, tiles)) == ["openvino", "torch channels-last", "torch"]
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert list(choosing.candidates(model, network, CPU, tiles)) == ["onnx", "torch channels-last", "torch"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert list(choosing.candidates(model, network, CPU, tiles)) == ["torch channels-last", "torch"]


class Liar:
    """Gives the labels of the other class in one voxel of a hundred."""

    backend, precision = "openvino", "fp32"

    def __init__(self, *_):
        self.network = Small().eval()

    def __call__(self, tiles):
        with torch.no_grad():
            maps = self.network(tiles)
        flat = maps.flatten(2)
        flat[:, :, ::100] = flat[:, :, ::100].flip(1)
        return maps


def test_a_backend_that_was_asked_for_and_disagrees_is_refused(monkeypatch):
    monkeypatch.setattr(openvino_runner, "OpenVinoRunner", Liar)
    model, network, _ = small()
    tiles = torch.rand(1, 1, 20, 20)
    with pytest.raises(
        MedsegError, match=r"openvino does not agree .* 99\.000 % .*; choose the backend torch"
    ) as error:
        choose_runner(model, network, CPU, "openvino", tiles)
    assert not isinstance(error.value, InputError)
    # in bf16 a person who asked is told and decides
    told = choose_runner(model, network, replace(CPU, precision="bf16"), "openvino", tiles)
    assert told.agreement["label_agreement"] == pytest.approx(0.99)
    assert "99.000 %" in told.reason


def test_a_backend_that_is_wrong_for_a_single_tile_only_is_refused(monkeypatch):
    class WrongAlone(Liar):
        def __call__(self, tiles):
            with torch.inference_mode():
                maps = self.network(tiles)
            return maps.flip(1) if len(tiles) == 1 else maps

    monkeypatch.setattr(openvino_runner, "OpenVinoRunner", WrongAlone)
    model, network, tiles = small()
    with pytest.raises(BackendError, match="does not agree"):
        choose_runner(model, network, CPU, "openvino", tiles)


def test_a_backend_that_was_asked_for_and_fails_says_why(monkeypatch):
    def fail(network, example):
        raise KeyError("aten::odd")

    monkeypatch.setattr(openvino_runner, "export", fail)
    model, network, tiles = small()
    with pytest.raises(BackendError, match=r"openvino cannot run this network \(KeyError: 'aten::odd'\)"):
        choose_runner(model, network, CPU, "openvino", tiles)


@pytest.mark.parametrize(("backend", "package"), [("openvino", "openvino"), ("onnx", "onnx"), ("onnx", "onnxruntime")])
def test_a_missing_library_comes_with_the_line_that_installs_it(monkeypatch, backend, package):
    monkeypatch.setitem(sys.modules, package, None)
    model, network, tiles = small()
    with pytest.raises(InputError) as error:
        choose_runner(model, network, CPU, backend, tiles)
    assert f"needs {package};" in str(error.value)
    assert f'pip install "napari-medseg[{backend}]"' in str(error.value)


def test_what_cannot_be_is_refused_at_once():
    model, network, tiles = small()
    with pytest.raises(InputError, match="'tensorrt' is not known; accepted are auto, torch, openvino, onnx"):
        choose_runner(model, network, CPU, "tensorrt", tiles)
    for backend in EXPORTS:
        with pytest.raises(InputError, match="the device is cuda"):
            choose_runner(model, network, Device("cuda", "fp16", ""), backend, tiles)
        with pytest.raises(InputError, match="does not compute in fp16"):
            choose_runner(model, network, replace(CPU, precision="fp16"), backend, tiles)
    with pytest.raises(InputError, match="onnx does not compute in bf16; accepted is fp32"):
        choose_runner(model, network, replace(CPU, precision="bf16"), "onnx", tiles)


@pytest.mark.parametrize(
    ("device", "backend"),
    [(CPU, "torch"), (Device("cuda", "fp16", ""), "auto"), (replace(CPU, precision="bf16"), "auto")],
)
def test_torch_is_taken_without_export_or_measurement(monkeypatch, device, backend):
    made = counted(monkeypatch)
    model, network, tiles = small()
    choice = choose_runner(model, network, device, backend, tiles)
    assert isinstance(choice.runner, TorchRunner)
    assert (choice.backend, choice.precision, choice.agreement) == ("torch", device.precision, None)
    assert choice.milliseconds == {}
    assert made == []


def test_bf16_is_reported_as_what_the_processor_does():
    model, network, tiles = small()
    choice = choose_runner(model, network, replace(CPU, precision="bf16"), "openvino", tiles)
    core = openvino_runner.load_openvino().Core()
    can = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert choice.precision == ("bf16" if can else "fp32")
    assert ("does not compute in bf16" in choice.reason) is not can
    assert choice.agreement is not None


def test_choosing_can_be_cancelled():
    model, network, tiles = small()
    for backend in ("auto", "openvino"):
        progress = Progress()
        progress.cancel()
        with pytest.raises(CancelledError):
            choose_runner(model, network, CPU, backend, tiles, progress=progress)


_REPORTS = """
import json, sys
import openvino_telemetry.utils.sender as sender
sent = []
sender.TelemetrySender.send = lambda self, backend, message, *rest: sent.append(str(message))
import torch
network, example = torch.nn.Conv2d(1, 2, 3).eval(), torch.rand(1, 1, 8, 8)
before = 0
if sys.argv[1] == "openvino is there already":
    import openvino
    openvino.convert_model(network, example_input=example)
    before = len(sent)
    sent.clear()
from napari_medseg.inference.compute.backends.openvino_runner import OpenVinoRunner, export
files = export(network, example)
maps = OpenVinoRunner(files)(torch.cat([example, example]))
assert maps.shape == (2, 2, 6, 6)
try:
    export(torch.nn.Linear(3, 3), "no tensor")
except Exception as error:
    failed = type(error).__name__
import openvino_telemetry
print(json.dumps({"before": before, "sent": sent, "failed": failed}))
"""


@pytest.mark.parametrize("when", ["openvino is new", "openvino is there already"])
def test_openvino_reports_nothing_to_anybody_and_writes_nothing_at_home(tmp_path, when):
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "JENKINS_URL")}
    home = tmp_path / "home"
    home.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", _REPORTS, when],
        env={**environment, "HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["sent"] == []
    assert found["failed"]
    if when == "openvino is there already":
        # it does report when left alone, so this test would see it
        assert found["before"] > 0
    else:
        assert list(home.iterdir()) == []


def test_a_network_with_a_threshold_inside_survives_export():
    network = Threshold(0.25).eval()
    tiles = torch.rand(2, 1, 8, 8)
    for backend in EXPORTS:
        choice = choose_runner(make_model(network), network, CPU, backend, tiles)
        np.testing.assert_allclose(choice.runner(tiles), network(tiles), atol=1e-6)


def test_exports_not_used_for_longest_go_when_there_are_too_many(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "_LARGEST_BYTES", 250)
    kept = keeping.BackendCache(tmp_path)

    def use(number: int, made: list[int]) -> None:
        def make() -> dict[str, bytes]:
            made.append(number)
            return {".a": bytes(60), ".b": bytes(40)}

        kept.files("export", {"number": number}, (".a", ".b"), make)
        # times of files are coarse on some systems
        for age, path in enumerate(sorted(tmp_path.glob("*.json"), key=lambda p: p.stat().st_mtime_ns, reverse=True)):
            os.utime(path, (1e9 - age, 1e9 - age))

    kept.keep_decision({"anything": 1}, {"candidate": "torch"})
    made: list[int] = []
    for number in (1, 2, 1, 3, 1, 2):
        use(number, made)
    # 1 was used again before 3 came, so 2 went
    assert made == [1, 2, 3, 2]
    assert kept.decision({"anything": 1}) == {"candidate": "torch"}
    assert len(list(tmp_path.glob("export-*"))) == 6
