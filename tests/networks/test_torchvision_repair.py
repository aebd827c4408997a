"""torchvision beside a torch it was not built for; each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# stands in for a torchvision whose compiled part did not load, and for one that is broken otherwise
_PACKAGE = """
import torch
from torchvision import _meta_registrations
__version__ = "0.0"
"""
_UNLOADED = """
import torch
@torch.library.register_fake("torchvision::nms")
def meta_nms(dets, scores, iou_threshold):
    return dets.new_empty(dets.shape[0], dtype=torch.long)
@torch.library.register_fake("torchvision::qnms")
def meta_qnms(dets, scores, iou_threshold):
    return dets.new_empty(dets.shape[0], dtype=torch.long)
"""


def torchvision_like(folder: Path, registrations: str) -> Path:
    package = folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_PACKAGE)
    (package / "_meta_registrations.py").write_text(registrations)
    return folder


def run(code: str, first: Path | None = None) -> str:
    path = f"import sys; sys.path.insert(0, {str(first)!r})\n" if first is not None else ""
    repair = "from napari_medseg.networks.torchvision_repair import repair_torchvision\n"
    done = subprocess.run([sys.executable, "-c", path + repair + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_missing_operators_are_declared_and_told(tmp_path: Path) -> None:
    code = """
import torch
try:
    import torchvision
except RuntimeError as error:
    assert str(error) == "operator torchvision::nms does not exist"
else:
    raise SystemExit("the stand-in imports: nothing is repaired")
first, second = repair_torchvision(), repair_torchvision()
assert first == second
import torchvision
print(torch.ops.torchvision.nms.default._schema, torch.ops.torchvision.qnms.default._schema, first, sep="|")
import gc; gc.collect()
assert torch.ops.torchvision.nms(torch.ones(3, 4, device="meta"), torch.ones(3, device="meta"), .5).shape == (3,)
try:
    torch.ops.torchvision.nms(torch.ones(1, 4), torch.ones(1), .5)
except NotImplementedError:
    pass
else:
    raise SystemExit("a box selection that is not there answers")
"""
    nms, qnms, said = run(code, torchvision_like(tmp_path, _UNLOADED)).split("|")
    assert nms == "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert qnms == "torchvision::qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert said.startswith("torchvision 0.0 was built for another torch than ")
    assert "torchvision.ops.nms" in said


def test_a_working_one_is_left_alone(tmp_path: Path) -> None:
    code = """
import torch
assert repair_torchvision() is None
import torchvision
assert not hasattr(torch.ops.torchvision, "nms")
print(torchvision.__version__)
"""
    assert run(code, torchvision_like(tmp_path, "")) == "0.0"


def test_another_failure_is_told_and_not_repaired(tmp_path: Path) -> None:
    failures = {
        'raise RuntimeError("operator torchvision::roi_align does not exist")': "roi_align does not exist",
        'raise OSError("libcudart.so is missing")': "libcudart.so is missing",
        "import a_module_nobody_has": "No module named 'a_module_nobody_has'",
    }
    for number, registrations in enumerate(failures):
        torchvision_like(tmp_path / str(number), registrations)
    code = f"""
import sys, torch
from pathlib import Path
from napari_medseg.case import InputError

def tried(first):
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    first()
    try:
        repair_torchvision()
    except InputError as error:
        print(error)
    assert not hasattr(torch.ops.torchvision, "nms")

for folder in sorted(Path({str(tmp_path)!r}).iterdir()):
    tried(lambda: sys.path.insert(0, str(folder)))

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

tried(lambda: sys.meta_path.insert(0, Nothing()))
"""
    *broken, absent = run(code).splitlines()
    for said, sentence in zip(broken, failures.values(), strict=True):
        assert said.startswith("torchvision cannot be imported beside torch ") and said.endswith(sentence)
    assert absent == 'torchvision is not installed: pip install "napari-medseg[zoo]".'


@pytest.mark.slow
def test_the_installed_one_serves_smp() -> None:
    if find_spec("segmentation_models_pytorch") is None:
        pytest.skip("segmentation-models-pytorch is not installed")
    code = (
        "repair_torchvision(); import segmentation_models_pytorch, timm, torchvision.models.resnet; print('imported')"
    )
    assert run(code) == "imported"
