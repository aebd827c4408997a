"""Bundles are found in every place, broken ones are listed and not fatal, and loading verifies."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_medseg.bundles import bundle_sha256, find, list_bundles, load_model
from napari_medseg.case import InputError, MedsegError, RefusedError
from tests.bundles.bundle_cases import BUILT_IN, inference, metadata, write_bundle


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A user folder and one extra folder, both empty."""
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *a, **k: str(tmp_path / "data"))
    monkeypatch.setattr("platformdirs.user_config_dir", lambda *a, **k: str(tmp_path / "config"))
    monkeypatch.setenv("MEDSEG_BUNDLES", str(tmp_path / "extra"))
    return tmp_path / "data" / "bundles", tmp_path / "extra"


def test_bundles_are_found_everywhere_in_order(places):
    user, extra = places
    write_bundle(user / "mine")
    write_bundle(extra / "theirs", sums=False)
    found = list_bundles()
    assert [e.id for e in found] == [*BUILT_IN, "mine", "theirs"]
    assert [e.source for e in found] == [*(["built-in"] * len(BUILT_IN)), "user folder", str(extra)]
    mine, theirs = found[-2:]
    assert mine.warning is None
    assert mine.sha256 == theirs.sha256 == find.file_sha256(user / "mine" / "models" / "model.safetensors")
    assert mine.size == (user / "mine" / "models" / "model.safetensors").stat().st_size


def test_the_extra_folder_may_be_a_bundle_itself(places, monkeypatch):
    _, extra = places
    write_bundle(extra / "one")
    monkeypatch.setenv("MEDSEG_BUNDLES", os.pathsep.join([str(extra / "one"), str(extra), str(extra / "not there")]))
    assert [e.id for e in list_bundles()][len(BUILT_IN) :] == ["one"]


def test_one_broken_bundle_is_listed_with_its_reason(places):
    user, _ = places
    write_bundle(user / "good")
    (user / "broken" / "configs").mkdir(parents=True)
    (user / "broken" / "configs" / "metadata.json").write_text("{")
    write_bundle(user / "weightless")
    (user / "weightless" / "models" / "model.safetensors").unlink()
    entries = {e.id: e for e in list_bundles()}
    assert entries["good"].warning is None
    assert "cannot be read" in entries["broken"].warning
    assert entries["broken"].card is None
    assert "has no weights" in entries["weightless"].warning
    with pytest.raises(InputError, match="weightless cannot be used: weightless has no weights"):
        load_model("weightless")


def test_a_used_id_is_not_taken_over(places):
    user, _ = places
    write_bundle(user / "copycat", meta=metadata(id="he_nuclei"))
    entry = next(e for e in list_bundles() if e.path.name == "copycat")
    assert "he_nuclei is also the id of a bundle in built-in" in entry.warning
    assert load_model("he_nuclei").source == "built-in"
    assert load_model(user / "copycat").card.id == "he_nuclei"


def test_listing_imports_no_torch():
    code = (
        "import sys; from napari_medseg.bundles import list_bundles, load_model; "
        "assert all(e.warning is None for e in list_bundles()); load_model('he_nuclei'); "
        "print([m for m in ('torch', 'monai', 'scipy', 'skimage') if m in sys.modules])"
    )
    environment = {**os.environ, "MEDSEG_BUNDLES": ""}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.strip() == "[]"


def test_a_bundle_becomes_a_model(places):
    user, _ = places
    model = load_model(write_bundle(user / "mine"))
    assert model.card.id == "mine"
    assert (model.spatial_dims, model.out_channels, model.tile, model.overlap) == (2, 2, (16, 32), 0.5)
    assert (model.spacing, model.unit, model.orientation) == (None, None, None)
    assert (model.activation, model.threshold, model.instances) == ("softmax", None, None)
    assert model.divisible_by == (4, 4)
    assert model.padding == "constant"
    assert not model.trusted
    np.testing.assert_allclose(model.intensity.apply(np.array([[51.0]])), [[0.2]])
    network = model.network()
    assert not network.training
    assert next(network.parameters()).dtype == torch.float32
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 16, 32)).shape == (1, 2, 16, 32)


def test_ids_paths_and_relative_paths_lead_to_a_model(places, monkeypatch):
    user, _ = places
    folder = write_bundle(user / "mine")
    monkeypatch.chdir(user)
    assert load_model("mine").path == load_model(str(folder)).path == load_model("./mine").path == folder.resolve()


def test_unknown_names_are_answered_with_the_known_ones(places, tmp_path):
    with pytest.raises(InputError, match=f"there is no model nothing; found are {', '.join(BUILT_IN)}, and the path"):
        load_model("nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is neither a MONAI bundle nor a results folder"):
        load_model(tmp_path / "empty")
    with pytest.raises(InputError, match=r"there is no model .*nowhere"):
        load_model(tmp_path / "nowhere")


def test_a_damaged_bundle_is_refused(places):
    user, _ = places
    folder = write_bundle(user / "mine")
    content = bytearray((folder / "models" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "models" / "model.safetensors").write_bytes(content)
    with pytest.raises(RefusedError, match=r"was changed or damaged: models/model\.safetensors") as refused:
        load_model("mine")
    assert refused.value.exit_code == 3


def test_weights_swapped_after_loading_are_refused(places):
    user, _ = places
    model = load_model(write_bundle(user / "mine"))
    (user / "mine" / "models" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(RefusedError, match="changed since it was verified"):
        model.network()


def test_weights_outside_the_bundle_are_refused(places, tmp_path):
    user, _ = places
    folder = write_bundle(user / "mine", sums=False)
    weights = folder / "models" / "model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(RefusedError, match="outside the bundle"):
        load_model(folder)


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("network_def", {"_target_": "os.system", "command": "true"}, "os.system"),
        ("network_def", {"_target_": "torch.hub.load", "repo": "x"}, "no network class"),
        ("network_def", "$__import__('os').system('true')", "would run"),
        ("preprocessing", {"_target_": "Compose", "transforms": [{"_target_": "Lambdad", "func": "$exit"}]}, None),
        ("initialize", ["$__import__('os').mkdir('boom')"], "would run '__import__'"),
        ("preprocessing", [{"_target_": "scripts.Mine", "keys": "image"}], "not one of MONAI's"),
    ],
)
def test_bundles_that_would_run_code_are_refused(places, section, value, words, monkeypatch):
    user, _ = places
    monkeypatch.chdir(user.parent.parent)
    write_bundle(user / "evil", config={**inference(), section: value})
    with pytest.raises((RefusedError, InputError) if words is None else RefusedError, match=words):
        load_model("evil")
    assert not (user.parent.parent / "boom").exists()


def test_trust_is_for_one_exact_bundle(places):
    user, _ = places
    config = inference()
    config["network_def"]["channels"] = "$[2 ** k for k in (2, 3)]"
    folder = write_bundle(user / "mine", config=config)
    with pytest.raises(RefusedError, match="network_def#channels would run Python code"):
        load_model("mine")
    trusted = load_model("mine", trust={bundle_sha256(folder)})
    assert trusted.trusted
    assert trusted.network_def["channels"] == [4, 8]
    assert sum(p.numel() for p in trusted.network().parameters()) > 100
    from napari_medseg.bundles import trust_bundle

    trust_bundle(bundle_sha256(folder))
    assert load_model("mine").trusted
    write_bundle(folder, config={**config, "note": "changed"})
    with pytest.raises(RefusedError, match="would run Python code"):
        load_model("mine")


def test_volumes_carry_spacing_orientation_and_unit(places):
    user, _ = places
    config = inference()
    config["network_def"]["spatial_dims"] = 3
    config["preprocessing"] = [
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [0.5, 0.5, 2.0]},
    ]
    config["inferer"] = {"_target_": "SlidingWindowInferer", "roi_size": [96, 96, 30]}
    meta = metadata(unit="um")
    meta["network_data_format"]["inputs"]["image"]["spatial_shape"] = ["16*n", "16*n", "16*n"]
    model = load_model(write_bundle(user / "volume", config=config, meta=meta))
    assert model.orientation == ("R", "A", "S")
    assert (model.spacing, model.unit) == ((0.5, 0.5, 2.0), "um")
    # 30 is no multiple of 16, so only the stated tile is known to fit
    assert model.divisible_by == (96, 96, 30)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, m: c.update(network_def=3), "names no class"),
        (lambda c, m: c["network_def"].update(spatial_dims=1), "1 dimensions"),
        (lambda c, m: c.pop("inferer"), "leads nowhere"),
        (lambda c, m: m["network_data_format"]["outputs"]["pred"].pop("num_channels"), "how many channels"),
        (
            lambda c, m: (
                c.update(inferer={"_target_": "SimpleInferer"}),
                m["network_data_format"]["inputs"]["image"].update(spatial_shape=["*", "*"]),
            ),
            "no tile size",
        ),
        (
            lambda c, m: (
                c.update(preprocessing=[{"_target_": "Spacingd", "keys": "image", "pixdim": [1, 1]}]),
                m["medseg"].update(unit="inch"),
            ),
            "unit 'inch'",
        ),
    ],
)
def test_what_a_model_lacks_is_named(places, change, words):
    user, _ = places
    config, meta = inference(), metadata()
    change(config, meta)
    write_bundle(user / "mine", config=config, meta=meta)
    with pytest.raises(InputError, match=words):
        load_model("mine")


ODD = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.lists(st.integers(-2, 5), max_size=3)
SPOTS = [
    ("network_def",),
    ("network_def", "spatial_dims"),
    ("preprocessing",),
    ("preprocessing", "transforms"),
    ("preprocessing", "transforms", 1),
    ("preprocessing", "transforms", 1, "keys"),
    ("preprocessing", "transforms", 1, "a_min"),
    ("inferer",),
    ("inferer", "roi_size"),
    ("inferer", "overlap"),
    ("postprocessing",),
    ("postprocessing", "transforms", 0, "softmax"),
    ("postprocessing", "transforms", 1, "threshold"),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spot=st.sampled_from(SPOTS), value=ODD)
def test_odd_configurations_give_a_model_or_one_sentence(places, spot, value):
    user, _ = places
    folder = user / "odd"
    if not folder.exists():
        write_bundle(folder, sums=False)
    config = inference()
    part = config
    for key in spot[:-1]:
        part = part[key]
    part[spot[-1]] = value
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    try:
        model = load_model(folder)
    except MedsegError as error:
        assert "odd" in str(error)
        assert "\n" not in str(error)
    else:
        assert len(model.tile) == 2
        assert 0 <= model.overlap < 1


def test_dimensions_may_come_from_the_metadata(places):
    user, _ = places
    config = inference()
    del config["network_def"]["spatial_dims"]
    config["inferer"] = {"_target_": "SimpleInferer"}
    meta = metadata()
    meta["network_data_format"]["inputs"]["image"]["spatial_shape"] = [32, 32]
    model = load_model(write_bundle(user / "mine", config=config, meta=meta))
    assert (model.spatial_dims, model.tile, model.divisible_by) == (2, (32, 32), (32, 32))


@pytest.mark.parametrize("sums", [None, "", "\n\n"])
def test_a_bundle_without_hashes_says_that_it_is_not_verified(places, sums):
    user, _ = places
    folder = write_bundle(user / "mine")
    assert load_model("mine").verified
    (folder / "SHA256SUMS").unlink()
    if sums is not None:
        (folder / "SHA256SUMS").write_text(sums)
    assert load_model("mine").verified is False
    assert load_model(folder).verified is False


@pytest.mark.parametrize("sums", [None, ""])
def test_a_built_in_bundle_without_hashes_is_refused(tmp_path, monkeypatch, sums):
    folder = write_bundle(tmp_path / "shipped", sums=False)
    if sums is not None:
        (folder / "SHA256SUMS").write_text(sums)
    monkeypatch.setattr(find, "bundle_folders", lambda: [("built-in", tmp_path)])
    with pytest.raises(RefusedError, match="has lost its SHA256SUMS"):
        load_model("shipped")


@pytest.mark.parametrize("size", [10**9, 50_000, 1e300])
def test_an_absurd_tile_is_refused(places, size):
    user, _ = places
    config = inference()
    config["inferer"]["roi_size"] = [size, size]
    with pytest.raises(InputError, match="its tile has more voxels than the 2147483648"):
        load_model(write_bundle(user / "mine", config=config))
