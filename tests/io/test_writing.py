from dataclasses import replace

import numpy as np
import pytest

from napari_medseg.case import Geometry, InputError, MedsegError, Segmentation
from napari_medseg.io import writing
from napari_medseg.io.writing import staged, verify


@pytest.fixture
def meant():
    data = np.zeros((6, 7), np.uint8)
    data[1:3, 2:5] = 1
    data[4, 6] = 9
    return Segmentation(data, Geometry.from_spacing(data.shape, (2.0, 3.0), "mm"))


def changed(segmentation, **at):
    data = segmentation.data.copy()
    for (y, x), value in at["set"].items():
        data[y, x] = value
    return replace(segmentation, data=data)


def test_equal_labels_pass(meant):
    verify(meant, replace(meant, data=meant.data.astype(np.uint32)), "a.nii")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: replace(s, geometry=Geometry.from_spacing(s.geometry.shape, (2.0, 3.1), "mm")), "written grid"),
        (lambda s: replace(s, geometry=s.geometry.in_unit("um")), "written grid"),
        (lambda s: replace(s, data=s.data[np.newaxis], axes="tyx"), "written shape"),
        (lambda s: changed(s, set={(4, 6): 8}), "ids or voxel counts"),
        (lambda s: changed(s, set={(0, 0): 1}), "ids or voxel counts"),
        (lambda s: changed(s, set={(4, 6): 0, (5, 6): 9}), "label 9 was written at another place"),
        (lambda s: replace(s, data=s.data[:, ::-1]), "another place"),
    ],
)
def test_any_difference_is_found(meant, spoil, words):
    with pytest.raises(MedsegError, match=words):
        verify(meant, spoil(meant), "a.nii")


def test_a_file_takes_its_name_only_when_all_went_well(tmp_path):
    target = tmp_path / "a.txt"
    with staged(target, overwrite=False) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(InputError, match=r"a\.txt: already exists"), staged(target, overwrite=False):
        raise AssertionError("not reached")
    with pytest.raises(ZeroDivisionError), staged(target, overwrite=True) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def own_store(folder, content):
    folder.mkdir()
    (folder / content).touch()
    (folder / "zarr.json").write_text('{"attributes": {"medseg": {}}}')


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zarr", {"zarr.json": '{"attributes": {"ome": {"multiscales": []}}}', "0": "pixels"}),
        ("a.zarr", {"zarr.json": "damaged"}),
        ("a.zarr", {"thesis.txt": "years of work"}),
        ("a.nii.gz", {"thesis.txt": "years of work"}),
        ("a.nii.gz", {}),
    ],
)
def test_folders_of_others_are_never_replaced(tmp_path, name, content):
    target = tmp_path / name
    target.mkdir()
    for file, text in content.items():
        (target / file).write_text(text)
    with pytest.raises(InputError, match="never replaces"), staged(target, overwrite=True):
        raise AssertionError("not reached")
    assert {p.name: p.read_text() for p in target.iterdir()} == content


def test_a_file_is_not_replaced_by_a_store(tmp_path):
    (tmp_path / "a.zarr").write_text("notes")
    with pytest.raises(InputError, match="a store is a folder"), staged(tmp_path / "a.zarr", overwrite=True):
        raise AssertionError("not reached")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "a.zarr"
    for content in ("first", "second"):
        with staged(target, overwrite=True) as temporary:
            own_store(temporary, content)
    assert sorted(p.name for p in target.iterdir()) == ["second", "zarr.json"]
    rename = writing.Path.rename

    def refuse(self, to):
        if self.name.endswith("-a.zarr"):
            raise OSError("no")
        return rename(self, to)

    monkeypatch.setattr(writing.Path, "rename", refuse)
    with pytest.raises(OSError, match="no"), staged(target, overwrite=True) as temporary:
        own_store(temporary, "third")
    assert sorted(p.name for p in target.iterdir()) == ["second", "zarr.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_a_folder_that_is_not_there_or_not_ours_is_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such folder to write"), staged(tmp_path / "no" / "a.txt", overwrite=False):
        raise AssertionError("not reached")

    def refuse(self, to):
        raise PermissionError(13, "denied")

    monkeypatch.setattr(writing.Path, "replace", refuse)
    with pytest.raises(InputError, match="no permission"), staged(tmp_path / "a.txt", overwrite=False) as temporary:
        temporary.write_text("x")
    assert list(tmp_path.iterdir()) == []
