import numpy as np
import pytest

from napari_medseg.case import Geometry, InputError, LabelTable, Provenance, Segmentation, Step
from napari_medseg.io import open_segmentation, write_segmentation
from napari_medseg.io.formats import FORMATS, format_of, label_format, says_labels

FLAT = ["a.png", "a.tif", "a.geojson"]
VOLUMES = ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.tif", "a.zarr"]


def labels(*shape):
    data = np.zeros(shape, np.uint8)
    data[..., 1, 2] = 3
    unit, frame = ("mm", "patient") if len(shape) == 3 else (None, "image")
    geometry = Geometry.from_spacing(shape, (2.0,) * len(shape) if unit else None, unit, frame)
    return Segmentation(data, geometry, LabelTable.from_names({3: "liver"}), Provenance().with_step(Step.now("edit")))


@pytest.mark.parametrize("name", FLAT)
def test_flat_labels_say_so_and_come_back_whole(tmp_path, name):
    made = labels(4, 5)
    write_segmentation(made, tmp_path / name)
    assert says_labels(tmp_path / name)
    again = open_segmentation(tmp_path / name)
    assert np.array_equal(np.asarray(again.data[...]), made.data)
    assert (again.table, again.provenance) == (made.table, made.provenance)


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_of_labels_come_back_whole(tmp_path, name):
    made = labels(3, 4, 5)
    write_segmentation(made, tmp_path / name)
    again = open_segmentation(tmp_path / name)
    assert np.array_equal(np.asarray(again.data[...]), made.data)
    assert again.geometry.is_close(made.geometry)
    assert (again.table, again.provenance) == (made.table, made.provenance)
    if name != "a.zarr":
        assert says_labels(tmp_path / name)


def test_images_do_not_say_they_are_labels(tmp_path):
    import nibabel as nib
    import tifffile
    from PIL import Image

    data = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii.gz")
    tifffile.imwrite(tmp_path / "a.tif", data[0])
    Image.fromarray(data[0]).save(tmp_path / "a.png")
    for name in ("a.nii.gz", "a.tif", "a.png"):
        assert not says_labels(tmp_path / name)


def test_a_store_gives_labels_by_name_only_if_it_has_them(tmp_path):
    write_segmentation(labels(4, 5), tmp_path / "a.zarr")
    assert open_segmentation(tmp_path / "a.zarr", name="labels").table.name(3) == "liver"
    with pytest.raises(InputError, match="holds no labels named tumour; it holds labels"):
        open_segmentation(tmp_path / "a.zarr", name="tumour")
    write_segmentation(labels(4, 5), tmp_path / "a.png")
    with pytest.raises(InputError, match="only OME-Zarr"):
        open_segmentation(tmp_path / "a.png", name="labels")


def test_names_choose_formats():
    assert {f.module for f in FORMATS} >= {"ome_zarr", "nifti", "itk", "dicom", "wsi", "tiff", "raster", "video"}
    assert label_format("x.NII.GZ").module == "nifti"
    with pytest.raises(InputError, match="accepted endings"):
        label_format("x.mp4")


def test_folders_and_files_without_a_kind(tmp_path):
    with pytest.raises(InputError, match="the folder is empty"):
        format_of(tmp_path)
    (tmp_path / "word.doc").write_text("text")
    with pytest.raises(InputError, match="not a known kind of image"):
        format_of(tmp_path / "word.doc")
    with pytest.raises(InputError, match="labels are not read from video"):
        (tmp_path / "a.mp4").write_text("text")
        open_segmentation(tmp_path / "a.mp4")
