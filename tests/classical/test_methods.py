"""Every method of the list: found by name, its parameters checked, run on a picture and a volume."""

import subprocess
import sys

import numpy as np
import pytest

from napari_medseg.case import InputError
from napari_medseg.classical import METHODS, MethodParameters, find_method

EACH = [pytest.param(name, dims, id=f"{name}-{dims}d") for name, method in METHODS.items() for dims in method.dims]
QUICK = {
    "drlse": {"iterations": 60},
    "geodesic_active_contour": {"edge_scale": 1.0, "iterations": 60},
    "random_forest": {"trees": 5, "coarsest": 2.0, "background": 1},
}


def ball(dims):
    side = 48 if dims == 2 else 24
    grid = np.indices((side,) * dims) - (side - 1) / 2
    return (grid**2).sum(0) <= (side / 4) ** 2


@pytest.mark.parametrize("name, dims", EACH)
def test_each_finds_a_ball_in_an_image_with_and_without_channels(name, dims):
    method, mask = METHODS[name], ball(dims)
    image = np.where(mask, 900, 100).astype(np.uint16)
    before = image.copy()
    values = {"spatial_dims": dims, **QUICK.get(name, {})}
    inputs = {}
    if "scribbles" in method.inputs:
        # a cross through the middle
        lines = np.zeros(mask.shape, bool)
        lines[mask.shape[0] // 2] = lines[:, mask.shape[1] // 2] = True
        inputs["scribbles"] = np.where(lines, 1 + mask, 0)
    labels = method.run(image, values, **inputs)
    assert labels.dtype == np.int32 and labels.shape == mask.shape
    assert 2 * ((labels > 0) & mask).sum() / ((labels > 0).sum() + mask.sum()) > 0.85
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(method.run(image[None], values, **inputs), labels)


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_is_described_and_has_a_default_in_its_range(name):
    schema = METHODS[name].schema()
    assert issubclass(schema, MethodParameters)
    for field in schema.model_fields.values():
        assert field.description and not field.is_required()
    again = schema(**schema().model_dump())
    assert again == schema()
    assert METHODS[name].function.__name__ == name and METHODS[name].source and METHODS[name].title


def test_a_wrong_parameter_or_input_is_named():
    with pytest.raises(InputError, match=r"Otsu's threshold: classes: .*greater than or equal to 2; given was 1"):
        find_method("otsu").check({"classes": 1})
    with pytest.raises(InputError, match="Chan-Vese regions exists for 2D images only"):
        find_method("chan_vese").check({"spatial_dims": 3})
    with pytest.raises(InputError, match="at least one of intensity, edges and texture"):
        find_method("random_forest").check({"intensity": False, "edges": False, "texture": False})
    with pytest.raises(InputError, match=r"Otsu's threshold takes no initial"):
        find_method("otsu").run(np.zeros((4, 4)), initial=np.zeros((4, 4)))
    with pytest.raises(InputError, match="there is no method 'Otsu'; there are otsu, watershed"):
        find_method("Otsu")


def test_the_list_is_read_without_heavy_libraries():
    code = (
        "import sys, napari_medseg.classical as c; [m.schema() for m in c.METHODS.values()];"
        "sys.exit(bool({'torch', 'skimage', 'scipy', 'sklearn', 'SimpleITK', 'napari'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
