"""SHA256SUMS is checked as sha256sum would, and trust is for one exact content."""

import hashlib
import shutil
import subprocess

import pytest

from napari_medseg.bundles import checksums, trust
from napari_medseg.case import InputError, RefusedError
from tests.bundles.bundle_cases import write_bundle

NEEDED = ("configs/inference.json", "models/model.safetensors")


def test_what_is_written_verifies_and_sha256sum_agrees(tmp_path):
    folder = write_bundle(tmp_path / "b")
    assert checksums.verify(folder, NEEDED) is True
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)


def test_a_changed_file_is_refused(tmp_path):
    folder = write_bundle(tmp_path / "b")
    path = folder / "configs" / "inference.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(RefusedError, match=r"b was changed or damaged: configs/inference\.json"):
        checksums.verify(folder, NEEDED)


def test_a_missing_file_is_refused(tmp_path):
    folder = write_bundle(tmp_path / "b")
    (folder / "configs" / "metadata.json").unlink()
    with pytest.raises(RefusedError, match="is not complete"):
        checksums.verify(folder, NEEDED)


def test_a_used_file_must_be_named(tmp_path):
    folder = write_bundle(tmp_path / "b")
    sums = folder / "SHA256SUMS"
    sums.write_text("".join(line + "\n" for line in sums.read_text().splitlines() if "inference" not in line))
    with pytest.raises(RefusedError, match="is used and not named"):
        checksums.verify(folder, NEEDED)


def test_without_hashes_nothing_is_verified(tmp_path):
    assert checksums.verify(write_bundle(tmp_path / "b", sums=False), NEEDED) is False


def test_hashes_of_files_elsewhere_are_refused(tmp_path):
    folder = write_bundle(tmp_path / "b")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ../other\n")
    with pytest.raises(RefusedError, match="outside the bundle"):
        checksums.read_sums(folder)
    (folder / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(InputError, match="line 1"):
        checksums.read_sums(folder)


def test_the_binary_mark_and_blank_lines_are_read(tmp_path):
    (tmp_path / "SHA256SUMS").write_text(f"\n{'A' * 64} *models/x\n")
    assert checksums.read_sums(tmp_path) == {"models/x": "a" * 64}


def test_the_bundle_hash_is_of_names_and_contents(tmp_path):
    a = tmp_path / "a"
    a.mkdir()
    (a / "x").write_bytes(b"1")
    first = hashlib.sha256(b"1").hexdigest()
    assert checksums.bundle_sha256(a) == hashlib.sha256(f"{first}  x\n".encode()).hexdigest()
    (a / "x").rename(a / "y")
    assert checksums.bundle_sha256(a) != hashlib.sha256(f"{first}  x\n".encode()).hexdigest()


@pytest.mark.parametrize(
    "name", ["run/x.py", "__pycache__/x.pyc", ".git/config", ".DS_Store", "SHA256SUMS", "a/SHA256SUMS"]
)
def test_every_file_counts_for_trust(tmp_path, name):
    folder = write_bundle(tmp_path / "b", sums=False)
    seen = {checksums.bundle_sha256(folder)}
    (folder / name).parent.mkdir(exist_ok=True)
    for text in ("one", "two"):
        (folder / name).write_text(text)
        seen.add(checksums.bundle_sha256(folder))
    assert len(seen) == 3


def test_a_linked_folder_elsewhere_cannot_be_trusted(tmp_path):
    folder = write_bundle(tmp_path / "b")
    before = checksums.bundle_sha256(folder)
    (folder / "scripts").symlink_to("models")
    assert checksums.bundle_sha256(folder) != before
    (tmp_path / "elsewhere").mkdir()
    (folder / "scripts").unlink()
    (folder / "scripts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="outside the bundle"):
        checksums.bundle_sha256(folder)


def test_trust_is_remembered_and_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_config_dir", lambda *a, **k: str(tmp_path / "config"))
    assert trust.trusted_bundles() == set()
    trust.trust_bundle("a" * 64)
    trust.trust_bundle("b" * 64)
    assert trust.trusted_bundles() == {"a" * 64, "b" * 64}
    trust.distrust_bundle("a" * 64)
    assert trust.trusted_bundles() == {"b" * 64}
    with pytest.raises(InputError, match="not a SHA-256"):
        trust.trust_bundle("all of them")
    trust.trust_file().write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        trust.trusted_bundles()
