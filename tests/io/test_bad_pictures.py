"""Bad and odd files: each is read right, or refused in one sentence that starts with the file's name."""

import shutil

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_medseg.case import Geometry, InputError, LabelTable, Provenance, Segmentation
from napari_medseg.io import ome_zarr, open_images, open_segmentation, raster, tiff, video, write_segmentation, wsi
from tests.io.picture_cases import aperio, clip

RNG = np.random.default_rng(0)
MODULES = {"png": raster, "jpg": raster, "bmp": raster, "tif": tiff, "svs": wsi, "mp4": video, "avi": video}


def picture(kind: str, folder) -> bytes:
    array = RNG.integers(0, 256, (64, 80, 3)).astype("uint8")
    path = folder / f"whole.{kind}"
    if kind in ("png", "jpg", "bmp"):
        Image.fromarray(array).save(path)
    elif kind == "tif":
        tifffile.imwrite(path, array)
    elif kind == "zlib.tif":
        tifffile.imwrite(path, array, compression="zlib", tile=(32, 32))
    return path.read_bytes()


def refused(message: pytest.ExceptionInfo, name: str, folder) -> None:
    """The rules for every message: file name first, one line, no folder, no traceback, a full stop."""
    text = str(message.value)
    assert text.startswith(f"{name}"), text
    assert str(folder) not in text
    assert "\n" not in text
    assert "Error" not in text
    assert "Errno" not in text
    assert text.endswith(".")
    assert len(text) < 250


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "zlib.tif"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_cut_short(tmp_path, kind, share):
    content = picture(kind, tmp_path)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(content[: max(5, int(len(content) * share))])
    with pytest.raises(InputError) as message:
        open_images(path)[0].levels[0][:]
    refused(message, path.name, tmp_path)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("content", [b"hello, this is text\n" * 20, bytes(range(256)) * 8, b"", b"\x00" * 100])
def test_another_thing_under_that_name(tmp_path, kind, content):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content)
    for opener in (open_images, MODULES[kind].read):
        with pytest.raises(InputError) as message:
            opener(path)
        refused(message, path.name, tmp_path)
    if content.startswith(b"hello"):
        assert "text" in str(message.value)


@pytest.mark.parametrize("kind", MODULES)
def test_folder_instead_of_file(tmp_path, kind):
    (tmp_path / f"a.{kind}").mkdir()
    with pytest.raises(InputError, match="is a folder") as message:
        MODULES[kind].read(tmp_path / f"a.{kind}")
    refused(message, f"a.{kind}", tmp_path)


@pytest.mark.parametrize(
    ("holds", "named", "words"),
    [
        ("png", "tif", "is a PNG file"),
        ("jpg", "mp4", "is a JPEG file"),
        ("tif", "png", "is a TIFF file"),
        ("png", "svs", "is a PNG file"),
    ],
)
def test_wrong_ending_is_named(tmp_path, holds, named, words):
    path = tmp_path / f"a.{named}"
    path.write_bytes(picture(holds, tmp_path))
    with pytest.raises(InputError, match=words) as message:
        open_images(path)
    refused(message, path.name, tmp_path)


@pytest.mark.parametrize("holds", ["jpg", "png", "bmp"])
@pytest.mark.parametrize("named", ["jpg", "png", "bmp"])
def test_pictures_under_each_others_names_are_read(tmp_path, holds, named):
    path = tmp_path / f"a.{named}"
    path.write_bytes(picture(holds, tmp_path))
    np.testing.assert_array_equal(open_images(path)[0].levels[0], np.asarray(Image.open(path)))


ODD = {
    "one pixel": (np.full((1, 1), 7, "u1"), {}),
    "one line": (np.arange(40, dtype="u1")[None], {}),
    "five axes": (RNG.integers(0, 9, (2, 3, 4, 8, 9)).astype("u1"), {"imagej": True, "metadata": {"axes": "TZCYX"}}),
    "float64": (RNG.normal(size=(8, 9)), {}),
    "float16": (RNG.normal(size=(8, 9)).astype("f2"), {}),
    "boolean": (np.eye(8, 9, dtype=bool), {}),
    "big-endian": (RNG.integers(0, 60000, (8, 9)).astype(">u2"), {"byteorder": ">"}),
    "big-endian float": (RNG.normal(size=(8, 9)).astype(">f4"), {"byteorder": ">"}),
    "int64": (RNG.integers(-(2**40), 2**40, (8, 9)), {}),
    "RGB": (RNG.integers(0, 9, (8, 9, 3)).astype("u1"), {"photometric": "rgb"}),
    "16-bit RGB": (RNG.integers(0, 60000, (8, 9, 3)).astype("u2"), {"photometric": "rgb"}),
    "bigtiff": (RNG.integers(0, 9, (8, 9)).astype("u1"), {"bigtiff": True}),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_tiff_is_read_right(tmp_path, what):
    array, options = ODD[what]
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    (image,) = open_images(tmp_path / "a.tif")
    expected = np.moveaxis(array, 2, -1) if array.ndim == 5 else array
    np.testing.assert_array_equal(image.levels[0], expected)
    assert image.dtype.isnative
    assert image.geometry.spacing is None


def test_six_axes_and_complex_numbers_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 3, 4, 5, 8, 9), "u1"), photometric="minisblack")
    with pytest.raises(InputError, match=r"axes .* are not understood") as message:
        open_images(tmp_path / "a.tif")
    refused(message, "a.tif", tmp_path)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 9), "c8"))
    with pytest.raises(InputError, match="complex64") as message:
        open_images(tmp_path / "a.tif")
    refused(message, "a.tif", tmp_path)


def zarr_image(path, array, chunks=None, **options):
    group = zarr.open_group(path, mode="w", **options)
    stored = group.create_array("0", shape=array.shape, dtype=array.dtype, chunks=chunks or array.shape, fill_value=0)
    stored[:] = array
    record = {"version": "0.4", "axes": [{"name": a, "type": "space"} for a in "zyx"[-array.ndim :]]}
    record["datasets"] = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * array.ndim}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [record]}
    return group


def save_float(kind, path, array):
    if kind == "tif":
        tifffile.imwrite(path, array)
    else:
        zarr_image(path, array)


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_no_numbers_at_all_are_refused(tmp_path, kind):
    save_float(kind, tmp_path / f"a.{kind}", np.full((20, 30), np.nan, "f4"))
    with pytest.raises(InputError, match="only NaN") as message:
        open_images(tmp_path / f"a.{kind}")
    refused(message, f"a.{kind}", tmp_path)


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_some_missing_numbers_are_said(tmp_path, kind):
    array = np.ones((20, 30), "f4")
    array[:2] = np.nan
    array[2] = np.inf
    save_float(kind, tmp_path / f"a.{kind}", array)
    (image,) = open_images(tmp_path / f"a.{kind}")
    assert image.warnings == ("15 % of its pixels are NaN or infinite.",)
    np.testing.assert_array_equal(image.levels[0], array)


# -- zarr --------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    array = RNG.integers(1, 200, (64, 64)).astype("u1")
    zarr_image(tmp_path / "a.zarr", array, chunks=(16, 16))
    return tmp_path / "a.zarr"


def test_missing_chunks_are_counted(store):
    for name in ("0/c/1/2", "0/c/3/3"):
        (store / name).unlink()
    (image,) = open_images(store)
    assert image.warnings == ("2 of 16 chunks are not stored and read as 0.",)


def test_missing_pixels_or_levels_are_refused(store, tmp_path):
    shutil.rmtree(store / "0/c")
    with pytest.raises(InputError, match="none of the 16 chunks") as message:
        open_images(store)
    refused(message, "a.zarr", tmp_path)
    shutil.rmtree(store / "0")
    with pytest.raises(InputError, match="level 0 is listed but is not stored") as message:
        open_images(store)
    refused(message, "a.zarr", tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 9, None])
def test_damaged_chunk_is_refused_when_it_is_read(store, tmp_path, content):
    chunk = store / "0/c/1/2"
    chunk.write_bytes(chunk.read_bytes()[:50] if content is None else content)
    (image,) = open_images(store)
    assert image.levels[0][0, 0] > 0
    with pytest.raises(InputError, match="damaged or cut short") as message:
        image.read((slice(0, 64), slice(0, 64)))
    refused(message, "a.zarr", tmp_path)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "without OME-Zarr metadata"),
        ({"ome": {"multiscales": []}}, "is empty"),
        ({"ome": {"multiscales": [{}]}}, "its axes"),
        ({"ome": {"multiscales": [{"axes": ["y", "x"], "datasets": []}]}}, "lists no dataset|its axes"),
        ({"ome": {"multiscales": [{"axes": ["q", "x"], "datasets": [{"path": "0"}]}]}}, "its axes"),
        ({"ome": {"multiscales": [{"axes": ["y", "x"], "datasets": [{"path": "7"}]}]}}, "level 7"),
        ({"ome": {"plate": {}}}, "plate of wells"),
    ],
)
def test_wrong_zarr_metadata(tmp_path, attributes, words):
    group = zarr_image(tmp_path / "a.zarr", np.ones((8, 9), "u1"))
    group.attrs.clear()
    group.attrs.update(attributes)
    with pytest.raises(InputError, match=words) as message:
        open_images(tmp_path / "a.zarr")
    refused(message, "a.zarr", tmp_path)


@pytest.mark.parametrize(
    "transform",
    [
        {"type": "scale", "scale": [0.0, 1.0]},
        {"type": "scale", "scale": [1.0]},
        {"type": "affine", "affine": []},
        {"type": "scale", "scale": [float("nan"), 1.0]},
        {"type": "scale", "path": "elsewhere"},
    ],
)
def test_wrong_zarr_transform(tmp_path, transform):
    group = zarr_image(tmp_path / "a.zarr", np.ones((8, 9), "u1"))
    part = dict(group.attrs["ome"])
    part["multiscales"][0]["datasets"][0]["coordinateTransformations"] = [transform]
    group.attrs["ome"] = part
    with pytest.raises(InputError) as message:
        open_images(tmp_path / "a.zarr")
    refused(message, "a.zarr", tmp_path)


def test_things_that_are_no_store(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    zarr.create_array(tmp_path / "bare.zarr", shape=(8, 9), dtype="u1")
    (tmp_path / "file.zarr").write_text("x")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr/zarr.json").write_text("{")
    for name in ("empty.zarr", "bare.zarr", "broken.zarr"):
        for opener in (open_images, open_segmentation):
            with pytest.raises(InputError) as message:
                opener(tmp_path / name)
            refused(message, name, tmp_path)
    with pytest.raises(InputError, match="this is a file"):
        ome_zarr.read(tmp_path / "file.zarr")


def test_labels_with_a_damaged_record(tmp_path):
    labels = Segmentation(np.ones((8, 9), "u1"), Geometry.from_spacing((8, 9), None))
    write_segmentation(labels, tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr/labels/labels", mode="a")
    private = dict(group.attrs["medseg"])
    for key in ("table", "provenance", "geometry"):
        group.attrs["medseg"] = private | {key: {"nonsense": 1}}
        with pytest.raises(InputError) as message:
            open_segmentation(tmp_path / "a.zarr")
        refused(message, "a.zarr/labels/labels", tmp_path)


@pytest.mark.parametrize("name", ["a.zarr", "a.tif", "a.png"])
def test_a_write_that_fails_leaves_nothing(tmp_path, name, monkeypatch):
    labels = Segmentation(np.ones((8, 9), "u1"), Geometry.from_spacing((8, 9), None), LabelTable(), Provenance())
    module = {"a.zarr": ome_zarr.exporting, "a.tif": tiff.exporting, "a.png": raster}[name]

    def fail(*args):
        raise InputError(f"{args[2]}: differs.")

    monkeypatch.setattr(module, "verify", fail)
    with pytest.raises(InputError, match="differs"):
        write_segmentation(labels, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_png_with_a_damaged_private_chunk(tmp_path):
    labels = Segmentation(np.ones((8, 9), "u1"), Geometry.from_spacing((8, 9), None))
    write_segmentation(labels, tmp_path / "a.png")
    from PIL import PngImagePlugin

    for text in ("{", '{"geometry": 1}'):
        chunk = PngImagePlugin.PngInfo()
        chunk.add_text("medseg", text)
        Image.fromarray(np.ones((8, 9), "u1")).save(tmp_path / "b.png", pnginfo=chunk)
        with pytest.raises(InputError, match="medseg record") as message:
            open_segmentation(tmp_path / "b.png")
        refused(message, "b.png", tmp_path)


def test_flipped_bits_in_a_tile_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), "u1"), compression="zlib", tile=(32, 32))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        at, length = file.pages[0].dataoffsets[2], file.pages[0].databytecounts[2]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[at : at + length] = bytes(255 - b for b in content[at : at + length])
    (tmp_path / "a.tif").write_bytes(content)
    (image,) = open_images(tmp_path / "a.tif")
    with pytest.raises(InputError, match="damaged") as message:
        image.levels[0][:]
    refused(message, "a.tif", tmp_path)


# -- random damage -----------------------------------------------------------------------------------


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, some bytes changed, some header bytes changed, or a run of zeros."""
    changed = bytearray(content)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(changed[: rng.integers(1, len(changed))])
    if kind == 3:
        at, length = int(rng.integers(len(changed))), int(rng.integers(1, 200))
        changed[at : at + length] = bytes(min(length, len(changed) - at))
        return bytes(changed)
    reach = len(changed) if kind == 1 else min(400, len(changed))
    for at in rng.integers(0, reach, rng.integers(1, 20)):
        changed[at] = rng.integers(256)
    return bytes(changed)


@pytest.mark.parametrize(
    "kind", ["png", "jpg", "bmp", "tif", "zlib.tif", "labels.tif", "labels.png", "svs", "mp4", "avi"]
)
def test_random_damage_is_read_or_refused(tmp_path, kind):
    whole, path = tmp_path / f"whole.{kind}", tmp_path / f"a.{kind}"
    if kind.startswith("labels"):
        labels = RNG.integers(0, 9, (64, 80)).astype("u2")
        write_segmentation(Segmentation(labels, Geometry.from_spacing((64, 80), (1.0, 2.0), "mm")), whole)
    elif kind == "svs":
        aperio(whole)
    elif kind in ("mp4", "avi"):
        clip(whole, "libx264" if kind == "mp4" else "mpeg4", frames=14)
    else:
        picture(kind, tmp_path)
    content = whole.read_bytes()
    openers = [open_images] if kind in ("svs", "mp4", "avi") else [open_images, open_segmentation]
    for seed in range(25):
        path.write_bytes(damaged(content, np.random.default_rng(seed)))
        for opener in openers:
            try:
                found = opener(path)
                for array in [found.data] if isinstance(found, Segmentation) else [i.levels[-1] for i in found]:
                    if np.prod(array.shape) < 1 << 24:
                        assert np.asarray(array).shape == array.shape
            except InputError as error:
                assert str(error).startswith(path.name)
                assert str(tmp_path) not in str(error)
