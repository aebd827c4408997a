"""A napari of our own: settings, caches and results apart from the user's, and models whose answer is known."""

import os
import tempfile

# before napari is imported: it reads these once. Worker processes must not share its theme cache.
_own = tempfile.mkdtemp(prefix="medseg-tests-")
os.environ["NAPARI_CONFIG"] = f"{_own}/settings.yaml"
os.environ["XDG_CACHE_HOME"] = f"{_own}/cache"
os.environ["XDG_DATA_HOME"] = f"{_own}/data"

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from napari_medseg.bundles.checksums import write_sums  # noqa: E402
from napari_medseg.case import Geometry, MedicalImage, Modality  # noqa: E402
from tests.threshold_bundle import write_threshold_bundle  # noqa: E402


def pytest_collection_modifyitems(items):
    for item in items:
        if "desk" in item.path.parts:
            item.add_marker("desk")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """Two folders of models: 2-D RGB bright pixels for slides, 3-D bright voxels for MR."""
    folder = tmp_path_factory.mktemp("bundles")
    write_threshold_bundle(folder / "bright2d", spatial_dims=2, channels=3, level=127.5, modality="SM")
    write_threshold_bundle(folder / "bright3d", spatial_dims=3, channels=1, level=99.5, tile=32, modality="MR")
    for bundle in folder.iterdir():
        write_sums(bundle)
    return folder


@pytest.fixture
def own_models(bundles, monkeypatch):
    """The docks and the child find these models beside the built-in ones."""
    monkeypatch.setenv("MEDSEG_BUNDLES", str(bundles))
    return bundles


@pytest.fixture(scope="session", autouse=True)
def _no_child_left():
    yield
    from napari_medseg.desk.child import shared_worker

    shared_worker().close()


@pytest.fixture
def slide():
    """A slide of 0.5 µm pixels whose right half is bright."""
    pixels = np.full((96, 128, 3), 40, np.uint8)
    pixels[:, 64:] = 220
    return MedicalImage(
        (pixels,),
        "yxc",
        Geometry.from_spacing((96, 128), (0.5, 0.5), "um", origin=(100.0, 50.0, 0.0)),
        Modality.SM,
        "stain RGB",
        "slide",
        channels=("red", "green", "blue"),
    )


@pytest.fixture
def volume():
    """An MR volume stored sagittally (axes point right, inferior, anterior) with one bright block."""
    voxels = np.zeros((20, 24, 28), np.int16)
    voxels[4:8, 10:15, 16:24] = 200
    affine = np.array([[2.0, 0, 0, -30], [0, 0, 1.0, 7], [0, -1.5, 0, 12], [0, 0, 0, 1]])
    return MedicalImage((voxels,), "zyx", Geometry(voxels.shape, affine, "mm", "patient"), Modality.MR, name="head")
