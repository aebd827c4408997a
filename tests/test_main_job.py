"""The main job on a real file of each family: segment, export, and look where the labels ended up.

The model is one whose answer is known (bright pixels), so that the expected labels and their place in the world
come from independent libraries alone: nibabel, SimpleITK, pydicom, OpenSlide, PyAV and ome-zarr's own reader.
"""

import json
from importlib import resources

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from napari_medseg.cli import main
from tests.io.dicom_cases import SECRET, volume, write_series
from tests.threshold_bundle import write_threshold_bundle


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert left.value.code == 0, captured.err
    return captured.out


def segment(capsys, tmp_path, image, *, spatial_dims, channels, level, tile=64, more=()):
    model = write_threshold_bundle(
        tmp_path / "bright", spatial_dims=spatial_dims, channels=channels, level=level, tile=tile
    )
    out = run(
        capsys, "segment", image, "-m", model, "-o", tmp_path / "labels.zarr", "--json", "--quiet",
        "--overlap", "0", *more,
    )  # fmt: skip
    return tmp_path / "labels.zarr", json.loads(out)


def _labels_node(store):
    return next(node for node in Reader(parse_url(store / "labels" / "bright"))() if node.data)


def by_ome_zarr(store):
    """Labels as ome-zarr's own reader gives them, and their scale and translation along the array axes."""
    node = _labels_node(store)
    transforms = node.metadata["coordinateTransformations"][0]
    scale = next(t["scale"] for t in transforms if t["type"] == "scale")
    shift = next((t["translation"] for t in transforms if t["type"] == "translation"), [0.0] * len(scale))
    return np.asarray(node.data[0]), np.array(scale), np.array(shift)


def nifti_centroid(path):
    """World position (RAS) of label 1's centroid by nibabel."""
    image = nib.load(path)
    where = np.argwhere(np.asarray(image.dataobj) == 1)[:, :3]
    return nib.affines.apply_affine(image.affine, where.mean(0)), image


def itk_centroid(path):
    """The same by SimpleITK, brought from LPS to RAS."""
    image = sitk.ReadImage(str(path))
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(image)
    return np.array(shape.GetCentroid(1)) * (-1, -1, 1)


@pytest.mark.parametrize("name", ["example4d.nii.gz", "anatomical.nii"])
def test_mr_labels_lie_where_nibabel_and_simpleitk_say(capsys, tmp_path, name):
    source = resources.files("nibabel") / "tests" / "data" / name
    image = nib.load(source)
    data = np.asarray(image.dataobj)
    level = float(np.percentile(data, 90))
    store, told = segment(capsys, tmp_path, source, spatial_dims=3, channels=1, level=level)
    expected = data > level
    first = expected[..., 0] if expected.ndim == 4 else expected
    assert told["labels"][0]["voxels"] == expected.sum() > 100

    run(capsys, "export", store, "-o", tmp_path / "labels.nii.gz")
    centroid, written = nifti_centroid(tmp_path / "labels.nii.gz")
    assert written.shape == image.shape
    assert np.array_equal(np.asarray(written.dataobj) == 1, expected)
    assert written.affine == pytest.approx(image.affine, abs=1e-4)
    there = nib.affines.apply_affine(image.affine, np.argwhere(expected)[:, :3].mean(0))
    if expected.ndim == 3:
        assert centroid == pytest.approx(there, abs=1e-3)
        run(capsys, "export", store, "-o", tmp_path / "labels.nrrd")
        assert itk_centroid(tmp_path / "labels.nrrd") == pytest.approx(there, abs=1e-3)
        assert itk_centroid(tmp_path / "labels.nii.gz") == pytest.approx(there, abs=1e-3)

    labels, scale, shift = by_ome_zarr(store)
    volume = labels[0] if labels.ndim == 4 else labels
    assert np.array_equal(volume == 1, first.T)
    # NGFF has no rotation: its positions are the world's, measured along the array's own axes
    directions = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    where = np.argwhere(first).mean(0)
    along = directions.T @ nib.affines.apply_affine(image.affine, where)
    ours = scale[-3:] * np.argwhere(volume).mean(0) + shift[-3:]
    directed = directions.T @ directions
    if np.allclose(directed, np.eye(3), atol=1e-3):
        assert ours == pytest.approx(along[::-1], abs=1e-2)


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm"])
def test_ct_labels_lie_where_simpleitk_puts_the_slice(capsys, tmp_path, name):
    from pydicom.data import get_testdata_file

    source = get_testdata_file(name, download=False)
    slice_ = sitk.ReadImage(source)
    data = sitk.GetArrayFromImage(slice_).astype(float)
    level = float(np.percentile(data, 95))
    store, told = segment(capsys, tmp_path, source, spatial_dims=3, channels=1, level=level)
    expected = data > level
    assert told["labels"][0]["voxels"] == expected.sum() > 100
    z, y, x = np.argwhere(expected).mean(0)
    there = np.array(slice_.TransformContinuousIndexToPhysicalPoint([float(x), float(y), float(z)])) * (-1, -1, 1)

    run(capsys, "export", store, "-o", tmp_path / "labels.nii.gz")
    centroid, written = nifti_centroid(tmp_path / "labels.nii.gz")
    assert centroid == pytest.approx(there, abs=1e-2)
    assert written.header.get_zooms()[:2] == pytest.approx(slice_.GetSpacing()[:2], rel=1e-4)
    run(capsys, "export", store, "-o", tmp_path / "labels.mha")
    assert itk_centroid(tmp_path / "labels.mha") == pytest.approx(there, abs=1e-2)
    labels, scale, _ = by_ome_zarr(store)
    assert np.array_equal(labels.reshape(expected.shape), expected)
    assert scale[-2:] == pytest.approx(slice_.GetSpacing()[1::-1], rel=1e-4)


def test_ct_labels_in_a_dicom_segmentation_lie_on_their_series(capsys, tmp_path):
    import highdicom
    import pydicom

    oblique = tuple(np.round([0.8, 0.6, 0, -0.36, 0.48, 0.8], 8))
    pixels = volume(6, 9, 8)
    series = write_series(
        tmp_path / "ct", pixels, oblique, StudyInstanceUID="1.2.3.1", FrameOfReferenceUID="1.2.3.2", PatientSex="O"
    )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    source = reader.Execute()
    expected = sitk.GetArrayFromImage(source) > -789.5
    z, y, x = np.argwhere(expected).mean(0)
    there = np.array(source.TransformContinuousIndexToPhysicalPoint([float(x), float(y), float(z)]))
    store, told = segment(capsys, tmp_path, series, spatial_dims=3, channels=1, level=-789.5)
    assert told["labels"][0]["voxels"] == expected.sum() > 100

    out = run(capsys, "export", store, "-o", tmp_path / "seg.dcm", "--like", series, "--json")
    assert SECRET not in out
    exported = json.loads(out)
    assert (exported["format"], exported["verified"]) == ("DICOM segmentation", True)
    assert exported["labels"][0]["voxels"] == expected.sum()
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    grid = segmentation.get_volume(combine_segments=True)
    assert np.count_nonzero(grid.array == 1) == np.count_nonzero(grid.array) == expected.sum()
    where = grid.map_indices_to_reference(np.argwhere(grid.array == 1).mean(0)[None])[0]
    assert where == pytest.approx(there, abs=1e-4)
    described = segmentation.get_segment_description(1)
    assert (described.segment_label, described.algorithm_type.value) == ("bright", "AUTOMATIC")
    assert described.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "bright"
    assert pydicom.dcmread(tmp_path / "seg.dcm").StudyInstanceUID == "1.2.3.1"

    info = run(capsys, "info", tmp_path / "seg.dcm", "--json")
    assert json.loads(info)["kind"] == "labels"
    assert SECRET not in info


def test_slide_labels_lie_where_openslide_says(capsys, tmp_path, shared_data):
    import openslide

    source = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    slide = openslide.OpenSlide(source)
    pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    mpp = float(slide.properties["openslide.mpp-x"])
    store, told = segment(capsys, tmp_path, source, spatial_dims=2, channels=3, level=210.3, tile=512)
    expected = pixels.astype(np.float32).mean(2) > 210.3
    labels, scale, shift = by_ome_zarr(store)
    assert (labels == 1)[:2967, :2220].mean() == pytest.approx(expected.mean(), abs=1e-4)
    assert scale == pytest.approx([mpp, mpp])
    ours = scale * np.argwhere(labels).mean(0) + shift
    assert ours == pytest.approx(mpp * np.argwhere(expected).mean(0), abs=mpp)
    assert told["labels"][0]["area_um2"] == pytest.approx(expected.sum() * mpp * mpp, rel=1e-3)


def test_histology_without_a_scale_stays_without(capsys, tmp_path):
    import skimage

    source = resources.files(skimage) / "data" / "ihc.png"
    from PIL import Image

    pixels = np.asarray(Image.open(source).convert("RGB")).astype(np.float32)
    store, told = segment(capsys, tmp_path, source, spatial_dims=2, channels=3, level=150.2)
    expected = pixels.mean(2) > 150.2
    labels, scale, _ = by_ome_zarr(store)
    assert (labels != expected).mean() < 1e-4
    assert scale.tolist() == [1.0, 1.0]
    assert "area_um2" not in told["labels"][0]
    assert all("unit" not in axis for axis in _labels_node(store).metadata["axes"])
    run(capsys, "export", store, "-o", tmp_path / "labels.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "labels.png")), labels)


def test_endoscopy_frames_keep_their_labels_frame_by_frame(capsys, tmp_path):
    import av

    with av.open(tmp_path / "clip.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(9):
            picture = np.full((48, 64, 3), 30, np.uint8)
            picture[8 : 8 + 4 * (number + 1), 16:48] = 220
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    store, _ = segment(capsys, tmp_path, tmp_path / "clip.mp4", spatial_dims=2, channels=3, level=125.0, tile=32)
    labels, _, _ = by_ome_zarr(store)
    assert labels.shape == (9, 48, 64)
    heights = [int(frame[:, 32].sum()) for frame in labels]
    assert heights == [4 * (n + 1) for n in range(9)]
    run(capsys, "export", store, "-o", tmp_path / "labels.tif")
    import tifffile

    assert np.array_equal(tifffile.imread(tmp_path / "labels.tif"), labels)
