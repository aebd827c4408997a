"""Preprocessing, inferer and postprocessing are read as MONAI would run them."""

import pytest

from napari_medseg.bundles.config import Config
from napari_medseg.bundles.instances import DistanceDecoder
from napari_medseg.bundles.steps import read_inferer, read_postprocessing, read_preprocessing, tile_multiple
from napari_medseg.case import InputError, RefusedError

DECODER = {"_target_": "napari_medseg.bundles.instances.DistanceDecoder", "seed": 0.3, "margin": 40}


def before(*transforms, dims=3, **more):
    compose = {"_target_": "Compose", "transforms": list(transforms)}
    return read_preprocessing(Config({"preprocessing": compose, **more}, "tiny"), dims)


def after(*transforms, channels=2):
    return read_postprocessing(Config({"postprocessing": list(transforms)}, "tiny"), channels)


def inferer(**arguments):
    return read_inferer(Config({"inferer": {"_target_": "SlidingWindowInferer", **arguments}, "n": 8}, "tiny"), 2)


def test_the_usual_steps_of_a_volume_model():
    steps = before(
        {"_target_": "LoadImaged", "keys": ["image", "label"]},
        {"_target_": "monai.transforms.EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "LPS"},
        {"_target_": "Spacingd", "keys": ["image"], "pixdim": "@pixdim", "mode": "bilinear"},
        {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True},
        {"_target_": "ScaleIntensityRanged", "keys": "label", "a_min": 0, "a_max": 1},
        {"_target_": "ShiftIntensityd", "keys": "image", "offset": 3, "_disabled_": True},
        {"_target_": "DivisiblePadd", "keys": "image", "k": 16},
        pixdim=[1.5, 1.5, "$4 / 2"],
    )
    assert steps.orientation == ("L", "P", "S")
    assert steps.spacing == (1.5, 1.5, 2.0)
    assert steps.divisible_by == (16, 16, 16)
    assert [(s.name, s.arguments) for s in steps.intensity.steps] == [("NormalizeIntensity", {"nonzero": True})]


@pytest.mark.parametrize("target", ["ScaleIntensityd", "ScaleIntensityD", "ScaleIntensityDict", "ScaleIntensity"])
def test_every_spelling_of_a_transform_is_known(target):
    assert before({"_target_": target, "keys": "image"}).intensity.steps[0].name == "ScaleIntensity"


def test_one_transform_and_a_referenced_list_are_read_too():
    one = Config({"preprocessing": {"_target_": "ScaleIntensityd", "keys": "image"}}, "tiny")
    assert len(read_preprocessing(one, 2).intensity.steps) == 1
    content = {
        "scale": {"_target_": "ScaleIntensityd", "keys": "image"},
        "first": ["@scale"],
        "preprocessing": {"_target_": "Compose", "transforms": "$@first + @first"},
    }
    assert len(read_preprocessing(Config(content, "tiny"), 2).intensity.steps) == 2


def test_orientation_may_be_a_list():
    assert before({"_target_": "Orientationd", "keys": "image", "axcodes": ["S", "P", "L"]}).orientation == (
        "S",
        "P",
        "L",
    )


def test_canonical_orientation_is_ras():
    assert before({"_target_": "Orientationd", "keys": "image", "as_closest_canonical": True}).orientation == (
        "R",
        "A",
        "S",
    )


@pytest.mark.parametrize(
    ("transform", "error", "words"),
    [
        ({"_target_": "CropForegroundd"}, InputError, "CropForegroundd is not supported; supported are .*Spacingd"),
        ({"_target_": "monai.transforms.croppad.dictionary.x"}, InputError, "is not supported"),
        ({"_target_": "scripts.normalise.Mine"}, RefusedError, "not one of MONAI's transforms"),
        ({"_target_": "Orientationd", "axcodes": "RAR"}, InputError, "three letters such as RAS"),
        ({"_target_": "Orientationd"}, InputError, "three letters such as RAS"),
        ({"_target_": "Spacingd", "pixdim": [1, 1]}, InputError, "3 numbers above 0"),
        ({"_target_": "Spacingd", "pixdim": [1, 1, -1]}, InputError, "3 numbers above 0"),
        ({"_target_": "Spacingd", "pixdim": [1, 1, 1e-9]}, InputError, "0.0001 to 10000 is expected"),
        ({"_target_": "Spacingd", "pixdim": 1e5}, InputError, "0.0001 to 10000 is expected"),
        ({"_target_": "Spacingd", "pixdim": 10**400}, InputError, "3 numbers are expected"),
        ({"_target_": "Spacingd", "pixdim": "wide"}, InputError, "3 numbers are expected"),
        ({"_target_": "ShiftIntensityd"}, InputError, "tiny: ShiftIntensity lacks the argument offset"),
        ({"keys": "image"}, InputError, "a transform with a _target_ is expected"),
    ],
)
def test_preprocessing_that_cannot_be_used_is_named(transform, error, words):
    with pytest.raises(error, match=words):
        before({"keys": "image", **transform})


def test_a_sliding_window_is_read():
    tiling = inferer(roi_size=["@n", "$@n * 2"], overlap=[0.25, 0.5], padding_mode="reflect", sw_device="$torch.x")
    assert (tiling.tile, tiling.overlap, tiling.padding) == ((8, 16), 0.5, "reflect")
    assert inferer(roi_size=32).tile == (32, 32)
    simple = read_inferer(Config({"inferer": {"_target_": "monai.inferers.SimpleInferer"}}, "tiny"), 3)
    assert (simple.tile, simple.overlap) == (None, 0.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "roi_size of the inferer is None"),
        ({"roi_size": 8, "overlap": 1.0}, "an overlap from 0 to below 1"),
        ({"roi_size": 8, "padding_mode": "circular"}, "pads with circular"),
        ({"roi_size": 8, "cval": 3}, "constant 0, reflect or replicate"),
        ({"roi_size": 8, "_target_": "SliceInferer"}, "SliceInferer is not supported"),
        ({"roi_size": 8, "_target_": "my.own Inferer"}, "is not supported"),
    ],
)
def test_inferers_that_cannot_be_used_are_named(arguments, words):
    with pytest.raises(InputError, match=words):
        inferer(**arguments)


def test_an_inferer_must_name_a_class():
    with pytest.raises(InputError, match="names no class"):
        read_inferer(Config({"inferer": 3}, "tiny"), 2)


def test_the_usual_endings():
    softmax = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
    sigmoid = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
    argmax = {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False], "to_onehot": [2, 2]}
    for transforms, expected in [
        ([softmax, argmax], ("softmax", None)),
        ([argmax], ("none", None)),
        ([sigmoid], ("sigmoid", 0.5)),
        ([sigmoid, {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.3}], ("sigmoid", 0.3)),
        ([sigmoid, {"_target_": "Invertd", "transform": "@preprocessing", "keys": "pred"}], ("sigmoid", 0.5)),
    ]:
        found = after(*transforms)
        assert (found.activation, found.threshold) == expected
        assert found.instances is None


def test_our_decoder_is_read():
    found = after(
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "napari_medseg.bundles.instances.Instancesd", "keys": "pred", "decoder": DECODER},
        channels=3,
    )
    assert found.threshold is None
    assert found.instances == DistanceDecoder(seed=0.3, margin=40)


@pytest.mark.parametrize(
    ("transform", "error", "words"),
    [
        ({"_target_": "KeepLargestConnectedComponentd"}, InputError, "KeepLargestConnectedComponentd is not supported"),
        ({"_target_": "Activationsd", "other": "tanh"}, InputError, "is not supported"),
        ({"_target_": "Activationsd", "other": "$torch.tanh"}, RefusedError, "would run Python code"),
        (
            {"_target_": "napari_medseg.bundles.instances.Instancesd", "decoder": {"_target_": "os.system"}},
            RefusedError,
            "instance decoder os.system",
        ),
        (
            {"_target_": "napari_medseg.bundles.instances.Instancesd", "decoder": {**DECODER, "colour": 3}},
            InputError,
            "does not accept its arguments",
        ),
        ({"_target_": "AsDiscreted", "rounding": "torchrounding"}, InputError, "needs a threshold"),
    ],
)
def test_postprocessing_that_cannot_be_used_is_named(transform, error, words):
    with pytest.raises(error, match=words):
        after({"keys": "pred", **transform}, channels=1)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["16*n", "8 * m"], (16, 8)),
        (["n*4"], (4,)),
        ([96, 96, 32], (96, 96, 32)),
        (["160"], (160,)),
        ([0], None),
        (["2**p*n"], None),
        (["*", "*"], None),
        (["any"], None),
        ([], None),
    ],
)
def test_multiples_are_read_from_the_metadata(shape, expected):
    assert tile_multiple(shape) == expected
