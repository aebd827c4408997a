import json
import os
import subprocess
import sys

import numpy as np
import pytest

from napari_medseg.case import InputError
from napari_medseg.desk.offscreen import virtual_display
from napari_medseg.io import open_segmentation


def test_demo_without_a_screen_leaves_labels_a_picture_and_a_summary(tmp_path):
    code = "from pathlib import Path; from napari_medseg.desk.demo import run_demo; run_demo(Path('out'))"
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"labels.zarr", "screenshot.png", "summary.json"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    labels = open_segmentation(tmp_path / "out" / "labels.zarr")
    (found,) = summary["run"]["labels"]
    # the picture shows some 150 nuclei
    assert 60 < found["count"] == len(labels.extents()) < 500
    assert found["voxels"] == np.count_nonzero(np.asarray(labels.data))
    assert [s.action for s in labels.provenance.steps] == ["segment", "export"]
    from skimage.io import imread

    picture = imread(tmp_path / "out" / "screenshot.png")
    assert picture.shape[:2] == (800, 1280)
    assert picture[..., :3].std() > 20


def test_a_missing_x_server_names_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"apt-get install .*xvfb"), virtual_display():
        pass


def test_the_display_is_ours_and_goes_away(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with virtual_display(640, 480) as name:
        assert os.environ["DISPLAY"] == name
    assert "DISPLAY" not in os.environ
