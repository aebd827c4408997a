"""What napari.yaml promises: it is valid, and napari can open, save and show everything it names."""

import shutil
from importlib import resources
from pathlib import Path

import nibabel
import numpy as np
import pytest
from npe2 import DynamicPlugin, PluginManager, PluginManifest

from napari_medseg.case import Geometry, InputError, LabelTable, MedicalImage, Segmentation
from napari_medseg.desk.layers import labels_layer
from napari_medseg.io import FORMATS, open_segmentation, write_segmentation
from napari_medseg.plugin import get_reader, read, write_labels
from napari_medseg.samples import SAMPLES

assert DynamicPlugin and PluginManager  # the test tools that come with npe2 must be importable


@pytest.fixture(scope="module")
def manifest():
    return PluginManifest.from_file(str(resources.files("napari_medseg") / "napari.yaml"))


@pytest.fixture
def nifti(tmp_path):
    """A RAS volume of 1 x 2 x 3 mm voxels with one bright voxel at index (x, y, z) = (2, 1, 3)."""
    voxels = np.zeros((5, 4, 6), np.int16)
    voxels[2, 1, 3] = 100
    path = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag((1.0, 2.0, 3.0, 1.0))), path)
    return path


def test_the_manifest_is_valid_and_every_name_in_it_exists(manifest):
    manifest.validate_imports()


def test_every_known_ending_is_claimed_by_the_reader(manifest):
    patterns = {p for r in manifest.contributions.readers for p in r.filename_patterns}
    assert {f"*{ending}" for form in FORMATS for ending in form.extensions} == patterns


def test_every_label_format_has_a_writer(manifest):
    endings = {e for w in manifest.contributions.writers for e in w.filename_extensions}
    writable = {e for form in FORMATS if form.writes_labels for e in form.extensions}
    # .ome.tif is a .tif; pictures are written as PNG only, which keeps every id
    expected = {e for e in writable if not e.startswith(".ome.")} - {".jpg", ".jpeg", ".bmp"}
    assert endings == expected


def test_every_sample_is_in_the_menu(manifest):
    assert {s.key for s in manifest.contributions.sample_data} == set(SAMPLES)


def test_every_command_named_anywhere_exists(manifest):
    known = {c.id for c in manifest.contributions.commands}
    named = {item.command for menu in manifest.contributions.menus.values() for item in menu}
    named |= {k.command for k in manifest.contributions.keybindings}
    assert named <= known


def test_reading_puts_the_bright_voxel_where_nibabel_says(nifti):
    from napari.layers import Layer

    (layer_data,) = read(str(nifti))
    layer = Layer.create(*layer_data)
    # viewer world is (-S, -A, -R)
    index = np.round(layer.world_to_data((-9.0, -2.0, -2.0))).astype(int)
    assert layer.data[tuple(index)] == 100


def test_several_files_give_several_layers(nifti, tmp_path):
    second = shutil.copy(nifti, tmp_path / "second.nii.gz")
    assert [options["name"] for _, options, _ in read([str(nifti), str(second)])] == ["head", "second"]


def test_files_of_other_kinds_are_left_to_others(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("words")
    assert get_reader(str(text)) is None
    empty = tmp_path / "empty"
    empty.mkdir()
    assert get_reader(str(empty)) is None


def test_a_broken_file_is_one_sentence(tmp_path):
    broken = tmp_path / "broken.nii"
    broken.write_bytes(b"no image at all")
    with pytest.raises(InputError) as caught:
        get_reader(str(broken))(str(broken))
    assert str(caught.value).startswith("broken.nii")
    assert "\n" not in str(caught.value)


@pytest.fixture
def labels():
    ids = np.zeros((6, 4, 5), np.uint8)
    ids[3, 1, 2] = 1
    ids[4, 2, 1] = 2
    grid = Geometry.from_xyz_affine(ids.shape, np.diag((1.0, 2.0, 3.0, 1.0)))
    return Segmentation(ids, grid, LabelTable.from_names(["anterior", "posterior"]), name="hippocampus")


@pytest.mark.parametrize("ending", [".zarr", ".nii.gz", ".nrrd", ".tif"])
def test_saving_a_layer_keeps_place_ids_and_history(labels, tmp_path, ending):
    data, options, _ = labels_layer(labels)
    path = tmp_path / f"saved{ending}"
    assert write_labels(str(path), data, options) == [str(path)]
    back = open_segmentation(path)
    assert {k: v.voxels for k, v in back.extents().items()} == {1: 1, 2: 1}
    for label, centre in ((1, (3, 1, 2)), (2, (4, 2, 1))):
        there = back.geometry.index_to_world(back.extents()[label].centroid)
        if ending != ".tif":
            np.testing.assert_allclose(there, labels.geometry.index_to_world(centre), atol=1e-4)
    if ending == ".zarr":
        assert [s.action for s in back.provenance.steps] == ["export"]
        assert back.table.name(2) == "posterior"


def test_a_store_with_image_and_labels_opens_as_both(labels, tmp_path):
    from napari_medseg.io import ome_zarr

    image = MedicalImage((np.arange(120, dtype=np.int16).reshape(6, 4, 5),), "zyx", labels.geometry)
    ome_zarr.write_segmentation(labels, tmp_path / "both.zarr", image=image)
    kinds = [(kind, options["name"]) for _, options, kind in read(str(tmp_path / "both.zarr"))]
    assert [k for k, _ in kinds] == ["image", "labels"]
    assert kinds[1][1] == "hippocampus"


def test_a_store_with_labels_only_opens(labels, tmp_path):
    write_segmentation(labels, tmp_path / "only.zarr")
    ((_, options, kind),) = read(str(tmp_path / "only.zarr"))
    assert (kind, list(options["features"]["structure"])) == ("labels", ["background", "anterior", "posterior"])


def test_napari_opens_a_sample_and_a_file_through_the_plugin(make_napari_viewer, nifti):
    viewer = make_napari_viewer()
    viewer.open_sample("napari-medseg", "histology")
    viewer.open(str(nifti), plugin="napari-medseg")
    assert [layer.name for layer in viewer.layers] == ["IHC histology", "head"]
    assert viewer.layers[0].rgb
    cut = Path(nifti).with_name("cut.nii.gz")
    cut.write_bytes(Path(nifti).read_bytes()[:40])
    with pytest.raises(InputError, match=r"^cut\.nii\.gz"):
        viewer.open(str(cut), plugin="napari-medseg")


def test_a_label_file_of_ours_opens_as_labels_with_its_names(tmp_path):
    data = np.zeros((4, 5, 6), np.uint8)
    data[1, 2, 3] = 2
    grid = Geometry.from_spacing(data.shape, (2.0, 1.0, 1.0), "mm", "patient")
    write_segmentation(Segmentation(data, grid, LabelTable.from_names({2: "liver"})), tmp_path / "liver.nii.gz")
    ((shown, options, kind),) = read(str(tmp_path / "liver.nii.gz"))
    assert kind == "labels"
    assert (np.asarray(shown) == 2).sum() == 1
    assert "liver" in str(options["features"])


def test_a_store_whose_image_lost_pixels_is_refused_though_its_labels_are_whole(tmp_path):
    from napari_medseg.io.ome_zarr import write_segmentation as write_store

    data = np.ones((4, 5), np.uint8)
    grid = Geometry.from_spacing(data.shape, None)
    image = MedicalImage((data,), "yx", grid)
    write_store(Segmentation(data, grid, LabelTable.from_names(["all"])), tmp_path / "a.zarr", image=image)
    assert [kind for *_, kind in read(str(tmp_path / "a.zarr"))] == ["image", "labels"]
    shutil.rmtree(tmp_path / "a.zarr" / "0" / "c")
    with pytest.raises(InputError, match=r"a\.zarr"):
        read(str(tmp_path / "a.zarr"))
