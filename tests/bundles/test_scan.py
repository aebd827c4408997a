"""Hostile content is refused wherever it stands; what the model zoo usually holds is not."""

import pytest

from napari_medseg.bundles.scan import refuse_hostile
from napari_medseg.case import RefusedError
from tests.bundles.bundle_cases import inference

USUAL = [
    "$import glob",
    "$import os",
    "$import torch",
    "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "$@network_def.to(@device)",
    "$@network.eval()",
    "$os.path.join(@bundle_root, 'models')",
    "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
    "$monai.utils.set_determinism(seed=0)",
    "$setattr(torch.backends.cudnn, 'benchmark', True)",
    "$@bundle_root + '/models/model.pt'",
    "$[{'image': i} for i in @datalist]",
    "$safetensors.torch.load_file(@bundle_root + '/models/model.safetensors')",
    "/workspace/data/Task09_Spleen",
    "SupervisedEvaluator",
]
HOSTILE = [
    "$__import__('os').system('true')",
    "$os.system('true')",
    "$os . popen('true')",
    "$eval('1')",
    "$(1).__class__.__bases__",
    "$subprocess.run(['true'])",
    "$import subprocess",
    "$from importlib import import_module",
    "$shutil.rmtree('x')",
    "$open('x', 'w').write('y')",
    "$pathlib.Path('x').write_text('y')",
    "$getattr(os, 'sys' + 'tem')('true')",
    "../../etc/passwd",
    "$@bundle_root + '/../x'",
]


@pytest.mark.parametrize("value", USUAL)
def test_usual_content_passes(value):
    refuse_hostile({**inference(), "run": [value]}, "tiny")


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("place", ["initialize", "handlers", "preprocessing"])
def test_hostile_content_is_refused_wherever_it_stands(value, place):
    with pytest.raises(RefusedError, match=f"tiny: {place}#0#x"):
        refuse_hostile({**inference(), place: [{"x": value}]}, "tiny")


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "builtins.exec", "eval", "shutil.rmtree", "pdb.run"]
)
def test_hostile_targets_are_refused(target):
    with pytest.raises(RefusedError, match=f"asks for {target}"):
        refuse_hostile({"network_def": {"_target_": target}}, "tiny")


def test_a_description_may_hold_dots():
    refuse_hostile({"description": "from .. to"}, "tiny")
