"""The files of a saved bundle: metadata, README, licence and checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import napari_medseg
from napari_medseg.bundles import load_model
from napari_medseg.bundles.save import save_bundle
from napari_medseg.case import MedsegError
from tests.bundles.save_cases import CASES, card, described, unet, weights_of

ROOT = Path(napari_medseg.__file__).parent / "resources" / "bundles"


def test_the_metadata_has_all_that_the_shipped_ones_have(tmp_path):
    model = save_bundle(
        tmp_path / "one", unet(channels=3, out=3), weights_of(unet(channels=3, out=3)), CASES["2D objects"][1]
    )
    shipped = json.loads((ROOT / "he_nuclei" / "configs" / "metadata.json").read_text(encoding="utf-8"))
    written = json.loads((model.path / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert shipped.keys() <= written.keys()
    for side, item in (("inputs", "image"), ("outputs", "pred")):
        theirs, ours = (m["network_data_format"][side][item] for m in (shipped, written))
        assert theirs.keys() == ours.keys()
        assert {k: type(v) for k, v in theirs.items()} == {k: type(v) for k, v in ours.items()}
        assert len(ours["channel_def"]) == ours["num_channels"]
    assert set(shipped["medseg"]) - {"image_grid"} <= set(written["medseg"])
    assert written["eval_metrics"] == {
        "blobs | kept apart: dice": 0.91,
        "blobs | kept apart: images": 1,
        "others: dice": 0.5,
        "others: hd95": 2.5,
    }
    assert written["required_packages_version"].keys() == {"safetensors", "scipy", "scikit-image", "napari-medseg"}


def test_every_file_is_there_and_hashed(tmp_path):
    description = described(training_config={"seed": 0, "run": ["$@trainer.run()"]})
    folder = save_bundle(tmp_path / "one", unet(), weights_of(unet()), description).path
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert set(sums) == {
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "configs/train.json",
        "docs/README.md",
        "models/model.safetensors",
    }
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {*sums, "SHA256SUMS"}
    assert json.loads((folder / "configs" / "train.json").read_text()) == description.training_config


def test_the_readme_says_what_a_user_must_know(tmp_path):
    changed = card(description="Finds a blob.\n\nAnd no other.", intended_use="research, not for diagnosis.")
    folder = save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(changed)).path
    text = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Tiny one\n\nFinds a blob.\n\nAnd no other.\n")
    assert "| images kept apart | dice | images | hd95 |\n|---|---|---|---|\n" in text.replace(" --- ", "---")
    assert "| blobs \\| kept apart | 0.91 | 1 | – |\n| others | 0.5 | – | 2.5 |\n" in text
    assert "## Limits\n\n- Has seen one blob.\n" in text
    assert "- Blobs, 12 images, CC0 1.0. Nobody.\n" in text
    assert "**Intended use: research, not for diagnosis.** Weights: CC BY 4.0." in text
    assert "napari-medseg segment IMAGE -m tiny-one -o OUT.zarr" in text
    assert "- Somebody, Blobs (2020)" in text
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    assert "under CC BY 4.0, https://creativecommons.org/licenses/by/4.0/\n" in licence
    assert "- Blobs, 12 images, CC0 1.0. Nobody." in licence


def test_what_is_not_known_is_said(tmp_path):
    bare = card(training_data=(), reference_scores={})
    description = described(bare, limits=(), licence_text="All rights reserved.")
    folder = save_bundle(tmp_path / "one", unet(), weights_of(unet()), description).path
    text = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert "No scores were measured." in text
    assert "None are stated, which does not mean none." in text
    assert "## Trained on\n\n- Not stated.\n" in text
    assert (folder / "LICENSE").read_text(encoding="utf-8").endswith("\n\nAll rights reserved.\n")


def test_scores_without_sets_make_one_row(tmp_path):
    flat = card(reference_scores={"dice": 0.7})
    folder = save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(flat)).path
    assert "| all | 0.7 |" in (folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert load_model(folder).card.reference_scores == {"dice": 0.7}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(text=st.text(min_size=1, max_size=30), place=st.sampled_from(["name", "description", "validation", "licence"]))
def test_any_text_is_kept_to_the_letter_or_refused(tmp_path, text, place):
    from monai.bundle import ConfigParser

    definition = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    state = {"weight": torch.ones(2, 1, 1, 1), "bias": torch.zeros(2)}
    try:
        model = save_bundle(tmp_path / "any", definition, state, described(card(**{place: text})), overwrite=True)
    except MedsegError as error:
        assert "\n" not in str(error)
        return
    assert getattr(load_model(model.path).card, place) == text
    parser = ConfigParser()
    parser.read_meta(model.path / "configs" / "metadata.json")
    where = {"validation": "medseg::validation", "licence": "license"}.get(place, place)
    # MONAI reads every # as its own separator
    assert parser.get_parsed_content(f"_meta_::{where}") == text.replace("#", "::")
