"""What the volume formats share about labels: which numbers are labels, and the record that travels with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.case import Geometry, InputError, Label, LabelTable, MedicalImage, Provenance, Segmentation, Step
from napari_medseg.case.geometry import FloatArray
from napari_medseg.io.lazy import AnyArray, LazyArray
from napari_medseg.io.stored import plane_blocks

RECORD_KEY = "medseg"
_SLAB_VOXELS = 1 << 24
_IN_MEMORY_BYTES = 1 << 28
_LISTED_IDS = 1000
_LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


# -- reading ------------------------------------------------------------------------------------


class IntegerLabels(LazyArray):
    """The values of `source`, which are known to be whole numbers, as `dtype`."""

    def __init__(self, source: LazyArray, dtype: np.dtype[Any]) -> None:
        super().__init__(source.shape, dtype, source.chunks)
        self.source = source

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        return self.source[region].astype(self.dtype)


def labels_of(image: MedicalImage, names: Mapping[int, Label], record: Mapping[str, Any] | None) -> Segmentation:
    """The image's values as labels, with `names` from the file and, if it is one of ours, the file's `record`.

    Raises
    ------
    InputError
        If the values are colours, negative, or not whole numbers.
    """
    file = image.source.paths[0].name
    if "c" in image.axes:
        raise InputError(f"{file}: holds colours or channels, not labels; accepted is one whole number for each voxel.")
    source: LazyArray = image.levels[0]
    ids, many = _ids_in(source, file)
    dtype = dtype_for(max(ids, default=0), file)
    data: Any = IntegerLabels(source, dtype)
    if data.nbytes <= _IN_MEMORY_BYTES:
        data = np.asarray(data)
    table, provenance, name = _table(ids, many, names), Provenance(), image.name
    geometry, axes = image.geometry, image.axes
    if record:
        try:
            table = LabelTable.from_dict(record["table"])
            provenance = Provenance.from_dict(record["provenance"])
            name = str(record["name"])
            geometry, axes = _own_grid(image, record)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"{file}: the record of label names in it is damaged; remove the header's {RECORD_KEY} entry."
            ) from error
    else:
        note = {"converted_from": str(source.dtype)} if source.dtype.kind not in "ui" else {}
        provenance = provenance.with_step(Step.now("import", format=image.source.format, **note))
    if axes != image.axes:
        data = data if isinstance(data, np.ndarray) else data.to_dask()
        data = data[..., 0, :, :]
    return Segmentation(data, geometry, table, provenance, name, axes, image.seconds_per_frame)


def _ids_in(source: LazyArray, file: str) -> tuple[set[int], bool]:
    """Every id present, and whether there are too many to be classes."""
    ids: set[int] = set()
    for block in plane_blocks(source):
        found = np.unique(block)
        if found.dtype.kind == "f" and not (np.isfinite(found).all() and (found == np.round(found)).all()):
            raise InputError(
                f"{file}: holds values that are not whole numbers, so these are no labels; open it as an image."
            )
        if len(found) and found[0] < 0:
            raise InputError(f"{file}: holds negative values, so these are no labels; accepted are ids from 0 on.")
        ids.update(int(v) for v in found)
    ids.discard(0)
    return ids, len(ids) > _LISTED_IDS


def _table(ids: set[int], many: bool, names: Mapping[int, Label]) -> LabelTable:
    if many and not names:
        return LabelTable()
    known = dict(names)
    if not many:
        known |= {i: Label(i, f"label {i}") for i in ids if i not in known}
    return LabelTable(tuple(known[i] for i in sorted(known)))


def _own_grid(image: MedicalImage, record: Mapping[str, Any]) -> tuple[Geometry, str]:
    """The recorded grid if it still describes this file, else the file's: another program may have resampled it."""
    recorded, axes = Geometry.from_dict(record["geometry"]), str(record["axes"])
    if axes not in (recorded.axes, f"t{recorded.axes}"):
        raise ValueError(f"axes {axes!r}")
    expected = volume_geometry(recorded)
    if expected.shape != image.geometry.shape or ("t" in axes) != ("t" in image.axes):
        return image.geometry, image.axes
    if expected.unit is None or image.geometry.unit is None:
        return (recorded, axes) if expected.unit == image.geometry.unit else (image.geometry, image.axes)
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in expected.shape], indexing="ij"), -1)
    meant, found = expected.index_to_world(corners), image.geometry.index_to_world(corners)
    # headers keep single precision: seven digits of the position, whatever the spacing
    allowed = 1e-3 * min(expected.steps) + 1e-6 * float(np.abs(meant).max())
    same = float(np.linalg.norm(meant - found, axis=-1).max()) <= allowed
    return (recorded, axes) if same else (image.geometry, image.axes)


# -- writing ------------------------------------------------------------------------------------


def volume_geometry(geometry: Geometry) -> Geometry:
    """The grid as volume formats keep it: three axes, the patient frame (RAS+), millimetres (or unknown).

    Pictures have x to the right and y down, as a scan seen by a radiologist has left and posterior: an
    ``"image"`` frame is therefore written as left-posterior-superior, and looks upright in ITK's viewers.
    A 2-D grid becomes one slice, as thick as its pixels are wide.
    """
    grid = geometry if geometry.unit is None else geometry.in_unit("mm")
    affine = grid.affine.copy()
    if grid.ndim == 2:
        normal = np.cross(grid.directions[:, 1], grid.directions[:, 0])
        affine[:3, 0] = normal / np.linalg.norm(normal) * min(grid.steps)
    if grid.frame == "image":
        affine = _LPS_TO_RAS @ affine
    shape = grid.shape if grid.ndim == 3 else (1, *grid.shape)
    return Geometry(shape, affine, grid.unit, "patient")


def lps(affine: FloatArray) -> FloatArray:
    """The same affine with its world turned from RAS+ to LPS+, or back."""
    return np.asarray(_LPS_TO_RAS @ affine)


def record_of(segmentation: Segmentation) -> str:
    """Names, colours, history and the exact grid as one line of JSON."""
    return json.dumps(
        {
            "version": 1,
            "name": segmentation.name,
            "axes": segmentation.axes,
            "geometry": segmentation.geometry.to_dict(),
            "table": segmentation.table.to_dict(),
            "provenance": segmentation.provenance.to_dict(),
        },
        separators=(",", ":"),
    )


def parse_record(text: str) -> dict[str, Any] | None:
    """The reverse of `record_of`; ``None`` if the text is something else."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "table" in record else None


def dtype_for(largest: int, file: str) -> np.dtype[Any]:
    """The smallest type for ids up to `largest` that every common tool reads.

    Raises
    ------
    InputError
        If the ids pass 2147483647.
    """
    for dtype in (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int32)):
        if largest <= np.iinfo(dtype).max:
            return dtype
    raise InputError(f"{file}: label id {largest} is too large; accepted are ids up to {np.iinfo(np.int32).max}.")


def stored_dtype(segmentation: Segmentation, file: str) -> np.dtype[Any]:
    """The smallest type that holds every id in the array and the table."""
    listed = () if segmentation.table.instances else tuple(label.id for label in segmentation.table)
    lowest, largest = 0, max(listed, default=0)
    for _, block in segmentation.blocks():
        lowest, largest = min(lowest, int(block.min())), max(largest, int(block.max()))
    if lowest < 0:
        raise InputError(f"{file}: the labels hold the negative id {lowest}; accepted are ids from 0 on.")
    return dtype_for(largest, file)


def slabs(segmentation: Segmentation, dtype: np.dtype[Any]) -> Iterator[AnyArray]:
    """The labels in file order (slowest axis first), a bounded piece at a time, C-contiguous."""
    data = segmentation.data
    shape = tuple(int(n) for n in data.shape)
    chunks = tuple(int(c) for c in getattr(data, "chunksize", getattr(data, "chunks", (1,) * len(shape))))

    def pieces(prefix: tuple[int, ...]) -> Iterator[AnyArray]:
        axis = len(prefix)
        each = int(np.prod(shape[axis + 1 :], dtype=np.int64))
        if each > _SLAB_VOXELS and axis < len(shape) - 2:
            for k in range(shape[axis]):
                yield from pieces((*prefix, k))
            return
        # a chunk that is cut is read once for each piece
        step = max(1, _SLAB_VOXELS // each)
        step = (
            max(chunks[axis], step // chunks[axis] * chunks[axis]) if chunks[axis] * each <= 8 * _SLAB_VOXELS else step
        )
        for start in range(0, shape[axis], step):
            yield np.ascontiguousarray(np.asarray(data[(*prefix, slice(start, start + step))]), dtype=dtype)

    return pieces(())


def stem(path: Path) -> str:
    """The name of a file without its (possibly double) ending."""
    name = path.name
    for ending in (".seg.nrrd", ".nii.gz"):
        if name.lower().endswith(ending):
            return name[: -len(ending)] or name
    return path.stem
