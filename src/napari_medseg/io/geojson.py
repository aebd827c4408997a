"""GeoJSON outlines of two-dimensional labels, as QuPath reads and writes them.

Coordinates are pixels of the image's finest level, x right and y down, on the *edges* of pixels: the first pixel
spans 0 to 1, as in QuPath. Every label is a feature; its outline follows pixel edges exactly, so that drawing the
polygons gives the labels back to the pixel. A member ``medseg`` beside the features keeps grid, names and history.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import Geometry, InputError, LabelTable, Provenance, Segmentation
from napari_medseg.io.writing import staged, verify

_MEMBER = "medseg"
_MOST_PIXELS = 1 << 30


def write_segmentation(segmentation: Segmentation, path: Path, *, overwrite: bool = False) -> None:
    """Write one polygon feature a label: objects of instance labels as detections, classes as annotations.

    Raises
    ------
    InputError
        If the labels are a volume or a video, are too large to be outlined in memory, or rasterio is missing.
    """
    if segmentation.axes != "yx":
        raise InputError(
            f"{path.name}: GeoJSON holds outlines of one picture, and these labels have axes "
            f"{' '.join(segmentation.axes)}; accepted for them are OME-Zarr, NIfTI or TIFF."
        )
    if int(np.prod(segmentation.data.shape)) > _MOST_PIXELS:
        raise InputError(f"{path.name}: labels of more than {_MOST_PIXELS:.0e} pixels are not outlined; use OME-Zarr.")
    labels = np.asarray(segmentation.data[...])
    features = [_feature(label, rings, segmentation.table) for label, rings in _outlines(labels, path).items()]
    record = {
        "geometry": segmentation.geometry.to_dict(),
        "table": segmentation.table.to_dict(),
        "provenance": segmentation.provenance.to_dict(),
        "name": segmentation.name,
        "dtype": str(np.dtype(segmentation.data.dtype)),
    }
    content = {"type": "FeatureCollection", "features": features, _MEMBER: record}
    with staged(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        verify(segmentation, read_segmentation(temporary), path.name)


def read_segmentation(path: Path) -> Segmentation:
    """The labels that `write_segmentation` outlined.

    Raises
    ------
    InputError
        If the file is no GeoJSON, or another program's, which does not say how large the image is.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        features = content["features"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path.name}: is not a GeoJSON feature collection; export it again.") from error
    record = content.get(_MEMBER)
    if record is None:
        raise InputError(
            f"{path.name}: outlines of another program do not say how large the image is; "
            "accepted is GeoJSON that napari-medseg wrote."
        )
    try:
        geometry = Geometry.from_dict(record["geometry"])
        table = LabelTable.from_dict(record["table"])
        provenance = Provenance.from_dict(record["provenance"])
        shapes = [(feature["geometry"], int(feature["properties"]["label"])) for feature in features]
        labels = _drawn(shapes, geometry.shape, np.dtype(record["dtype"]), path)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path.name}: the record of grid and names in it is damaged; export it again.") from error
    return Segmentation(labels, geometry, table, provenance, str(record["name"]))


def _outlines(labels: npt.NDArray[Any], path: Path) -> dict[int, list[Any]]:
    """Polygons (lists of rings) of each label, ascending."""
    features = _rasterio_features(path)
    polygons: dict[int, list[Any]] = {}
    # rasterio outlines signed 32-bit numbers
    for shape, value in features.shapes(labels.astype(np.int32), mask=labels > 0, connectivity=4):
        polygons.setdefault(int(value), []).append(shape["coordinates"])
    return dict(sorted(polygons.items()))


def _feature(label: int, polygons: list[Any], table: LabelTable) -> dict[str, Any]:
    single = len(polygons) == 1
    kind = table.labels[0] if table.instances else None
    colour = list(kind.colour if kind else table.colour(label))
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": polygons[0] if single else polygons,
        },
        "properties": {
            "objectType": "detection" if table.instances else "annotation",
            "name": table.name(label),
            "classification": {"name": kind.name if kind else table.name(label), "color": colour},
            "label": label,
        },
    }


def _drawn(shapes: list[tuple[Any, int]], shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> npt.NDArray[Any]:
    if not shapes:
        return np.zeros(shape, dtype)
    drawn = _rasterio_features(path).rasterize(shapes, out_shape=shape, dtype="int32")
    return np.asarray(drawn.astype(dtype))


def _rasterio_features(path: Path) -> Any:
    try:
        import rasterio.features
    except ImportError as error:
        raise InputError(f"{path.name}: outlines need rasterio; run pip install 'napari-medseg[export]'.") from error
    return rasterio.features
