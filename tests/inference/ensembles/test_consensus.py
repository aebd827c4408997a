import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medseg.case import CancelledError, Geometry, InputError, LabelTable, MedicalImage, MedsegError, Modality
from napari_medseg.inference import SegmentOptions
from napari_medseg.inference.ensembles import staple
from napari_medseg.inference.ensembles.consensus import (
    check_ensemble,
    drop_maps,
    forget_consensus,
    tasks_for,
    write_consensus,
)
from napari_medseg.inference.ensembles.votes import majority_vote
from napari_medseg.inference.segment import segment_all
from napari_medseg.inference.task import Task
from napari_medseg.inference.unfinished import UnfinishedStore
from napari_medseg.io import open_segmentation
from napari_medseg.io.ome_zarr import read_segmentation
from napari_medseg.jobs import Progress
from tests.inference.fakes import Pieces, Threshold, make_model


class Steep(Threshold):
    """`Threshold` with a slope of its own: how sure it is, and so how much it counts in a mean."""

    def __init__(self, level, slope):
        super().__init__(level)
        self.slope = slope

    def forward(self, tiles):
        return super().forward(tiles) * self.slope


class Nearest(torch.nn.Module):
    """As many classes as there are `centres`: the one whose centre is nearest the intensity, more or less surely."""

    def __init__(self, centres, slope=1.0):
        super().__init__()
        self.centres, self.slope = centres, slope

    def forward(self, tiles):
        return torch.cat([-self.slope * (tiles[:, :1] - c).abs() for c in self.centres], 1)


def named(name, module, **changes):
    model = make_model(module, **changes)
    return replace(model, card=replace(model.card, id=name), sha256=name[0] * 64)


def picture(data):
    return MedicalImage((data,), "yx", Geometry.from_spacing(data.shape, None))


def volume(data, spacing=(2.0, 1.0, 1.0)):
    return MedicalImage((data,), "zyx", Geometry.from_spacing(data.shape, spacing, "mm", "patient"), Modality.MR)


def grades(shape=(20, 23)):
    """Intensities 0, 0.1 ... 1, never near a level of the models below."""
    return (np.random.default_rng(0).integers(0, 11, shape) / 10).astype(np.float32)


def three(**changes):
    return [named(n, Steep(level, s), **changes) for n, level, s in (("a", 0.25, 1), ("b", 0.45, 9), ("c", 0.75, 4))]


def foreground(data, level, slope):
    """Softmax of two logits by hand."""
    return 1 / (1 + np.exp(-2.0 * slope * (data.astype(np.float64) - level)))


def labels_of(result):
    return np.asarray(result.segmentation.data[...])


def run(image, models, out, ensemble, options=None, **more):
    options = replace(options or SegmentOptions(), backend="torch", device="cpu")
    return segment_all(image, models, out, options, ensemble=ensemble, **more)


# -- what is written --------------------------------------------------------------------------------


def test_the_mean_is_that_of_the_three_networks_probabilities(tmp_path):
    data = grades()
    *single, both = run(picture(data), three(), tmp_path / "o.zarr", "mean")
    mean = np.mean([foreground(data, *v) for v in ((0.25, 1), (0.45, 9), (0.75, 4))], 0)
    # far from a tie in float16
    assert np.abs(mean - 0.5).min() > 0.01
    assert np.array_equal(labels_of(both), mean > 0.5)
    # neither a vote nor one of the models says the same
    assert not np.array_equal(labels_of(both), majority_vote([labels_of(r) for r in single]))
    assert (both.segmentation.name, both.segmentation.data.dtype) == ("ensemble", np.uint8)
    assert both.report.labels[0].voxels == (mean > 0.5).sum() > 0


@pytest.mark.parametrize("kind", ["slices", "volume", "video"])
def test_the_vote_is_that_of_the_labels_on_stacks_and_video(tmp_path, kind):
    data = grades((3, 11, 13))
    image = volume(data)
    if kind == "video":
        image = MedicalImage((data,), "tyx", Geometry.from_spacing(data.shape[1:], None), seconds_per_frame=0.04)
    *single, both = run(image, three(spatial_dims=3 if kind == "volume" else 2), tmp_path / "o.zarr", "vote")
    assert [labels_of(r).sum() for r in single] == [(data > v).sum() for v in (0.25, 0.45, 0.75)]
    assert np.array_equal(labels_of(both), data > 0.45)
    assert both.segmentation.axes == ("tyx" if kind == "video" else "zyx")
    assert both.segmentation.seconds_per_frame == (0.04 if kind == "video" else None)
    assert both.segmentation.geometry.is_close(image.geometry)


@pytest.mark.parametrize("kind", ["slices", "volume", "video"])
def test_the_mean_is_taken_frame_by_frame_and_slice_by_slice(tmp_path, kind):
    data = grades((3, 11, 13))
    image = volume(data)
    if kind == "video":
        image = MedicalImage((data,), "tyx", Geometry.from_spacing(data.shape[1:], None), seconds_per_frame=0.04)
    both = run(image, three(spatial_dims=3 if kind == "volume" else 2), tmp_path / "o.zarr", "mean")[-1]
    mean = np.mean([foreground(data, *v) for v in ((0.25, 1), (0.45, 9), (0.75, 4))], 0)
    assert np.array_equal(labels_of(both), mean > 0.5)


def test_several_classes_are_averaged_channel_by_channel(tmp_path):
    data = grades((30, 31))
    slopes = ((0, 0.5, 1.0), 1.0), ((0.2, 0.75, 0.85), 5.0)
    models = [named(n, Nearest(*v), names=("low", "high"), out_channels=3) for n, v in zip("ab", slopes, strict=True)]
    both = run(picture(data), models, tmp_path / "o.zarr", "mean")[-1]
    logits = [-s * np.abs(data[None].astype(np.float64) - np.reshape(c, (3, 1, 1))) for c, s in slopes]
    mean = np.mean([np.exp(v) / np.exp(v).sum(0) for v in logits], 0)
    top = np.sort(mean, 0)
    assert (top[2] - top[1]).min() > 0.005
    assert np.array_equal(labels_of(both), mean.argmax(0))
    assert set(np.unique(labels_of(both))) == {0, 1, 2}


def test_a_threshold_decides_on_the_mean_as_on_one_models_probability(tmp_path):
    class One(Steep):
        def forward(self, tiles):
            return super().forward(tiles)[:, 1:]

    kind = {"out_channels": 1, "activation": "sigmoid", "threshold": 0.7}
    models = [named("a", One(0.25, 8), **kind), named("b", One(0.45, 20), **kind)]
    data = grades()
    both = run(picture(data), models, tmp_path / "o.zarr", "mean")[-1]
    mean = np.mean([1 / (1 + np.exp(-s * (data - level))) for level, s in ((0.25, 8), (0.45, 20))], 0)
    assert np.abs(mean - 0.7).min() > 0.01
    assert np.array_equal(labels_of(both), mean >= 0.7)
    assert not np.array_equal(labels_of(both), mean >= 0.5)


@pytest.mark.parametrize("classes", [1, 2])
def test_staple_is_that_of_the_labels(tmp_path, classes):
    data = grades((30, 31))
    if classes == 1:
        models = three()
    else:
        centres = ((0, 0.5, 1.0), (0.1, 0.5, 0.8), (0.0, 0.3, 1.0))
        models = [named(n, Nearest(c), names=("x", "y"), out_channels=3) for n, c in zip("abc", centres, strict=True)]
    *single, both = run(picture(data), models, tmp_path / "o.zarr", "staple")
    found = staple.staple([labels_of(r) for r in single])
    assert np.array_equal(labels_of(both), found.labels)
    step = both.segmentation.provenance.steps[0]
    assert step.details["staple"]["converged"] is True
    for k, entry in enumerate(step.details["models"]):
        assert entry["specificity"] == pytest.approx(found.specificity[k], abs=1e-6)
        assert list(entry["sensitivity"]) == ["1", "2"][:classes]
        assert list(entry["sensitivity"].values()) == pytest.approx(found.sensitivity[k].tolist(), abs=1e-6)


def test_an_id_that_occurs_nowhere_has_no_sensitivity_and_the_history_stays_json(tmp_path):
    models = [
        named(n, Nearest((0, v, 99.0)), names=("x", "never"), out_channels=3)
        for n, v in zip("abc", (1, 2, 3), strict=True)
    ]
    both = run(picture(grades((30, 31))), models, tmp_path / "o.zarr", "staple")[-1]
    history = both.segmentation.provenance.to_dict()
    assert history["steps"][0]["details"]["models"][0]["sensitivity"]["2"] is None
    json.dumps(history, allow_nan=False)


@settings(max_examples=12)
@given(st.data())
def test_only_the_region_is_combined(tmp_path_factory, data):
    image = volume(grades((5, 9, 8)))
    part = []
    for n in image.geometry.shape:
        low = data.draw(st.integers(0, n - 1))
        part.append(slice(low, data.draw(st.integers(low + 1, n))))
    method = data.draw(st.sampled_from(("mean", "vote", "staple")))
    out = tmp_path_factory.mktemp("o") / "o.zarr"
    *single, both = run(image, three(), out, method, SegmentOptions(region=tuple(part)))
    inside = tuple(part)
    blocks = [labels_of(r)[inside] for r in single]
    mean = np.mean([foreground(image.levels[0][inside], *v) for v in ((0.25, 1), (0.45, 9), (0.75, 4))], 0)
    wanted = {
        "mean": lambda: mean > 0.5,
        "vote": lambda: majority_vote(blocks),
        "staple": lambda: staple.staple(blocks, [1]).labels,
    }
    expected = np.zeros(image.geometry.shape, np.uint8)
    expected[inside] = wanted[method]()
    assert np.array_equal(labels_of(both), expected)


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_any_reader_finds_the_ensemble_with_its_coarser_levels(tmp_path, ngff):
    data = grades((700, 530))
    run(picture(data), three(tile=(256, 256)), tmp_path / "o.zarr", "vote", ngff=ngff)
    root = zarr.open_group(tmp_path / "o.zarr", mode="r")
    attributes = root["labels"].attrs.asdict()
    assert (attributes["ome"] if ngff == "0.5" else attributes)["labels"] == ["a", "b", "c", "ensemble"]
    group = root["labels/ensemble"]
    found = group.attrs["ome"] if ngff == "0.5" else group.attrs.asdict()
    assert found["image-label"]["properties"][0] == {
        "label-value": 1, "name": "thing", "class": "thing", "voxels": int((data > 0.45).sum())
    }  # fmt: skip
    assert [d["path"] for d in found["multiscales"][0]["datasets"]] == ["0", "1"]
    assert np.array_equal(group["0"][...], data > 0.45)
    assert np.array_equal(group["1"][...], (data > 0.45)[::2, ::2])
    assert group.attrs["medseg"]["complete"] is True


def test_chunks_of_several_models_are_combined_one_by_one(tmp_path, monkeypatch):
    from napari_medseg.inference.tiles import memory

    # chunks of 8 x 16, and maps of a few rows of them
    monkeypatch.setattr(memory, "_CHUNK_2D", (8, 16))
    monkeypatch.setattr("napari_medseg.io.ome_zarr.maps._CHUNK_VALUES", 64)
    seen = []
    data = grades((21, 37))
    options = SegmentOptions(region=(slice(3, 20), slice(5, 37)))
    both = run(picture(data), three(), tmp_path / "o.zarr", "mean", options, progress=Progress(seen.append))[-1]
    mean = np.mean([foreground(data, *v) for v in ((0.25, 1), (0.45, 9), (0.75, 4))], 0)
    expected = np.zeros(data.shape)
    expected[3:20, 5:] = mean[3:20, 5:] > 0.5
    assert np.array_equal(labels_of(both), expected)
    assert both.segmentation.data.chunks == (8, 16)
    counted = [(s.done, s.total) for s in seen if s.word == "combining the models"]
    assert counted == [(k, 9) for k in range(10)]


def test_the_history_names_every_model_and_what_was_averaged(tmp_path):
    both = run(picture(grades()), three(), tmp_path / "o.zarr", "mean")[-1]
    history = open_segmentation(tmp_path / "o.zarr", name="ensemble").provenance
    assert history == both.segmentation.provenance
    (step,) = history.steps
    assert step.action == "ensemble"
    assert (step.details["method"], step.details["probabilities"]) == ("mean", "float16")
    assert step.details["model"] == {"id": "mean of a, b, c", "version": "1.0, 1.0, 1.0", "licence": "CC0-1.0"}
    assert [(m["id"], m["weights_sha256"]) for m in step.details["models"]] == [(k, k * 64) for k in "abc"]
    assert str(tmp_path) not in json.dumps(history.to_dict())
    report = both.report.to_dict()
    assert (report["model"], report["backend"], report["precision"]) == ("ensemble", "mean", "fp16 probabilities")


def test_a_vote_of_two_says_that_the_first_always_wins(tmp_path):
    first, _, both = run(picture(grades()), three()[:2], tmp_path / "o.zarr", "vote")
    assert np.array_equal(labels_of(first), labels_of(both))
    assert "the first wins every tie" in both.report.warnings[0]
    assert run(picture(grades()), three(), tmp_path / "p.zarr", "vote")[-1].report.warnings == ()


def test_staple_that_was_stopped_early_says_so(tmp_path, monkeypatch):
    whole = staple.staple
    monkeypatch.setattr(
        "napari_medseg.inference.ensembles.consensus.staple", lambda b, ids, progress: whole(b, ids, max_iterations=1)
    )
    both = run(picture(grades()), three(), tmp_path / "o.zarr", "staple")[-1]
    assert "stopped after 1 iterations" in both.report.warnings[0]


# -- the maps that only the mean needs ---------------------------------------------------------------


@pytest.mark.parametrize("uncertainty", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
def test_maps_stay_only_if_they_were_asked_for(tmp_path, probabilities, uncertainty):
    options = SegmentOptions(probabilities=probabilities, uncertainty=uncertainty)
    run(picture(grades()), three(), tmp_path / "o.zarr", "mean", options)
    kept = {k for k, wanted in (("probabilities", probabilities), ("uncertainty", uncertainty)) if wanted}
    maps = tmp_path / "o.zarr" / "maps"
    assert maps.is_dir() == bool(kept)
    for name in "abc" if kept else "":
        assert {p.name for p in (maps / name).iterdir() if p.is_dir()} == kept
    root = zarr.open_group(tmp_path / "o.zarr", mode="r")
    assert sorted(root.group_keys()) == (["labels", "maps"] if kept else ["labels"])


@pytest.mark.parametrize("method", ["vote", "staple"])
def test_other_methods_make_no_maps_and_keep_those_that_were_asked_for(tmp_path, method):
    run(picture(grades()), three(), tmp_path / "o.zarr", method)
    assert not (tmp_path / "o.zarr" / "maps").exists()
    run(picture(grades()), three(), tmp_path / "p.zarr", method, SegmentOptions(probabilities=True))
    assert np.asarray(zarr.open(tmp_path / "p.zarr", mode="r")["maps/b/probabilities/0"]).any()


# -- what is refused ---------------------------------------------------------------------------------


def tasks_of(models, image=None, **options):
    image = image or (volume(grades((4, 5, 6))) if models[0].spatial_dims == 3 else picture(grades()))
    return [Task(image, model, SegmentOptions(**options)) for model in models]


def refused(models, method, tmp_path, **options):
    """What is said, and that nothing was written."""
    with pytest.raises(InputError) as said:
        run(picture(grades()), models, tmp_path / "o.zarr", method, SegmentOptions(**options))
    assert list(tmp_path.iterdir()) == []
    return str(said.value)


def test_ensembles_that_mean_nothing_are_refused_before_anything_is_written(tmp_path):
    a, b, c = three()
    assert "'median'; accepted are mean, vote, staple" in refused([a, b], "median", tmp_path)
    assert "at least 2 models and this run has 1" in refused([a], "vote", tmp_path)
    objects = named("cells", torch.nn.Identity(), instances=Pieces(), activation="none", out_channels=1)
    for method in ("mean", "vote", "staple"):
        assert "Model cells finds objects" in refused([a, b, objects], method, tmp_path)
    other = replace(c, card=replace(c.card, labels=LabelTable.from_names(["liver"])))
    assert "Label 1 is thing to model a and liver to model c" in refused([a, b, other], "vote", tmp_path)
    more = named("more", Nearest((0, 1, 2)), names=("thing", "spleen"), out_channels=3)
    assert "Label 2 is unknown to model a and spleen to model more" in refused([a, more], "vote", tmp_path)
    taken = replace(c, card=replace(c.card, id="ensemble"))
    assert "named ensemble already" in refused([a, taken], "vote", tmp_path)


def test_means_of_models_that_decide_differently_are_refused_and_their_votes_are_not(tmp_path):
    a, b, _ = three()
    sigmoid = named("s", Threshold(), activation="sigmoid")
    said = refused([a, sigmoid], "mean", tmp_path)
    assert "a and s decide by different rules (softmax, the largest wins; sigmoid, the largest wins)" in said
    low, high = (
        named(n, Threshold(), activation="sigmoid", out_channels=1, threshold=t) for n, t in (("l", 0.3), ("h", 0.6))
    )
    assert "(sigmoid, threshold 0.3; sigmoid, threshold 0.6)" in refused([low, high], "mean", tmp_path)
    check_ensemble(tasks_of([low, high]), "vote")
    raw = [named(n, Threshold(), activation="none") for n in "xy"]
    assert "Model x does not say that it gives probabilities" in refused(raw, "mean", tmp_path)
    check_ensemble(tasks_of(raw), "vote")
    check_ensemble(tasks_of([a, b]), "mean")


def test_staple_needs_three_models_for_several_ids_and_no_more_voxels_than_it_takes(tmp_path, monkeypatch):
    several = [named(n, Nearest((0, 1, 2)), names=("x", "y"), out_channels=3) for n in "abc"]
    assert "at least 3 segmentations for 2 ids and got 2" in refused(several[:2], "staple", tmp_path)
    check_ensemble(tasks_of(several), "staple")
    check_ensemble(tasks_of(three()[:2]), "staple")
    monkeypatch.setattr(staple, "STAPLE_VOXELS", 459)
    assert "at most 459 voxels here; these have 460" in refused(three(), "staple", tmp_path)
    # what counts is what is combined: every frame, and of those the region
    check_ensemble(tasks_of(three(), region=(slice(0, 19), slice(0, 23))), "staple")
    frames = MedicalImage((grades((2, 20, 12)),), "tyx", Geometry.from_spacing((20, 12), None))
    with pytest.raises(InputError, match="these have 480"):
        check_ensemble(tasks_of(three(), frames), "staple")


def test_only_the_mean_has_probabilities_stored():
    tasks = tasks_of(three(), overlap=0.5)
    assert [t.options for t in tasks_for(tasks, "mean")] == [SegmentOptions(overlap=0.5, probabilities=True)] * 3
    assert tasks_for(tasks, "vote") == tasks


# -- runs that end early -----------------------------------------------------------------------------


def stop_at(done, word="combining the models"):
    progress = Progress(lambda s: progress.cancel() if (s.word, s.done) == (word, done) else None)
    return progress


@pytest.mark.parametrize("method", ["mean", "vote"])
def test_a_run_cancelled_while_combining_is_resumed_and_combines_anew(tmp_path, method, monkeypatch):
    from napari_medseg.inference.tiles import memory

    monkeypatch.setattr(memory, "_CHUNK_2D", (8, 16))
    image, out = picture(grades((21, 37))), tmp_path / "o.zarr"
    with pytest.raises(CancelledError):
        run(image, three(), out, method, progress=stop_at(4))
    half = zarr.open_group(tmp_path / "o.partial.zarr", mode="r+")["labels/ensemble"]
    assert half.attrs["medseg"]["complete"] is False
    # the rows of chunks after the fourth are not there; what is must not survive
    assert half["0"][:8].any() and not half["0"][16:].any()
    half["0"][...] = 77
    half.create_group("left from before")
    tiles = []
    resumed = run(image, three(), out, method, resume=True, progress=Progress(tiles.append))[-1]
    whole = run(image, three(), tmp_path / "w.zarr", method)[-1]
    assert np.array_equal(labels_of(resumed), labels_of(whole))
    assert list(zarr.open_group(out, mode="r")["labels/ensemble"].group_keys()) == []
    # no tile was computed again
    assert {s.done / s.total for s in tiles if s.word == "segmenting"} <= {0, 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.zarr", "w.zarr"]


def test_a_run_cancelled_while_a_model_computes_loses_no_probabilities(tmp_path, monkeypatch):
    from napari_medseg.inference.tiles import memory

    monkeypatch.setattr(memory, "_CHUNK_2D", (8, 64))
    image = picture(grades((40, 37)))
    whole = labels_of(run(image, three(), tmp_path / "w.zarr", "mean")[-1])
    for tiles in range(2, 30, 9):
        out = tmp_path / f"{tiles}.zarr"
        with pytest.raises(CancelledError):
            run(image, three(), out, "mean", SegmentOptions(batch_size=1), progress=stop_at(tiles, "segmenting"))
        resumed = run(image, three(), out, "mean", SegmentOptions(batch_size=1), resume=True)[-1]
        assert np.array_equal(labels_of(resumed), whole)


class Killed(BaseException):
    pass


def test_a_run_killed_while_maps_are_removed_computes_them_again(tmp_path, monkeypatch):
    image, out = picture(grades()), tmp_path / "o.zarr"

    def killed(self):
        raise Killed

    monkeypatch.setattr(UnfinishedStore, "publish", killed)
    with pytest.raises(Killed):
        run(image, three(), out, "mean")
    monkeypatch.undo()
    assert not (tmp_path / "o.partial.zarr" / "maps").exists()
    # asked for now: empty ones must not pass for these
    results = run(image, three(), out, "vote", SegmentOptions(probabilities=True), resume=True)
    stored = np.asarray(zarr.open(out, mode="r")["maps/b/probabilities/0"][...], np.float64)
    assert np.abs(stored[1] - foreground(grades(), 0.45, 9)).max() < 1e-3
    assert np.array_equal(labels_of(results[-1]), grades() > 0.45)


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_a_resumed_run_without_an_ensemble_leaves_none_behind(tmp_path, ngff):
    image, out = picture(grades()), tmp_path / "o.zarr"
    with pytest.raises(CancelledError):
        run(image, three(), out, "vote", progress=stop_at(1), ngff=ngff)
    assert (tmp_path / "o.partial.zarr" / "labels" / "ensemble").is_dir()
    results = run(image, three(), out, None, resume=True, ngff=ngff)
    assert [r.segmentation.name for r in results] == ["a", "b", "c"]
    root = zarr.open_group(out, mode="r")
    for group, listed in ((root["labels"], ["a", "b", "c"]), (root, ["labels/a", "labels/b", "labels/c"])):
        found = group.attrs["ome"] if ngff == "0.5" else group.attrs
        assert found["labels"] == listed
    assert sorted(root["labels"].group_keys()) == ["a", "b", "c"]
    assert root.attrs["medseg"]["kind"] == "labels"


def test_labels_of_a_model_that_is_called_ensemble_are_left_alone(tmp_path):
    image = picture(grades())
    with UnfinishedStore(tmp_path / "o.zarr", "0.5", overwrite=False, resume=False) as store:
        store.root.create_group("labels/ensemble")
        forget_consensus(store, ["ensemble"])
        assert (store.folder / "labels" / "ensemble").is_dir()
        forget_consensus(store, ["a"])
        assert not (store.folder / "labels" / "ensemble").exists()
    named_so = segment_all(image, three()[:1], tmp_path / "p.zarr", names=["ensemble"])
    assert np.array_equal(labels_of(named_so[0]), grades() > 0.25)


# -- stores that are not what they should be ---------------------------------------------------------


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_that_are_missing_are_an_error_not_background(tmp_path, activation):
    models = three(activation=activation) if activation == "softmax" else []
    if activation == "sigmoid":

        class One(Threshold):
            def forward(self, tiles):
                return super().forward(tiles)[:, 1:]

        kind = {"out_channels": 1, "activation": "sigmoid", "threshold": 0.5}
        models = [named(n, One(v), **kind) for n, v in (("a", 0.25), ("b", 0.45))]
    image = picture(grades())
    tasks, names = tasks_of(models, image, probabilities=True), [m.card.id for m in models]
    with pytest.raises(CancelledError):
        run(image, models, tmp_path / "o.zarr", "mean", progress=stop_at(0))
    with UnfinishedStore(tmp_path / "o.zarr", "0.5", overwrite=False, resume=True) as store:
        write = {"image_sha256": "5" * 64, "progress": Progress()}
        assert write_consensus(store, tasks, names, "mean", "0.5", **write).labels[0].voxels > 0
        assert read_segmentation(store.folder / "labels" / "ensemble").provenance.image_sha256 == "5" * 64
        # one pixel that model b calls background, or one that it labels where background may well be stored as 0
        row, column = np.argwhere(grades() < 0.45 if activation == "softmax" else grades() > 0.45)[0]
        store.root["maps/b/probabilities/0"][:, row, column] = 0
        with pytest.raises(MedsegError, match="Probabilities of model b are missing"):
            write_consensus(store, tasks, names, "mean", "0.5", **write)
        drop_maps(store, tasks, names)
        assert (store.folder / "maps" / "b" / "probabilities").is_dir()


def test_a_disk_that_stores_something_else_is_noticed(tmp_path, monkeypatch):
    whole = zarr.Array.__setitem__

    def faulty(self, index, value):
        whole(self, index, np.zeros_like(value) if "ensemble" in self.path else value)

    monkeypatch.setattr(zarr.Array, "__setitem__", faulty)
    with pytest.raises(MedsegError, match="differ from those decided"):
        run(picture(grades()), three(), tmp_path / "o.zarr", "vote")
