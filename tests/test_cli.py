import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr
from PIL import Image

from napari_medseg.cli import main
from tests.threshold_bundle import write_threshold_bundle


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """Nothing a test does may touch the folders of the person who runs it."""
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("MEDSEG_BUNDLES", str(tmp_path / "bundles"))


@pytest.fixture
def grey_model(tmp_path):
    return write_threshold_bundle(tmp_path / "bundles" / "bright", spatial_dims=2, channels=1, level=100.0)


@pytest.fixture
def picture(tmp_path):
    data = np.random.default_rng(0).integers(0, 255, (50, 70), dtype=np.uint8)
    Image.fromarray(data).save(tmp_path / "picture.png")
    return tmp_path / "picture.png", data


def run(capsys, *arguments):
    """Exit code, standard output and standard error of the command line."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def labels_in(store, name="bright"):
    return zarr.open(store, mode="r")[f"labels/{name}/0"][...]


def test_segment_tells_one_json_object_and_writes_the_labels(capsys, tmp_path, grey_model, picture):
    path, data = picture
    code, out, _ = run(capsys, "segment", path, "-m", "bright", "-o", tmp_path / "o.zarr", "--json")
    assert code == 0
    told = json.loads(out)
    assert np.array_equal(labels_in(tmp_path / "o.zarr"), data > 100)
    assert told["labels"] == [{"id": 1, "name": "bright", "voxels": int((data > 100).sum())}]
    assert told["tiles"] == {"planned": 2, "done": 2, "failed": 0, "skipped": 0}
    assert {"seconds", "peak_rss", "peak_device_memory", "device", "precision", "backend", "ladder"} <= set(told)
    assert (told["device"], told["ladder"]) == ("cpu", [])


def test_segment_in_words_with_stated_spacing_tta_and_region(capsys, tmp_path, grey_model, picture):
    path, data = picture
    code, out, err = run(
        capsys, "segment", path, "-m", grey_model, "-o", tmp_path / "o.zarr", "--spacing", "0.5,0.25um",
        "--tta", "--region", "10:30,5:40", "--device", "cpu", "--precision", "fp32", "--with-image", "--ngff", "0.4",
    )  # fmt: skip
    assert code == 0
    expected = np.zeros_like(data)
    expected[10:30, 5:40] = data[10:30, 5:40] > 100
    assert np.array_equal(labels_in(tmp_path / "o.zarr"), expected)
    # 0.5 x 0.25 um a pixel
    told = float(out.split("area_um2 ")[1].split()[0])
    assert told == pytest.approx(expected.sum() * 0.125, rel=1e-3)
    assert "segmenting: 0 of" in err
    store = zarr.open(tmp_path / "o.zarr", mode="r")
    assert store.metadata.zarr_format == 2
    assert np.array_equal(store["0"][...], data)


def test_two_models_in_one_run(capsys, tmp_path, grey_model, picture):
    path, data = picture
    write_threshold_bundle(tmp_path / "bundles" / "brighter", spatial_dims=2, channels=1, level=200.0)
    code, out, _ = run(
        capsys, "segment", path, "-m", "bright", "-m", "brighter", "-o", tmp_path / "o.zarr", "--json", "--quiet"
    )
    assert code == 0
    assert [m["model"] for m in json.loads(out)["models"]] == ["bright", "brighter"]
    assert np.array_equal(labels_in(tmp_path / "o.zarr", "brighter"), data > 200)
    code, out, _ = run(capsys, "info", tmp_path / "o.zarr", "--json")
    assert [h["name"] for h in json.loads(out)["holds"]] == ["bright", "brighter"]
    code, _, err = run(capsys, "export", tmp_path / "o.zarr", "-o", tmp_path / "o.png")
    assert code == 1
    assert "bright" in err
    code, _, _ = run(capsys, "export", tmp_path / "o.zarr", "-o", tmp_path / "o.png", "--name", "brighter")
    assert code == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o.png")), data > 200)


def test_export_tells_what_it_wrote(capsys, tmp_path, grey_model, picture):
    path, data = picture
    run(capsys, "segment", path, "-m", "bright", "-o", tmp_path / "o.zarr", "--quiet")
    code, out, _ = run(capsys, "export", tmp_path / "o.zarr", "-o", tmp_path / "o.tif", "--json")
    assert code == 0
    assert json.loads(out) == {
        "out": "o.tif",
        "format": "TIFF",
        "shape": [50, 70],
        "labels": [{"id": 1, "name": "bright", "voxels": int((data > 100).sum())}],
        "verified": True,
        "warnings": [],
    }
    code, _, err = run(capsys, "export", path, "-o", tmp_path / "grey.tif")
    assert (code, "picture.png: does not say that it holds labels" in err) == (0, True)
    code, _, err = run(capsys, "export", tmp_path / "o.zarr", "-o", tmp_path / "o.tif")
    assert (code, "already exists" in err) == (1, True)
    code, _, err = run(capsys, "export", tmp_path / "o.zarr", "-o", tmp_path / "o.docx")
    assert (code, ".nii.gz" in err) == (1, True)


def test_info_says_what_a_picture_is_and_that_its_spacing_is_unknown(capsys, picture):
    code, out, _ = run(capsys, "info", picture[0], "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["axes"], told["shape"], told["dtype"]) == ("yx", [50, 70], "uint8")
    assert told["unit"] is None
    assert not any(key.startswith("spacing") for key in told)
    assert told["identifiers_present"] is False
    code, out, _ = run(capsys, "info", picture[0])
    assert "unit                 unknown" in out


def test_models_are_listed_with_their_cards(capsys, grey_model):
    code, out, _ = run(capsys, "models", "--json")
    found = {m["id"]: m for m in json.loads(out)["models"]}
    assert code == 0
    assert {"he_nuclei", "mr_hippocampus", "bright"} <= set(found)
    for model in found.values():
        assert {"task", "modality", "labels", "licence", "sha256", "size", "source", "reference_scores"} <= set(model)
    assert found["he_nuclei"]["source"] == "built-in"
    assert found["he_nuclei"]["size"] <= 8_000_000
    code, out, _ = run(capsys, "models")
    assert "he_nuclei" in out
    assert "bright" in out


def test_doctor_finds_this_machine_in_order(capsys):
    code, out, _ = run(capsys, "doctor", "--json")
    told = json.loads(out)
    assert (code, told["ok"]) == (0, True), told["problems"]
    assert all(told["codecs"].values())
    assert {"he_nuclei", "mr_hippocampus"} <= set(told["models"])
    assert told["devices"]["reason"]


def test_doctor_says_why_a_gpu_is_not_used(monkeypatch):
    import torch

    from napari_medseg.inference.compute import devices

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "CUDA_VISIBLE_DEVICES" in devices.gpu_status()
    assert "hides every GPU" in devices.gpu_status()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("segment", "missing.png", "-m", "bright", "-o", "o.zarr"), 1, "missing.png: there is no such file"),
        (("segment", "PICTURE", "-m", "nothing", "-o", "o.zarr"), 1, "nothing"),
        (("segment", "PICTURE", "-m", "bright", "-o", "o.nii"), 1, "ends in .zarr"),
        (("segment", "PICTURE", "-m", "bright", "-o", "o.zarr", "--device", "cuda:9"), 1, "cuda"),
        (("segment", "PICTURE", "-m", "bright", "-o", "o.zarr", "--max-memory", "much"), 2, "2G, 800M"),
        (("segment", "PICTURE", "-m", "bright", "-o", "o.zarr", "--series", "2"), 1, "no series 2"),
        (("segment", "PICTURE", "-m", "bright", "-o", "o.zarr", "--region", "1-2"), 2, "z0:z1"),
        (("segment", "PICTURE", "-m", "bright", "-o", "o.zarr", "--spacing", "1 cm"), 2, "mm or um"),
        (("segment", "PICTURE", "-m", "bright"), 2, "out"),
        (("segment", "PICTURE", "-m", "bright", "-o", "o.zarr", "--precision", "int8"), 2, "int8"),
        (("nonsense",), 2, "nonsense"),
        (("info", "missing.dcm"), 1, "missing.dcm"),
        (("export", "PICTURE", "-o", "missing/o.tif"), 1, "missing"),
        (("export", "PICTURE", "-o", "PICTURE", "--overwrite"), 1, "picture.png: is what is read, or holds it"),
    ],
)
def test_failures_are_one_sentence_and_an_exit_code(
    capsys, tmp_path, monkeypatch, grey_model, picture, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    left, out, err = run(capsys, *(str(picture[0]) if a == "PICTURE" else a for a in arguments))
    assert left == code
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_changed_bundle_is_refused_with_exit_code_3(capsys, tmp_path, grey_model, picture):
    weights = grey_model / "models" / "model.safetensors"
    (grey_model / "SHA256SUMS").write_text(f"{'0' * 64}  models/model.safetensors\n")
    assert weights.exists()
    code, out, err = run(capsys, "segment", picture[0], "-m", "bright", "-o", tmp_path / "o.zarr")
    assert (code, out) == (3, "")
    assert not (tmp_path / "o.zarr").exists()
    assert "bright" in err


def test_foreign_code_is_refused_until_this_very_bundle_is_trusted(capsys, tmp_path, grey_model, picture):
    config = grey_model / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["initialize"] = ["$import os", "$os.system('true')"]
    config.write_text(json.dumps(content))
    arguments = ("segment", picture[0], "-m", "bright", "-o", tmp_path / "o.zarr", "--quiet")
    code, _, err = run(capsys, *arguments)
    assert code == 3
    assert "os.system" in err
    assert run(capsys, *arguments, "--trust")[0] == 0
    assert run(capsys, *arguments, "--overwrite")[0] == 0
    config.write_text(json.dumps({**content, "more": "$os.remove('x')"}))
    assert run(capsys, *arguments, "--overwrite")[0] == 3


def test_unexpected_errors_show_no_traceback_unless_asked(capsys, monkeypatch, picture):
    import napari_medseg.io

    def broken(path):
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr(napari_medseg.io, "open_images", broken)
    code, _, err = run(capsys, "info", picture[0])
    assert code == 1
    assert "ZeroDivisionError: by accident" in err
    assert "Traceback" not in err
    with pytest.raises(ZeroDivisionError):
        main(["info", str(picture[0]), "--debug"])


def test_version(capsys):
    assert run(capsys, "--version")[1].startswith("napari-medseg 0.")


def test_a_stated_spacing_keeps_the_orientation(capsys, tmp_path):
    import nibabel as nib

    write_threshold_bundle(tmp_path / "bundles" / "bright3d", spatial_dims=3, channels=1, level=0.5)
    data = np.zeros((5, 6, 7), np.uint8)
    data[1, 2, 3] = 1
    image = nib.Nifti1Image(data, None)
    image.header.set_xyzt_units(0)
    image.header["pixdim"][1:4] = 1
    image.set_qform(np.eye(4), 0)
    image.set_sform(np.eye(4), 0)
    nib.save(image, tmp_path / "nocodes.nii")
    before = json.loads(run(capsys, "info", tmp_path / "nocodes.nii", "--json")[1])
    assert before["unit"] is None
    code, _, err = run(
        capsys, "segment", tmp_path / "nocodes.nii", "-m", "bright3d", "-o", tmp_path / "o.zarr", "--quiet",
        "--spacing", "3,2,1mm",
    )  # fmt: skip
    assert code == 0, err
    after = json.loads(run(capsys, "info", tmp_path / "o.zarr", "--json")[1])
    assert after["orientation"] == before["orientation"]
    assert after["spacing_mm"] == [3.0, 2.0, 1.0]


def test_what_is_read_is_never_written_over(capsys, tmp_path, grey_model, picture):
    run(capsys, "segment", picture[0], "-m", "bright", "-o", tmp_path / "o.zarr", "--quiet")
    for arguments in (
        ("export", tmp_path / "o.zarr", "-o", tmp_path / "o.zarr" / "a.tif"),
        ("export", tmp_path / "o.zarr" / "labels" / "bright", "-o", tmp_path / "o.zarr", "--overwrite"),
    ):
        code, _, err = run(capsys, *arguments)
        assert (code, "is what is read, or holds it" in err) == (1, True)
    assert labels_in(tmp_path / "o.zarr").any()


def test_a_run_that_failed_half_way_is_resumed_and_says_so(capsys, tmp_path, grey_model, picture, monkeypatch):
    from napari_medseg.inference.tiles import memory
    from napari_medseg.inference.tiles.engine import Forward

    monkeypatch.setattr(memory, "_CHUNK_2D", (64, 64))
    path, data = picture[0], np.random.default_rng(1).integers(0, 255, (300, 70), dtype=np.uint8)
    Image.fromarray(data).save(path)
    whole, calls = Forward.__call__, []

    def breaks(self, tiles):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return whole(self, tiles)

    command = ("segment", path, "-m", "bright", "-o", tmp_path / "o.zarr", "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr(Forward, "__call__", breaks)
        code, _, err = run(capsys, *command)
    assert code == 1
    assert err.splitlines() == [
        "The system refused: No space left on device. Free space or choose another place, then run again.",
        "What was finished is kept: run the same again with --resume to go on.",
    ]
    code, out, _ = run(capsys, "info", tmp_path / "o.partial.zarr", "--json")
    assert (code, json.loads(out)["complete"]) == (0, False)
    code, _, err = run(capsys, "export", tmp_path / "o.partial.zarr", "-o", tmp_path / "half.tif")
    assert "has not finished" in err
    code, _, err = run(capsys, *command)
    assert (code, "--resume" in err) == (1, True)
    code, out, _ = run(capsys, *command, "--resume", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["tiles"]["done"] == told["tiles"]["planned"] > 3
    assert np.array_equal(labels_in(tmp_path / "o.zarr"), data > 100)
    code, out, _ = run(capsys, "info", tmp_path / "o.zarr", "--json")
    assert json.loads(out)["complete"] is True


def test_an_ensemble_of_two_models_is_one_more_label_image(capsys, tmp_path, grey_model, picture):
    path, data = picture
    second = write_threshold_bundle(grey_model.parent / "brighter", spatial_dims=2, channels=1, level=150.0)
    command = ("segment", path, "-m", "bright", "-m", second, "-o", tmp_path / "o.zarr", "--quiet", "--json")
    code, out, err = run(capsys, *command, "--ensemble", "vote")
    assert code == 0, err
    assert [m["model"] for m in json.loads(out)["models"]] == ["bright", "brighter", "ensemble"]
    assert np.array_equal(labels_in(tmp_path / "o.zarr", "ensemble"), data > 100)
    code, _, err = run(capsys, *command[:4], "-o", tmp_path / "p.zarr", "--ensemble", "mean")
    assert (code, err.count("\n")) == (1, 1)


def test_many_images_go_into_a_folder_and_a_bad_one_stops_nothing(capsys, tmp_path, grey_model, picture):
    path, data = picture
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.fromarray(data[::-1]).save(tmp_path / "other.png")
    (tmp_path / "out").mkdir()
    images = (path, tmp_path / "broken.png", tmp_path / "other.png")
    code, out, err = run(capsys, "segment", *images, "-m", "bright", "-o", tmp_path / "out", "--quiet", "--json")
    assert code == 1
    told = {c["name"]: c for c in json.loads(out)["cases"]}
    assert [told[n]["error"] is None for n in ("picture", "broken", "other")] == [True, False, True]
    assert err.startswith("broken: ") and err.count("\n") == 1
    assert np.array_equal(labels_in(tmp_path / "out" / "other.zarr"), data[::-1] > 100)
    code, out, _ = run(capsys, "segment", *images[::2], "-m", "bright", "-o", tmp_path / "out", "--resume")
    assert (code, out.count("was finished before")) == (0, 2)
    code, _, _ = run(capsys, "segment", *images, "-m", "bright", "-o", tmp_path / "out", "--series", "1")
    assert code == 2


def test_workers_of_this_machine_give_the_same_labels(capsys, tmp_path, grey_model, picture):
    path, data = picture
    command = ("segment", path, "-m", "bright", "-o", tmp_path / "o.zarr", "--quiet", "--workers", "1")
    code, _, err = run(capsys, *command)
    assert code == 0, err
    assert np.array_equal(labels_in(tmp_path / "o.zarr"), data > 100)
    code, _, err = run(capsys, *command, "--scheduler", "tcp://127.0.0.1:1")
    assert code == 2


def test_maps_backend_and_memory_are_options_of_a_run(capsys, tmp_path, grey_model, picture):
    path, data = picture
    code, out, err = run(
        capsys, "segment", path, "-m", "bright", "-o", tmp_path / "o.zarr", "--probabilities", "--uncertainty",
        "--backend", "openvino", "--margin", "2", "--max-memory", "64G", "--tissue", "off", "--json", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert told["backend"] == "openvino"
    assert told["agreement"]["label_agreement"] == 1.0
    assert "openvino was chosen by the user" in told["backend_reason"]
    code, out, _ = run(capsys, "info", tmp_path / "o.zarr" / "maps" / "bright" / "probabilities", "--json")
    assert json.loads(out)["shape"][:2] == [50, 70]
    assert np.array_equal(labels_in(tmp_path / "o.zarr"), data > 100)


@pytest.mark.parametrize("size", ["much", "0", "-3G", "1e400G"])
def test_a_size_of_memory_that_is_none_is_wrong_usage(capsys, tmp_path, grey_model, picture, size):
    code, _, err = run(capsys, "segment", picture[0], "-m", "bright", "-o", tmp_path / "o.zarr", f"--max-memory={size}")
    assert code == 2
    assert "e.g. 2G, 800M" in " ".join(err.replace("│", " ").split())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_one_sentence(capsys, picture):
    picture[0].chmod(0)
    code, _, err = run(capsys, "info", picture[0])
    assert (code, "no permission" in err) == (1, True)


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_leaves_nothing_half_done_and_exits_130(tmp_path, grey_model, number):
    Image.fromarray(np.zeros((6000, 6000), np.uint8)).save(tmp_path / "large.png")
    command = [sys.executable, "-m", "napari_medseg", "segment", str(tmp_path / "large.png"), "-m", str(grey_model)]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "o.zarr"), "--overlap", "0.9"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for line in process.stderr:
        if line.startswith("segmenting"):
            break
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Cancelled" in err
    left = [p.name for p in tmp_path.iterdir() if "o." in p.name]
    assert left in ([], ["o.partial.zarr"])
    assert ("--resume" in err) == bool(left)
