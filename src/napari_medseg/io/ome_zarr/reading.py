"""Read OME-Zarr images and labels lazily, with the exact grid where we wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import zarr

from napari_medseg.case import (
    Geometry,
    InputError,
    LabelTable,
    MedicalImage,
    Modality,
    Provenance,
    RefusedError,
    Segmentation,
    Source,
)
from napari_medseg.io.content import check_finite
from napari_medseg.io.lazy import ZarrArray
from napari_medseg.io.ome_zarr import chunks, metadata

_RGB_COLOURS = (["FF0000", "00FF00", "0000FF"], ["FF0000", "00FF00", "0000FF", "FFFFFF"])


@dataclass(frozen=True)
class _Group:
    """A group of a store that holds one multiscale image or label image."""

    path: Path
    where: str
    ngff: dict[str, Any]
    private: dict[str, Any]
    multiscale: metadata.Multiscale
    arrays: tuple[Any, ...]

    @property
    def stored_axes(self) -> str:
        return self.multiscale.axes

    @property
    def axes(self) -> str:
        """Our axes: those with more than one element, and those our own record names."""
        if isinstance(self.private.get("axes"), str):
            return str(self.private["axes"])
        sizes = dict(zip(self.stored_axes, self.arrays[0].shape, strict=True))
        return "".join(a for a in "tzyxc" if a in sizes and (a in "yx" or sizes[a] > 1))

    def levels(self) -> tuple[ZarrArray, ...]:
        return tuple(ZarrArray(a, self.stored_axes, self.axes, self.where) for a in self.arrays)

    def geometry(self) -> Geometry:
        """The exact grid of our own record where it agrees with the NGFF transforms, else theirs."""
        sizes = dict(zip(self.stored_axes, self.arrays[0].shape, strict=True))
        shape = tuple(int(sizes[a]) for a in self.axes if a in "zyx")
        plain = self.multiscale.geometry(shape)
        if "geometry" not in self.private:
            return plain
        try:
            exact = Geometry.from_dict(self.private["geometry"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.where}: its {metadata.PRIVATE} attribute holds no valid grid.") from error
        same_steps = exact.unit is None or np.allclose(exact.steps, plain.steps, rtol=1e-5)
        # a store that another program cropped or rescaled keeps our attribute but no longer our grid
        return exact if exact.shape == shape and exact.unit == plain.unit and same_steps else plain


# -- reading -----------------------------------------------------------------------------------------


def has_image(path: Path) -> bool:
    """Whether a store says that it holds an image, whole or not, and not labels alone."""
    group = _open_group(path)
    ngff, _ = metadata.split_attributes(group.attrs.asdict())
    if "bioformats2raw.layout" in group.attrs.asdict() or "bioformats2raw.layout" in ngff:
        return True
    return "multiscales" in ngff and "image-label" not in ngff


def read(path: Path) -> list[MedicalImage]:
    """The images of a store: one, or all series of a bioformats2raw store.

    Raises
    ------
    InputError
        If the store holds no NGFF image, is damaged, or lacks its pixels.
    RefusedError
        If it names a level outside itself.
    """
    group = _open_group(path)
    ngff, _ = metadata.split_attributes(group.attrs.asdict())
    if "multiscales" in ngff and "image-label" not in ngff:
        return [_image(_load(group, path, path.name))]
    if "plate" in ngff or "well" in ngff:
        raise InputError(f"{path.name}: holds a plate of wells; open one field of it, a folder such as A/1/0 inside.")
    series = [name for name in sorted(group.group_keys(), key=_numeric) if name.isdecimal()]
    if "bioformats2raw.layout" in group.attrs.asdict() or "bioformats2raw.layout" in ngff:
        return [_image(_load(group[name], path / name, f"{path.name} series {name}", path.stem)) for name in series]
    if "image-label" in ngff or label_names(path):
        raise InputError(f"{path.name}: holds labels and no image; open it as labels.")
    raise InputError(
        f"{path.name}: a zarr group without OME-Zarr metadata (multiscales); accepted are NGFF 0.4 and 0.5 images."
    )


def label_names(path: Path) -> list[str]:
    """Names of the label images below a store's ``labels`` group, as the group lists them.

    Raises
    ------
    RefusedError
        If one of them leads out of the store.
    """
    try:
        ngff, _ = metadata.split_attributes(zarr.open_group(path / "labels", mode="r").attrs.asdict())
    except (FileNotFoundError, ValueError):
        return []
    listed = ngff.get("labels")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    if any(_leads_out(name) for name in names):
        raise RefusedError(
            f"{path.name}: its list of labels leads out of the store; accepted are names below its folder labels."
        )
    return names


def read_segmentation(path: Path) -> Segmentation:
    """The labels of a store that has one label image, or of the group ``STORE/labels/NAME``.

    Raises
    ------
    InputError
        If there is no label image or more than one, or the store is damaged.
    RefusedError
        If it names labels or a level outside itself.
    """
    labels = _label_group(path)
    level, *coarser = labels.levels()
    if "c" in labels.axes:
        raise InputError(
            f"{labels.where}: labels with {level.shape[-1]} channels are not understood; one was expected."
        )
    if level.dtype.kind not in "ui":
        raise InputError(f"{labels.where}: holds {level.dtype} numbers; labels are integers.")
    chunks.require_recorded(labels.arrays[0], labels.path / labels.multiscale.paths[0], labels.private, labels.where)
    record, private = labels.ngff.get("image-label"), labels.private
    try:
        if "table" in private:
            table = LabelTable.from_dict(private["table"])
        else:
            table = metadata.table_of(record if isinstance(record, Mapping) else {})
        history = Provenance.from_dict(private["provenance"]) if "provenance" in private else Provenance()
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{labels.where}: its label table or history cannot be understood: {error}.") from error
    return Segmentation(
        level,
        labels.geometry(),
        table,
        history,
        labels.path.name,
        labels.axes,
        _seconds_per_frame(labels),
        tuple(coarser),
        private.get("complete") is not False,
    )


def _label_group(path: Path) -> _Group:
    group = _open_group(path)
    ngff, _ = metadata.split_attributes(group.attrs.asdict())
    if "multiscales" in ngff and ("image-label" in ngff or path.parent.name == "labels"):
        return _load(group, path, path.name)
    names = label_names(path)
    if not names:
        raise InputError(f"{path.name}: holds no label image; labels lie below its folder named labels.")
    if len(names) > 1:
        raise InputError(
            f"{path.name}: holds {len(names)} label images ({', '.join(names)}); open one of them, "
            f"e.g. {path.name}/labels/{names[0]}."
        )
    inside = path / "labels" / names[0]
    return _load(_open_group(inside), inside, f"{path.name}/labels/{names[0]}")


def _open_group(path: Path) -> Any:
    if not path.is_dir():
        raise InputError(f"{path.name}: an OME-Zarr store is a folder; this is a file.")
    try:
        node = zarr.open(path, mode="r")
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path.name}: holds no readable zarr metadata (zarr.json or .zgroup); accepted is an OME-Zarr store."
        ) from error
    if isinstance(node, zarr.Array):
        raise InputError(
            f"{path.name}: a bare zarr array without OME-Zarr metadata; open the folder above it that says multiscales."
        )
    return node


def _load(group: Any, path: Path, where: str, name: str = "") -> _Group:
    ngff, private = metadata.split_attributes(group.attrs.asdict())
    records = ngff.get("multiscales")
    if not isinstance(records, list) or not records or not isinstance(records[0], Mapping):
        raise InputError(f"{where}: its multiscales attribute is empty; accepted are NGFF 0.4 and 0.5 images.")
    paths = [str(d.get("path")) for d in records[0].get("datasets") or [] if isinstance(d, Mapping)]
    if any(_leads_out(part) for part in paths):
        raise RefusedError(f"{where}: its list of levels leads out of the store; accepted are names below its folder.")
    arrays = []
    for part in paths:
        try:
            array = group[part]
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"{where}: level {part} is listed but is not stored; copy the whole store again."
            ) from error
        if not isinstance(array, zarr.Array) or (array.dtype.kind not in "uifb"):
            raise InputError(f"{where}: level {part} holds no array of real numbers; accepted are integers and floats.")
        arrays.append(array)
    ndim = arrays[0].ndim if arrays else 0
    if any(a.ndim != ndim for a in arrays):
        raise InputError(f"{where}: its levels differ in their number of axes; export the store again.")
    multiscale = metadata.parse_multiscale(records[0], ndim, where)
    return _Group(path, where, ngff, private, multiscale, tuple(arrays))


def _leads_out(name: str) -> bool:
    """Whether a path that a store names is absolute or climbs, on any system."""
    path = PureWindowsPath(name)
    return bool(path.anchor) or ".." in path.parts


def _image(group: _Group) -> MedicalImage:
    levels, private = group.levels(), group.private
    details: dict[str, Any] = {"format": "OME-Zarr"}
    channels, colours = _omero_channels(group, details)
    count = levels[0].shape[-1] if group.axes.endswith("c") else 1
    if len(channels) != count or not group.axes.endswith("c"):
        channels = ()
    # three channels of bytes are a colour picture unless their colours say otherwise
    colourful = levels[0].dtype == np.uint8 and (
        (count == 3 and not colours) or (count in (3, 4) and colours in _RGB_COLOURS)
    )
    try:
        modality = Modality(private.get("modality", "OT"))
    except ValueError:
        modality = Modality.OT
    intensity = private.get("intensity")
    known = ("arbitrary", "HU", "RGB", "stain RGB")
    power = private.get("objective_power")
    return MedicalImage(
        levels,
        group.axes,
        group.geometry(),
        modality=modality,
        intensity=intensity if intensity in known else ("RGB" if colourful else "arbitrary"),
        name=group.multiscale.name.strip("/") or group.path.name.removesuffix(".zarr").removesuffix(".ome"),
        source=Source("OME-Zarr", (group.path,)),
        channels=channels,
        seconds_per_frame=_seconds_per_frame(group),
        objective_power=float(power) if isinstance(power, int | float) else None,
        details=details,
        warnings=(*_missing_chunks(group), *check_finite(levels, group.where)),
    )


def _seconds_per_frame(group: _Group) -> float | None:
    return group.multiscale.seconds_per_frame if group.axes.startswith("t") else None


def _omero_channels(group: _Group, details: dict[str, Any]) -> tuple[tuple[str, ...], list[str]]:
    """Channel names and colours of the ``omero`` record; display windows go to `details`."""
    omero = group.ngff.get("omero")
    listed = omero.get("channels") if isinstance(omero, Mapping) else None
    entries = [e for e in listed if isinstance(e, Mapping)] if isinstance(listed, list) else []
    names = tuple(str(e.get("label") or f"channel {k + 1}") for k, e in enumerate(entries))
    colours = [str(e.get("color", "")).upper() for e in entries]
    windows = [e.get("window") for e in entries]
    limits = [[w.get("start"), w.get("end")] for w in windows if isinstance(w, Mapping)]
    if any(colours):
        details["channel_colours"] = colours
    if limits and len(limits) == len(entries) and all(isinstance(v, int | float) for pair in limits for v in pair):
        details["display_windows"] = limits
    return names, [c for c in colours if c]


def _missing_chunks(group: _Group) -> tuple[str, ...]:
    """What is said about pixels of the finest level that are not stored and would silently read as one value.

    A store of ours says by itself that it is complete: chunks that hold only the fill value are then left out
    on purpose, and only those it counted when it was written must be there.
    """
    array, folder = group.arrays[0], group.path / group.multiscale.paths[0]
    if group.private.get("complete") is True:
        chunks.require_recorded(array, folder, group.private, group.where)
        return ()
    expected = array.nshards if hasattr(array, "nshards") else array.nchunks
    stored = chunks.count(folder, 1 if expected > chunks.COUNTED_CHUNKS else None)
    if stored and expected > chunks.COUNTED_CHUNKS:
        return ()
    if stored == 0:
        raise InputError(
            f"{group.where}: none of the {expected} chunks of its pixels is stored; copy the whole store again."
        )
    if stored < expected:
        value = array.fill_value
        return (f"{expected - stored} of {expected} chunks are not stored and read as {value}.",)
    return ()


def _numeric(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (1 << 30, name)


# -- writing -----------------------------------------------------------------------------------------
