"""What opening napari may cost: heavy libraries load when the work starts, not before."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "SimpleITK", "nilearn", "openvino", "transformers", "timm")


def loaded_after(code: str) -> set[str]:
    probe = f"{code}\nimport sys; print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "module", ["", ".case", ".jobs", ".io", ".bundles", ".cli", ".describe", ".samples", ".plugin"]
)
def test_importing_a_room_loads_nothing_heavy(module):
    assert not loaded_after(f"import napari_medseg{module}") & set(HEAVY)


def test_listing_models_loads_nothing_heavy():
    assert not loaded_after("from napari_medseg.bundles import list_bundles; list_bundles()") & set(HEAVY)


@pytest.mark.parametrize("module", [".case", ".jobs", ".io", ".bundles", ".inference", ".cli", ".describe", ".doctor"])
def test_headless_rooms_know_no_qt(module):
    assert not loaded_after(f"import napari_medseg{module}") & {
        "napari",
        "qtpy",
        "PyQt6",
        "PySide6",
        "vispy",
        "magicgui",
    }


def test_the_package_itself_loads_only_itself():
    new = loaded_after("import napari_medseg") - loaded_after("")
    assert new <= {"napari_medseg", "__future__"}
