"""From a bundle's folder to a `Model`: verify, read, check."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from napari_medseg.bundles.card import read_card
from napari_medseg.bundles.checksums import SUMS, bundle_sha256, file_sha256, verify
from napari_medseg.bundles.config import CONFIG_SUFFIXES, Config, monai_evaluator, read_config
from napari_medseg.bundles.find import find_bundle, weights_file
from napari_medseg.bundles.model import Model
from napari_medseg.bundles.network import check_names
from napari_medseg.bundles.scan import refuse_hostile
from napari_medseg.bundles.steps import read_inferer, read_postprocessing, read_preprocessing, tile_multiple
from napari_medseg.bundles.trust import trusted_bundles
from napari_medseg.case import InputError, RefusedError

_LARGEST_TILE = 2**31


def load_model(id_or_path: str | Path, trust: set[str] | None = None) -> Model:
    """Verify a bundle and read it.

    A bundle that is not built in and states no hashes is read too; the model then says that it is not verified.

    Only ``network_def``, ``preprocessing``, ``inferer`` and ``postprocessing`` are used, and they are read,
    not run.

    Parameters
    ----------
    id_or_path
        Id of a bundle that `list_bundles` finds, a bundle's folder, or a results folder of nnU-Net v2 (or one of its
        folds), which is made into a bundle first.
    trust
        Hashes (`bundle_sha256`) of bundles whose code may run; those the user stored when left out.

    Raises
    ------
    InputError
        There is no such bundle, or it asks for something that is not supported.
    RefusedError
        A checksum is wrong, a built-in bundle has none, or the bundle would run code and is not trusted.
    """
    folder, source = find_bundle(id_or_path)
    weights = weights_file(folder)
    verified = verify(folder, (*_config_names(folder), weights.relative_to(folder).as_posix()))
    if not verified and source == "built-in":
        raise RefusedError(f"{folder.name} is built in and has lost its {SUMS}; install napari-medseg again")
    metadata = read_config(folder, "metadata")
    content = read_config(folder, "inference")
    card = read_card(metadata, folder.name)
    name = folder.name
    accepted = trusted_bundles() if trust is None else trust
    trusted = bool(accepted) and bundle_sha256(folder) in accepted
    if not trusted:
        refuse_hostile(content, name)
    config = Config(content, name, monai_evaluator(content, metadata, folder) if trusted else None)

    network_def = config.section("network_def")
    if not isinstance(network_def, Mapping) or "_target_" not in network_def:
        raise InputError(f"{name}: network_def names no class; a mapping with _target_ is expected")
    spatial_dims = _spatial_dims(network_def, metadata, name)
    out_channels = metadata["network_data_format"]["outputs"]["pred"].get("num_channels")
    if not isinstance(out_channels, int) or out_channels < 1:
        raise InputError(f"{name}: metadata.json does not say how many channels the network gives")
    before = read_preprocessing(config, spatial_dims)
    tiling = read_inferer(config, spatial_dims)
    after = read_postprocessing(config, out_channels)
    ours = metadata.get("medseg", {})
    shape = _stated_shape(metadata)
    stated = tile_multiple(shape) if len(shape) == spatial_dims else None
    tile = tiling.tile or stated
    if tile is None:
        raise InputError(f"{name}: no tile size is stated; give the inferer a roi_size")
    if math.prod(tile) > _LARGEST_TILE:
        raise InputError(
            f"{name}: its tile has more voxels than the {_LARGEST_TILE} that are accepted; give a smaller roi_size"
        )
    multiple = before.divisible_by or stated or tile
    if any(t % m for t, m in zip(tile, multiple, strict=True)):
        multiple = tile
    spacing, unit = _spacing(before.spacing, ours, name)
    if not trusted:
        check_names(network_def)
    return Model(
        card=card,
        path=folder,
        weights=weights,
        sha256=file_sha256(weights),
        size=weights.stat().st_size,
        source=source,
        spatial_dims=spatial_dims,
        spacing=spacing,
        unit=unit,
        orientation=before.orientation,
        tile=tile,
        overlap=tiling.overlap,
        padding=tiling.padding,
        divisible_by=multiple,
        out_channels=out_channels,
        intensity=before.intensity,
        activation=after.activation,
        threshold=after.threshold,
        instances=after.instances,
        network_def=network_def,
        trusted=trusted,
        whole=_whole(ours, name),
        slices=_slices(ours, spatial_dims, card.in_channels, name),
        verified=verified,
    )


def _config_names(folder: Path) -> tuple[str, ...]:
    names = (f"configs/{n}{s}" for n in ("metadata", "inference") for s in CONFIG_SUFFIXES)
    return tuple(n for n in names if (folder / n).is_file())


def _stated_shape(metadata: Mapping[str, Any]) -> list[Any]:
    shape = metadata["network_data_format"]["inputs"]["image"].get("spatial_shape")
    return shape if isinstance(shape, list) else []


def _spatial_dims(network_def: Mapping[str, Any], metadata: Mapping[str, Any], name: str) -> int:
    stated = network_def.get("spatial_dims")
    if stated is None:
        stated = len(_stated_shape(metadata))
    if stated not in (2, 3):
        raise InputError(f"{name}: the network works in {stated} dimensions; 2 or 3 are supported")
    return int(stated)


def _whole(ours: Mapping[str, Any], name: str) -> bool:
    whole = ours.get("whole", False)
    if not isinstance(whole, bool):
        raise InputError(f"{name}: whole is {whole!r}; true or false is expected")
    return whole


def _slices(ours: Mapping[str, Any], spatial_dims: int, in_channels: int, name: str) -> int:
    slices = ours.get("slices", 1)
    whole = isinstance(slices, int) and not isinstance(slices, bool) and slices > 0 and slices % 2 == 1
    if not whole or (slices > 1 and (spatial_dims != 2 or in_channels == 0 or in_channels % slices)):
        raise InputError(
            f"{name}: reads {slices!r} slices; an odd number that divides the {in_channels} channels of a "
            "two-dimensional network is expected"
        )
    return int(slices)


def _spacing(
    pixdim: tuple[float, ...] | None, ours: Mapping[str, Any], name: str
) -> tuple[tuple[float, ...] | None, Literal["mm", "um"] | None]:
    if pixdim is None:
        return None, None
    unit = ours.get("unit", "mm")
    if unit not in ("mm", "um"):
        raise InputError(f"{name}: the unit {unit!r} of the spacing is not known; mm or um is expected")
    return pixdim, "um" if unit == "um" else "mm"
