"""The random forest: equal to scikit-learn's, kept without pickle, evaluated in slabs."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from napari_medseg.case import InputError
from napari_medseg.classical import features as features_module
from napari_medseg.classical.features import FeatureParameters, filter_features, slabs
from napari_medseg.classical.forest import Forest, ForestParameters, fit_forest, random_forest

FEW = {"trees": 12, "depth": 6, "coarsest": 4.0}


def textured(seed=0, shape=(64, 64)):
    """Stripes inside a disc on an even ground of the same mean: brightness alone does not part them."""
    random = np.random.default_rng(seed)
    grid = np.indices(shape)
    mask = ((grid - np.array(shape).reshape(-1, *(1,) * len(shape)) / 2) ** 2).sum(0) < (min(shape) / 3.2) ** 2
    stripes = np.where(grid[-1] % 4 < 2, 1.0, -1.0)
    return (np.where(mask, stripes, 0.0) + random.normal(0, 0.1, shape)).astype(np.float32), mask


def scribbled(mask):
    middle = mask.shape[0] // 2
    lines = np.zeros(mask.shape, np.uint8)
    lines[3:6] = 1
    lines[middle - 2 : middle + 2, middle - 10 : middle + 10] = 2
    return lines


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_scribbles_find_a_texture():
    image, mask = textured()
    labels = random_forest(image, parameters=ForestParameters(**FEW), scribbles=scribbled(mask))
    assert labels.dtype == np.int32 and set(np.unique(labels)) == {1, 2}
    assert dice(labels == 2, mask) > 0.9
    ground = random_forest(image, parameters=ForestParameters(**FEW, background=1), scribbles=scribbled(mask))
    np.testing.assert_array_equal(ground, np.where(labels == 1, 0, labels))


def test_a_fitted_forest_works_on_another_image_and_is_the_same_each_time(tmp_path):
    image, mask = textured(0)
    other, truth = textured(1)
    parameters = ForestParameters(**FEW, dense=True)
    forest = fit_forest([image], [mask.astype(np.int16)], parameters=parameters)
    labels = random_forest(other, forest=forest)
    assert set(np.unique(labels)) == {0, 1} and dice(labels == 1, truth) > 0.9
    again = fit_forest([image], [mask.astype(np.int16)], parameters=parameters)
    np.testing.assert_array_equal(again.threshold, forest.threshold)
    different = fit_forest([image], [mask.astype(np.int16)], parameters=ForestParameters(**FEW, dense=True, seed=1))
    assert len(different.threshold) != len(forest.threshold) or (different.threshold != forest.threshold).any()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("balanced", [True, False])
def test_our_evaluator_equals_scikit_learns(classes, balanced, monkeypatch):
    ensemble = pytest.importorskip("sklearn.ensemble")
    fitted = []

    class Kept(ensemble.RandomForestClassifier):
        def fit(self, *args):
            fitted.append(super().fit(*args))
            return fitted[-1]

    monkeypatch.setattr(ensemble, "RandomForestClassifier", Kept)
    random = np.random.default_rng(5)
    image = random.normal(size=(40, 40)).astype(np.float32)
    labels = random.integers(1, classes + 1, (40, 40)) * 3
    forest = fit_forest([image], [labels], parameters=ForestParameters(trees=20, depth=9, balanced=balanced))
    samples = filter_features(image, forest.parameters).reshape(1600, -1)
    # values that lie on a threshold go left in both
    samples = np.concatenate([samples, samples])
    inner = forest.left >= 0
    samples[1600:, forest.feature[inner][0]] = np.float32(forest.threshold[inner][0])
    theirs = fitted[0].predict_proba(samples)
    ours = forest.probabilities(samples)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(forest.classes[ours.argmax(1)], fitted[0].predict(samples))
    np.testing.assert_allclose(ours.sum(1), 1)


def stump():
    """One question: is feature 0 at most 0.5?"""
    return Forest(
        roots=np.array([0], np.int32),
        left=np.array([1, -1, -1], np.int32),
        right=np.array([2, -1, -1], np.int32),
        feature=np.array([0, -2, -2], np.int32),
        threshold=np.array([0.5, -2, -2]),
        chances=np.array([[0.5, 0.5], [0.75, 0.25], [0.1, 0.9]]),
        classes=np.array([3, 7], np.int32),
        channels=1,
        parameters=ForestParameters(finest=0.3, coarsest=0.3, edges=False, texture=False),
    )


def test_a_stump_by_hand():
    chances = stump().probabilities(np.array([[0.4], [0.5], [0.6]], np.float32))
    assert chances.tolist() == [[0.75, 0.25], [0.75, 0.25], [0.1, 0.9]]
    image = np.zeros((6, 6))
    image[:, 3:] = 1
    labels = random_forest(image, forest=stump())
    assert labels[:, :2].tolist() == [[3, 3]] * 6 and labels[:, 4:].tolist() == [[7, 7]] * 6


def test_a_forest_survives_the_file_and_the_file_holds_arrays_only(tmp_path):
    image, mask = textured()
    forest = fit_forest([image], [scribbled(mask)], parameters=ForestParameters(**FEW))
    forest.save(tmp_path / "forest.safetensors")
    loaded = Forest.load(tmp_path / "forest.safetensors")
    assert loaded.parameters == forest.parameters and loaded.channels == 1
    np.testing.assert_array_equal(random_forest(image, forest=loaded), random_forest(image, forest=forest))
    assert set(load_file(tmp_path / "forest.safetensors")) == {
        "roots", "left", "right", "feature", "threshold", "chances", "classes",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, index, value",
    [
        ("left", 0, 0),  # a walk without an end
        ("right", 0, 3),  # no such node
        ("feature", 0, 1),  # no such feature
        ("feature", 0, -1),
        ("roots", 0, -1),
    ],
)
def test_a_damaged_file_is_refused_before_it_is_walked(tmp_path, name, index, value):
    path = tmp_path / "forest.safetensors"
    stump().save(path)
    Forest.load(path)
    arrays = load_file(path)
    arrays[name][index] = value
    about = {"format": "napari-medseg forest 1", "channels": "1", "parameters": stump().parameters.model_dump_json()}
    save_file(arrays, path, about)
    with pytest.raises(InputError, match="is damaged: its trees do not end"):
        Forest.load(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(2)}, path)
    with pytest.raises(InputError, match="holds no random forest of this program"):
        Forest.load(path)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(InputError, match="is no random forest that can be read"):
        Forest.load(path)
    about = {"format": "napari-medseg forest 1", "channels": "1", "parameters": json.dumps({"trees": -4})}
    save_file({name: getattr(stump(), name) for name in ("roots", "left", "right")}, path, about)
    with pytest.raises(InputError, match="is no random forest that can be read"):
        Forest.load(path)


@pytest.mark.parametrize("shape, dims", [((150, 20), 2), ((2, 150, 20), 2), ((90, 12, 10), 3)])
@pytest.mark.parametrize("standardise", [False, True])
def test_slabs_hold_the_features_of_the_whole(monkeypatch, shape, dims, standardise):
    image = np.random.default_rng(0).normal(5, 3, shape)
    parameters = FeatureParameters(spatial_dims=dims, coarsest=4.0, standardise=standardise)
    whole = filter_features(image, parameters)
    monkeypatch.setattr(features_module, "_SLAB_BYTES", 1)
    parts = list(slabs(image, parameters))
    assert len(parts) > 2
    np.testing.assert_allclose(np.concatenate([f for _, f in parts]), whole, rtol=1e-5, atol=1e-5)
    assert whole.shape[-1] == parameters.count(2 if len(shape) > dims else 1)
    rows = np.concatenate([np.arange(*s.indices(whole.shape[0])) for s, _ in parts])
    np.testing.assert_array_equal(rows, np.arange(whole.shape[0]))


def test_features_by_hand():
    # a ramp of slope 2: its smoothed value is its own, its edge 2 along one axis, its curvature 0
    image = np.tile(2.0 * np.arange(40), (40, 1))
    parameters = FeatureParameters(finest=1.0, coarsest=2.0)
    value = filter_features(image, parameters)[20, 20]
    assert parameters.scales == 2 and len(value) == parameters.count(1) == 8
    # Sobel's difference spans two pixels, hence 4, and scikit-image takes the axes' root mean square
    np.testing.assert_allclose(value, [40, 4 / np.sqrt(2), 0, 0] * 2, atol=1e-3)


def test_standardised_features_are_free_of_the_scale():
    image, _ = textured()
    parameters = FeatureParameters(coarsest=2.0, standardise=True)
    np.testing.assert_allclose(
        filter_features(image * 40 + 900, parameters), filter_features(image, parameters), atol=1e-3
    )


def test_no_more_pixels_are_learnt_from_than_asked(monkeypatch):
    ensemble = pytest.importorskip("sklearn.ensemble")
    seen = []

    class Counted(ensemble.RandomForestClassifier):
        def fit(self, known, classes):
            seen.append(np.bincount(classes).tolist())
            return super().fit(known, classes)

    monkeypatch.setattr(ensemble, "RandomForestClassifier", Counted)
    image, mask = textured()
    fit_forest([image, image], [scribbled(mask)] * 2, parameters=ForestParameters(**FEW, most=100))
    assert seen == [[0, 100, 100]]


def test_what_does_not_fit_is_told(monkeypatch):
    image, mask = textured()
    lines = scribbled(mask)
    few = ForestParameters(**FEW)
    with pytest.raises(InputError, match="1 classes are labelled; at least two"):
        random_forest(image, scribbles=np.where(lines == 2, 0, lines))
    with pytest.raises(InputError, match=r"labels are \(64, 63\) while their image is \(64, 64\)"):
        random_forest(image, scribbles=lines[:, 1:])
    with pytest.raises(InputError, match="whole numbers; float64"):
        random_forest(image, scribbles=lines.astype(float))
    with pytest.raises(InputError, match="either scribbles on the image or a fitted forest"):
        random_forest(image)
    forest = fit_forest([image], [lines], parameters=few)
    with pytest.raises(InputError, match="the image has 3 channels; the forest was fitted on 1"):
        random_forest(np.stack([image] * 3), forest=forest)
    with pytest.raises(InputError, match="1, 3 channels; one number"):
        fit_forest([image, np.stack([image] * 3)], [lines, lines], parameters=few)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.ensemble", None)
    with pytest.raises(InputError, match=r"needs scikit-learn: pip install \"napari-medseg\[zoo\]\"\."):
        fit_forest([image], [lines])
    # a fitted one does without
    assert random_forest(image, forest=forest).shape == image.shape
