import subprocess
from importlib import metadata

import pytest

from napari_medseg import doctor
from napari_medseg.bundles import BundleEntry


def test_a_missing_library_is_named_with_what_to_do(monkeypatch):
    whole = metadata.version

    def version(name):
        if name == "av":
            raise metadata.PackageNotFoundError(name)
        return "2.9.1" if name == "torch" else whole(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    report = doctor.Report()
    doctor._versions(report)
    assert report.problems == [
        "av is not installed: run pip install napari-medseg[all].",
        "torch 2.9 runs 3D convolutions many times slower: install another version of torch.",
    ]
    assert not report.ok


def test_a_codec_that_is_not_there_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "_video_codec", lambda name: False)
    report = doctor.Report()
    doctor._codecs(report)
    assert any("H.264 cannot be read" in p for p in report.problems)


@pytest.mark.parametrize(
    ("answer", "opengl", "problem"),
    [
        (subprocess.CompletedProcess([], 0, "OpenGL 4.5 through xcb\n", ""), "OpenGL 4.5 through xcb", None),
        (subprocess.CompletedProcess([], 1, "", "trace\nno driver"), "not working", "no driver"),
        (subprocess.TimeoutExpired("probe", 60), "not working", "did not answer within 60 s"),
    ],
)
def test_opengl_is_tried_in_a_process_of_its_own(monkeypatch, answer, opengl, problem):
    def run(*_, **__):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setattr(doctor.subprocess, "run", run)
    report = doctor.Report()
    doctor._opengl(report)
    assert report.opengl == opengl
    assert (problem is None and report.ok) or problem in report.problems[0]


def test_no_display_is_a_note_not_a_problem(monkeypatch):
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    report = doctor.Report()
    doctor._opengl(report)
    assert report.ok
    assert "demo --headless" in report.opengl


def test_no_model_at_all_is_a_problem_and_a_broken_one_a_note(monkeypatch, tmp_path):
    import napari_medseg.bundles as bundles

    broken = BundleEntry("odd", tmp_path, "user folder", None, "", 0, "odd has no weights")
    monkeypatch.setattr(bundles, "list_bundles", lambda: [broken])
    report = doctor.Report()
    doctor._models(report)
    assert report.notes == ["Model odd cannot be used by this id: odd has no weights"]
    assert report.problems == ["No model was found: reinstall napari-medseg, which brings two."]
    report.devices = {"default": "cpu", "reason": "No GPU."}
    assert report.lines()[-1].startswith("PROBLEM: No model")


def test_a_gpu_that_is_there_and_not_used_is_noted_with_its_details(monkeypatch):
    from napari_medseg.inference.compute import backends, gpu

    found = gpu.GpuFindings(False, "A GPU is present but torch is the build for processors only.", {"driver": "580.65"})
    monkeypatch.setattr(gpu, "gpu_findings", lambda: found)
    monkeypatch.setattr(backends, "missing", lambda name: "Backend onnx needs onnx." if name == "onnx" else None)
    report = doctor.Report()
    doctor._devices(report)
    assert report.devices["gpu"] == {"driver": "580.65"}
    assert report.notes == [found.reason, "Backend onnx needs onnx."]
    assert report.backends == {"torch": "installed", "openvino": "installed", "onnx": "Backend onnx needs onnx."}
    assert report.ok


def test_networks_that_cannot_be_built_are_noted_with_what_installs_them(monkeypatch):
    monkeypatch.setattr("napari_medseg.networks.architecture._MODULES", {"zoo": ("a_module_nobody_has",)})
    report = doctor.Report()
    doctor._networks(report)
    assert report.networks["unet"] == "can be built"
    assert 'pip install "napari-medseg[zoo]"' in report.networks["segformer_b0"]
    assert len(report.notes) == 1
    assert report.notes[0].startswith(f"{sum(v != 'can be built' for v in report.networks.values())} networks cannot")
    assert report.ok
