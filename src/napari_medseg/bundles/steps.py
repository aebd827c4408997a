"""What a bundle does around its network, read off its preprocessing, inferer and postprocessing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from napari_medseg.bundles.config import Config
from napari_medseg.bundles.instances import DistanceDecoder, InstanceDecoder, WatershedDecoder
from napari_medseg.bundles.intensity import SUPPORTED, IntensityPlan, intensity_step
from napari_medseg.bundles.model import Activation, Padding
from napari_medseg.case import InputError, RefusedError

# Reading, types, channels, padding and going back to the image's grid are the engine's own work.
_IGNORED_BEFORE = frozenset(
    {
        "LoadImage",
        "EnsureChannelFirst",
        "EnsureType",
        "CastToType",
        "ToTensor",
        "ToDevice",
        "AddChannel",
        "AsChannelFirst",
        "SpatialPad",
        "Identity",
    }
)
_IGNORED_AFTER = frozenset(
    {"EnsureType", "CastToType", "ToTensor", "ToDevice", "Invert", "SaveImage", "CopyItems", "DeleteItems", "Identity"}
)
_TARGET = re.compile(r"(?:monai\.transforms\.(?:\w+\.)*)?([A-Z]\w*?)(?:d|D|Dict)?")
_INFERER = re.compile(r"(?:monai\.inferers\.(?:\w+\.)*)?(\w+)")
_DECODERS = {f"napari_medseg.bundles.instances.{d.__name__}": d for d in (DistanceDecoder, WatershedDecoder)}
_INSTANCES = "napari_medseg.bundles.instances.Instancesd"
_USED_BEFORE = frozenset({*SUPPORTED, "Orientation", "Spacing", "DivisiblePad"})
_KNOWN_NAMES = _USED_BEFORE | _IGNORED_BEFORE
_KNOWN_AFTER = frozenset({*_IGNORED_AFTER, "Activations", "AsDiscrete"})

_FINEST, _COARSEST = 1e-4, 1e4


@dataclass(frozen=True)
class Before:
    """What the preprocessing asks for."""

    orientation: tuple[str, ...] | None
    spacing: tuple[float, ...] | None
    divisible_by: tuple[int, ...] | None
    intensity: IntensityPlan


@dataclass(frozen=True)
class Tiling:
    """What the inferer asks for; `tile` has as many entries as it states."""

    tile: tuple[int, ...] | None
    overlap: float
    padding: Padding


@dataclass(frozen=True)
class After:
    """What the postprocessing asks for."""

    activation: Activation
    threshold: float | None
    instances: InstanceDecoder | None


def read_preprocessing(config: Config, spatial_dims: int) -> Before:
    """Read the preprocessing transforms, in their order.

    Raises
    ------
    InputError
        A transform, or one of its arguments, is not supported.
    """
    orientation: tuple[str, ...] | None = None
    spacing: tuple[float, ...] | None = None
    divisible: tuple[int, ...] | None = None
    steps = []
    name = config.name
    for transform in _transforms(config, "preprocessing", "image"):
        kind = _short_name(transform.target, _KNOWN_NAMES, name)
        if kind in _IGNORED_BEFORE:
            continue
        if kind not in _USED_BEFORE:
            supported = ", ".join(f"{s}d" for s in sorted(_USED_BEFORE))
            raise InputError(
                f"{name}: the preprocessing transform {transform.target} is not supported; supported are {supported}"
            )
        arguments = transform.arguments()
        if kind == "Orientation":
            orientation = _orientation(arguments, name)
        elif kind == "Spacing":
            spacing = _numbers(arguments.get("pixdim"), spatial_dims, f"{name}: pixdim of Spacingd")
            if not all(_FINEST <= v <= _COARSEST for v in spacing):
                raise InputError(f"{name}: pixdim of Spacingd is {spacing}; {_FINEST:g} to {_COARSEST:g} is expected")
        elif kind == "DivisiblePad":
            divisible = tuple(int(v) for v in _numbers(arguments.get("k"), spatial_dims, f"{name}: k of DivisiblePadd"))
        else:
            try:
                steps.append(intensity_step(kind, arguments))
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
    return Before(orientation, spacing, divisible, IntensityPlan(tuple(steps)))


def read_inferer(config: Config, spatial_dims: int) -> Tiling:
    """Read tile, overlap and padding from a MONAI inferer.

    Raises
    ------
    InputError
        The inferer is not a sliding window and not a single pass.
    """
    name = config.name
    written, where = config.shallow("@inferer")
    if not isinstance(written, Mapping) or "_target_" not in written:
        raise InputError(f"{name}: inferer names no class; SlidingWindowInferer is expected")
    match = _INFERER.fullmatch(str(written["_target_"]))
    kind = match.group(1) if match else ""
    if kind == "SimpleInferer":
        return Tiling(None, 0.0, "constant")
    if kind not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt"):
        raise InputError(f"{name}: the inferer {written['_target_']} is not supported; use SlidingWindowInferer")
    used = ("roi_size", "overlap", "padding_mode", "cval")
    section = {k: config.plain(written[k], f"{where}#{k}") for k in used if k in written}
    tile = tuple(int(v) for v in _numbers(section.get("roi_size"), spatial_dims, f"{name}: roi_size of the inferer"))
    overlaps = section.get("overlap", 0.25)
    try:
        overlap = max(float(v) for v in (overlaps if isinstance(overlaps, list) else [overlaps]))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: overlap of the inferer is {overlaps!r}; a number is expected") from error
    if min(tile) < 1 or not 0 <= overlap < 1:
        raise InputError(
            f"{name}: the inferer has roi_size {tile} and overlap {overlap}; sizes from 1 and an overlap "
            "from 0 to below 1 are expected"
        )
    mode = str(section.get("padding_mode", "constant"))
    paddings: dict[str, Padding] = {"constant": "constant", "reflect": "reflect", "replicate": "replicate"}
    if mode not in paddings or section.get("cval", 0) != 0:
        raise InputError(f"{name}: the inferer pads with {mode}; constant 0, reflect or replicate is expected")
    return Tiling(tile, overlap, paddings[mode])


def read_postprocessing(config: Config, out_channels: int) -> After:
    """Read activation, threshold and instance decoder.

    Raises
    ------
    InputError
        A transform is not supported.
    RefusedError
        An instance decoder is not one of ours.
    """
    activation: Activation = "none"
    threshold: float | None = None
    argmax = False
    instances: InstanceDecoder | None = None
    name = config.name
    for transform in _transforms(config, "postprocessing", "pred"):
        if transform.target == _INSTANCES:
            instances = _decoder(transform.arguments().get("decoder"), name)
            continue
        kind = _short_name(transform.target, _KNOWN_AFTER, name)
        if kind in _IGNORED_AFTER:
            continue
        arguments = transform.arguments() if kind in ("Activations", "AsDiscrete") else {"other": kind}
        if arguments.get("other") is not None:
            raise InputError(
                f"{name}: the postprocessing transform {transform.target} is not supported; supported are "
                f"Activationsd with sigmoid or softmax, AsDiscreted with argmax or threshold, and {_INSTANCES}"
            )
        if kind == "Activations":
            sigmoid, softmax = (_first(arguments.get(k, False)) for k in ("sigmoid", "softmax"))
            activation = "sigmoid" if sigmoid else "softmax" if softmax else activation
        else:
            argmax = argmax or bool(_first(arguments.get("argmax", False)))
            limit = _first(arguments.get("threshold"))
            if not isinstance(limit, int | float | None):
                raise InputError(f"{name}: threshold of AsDiscreted is {limit!r}; a number is expected")
            threshold = float(limit) if limit is not None else threshold
    if argmax or instances is not None:
        threshold = None
    elif threshold is None and activation == "sigmoid":
        threshold = 0.5
    if out_channels == 1 and threshold is None and instances is None:
        raise InputError(f"{name}: one output channel needs a threshold in AsDiscreted")
    return After(activation, threshold, instances)


def tile_multiple(sizes: Sequence[Any]) -> tuple[int, ...] | None:
    """Read what tile sizes must be multiples of from ``spatial_shape`` in metadata.json, e.g. ``"16*n"``.

    Returns ``None`` where the text says nothing that can be used.
    """
    found = []
    for size in sizes:
        times = re.fullmatch(r"\s*(\d{1,9})\s*(?:\*\s*[a-z]\s*)?|\s*[a-z]\s*\*\s*(\d{1,9})\s*", str(size))
        if times is None or int(times.group(1) or times.group(2)) < 1:
            return None
        found.append(int(times.group(1) or times.group(2)))
    return tuple(found) or None


@dataclass(frozen=True)
class _Transform:
    """One transform as written; its arguments are read only where the transform is one that is used."""

    target: str
    where: str
    written: Mapping[str, Any]
    config: Config

    def arguments(self) -> dict[str, Any]:
        """The arguments as plain values."""
        return {k: self.config.plain(v, f"{self.where}#{k}") for k, v in self.written.items() if k[:1] != "_"}


def _transforms(config: Config, section: str, key: str) -> list[_Transform]:
    """The transforms of a Compose or a list that touch `key`."""
    value, where = config.shallow(f"@{section}")
    if isinstance(value, Mapping) and re.fullmatch(
        r"(monai\.transforms\.)?(\w+\.)*Compose", str(value.get("_target_"))
    ):
        value, where = config.shallow(value.get("transforms", []), f"{where}#transforms")
    if isinstance(value, str):
        value = config.plain(value, where)
    found = []
    for number, entry in enumerate(value if isinstance(value, list) else [value]):
        item, place = config.shallow(entry, f"{where}#{number}" if isinstance(value, list) else where)
        if not isinstance(item, Mapping) or "_target_" not in item:
            raise InputError(f"{config.name}: {place} holds {item!r}; a transform with a _target_ is expected")
        if item.get("_disabled_") in (True, "true", "True"):
            continue
        keys = config.plain(item.get("keys", key), f"{place}#keys")
        if not isinstance(keys, str | list):
            raise InputError(f"{config.name}: {place} has keys {keys!r}; a name or a list of names is expected")
        if key in ([keys] if isinstance(keys, str) else keys):
            found.append(_Transform(str(item["_target_"]), place, item, config))
    return found


def _short_name(target: str, known: frozenset[str], name: str) -> str:
    """``monai.transforms.Spacingd`` → ``Spacing``; names that are not MONAI's transforms stay as they are."""
    match = _TARGET.fullmatch(target)
    if match is None:
        if not target.startswith("monai.transforms."):
            raise RefusedError(f"{name}: {target} is not one of MONAI's transforms, and no other code is run")
        return target
    full = target.rpartition(".")[2]
    return full if full in known else match.group(1)


def _orientation(arguments: Mapping[str, Any], name: str) -> tuple[str, ...]:
    codes = arguments.get("axcodes")
    if arguments.get("as_closest_canonical"):
        codes = "RAS"
    letters = tuple(str(c) for c in codes) if isinstance(codes, list | tuple) else tuple(str(codes or ""))
    sides = [(c in ("L", "R"), c in ("A", "P"), c in ("I", "S")) for c in letters]
    if len(letters) != 3 or any(sum(s[k] for s in sides) != 1 for k in range(3)):
        raise InputError(f"{name}: Orientationd has axcodes {codes!r}; three letters such as RAS are expected")
    return letters


def _numbers(value: Any, count: int, where: str) -> tuple[float, ...]:
    items = list(value) if isinstance(value, list | tuple) else [value] * count
    try:
        numbers = tuple(float(v) for v in items)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where} is {value!r}; {count} numbers are expected") from error
    if len(numbers) != count or not all(math.isfinite(v) for v in numbers) or min(numbers) <= 0:
        raise InputError(f"{where} is {value!r}; {count} numbers above 0 are expected")
    return numbers


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _decoder(definition: Any, name: str) -> InstanceDecoder:
    target = definition.get("_target_") if isinstance(definition, Mapping) else None
    if target not in _DECODERS:
        raise RefusedError(f"{name}: the instance decoder {target} is not one of {', '.join(_DECODERS)}")
    try:
        return _DECODERS[target](**{k: v for k, v in definition.items() if not k.startswith("_")})
    except TypeError as error:
        raise InputError(f"{name}: the instance decoder does not accept its arguments: {error}") from error
