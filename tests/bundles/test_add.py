"""Models become the user's own: bundles are copied, results folders of nnU-Net are made into bundles."""

import json

import pytest
import torch

from napari_medseg.bundles import list_bundles, load_model, user_bundles
from napari_medseg.bundles.add import add_model
from napari_medseg.bundles.nnunet import kept_bundle
from napari_medseg.case import InputError, RefusedError
from napari_medseg.cli import main
from tests.bundles.bundle_cases import write_bundle
from tests.bundles.nnunet_cases import original, results


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    for name in ("data", "config", "cache"):
        monkeypatch.setattr(f"platformdirs.user_{name}_dir", lambda *a, n=name, **k: str(tmp_path / n))
    monkeypatch.delenv("MEDSEG_BUNDLES", raising=False)


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_bundle_is_copied_byte_by_byte_and_listed(tmp_path):
    source = write_bundle(tmp_path / "theirs")
    model = add_model(source)
    assert model.path == user_bundles() / "theirs" and model.weights.is_file()
    assert files_of(model.path) == files_of(source)
    assert [e.source for e in list_bundles() if e.id == "theirs"] == ["user folder"]
    assert load_model("theirs").sha256 == model.sha256


def test_what_is_there_is_replaced_only_when_asked(tmp_path):
    source = write_bundle(tmp_path / "theirs")
    add_model(source)
    with pytest.raises(InputError, match="theirs: already exists"):
        add_model(source)
    assert add_model(source, overwrite=True).card.id == "theirs"


def test_the_id_of_another_model_is_not_taken(tmp_path):
    with pytest.raises(InputError, match="he_nuclei is also the id of a model in built-in"):
        add_model(next(e.path for e in list_bundles() if e.id == "he_nuclei"))
    assert not (user_bundles() / "he_nuclei").exists()


def test_a_damaged_bundle_and_links_are_refused_and_nothing_stays(tmp_path):
    source = write_bundle(tmp_path / "theirs")
    (source / "docs").mkdir(exist_ok=True)
    (source / "docs" / "secret").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="holds the link docs/secret"):
        add_model(source)
    (source / "docs" / "secret").unlink()
    weights = source / "models" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RefusedError, match="changed or damaged"):
        add_model(source)
    assert not list(user_bundles().glob("*"))


def test_a_results_folder_becomes_a_model_of_the_user(tmp_path):
    path = results(tmp_path, folds=("0", "1"))
    with pytest.raises(InputError, match="has the folds 0, 1; say which one"):
        add_model(path)
    model = add_model(path, fold="1", orientation="spl", licence="CC BY 4.0")
    assert model.card.id == "Dataset042_Liver_fine_fold1"
    assert (model.orientation, model.card.licence) == (("S", "P", "L"), "CC BY 4.0")
    assert add_model(path / "fold_0").card.id == "Dataset042_Liver_fine_fold0"
    with pytest.raises(InputError, match="for results folders of nnU-Net only"):
        add_model(write_bundle(tmp_path / "theirs"), fold="0")


def test_a_results_folder_is_used_like_a_bundle_and_made_once(tmp_path):
    path = results(tmp_path, folds=("0", "2"))
    with pytest.raises(InputError, match=r"say which one, for instance by the path of fold_0"):
        load_model(path)
    model = load_model(path / "fold_2")
    assert (model.card.id, model.source) == ("Dataset042_Liver_fine_fold2", "nnU-Net results")
    image = torch.randn(1, 1, 16, 8, 12)
    with torch.no_grad():
        expected = original()(image.permute(0, 1, 3, 2, 4)).permute(0, 1, 3, 2, 4)
        torch.testing.assert_close(model.network()(image), expected, atol=1e-5, rtol=1e-5)
    made = (model.path / "SHA256SUMS").stat().st_mtime_ns
    assert load_model(path / "fold_2").path == model.path
    assert (model.path / "SHA256SUMS").stat().st_mtime_ns == made


def test_other_files_are_another_bundle(tmp_path):
    path = results(tmp_path)
    first = kept_bundle(path)
    dataset = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps({**dataset, "licence": "CC0"}))
    assert kept_bundle(path) != first


def test_what_is_neither_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="neither a MONAI bundle nor a results folder"):
            add_model(wrong)


def test_the_command_adds_and_says_the_id(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["add", str(write_bundle(tmp_path / "theirs")), "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out)["id"] == "theirs"
    with pytest.raises(SystemExit) as end:
        main(["add", str(tmp_path / "nowhere")])
    assert end.value.code == 1
    assert "neither a MONAI bundle" in capsys.readouterr().err
