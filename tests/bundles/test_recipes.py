"""The shipped training recipes run from MONAI's own command line, as the cards say."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from safetensors import safe_open


@pytest.mark.parametrize("bundle", ["he_nuclei", "mr_hippocampus"])
def test_two_steps_of_training_leave_weights_of_the_shipped_shape(bundle, shared_data, tmp_path):
    folder = Path(str(resources.files("napari_medseg"))) / "resources" / "bundles" / bundle
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        folder / "configs" / "train.json",
    ]
    options = {"dataset_dir": shared_data, "output_dir": tmp_path, "steps": 2, "score_records": "[]", "threads": 1}
    if bundle == "mr_hippocampus":
        options["stop_after"] = 2
    done = subprocess.run(
        [*command, *(str(v) for k, value in options.items() for v in (f"--{k}", value))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with (
        safe_open(tmp_path / "model.safetensors", "np") as trained,
        safe_open(folder / "models" / "model.safetensors", "np") as shipped,
    ):
        assert set(trained.keys()) == set(shipped.keys())
        names = list(shipped.keys())
        assert all(trained.get_slice(k).get_shape() == shipped.get_slice(k).get_shape() for k in names)
