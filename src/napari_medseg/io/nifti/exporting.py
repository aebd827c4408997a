"""Labels into NIfTI: the header, its extension with names and history, and the numbers, a slab at a time."""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.case import Segmentation
from napari_medseg.io.label_volumes import RECORD_KEY, record_of, slabs, stored_dtype, volume_geometry
from napari_medseg.io.nifti.names import COMMENT
from napari_medseg.io.nifti.reading import read_segmentation
from napari_medseg.io.writing import staged, verify

_LARGEST_NIFTI1 = 32767
_SHEAR = 1e-4
_PACK_LEVEL = 4


def write_segmentation(segmentation: Segmentation, path: Path, *, overwrite: bool) -> None:
    """Write labels as NIfTI, then reopen the file and compare grid, ids, counts and centroids.

    Names, colours, history and the exact grid travel in a comment extension of the header. 2-D labels become
    one slice; see `napari_medseg.io.label_volumes.volume_geometry` for where pictures are put.

    Raises
    ------
    InputError
        If the file exists and `overwrite` is false, or an id is negative or above 2147483647.
    MedsegError
        If what was written does not read back the same; nothing is kept then.
    """
    dtype = stored_dtype(segmentation, path.name)
    with staged(path, overwrite=overwrite) as temporary:
        header = _header(segmentation, dtype)
        with ExitStack() as stack:
            stream: Any = stack.enter_context(temporary.open("wb"))
            if path.name.lower().endswith(".gz"):
                # no name and no time in the file: equal labels give equal bytes
                packed = gzip.GzipFile("", "wb", compresslevel=_PACK_LEVEL, fileobj=stream, mtime=0)
                stream = stack.enter_context(packed)
            header.write_to(stream)
            stream.write(b"\0" * (int(header.get_data_offset()) - stream.tell()))
            for slab in slabs(segmentation, dtype):
                stream.write(slab.data)
        verify(segmentation, read_segmentation(temporary), path.name)


def _header(segmentation: Segmentation, dtype: np.dtype[Any]) -> Any:
    import nibabel as nib
    from nibabel.nifti1 import Nifti1Extension

    grid = volume_geometry(segmentation.geometry)
    times = segmentation.data.shape[:1] if segmentation.axes.startswith("t") else ()
    shape = (*reversed(grid.shape), *times)
    kind = nib.Nifti1Header if max(shape) <= _LARGEST_NIFTI1 else nib.Nifti2Header
    header = kind()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    affine = grid.xyz_affine
    seconds = segmentation.seconds_per_frame
    zooms = grid.steps[::-1] if grid.unit else (1.0, 1.0, 1.0)
    header.set_zooms((*zooms, *((seconds or 1.0,) if times else ())))
    header.set_xyzt_units("mm" if grid.unit else "unknown", "sec" if times and seconds else "unknown")
    if grid.unit:
        directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        sheared = np.abs(directions.T @ directions - np.eye(3)).max() > _SHEAR
        header.set_sform(affine, code=1)
        # a qform cannot hold shear: better none than a different place
        header.set_qform(affine, code=0 if sheared else 1, strip_shears=True)
    header.set_intent("label")
    header["descrip"] = b"napari-medseg labels"
    header.extensions.append(Nifti1Extension(COMMENT, f"{RECORD_KEY}:{record_of(segmentation)}".encode()))
    header["vox_offset"] = header.single_vox_offset + header.extensions.get_sizeondisk()
    return header
