"""A bundle is written whole or not at all, and nobody's other files are touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_medseg.bundles import list_bundles, load_model
from napari_medseg.bundles.save import folder, save_bundle, saving
from napari_medseg.case import InputError
from tests.bundles.save_cases import contents, described, refused, unet, weights_of


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("room", "step"),
    [
        (folder, "write_sums"),
        (saving, "load_model"),
        (saving, "compare_description"),
        (saving, "compare_output"),
        (folder, "publish"),
        (folder, "require_free"),
    ],
)
@pytest.mark.parametrize("failure", [OSError("no space left"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_everything_as_it_was(tmp_path, monkeypatch, room, step, failure, there):
    if there:
        save_bundle(tmp_path / "one", unet(), weights_of(unet(), seed=1), described())
    before = contents(tmp_path)

    def fail(*arguments, **options):
        raise failure

    monkeypatch.setattr(room, step, fail)
    with pytest.raises(type(failure)):
        save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(), overwrite=there)
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["one"] * there


@pytest.mark.parametrize("fails", [1, 2])
def test_a_rename_that_fails_puts_the_old_bundle_back(tmp_path, monkeypatch, fails):
    save_bundle(tmp_path / "one", unet(), weights_of(unet(), seed=1), described())
    before, rename, calls = contents(tmp_path), Path.rename, []

    def failing(self, target):
        calls.append(self)
        if len(calls) == fails:
            raise OSError("busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="busy"):
        save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(), overwrite=True)
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_an_old_bundle_that_cannot_be_put_back_is_kept_aside(tmp_path, monkeypatch):
    save_bundle(tmp_path / "one", unet(), weights_of(unet(), seed=1), described())
    before, rename, calls = contents(tmp_path / "one"), Path.rename, []

    def failing(self, target):
        calls.append(self)
        if len(calls) > 1:
            raise OSError("busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="busy"):
        save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(), overwrite=True)
    (kept,) = tmp_path.rglob("replaced bundle")
    assert contents(kept) == before


def test_nobody_sees_it_before_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_BUNDLES", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *a, **k: str(tmp_path / "none"))
    compare, seen = saving.compare_output, []

    def looking(model, *rest):
        assert (model.path / "SHA256SUMS").is_file()
        seen.append([e.path for e in list_bundles() if e.source != "built-in"])
        compare(model, *rest)

    monkeypatch.setattr(saving, "compare_output", looking)
    save_bundle(tmp_path / "one", unet(), weights_of(unet()), described())
    assert seen == [[]]
    assert [e.path for e in list_bundles() if e.source != "built-in"] == [tmp_path / "one"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_meanwhile_is_left_alone(tmp_path, monkeypatch, overwrite):
    compare = saving.compare_output

    def meanwhile(*arguments):
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "notes.txt").write_text("mine")
        compare(*arguments)

    monkeypatch.setattr(saving, "compare_output", meanwhile)
    with pytest.raises(InputError, match="is no bundle" if overwrite else "already exists"):
        save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(), overwrite=overwrite)
    assert contents(tmp_path) == {"one/notes.txt": b"mine"}


def test_a_bundle_is_replaced_only_when_asked(tmp_path):
    first = save_bundle(tmp_path / "one", unet(), weights_of(unet()), described(training_config={"seed": 0}))
    refused(tmp_path / "one", InputError, "already exists", weights=weights_of(unet(), seed=1))
    assert load_model(tmp_path / "one").sha256 == first.sha256
    (tmp_path / "one" / "__pycache__").mkdir()
    (tmp_path / "one" / "__pycache__" / "x.pyc").write_bytes(b"")
    second = save_bundle(tmp_path / "one", unet(), weights_of(unet(), seed=1), described(), overwrite=True)
    assert load_model(tmp_path / "one").sha256 == second.sha256 != first.sha256
    assert "configs/train.json" not in contents(tmp_path / "one")
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("foreign", ["eval/scan/scan_trans.nii.gz", "run/model.pt", "notes.txt", "a/SHA256SUMS"])
def test_nobodys_other_files_are_replaced(tmp_path, foreign):
    save_bundle(tmp_path / "one", unet(), weights_of(unet()), described())
    (tmp_path / "one" / foreign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "one" / foreign).write_bytes(b"mine")
    refused(tmp_path / "one", InputError, f"holds {foreign}, which SHA256SUMS does not name", overwrite=True)


def test_what_is_no_bundle_is_never_replaced(tmp_path):
    (tmp_path / "one").mkdir()
    refused(tmp_path / "one", InputError, "is no bundle", overwrite=True)
    (tmp_path / "two").write_text("a file")
    refused(tmp_path / "two", InputError, "is no bundle", overwrite=True)
