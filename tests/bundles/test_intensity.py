"""The intensity steps against the MONAI transforms of the same names."""

import monai.transforms as mt
import numpy as np
import pytest

from napari_medseg.bundles.intensity import IntensityPlan, intensity_step
from napari_medseg.case import InputError

CASES = [
    ("ScaleIntensityRange", {"a_min": -100.0, "a_max": 300.0, "b_min": 0.0, "b_max": 1.0, "clip": True}),
    ("ScaleIntensityRange", {"a_min": -100.0, "a_max": 300.0, "b_min": -1.0, "b_max": 1.0}),
    ("ScaleIntensityRange", {"a_min": -100.0, "a_max": 300.0}),
    ("ScaleIntensityRange", {"a_min": 5.0, "a_max": 5.0, "b_min": 2.0, "b_max": 3.0}),
    ("ScaleIntensity", {}),
    ("ScaleIntensity", {"minv": -2.0, "maxv": 3.0, "channel_wise": True}),
    ("ScaleIntensity", {"minv": None, "maxv": None, "factor": 0.5}),
    ("ScaleIntensityRangePercentiles", {"lower": 1, "upper": 99, "b_min": 0.0, "b_max": 1.0, "clip": True}),
    ("ScaleIntensityRangePercentiles", {"lower": 5, "upper": 90, "b_min": 0.0, "b_max": 2.0, "relative": True}),
    ("ScaleIntensityRangePercentiles", {"lower": 2, "upper": 98, "b_min": None, "b_max": None, "channel_wise": True}),
    ("NormalizeIntensity", {}),
    ("NormalizeIntensity", {"channel_wise": True}),
    ("NormalizeIntensity", {"nonzero": True}),
    ("NormalizeIntensity", {"nonzero": True, "channel_wise": True}),
    ("NormalizeIntensity", {"subtrahend": [10.0, 20.0], "divisor": [2.0, 0.0], "channel_wise": True}),
    ("NormalizeIntensity", {"subtrahend": 10.0, "divisor": 4.0}),
    ("ClipIntensityPercentiles", {"lower": 5, "upper": 95}),
    ("ClipIntensityPercentiles", {"lower": 5, "upper": 95, "channel_wise": True}),
    ("ShiftIntensity", {"offset": 12.5}),
    ("ThresholdIntensity", {"threshold": 30.0}),
    ("ThresholdIntensity", {"threshold": 30.0, "above": False, "cval": 30.0}),
]


@pytest.fixture
def image() -> np.ndarray:
    generator = np.random.default_rng(3)
    values = generator.normal(60, 80, (2, 9, 12, 7)).astype(np.float32)
    values[1] = values[1] * 3 - 40
    values[:, :3] = 0
    return values


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_each_step_does_what_monai_does(name, arguments, image):
    expected = np.asarray(getattr(mt, name)(**arguments)(image.copy()))
    plan = IntensityPlan((intensity_step(name, arguments),))
    np.testing.assert_allclose(plan.apply(image, plan.statistics(image)), expected, rtol=2e-5, atol=2e-5)


def test_steps_are_measured_one_after_the_other(image):
    steps = (
        ("ClipIntensityPercentiles", {"lower": 10, "upper": 90}),
        ("NormalizeIntensity", {"channel_wise": True}),
        ("ScaleIntensity", {"minv": 0.0, "maxv": 1.0}),
    )
    plan = IntensityPlan(tuple(intensity_step(n, a) for n, a in steps))
    expected = image.copy()
    for name, arguments in steps:
        expected = getattr(mt, name)(**arguments)(expected)
    np.testing.assert_allclose(plan.apply(image, plan.statistics(image)), np.asarray(expected), rtol=1e-4, atol=1e-4)


def test_a_tile_gets_the_numbers_of_the_whole_image(image):
    plan = IntensityPlan((intensity_step("NormalizeIntensity", {"channel_wise": True}),))
    statistics = plan.statistics(image)
    whole = plan.apply(image, statistics)
    np.testing.assert_array_equal(plan.apply(image[:, 4:7, :5], statistics), whole[:, 4:7, :5])
    assert abs(plan.apply(image[:, 4:7, :5], plan.statistics(image[:, 4:7, :5])) - whole[:, 4:7, :5]).max() > 0.1


def test_the_input_is_left_alone(image):
    before = image.copy()
    plan = IntensityPlan((intensity_step("NormalizeIntensity", {"nonzero": True}),))
    plan.apply(image, plan.statistics(image))
    np.testing.assert_array_equal(image, before)


def test_only_steps_that_look_at_the_image_need_statistics():
    fixed = IntensityPlan((intensity_step("ScaleIntensityRange", {"a_min": 0, "a_max": 2, "b_min": 0, "b_max": 1}),))
    assert not fixed.needs_statistics
    np.testing.assert_allclose(fixed.apply(np.array([[0, 1, 2]], np.uint8)), [[0, 0.5, 1]])
    measured = IntensityPlan((*fixed.steps, intensity_step("ScaleIntensity", {})))
    assert measured.needs_statistics
    with pytest.raises(InputError, match="statistics of the whole image"):
        measured.apply(np.zeros((1, 4)))
    assert not IntensityPlan((intensity_step("NormalizeIntensity", {"subtrahend": 1, "divisor": 2}),)).needs_statistics


def test_an_empty_image_stays_finite():
    plan = IntensityPlan(tuple(intensity_step(n, {}) for n in ("NormalizeIntensity", "ScaleIntensity")))
    flat = np.full((1, 4, 4), 7.0)
    assert plan.apply(flat, plan.statistics(flat)).tolist() == np.zeros((1, 4, 4)).tolist()
    nonzero = IntensityPlan((intensity_step("NormalizeIntensity", {"nonzero": True}),))
    assert np.isfinite(nonzero.apply(np.zeros((1, 4)), nonzero.statistics(np.zeros((1, 4))))).all()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("ScaleIntensityRange", {"a_min": 0}, "lacks the argument a_max"),
        ("ScaleIntensityRange", {"a_min": 0, "a_max": None}, "lacks the argument a_max"),
        ("ScaleIntensityRange", {"a_min": "low", "a_max": 1}, "a_min = 'low'; a number is expected"),
        ("ScaleIntensityRange", {"a_min": [0], "a_max": 1}, "a number is expected"),
        ("NormalizeIntensity", {"subtrahend": [1, "x"]}, "a number is expected"),
        ("NormalizeIntensity", {"mean": 3}, "has the argument mean"),
        ("ClipIntensityPercentiles", {"lower": 1, "upper": 99, "sharpness_factor": 5}, "sharpness_factor"),
        ("ClipIntensityPercentiles", {"lower": 1}, "both lower and upper"),
    ],
)
def test_arguments_that_are_not_supported_are_named(name, arguments, words):
    with pytest.raises(InputError, match=words):
        intensity_step(name, arguments)


def test_relative_percentiles_need_a_range(image):
    plan = IntensityPlan(
        (intensity_step("ScaleIntensityRangePercentiles", {"lower": 1, "upper": 99, "relative": True}),)
    )
    with pytest.raises(InputError, match="needs b_min and b_max"):
        plan.statistics(image)


def test_numbers_for_other_channels_are_refused(image):
    plan = IntensityPlan((intensity_step("NormalizeIntensity", {"subtrahend": [1, 2, 3], "channel_wise": True}),))
    with pytest.raises(InputError, match="3 values of subtrahend for 2 channels"):
        plan.statistics(image)
