"""Write a MONAI bundle: all of it, read back and compared with the network it came from, or nothing at all."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_medseg.bundles.checksums import SUMS, read_sums, write_sums
from napari_medseg.bundles.find import is_bundle, user_bundles
from napari_medseg.bundles.load import load_model
from napari_medseg.bundles.model import Model, ModelCard
from napari_medseg.bundles.network import build_network, read_weights
from napari_medseg.bundles.scan import refuse_hostile
from napari_medseg.bundles.steps import After, Before, Tiling
from napari_medseg.case import InputError, RefusedError
from napari_medseg.case.labels import palette_colour
from napari_medseg.io.writing import require_folder
from napari_medseg.networks import ARCHITECTURES, Architecture

if TYPE_CHECKING:
    import torch

FileKind = Literal["png", "npy", "nii.gz"]
Precision = Literal["float16", "float32"]

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_VERSION = re.compile(r"\d+\.\d+\.\d+[0-9A-Za-z.+-]*")
_READERS = {"png": "PILReader", "npy": "NumpyReader", "nii.gz": "NibabelReader"}
_PICTURES = {1: "L", 3: "RGB", 4: "RGBA"}
_WEIGHTS, _INFERENCE, _METADATA = "models/model.safetensors", "configs/inference.json", "configs/metadata.json"
_ASIDE = "replaced bundle"
# what MONAI evaluates, follows or includes: at the beginning of a text, or as a relative reference anywhere in it
_ACTED_ON = re.compile(r"[$@%]|.*[@%](?:#|::)", re.DOTALL)
_CACHES = frozenset({"__pycache__", ".DS_Store"})
# root mean square of the difference, as a share of that of the output
_TOLERANCE: dict[Precision, float] = {"float16": 1e-2, "float32": 1e-5}
_LICENCES = {
    "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC BY-NC 4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "CC BY-NC-SA 4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
}


@dataclasses.dataclass(frozen=True)
class BundleDescription:
    """What a bundle says about its network, in the same terms in which `load_model` gives it back.

    Parameters
    ----------
    card
        What a person should know. Label ids are 1, 2, ...: with a threshold one for every channel of the output,
        without one for every channel but the first.
    before, tiling, after
        What is done before the network, how an image is cut, and what is done with the output. `before.intensity`
        holds steps made by `napari_medseg.bundles.intensity.intensity_step`; `tiling.tile` is needed.
    unit
        Of `before.spacing`.
    slices
        How many neighbouring slices a two-dimensional network reads as channels.
    files
        What MONAI alone reads when it runs the bundle: ``"nii.gz"`` for volumes; ``"png"`` (8 bits, 1, 3 or 4
        channels) or ``"npy"`` (float arrays (channel, y, x)) for two dimensions. Chosen by the channels when
        left out: three are a colour picture, anything else is an array.
    authors
        Who made it.
    limits
        Sentences on what it has not seen or cannot do.
    licence_text
        The licence in full, put into ``LICENSE`` below what is said there anyway.
    training_config
        What becomes ``configs/train.json``.
    """

    card: ModelCard
    before: Before
    tiling: Tiling
    after: After
    unit: Literal["mm", "um"] = "mm"
    slices: int = 1
    files: FileKind | None = None
    authors: str = "not stated"
    limits: tuple[str, ...] = ()
    licence_text: str | None = None
    training_config: Mapping[str, Any] | None = None


def save_bundle(
    folder: str | Path | None,
    network: Mapping[str, Any] | Architecture,
    weights: Mapping[str, torch.Tensor] | str | Path,
    description: BundleDescription,
    *,
    parameters: Mapping[str, Any] | None = None,
    precision: Precision = "float16",
    overwrite: bool = False,
    within: str | Path | None = None,
) -> Model:
    """Write a bundle that `load_model` and MONAI's own command line run.

    It is written beside `folder`, opened again, and its output for one tile of noise compared with that of the
    network it was made from; only then does it get its name.

    Parameters
    ----------
    folder
        The bundle's folder, which is made; its parent must be there. ``None`` for the user's own bundles, by id.
    network
        ``network_def``, as `Architecture.definition` makes it, or an architecture to be used with `parameters`.
    weights
        State dictionary, or a file of one (safetensors, or ``torch.save`` of tensors only).
    description
        Everything else.
    parameters
        Parameters of an architecture; its defaults where left out.
    precision
        How weights are stored. Running statistics of normalisation layers always stay float32.
    overwrite
        Whether a bundle that is there may be replaced. A folder with any file that its ``SHA256SUMS`` does not
        name is never replaced.
    within
        Refuse a folder that does not lie inside this one.

    Returns
    -------
    Model
        What was written, as read back.

    Raises
    ------
    InputError
        Something in the description is missing, contradicts the network, or does not read back as it was given.
    RefusedError
        The folder lies outside `within`, or the bundle would run code.
    """
    _check_texts(description.card)
    target = _target(folder, description.card.id, within)
    _require_free(target, overwrite)
    definition = _definition(network, parameters)
    state = _state(weights)
    image, expected = _forward(definition, state, description)
    files = _files(definition, description, expected.shape[1], _weights_count(state))
    stored = _stored(state, precision)
    with _staged(target) as written:
        _write(written, files, stored)
        model = load_model(written, trust=set())
        _compare_description(model, definition, description)
        _compare_output(model, image, expected, _TOLERANCE[precision])
        _publish(written, target, overwrite)
    return dataclasses.replace(model, path=target, weights=target / _WEIGHTS, source=str(target.parent))


def _check_texts(card: ModelCard) -> None:
    if not _PLAIN_NAME.fullmatch(card.id):
        raise InputError(f"The id {card.id!r} cannot be used; up to 100 letters, digits and . _ - are accepted.")
    if not _VERSION.fullmatch(card.version):
        raise InputError(f"{card.id}: the version {card.version!r} cannot be used; three numbers as in 0.1.0 are.")
    for key in ("name", "description", "licence", "intended_use"):
        if not str(getattr(card, key)).strip():
            raise InputError(f"{card.id}: {key} is empty; a card without it is not written.")


def _target(folder: str | Path | None, bundle_id: str, within: str | Path | None) -> Path:
    if folder is None:
        user_bundles().mkdir(parents=True, exist_ok=True)
        folder = user_bundles() / bundle_id
    given = Path(folder).expanduser()
    if not _PLAIN_NAME.fullmatch(given.name):
        raise InputError(f"A bundle cannot be called {given.name!r}; up to 100 letters, digits and . _ - are accepted.")
    target = given.parent.resolve() / given.name
    if target.is_symlink():
        raise RefusedError(f"{target.name} is a link to another place, and nothing is written through it.")
    if within is not None and not target.parent.is_relative_to(Path(within).expanduser().resolve()):
        raise RefusedError(f"{folder} lies outside {Path(within).name}, where bundles are to be written.")
    require_folder(target)
    return target


def _require_free(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise InputError(f"{target.name}: already exists; choose another name or allow overwriting.")
    if not target.is_dir() or not is_bundle(target):
        raise InputError(f"{target.name}: is no bundle and is never replaced; choose another name.")
    found = {p.relative_to(target).as_posix() for p in target.rglob("*") if not p.is_dir() or p.is_symlink()}
    foreign = sorted(n for n in found - set(read_sums(target)) - {SUMS} if not _CACHES & set(n.split("/")))
    if foreign:
        raise InputError(f"{target.name}: holds {foreign[0]}, which {SUMS} does not name; move it elsewhere first.")


def _definition(network: Mapping[str, Any] | Architecture, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(network, Architecture):
        network = network.definition(**(parameters or {}))
    elif parameters:
        raise InputError("parameters go with an architecture; a network_def holds its own arguments.")
    definition: dict[str, Any] = _plain(network, "network_def", classes=True)
    return definition


def _plain(value: Any, where: str, *, classes: bool = False) -> Any:
    """The value as JSON gives it back, holding nothing that MONAI would take for code, a reference or a class."""
    value = json.loads(_json(value, where))
    left = [(value, where)]
    while left:
        item, place = left.pop()
        if isinstance(item, str) and _ACTED_ON.match(item):
            raise RefusedError(f"{place} is {item[:60]!r}, which MONAI would act on; use no $, @ or % in this place.")
        if isinstance(item, dict):
            odd = [k for k in item if k.startswith("_") and not (classes and k == "_target_")]
            if odd:
                raise RefusedError(f"{place} has the key {odd[0]}, which MONAI would act on; choose another.")
            left.extend((v, f"{place}#{k}") for k, v in item.items())
        elif isinstance(item, list):
            left.extend((v, f"{place}#{i}") for i, v in enumerate(item))
    return value


def _state(weights: Mapping[str, torch.Tensor] | str | Path) -> dict[str, torch.Tensor]:
    if not isinstance(weights, str | Path):
        return dict(weights)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(f"{path.name}: there is no such file of weights.")
    return read_weights(path)


def _weights_count(state: Mapping[str, torch.Tensor]) -> int:
    return sum(v.numel() for name, v in state.items() if v.is_floating_point() and ".running_" not in f".{name}")


def _forward(
    definition: Mapping[str, Any], state: Mapping[str, torch.Tensor], description: BundleDescription
) -> tuple[torch.Tensor, torch.Tensor]:
    """One tile of noise (1, c, ...) and what the network makes of it, float32."""
    import torch

    card, tile = description.card, description.tiling.tile
    if tile is None or len(tile) not in (2, 3) or min(tile) < 1:
        raise InputError(f"{card.id}: the tile is {tile}; its size along two or three axes is expected.")
    multiple = description.before.divisible_by or tile
    if len(multiple) != len(tile) or any(m < 1 or t % m for t, m in zip(tile, multiple, strict=True)):
        raise InputError(f"{card.id}: the tile {tile} is no multiple of {multiple} along every axis.")
    network = build_network(definition)
    _fill(network, state, card.id)
    image = torch.rand(1, card.in_channels, *tile, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            maps = network.float().eval()(image)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        first = " ".join(str(error).split())[:300]
        raise InputError(f"{card.id}: the network does not take a tile of {tuple(image.shape)}: {first}") from error
    if not isinstance(maps, torch.Tensor) or maps.ndim != image.ndim or maps.shape[2:] != image.shape[2:]:
        found = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
        raise InputError(
            f"{card.id}: the network makes {found} of {tuple(image.shape)}; maps of that size are expected."
        )
    if not torch.isfinite(maps).all():
        raise InputError(f"{card.id}: the network gives values that are no numbers; its weights cannot be used.")
    return image, maps


def _fill(network: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise InputError(f"{name}: the weights do not fit the network: {first}") from error


def _stored(state: Mapping[str, torch.Tensor], precision: Precision) -> dict[str, torch.Tensor]:
    import torch

    stored = {}
    for name, values in state.items():
        kept = values.detach().cpu()
        if kept.is_floating_point():
            # variances of early layers pass 65504, the largest float16
            half = precision == "float16" and ".running_" not in f".{name}"
            kept = kept.to(torch.float16 if half else torch.float32)
            if not torch.isfinite(values).all():
                raise InputError(f"{name} holds values that are no numbers; the weights cannot be used.")
            if not torch.isfinite(kept).all():
                largest = f"{values.abs().max():g}"
                raise InputError(f"{name} holds {largest}, which {precision} cannot; store the weights as float32.")
        # safetensors takes no two tensors that share memory
        stored[name] = kept.clone(memory_format=torch.contiguous_format)
    return stored


def _files(definition: dict[str, Any], description: BundleDescription, out_channels: int, count: int) -> dict[str, str]:
    """Text of every file but the weights, by its path in the bundle."""
    card, after = description.card, description.after
    if (card.kind == "instance") != (after.instances is not None):
        raise InputError(f"{card.id}: the kind is {card.kind}; a decoder of instances goes with instance, and only so.")
    many = 1 if after.instances is not None else out_channels - (after.threshold is None)
    if [label.id for label in card.labels] != list(range(1, many + 1)):
        raise InputError(
            f"{card.id}: the labels are {[label.id for label in card.labels]}; the {out_channels} channels of the "
            f"output need {list(range(1, many + 1))}."
        )
    if len(card.channels) != card.in_channels:
        raise InputError(f"{card.id}: {len(card.channels)} channels are named; the network reads {card.in_channels}.")
    kind = _file_kind(description)
    files = {
        _METADATA: _json(_metadata(definition, description, out_channels, kind), "metadata"),
        _INFERENCE: _json(_inference(definition, description, out_channels, kind), "inference"),
        "docs/README.md": _readme(definition, description, kind, count),
        "LICENSE": _licence(description),
    }
    if description.training_config is not None:
        refuse_hostile(description.training_config, card.id)
        files["configs/train.json"] = _json(dict(description.training_config), "training_config")
    return files


def _json(content: Any, where: str) -> str:
    try:
        text = json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n"
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} is not made of plain texts, finite numbers, lists and mappings: {error}.") from error
    return text


def _file_kind(description: BundleDescription) -> FileKind:
    card, dims = description.card, len(description.tiling.tile or ())
    kind = description.files or ("nii.gz" if dims == 3 else "png" if card.in_channels == 3 else "npy")
    if (kind == "nii.gz") != (dims == 3) or (kind == "png" and card.in_channels not in _PICTURES):
        raise InputError(
            f"{card.id}: {kind} files do not go with {card.in_channels} channels in {dims} dimensions; volumes are "
            "nii.gz, pictures are npy or, with 1, 3 or 4 channels, png."
        )
    return kind


def _metadata(
    definition: dict[str, Any], description: BundleDescription, out_channels: int, kind: FileKind
) -> dict[str, Any]:
    card, after, tile = description.card, description.after, description.tiling.tile or ()
    names = [label.name for label in card.labels]
    if after.instances is not None:
        made = ["foreground", "distance", "contact"] if out_channels == 3 else [f"map {k}" for k in range(out_channels)]
    else:
        made = names if after.threshold is not None else ["background", *names]
    multiple = description.before.divisible_by
    shared = {
        "spatial_shape": [f"{m}*n" for m in multiple] if multiple else list(tile),
        "dtype": "float32",
        "is_patch_data": True,
    }
    packages = [
        "safetensors",
        *(["nibabel"] if kind != "png" else []),
        *(["scipy", "scikit-image"] * bool(after.instances)),
    ]
    packages += ["napari-medseg"] if "napari_medseg." in json.dumps([definition, _decoder(after)]) else []
    what = "Instance segmentation" if card.kind == "instance" else "Segmentation"
    content = {
        "schema": _SCHEMA,
        "version": card.version,
        "changelog": {card.version: "written by napari-medseg"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in packages},
        "supported_apps": {},
        "name": card.name,
        "task": f"{what}: {', '.join(names)}",
        "description": card.description,
        "authors": description.authors,
        "copyright": f"Copyright (c) {description.authors}",
        "license": card.licence,
        "data_type": kind,
        "image_classes": ", ".join(card.channels),
        "label_classes": "0 background, " + ", ".join(f"{label.id} {label.name}" for label in card.labels),
        "pred_classes": ", ".join(made),
        "intended_use": card.intended_use,
        "references": list(card.references),
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "RGB" if kind == "png" and card.in_channels == 3 else "magnitude",
                    "modality": (card.modality or ("n/a",))[0],
                    "num_channels": card.in_channels,
                    "value_range": [],
                    **shared,
                    "channel_def": {str(k): name for k, name in enumerate(card.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "segmentation",
                    "num_channels": out_channels,
                    "value_range": [] if after.activation == "none" else [0, 1],
                    **shared,
                    "channel_def": {str(k): name for k, name in enumerate(made)},
                }
            },
        },
        "medseg": {
            "id": card.id,
            "task": card.task,
            "kind": card.kind,
            "modality": list(card.modality),
            "labels": [
                {"id": label.id, "name": label.name}
                | ({} if label.colour == palette_colour(label.id) else {"colour": list(label.colour)})
                | ({"terminology": list(label.terminology)} if label.terminology else {})
                for label in card.labels
            ],
            "licence": card.licence,
            "intended_use": card.intended_use,
            "training_data": [dict(entry) for entry in card.training_data],
            "recipe": card.recipe,
            "validation": card.validation,
            "reference_scores": dict(card.reference_scores),
            "unit": description.unit,
            "slices": description.slices,
            "limits": list(description.limits),
        },
        "data_source": "; ".join(str(entry.get("name", "")) for entry in card.training_data) or "not stated",
        "eval_metrics": {
            f"{title}: {name}" if title else name: value
            for title, scores in _scores(card).items()
            for name, value in scores.items()
        },
    }
    checked: dict[str, Any] = _plain(content, "metadata")
    return checked


def _scores(card: ModelCard) -> dict[str, dict[str, Any]]:
    """Scores by set and name; those that stand outside any set come under an empty title."""
    sets = {str(k): dict(v) for k, v in card.reference_scores.items() if isinstance(v, Mapping)}
    alone = {str(k): v for k, v in card.reference_scores.items() if not isinstance(v, Mapping)}
    return sets | ({"": alone} if alone else {})


def _inference(
    definition: dict[str, Any], description: BundleDescription, out_channels: int, kind: FileKind
) -> dict[str, Any]:
    image, pred = {"keys": "image"}, {"keys": "pred"}
    before, tiling, after = description.before, description.tiling, description.after
    channels = description.card.in_channels
    load: dict[str, Any] = {"_target_": "LoadImaged", **image, "reader": _READERS[kind]}
    first: dict[str, Any] = {"_target_": "EnsureChannelFirstd", **image}
    if kind == "png":
        load |= {"reverse_indexing": False, "converter": f"$lambda image: image.convert('{_PICTURES[channels]}')"}
        first["channel_dim"] = "no_channel" if channels == 1 else -1
    elif kind == "npy":
        first["channel_dim"] = 0
    given: list[dict[str, Any]] = []
    if before.orientation is not None:
        given.append({"_target_": "Orientationd", **image, "axcodes": "".join(before.orientation), "labels": None})
    if before.spacing is not None:
        given.append({"_target_": "Spacingd", **image, "pixdim": list(before.spacing), "mode": "bilinear"})
    for step in before.intensity.steps:
        lists = [k for k, v in step.arguments.items() if isinstance(v, list | tuple)]
        if lists and not step.arguments.get("channel_wise"):
            raise InputError(f"{step.name} has a list of {lists[0]}; it needs channel_wise as well.")
        given.append({"_target_": f"{step.name}d", **image, **step.arguments})
    ending: list[dict[str, Any]] = []
    if after.activation != "none":
        ending.append({"_target_": "Activationsd", **pred, after.activation: True})
    if before.orientation is not None or before.spacing is not None:
        back = {"transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False, "to_tensor": True}
        ending.append({"_target_": "Invertd", **pred, **back})
    if after.instances is not None:
        own = "napari_medseg.bundles.instances.Instancesd"
        ending.append({"_target_": own, **pred, "decoder": _decoder(after)})
    elif after.threshold is not None:
        ending.append({"_target_": "AsDiscreted", **pred, "threshold": after.threshold})
    else:
        ending.append({"_target_": "AsDiscreted", **pred, "argmax": True})
    save = {"output_dir": "@output_dir", "output_ext": ".nii.gz", "output_dtype": "$numpy.uint16"}
    if kind == "png" and (after.threshold is None or out_channels == 1):
        # MONAI writes pictures as (x, y)
        ending += [
            {"_target_": "CopyItemsd", **pred, "names": "labels"},
            {"_target_": "Transposed", "keys": "labels", "indices": [0, 2, 1]},
            {"_target_": "SaveImaged", "keys": "labels", **save, "output_ext": ".png", "resample": False},
        ]
    else:
        ending.append({"_target_": "SaveImaged", **pred, **save})
    described = {
        "network_def": definition,
        "before": given,
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(tiling.tile or ()),
            "sw_batch_size": 1,
            "overlap": tiling.overlap,
            "mode": "gaussian",
            "padding_mode": tiling.padding,
        },
    }
    plain = _plain(described, "inference", classes=True)
    return {
        "bundle_root": ".",
        "dataset_dir": "@bundle_root",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "datalist": f"$sorted(glob.glob(@dataset_dir + '/*.{kind}'))",
        "network_def": plain["network_def"],
        "network": "$@network_def.to(@device)",
        "weights": f"$load_file(@bundle_root + '/{_WEIGHTS}')",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [load, first, *plain["before"], {"_target_": "EnsureTyped", **image}],
        },
        "dataset": {"_target_": "Dataset", "data": "$[{'image': f} for f in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": plain["inferer"],
        "postprocessing": {"_target_": "Compose", "transforms": ending},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "imports": [
            "$import glob",
            "$import monai",
            "$import numpy",
            "$from safetensors.torch import load_file",
            "$import torch",
        ],
        "initialize": ["$@network.load_state_dict(@weights)", "$@network.eval()"],
        "run": ["$@evaluator.run()"],
    }


def _decoder(after: After) -> dict[str, Any] | None:
    decoder = after.instances
    if decoder is None:
        return None
    if not dataclasses.is_dataclass(decoder) or isinstance(decoder, type):
        raise InputError(f"the decoder {type(decoder).__name__} is no dataclass of napari_medseg.bundles.instances.")
    target = f"{type(decoder).__module__}.{type(decoder).__qualname__}"
    return {"_target_": target, **dataclasses.asdict(decoder)}


def _licence(description: BundleDescription) -> str:
    card = description.card
    address = _LICENCES.get(card.licence)
    lines = [
        f"The weights in this bundle ({_WEIGHTS}) are licensed under {card.licence}{f', {address}' * bool(address)}"
    ]
    lines += ["", "They were trained on", *_trained_on(card)]
    lines += ["", "The configuration files are licensed like the software that wrote them (BSD-3-Clause)."]
    lines += [f"No warranty. Intended use: {_line(card.intended_use)}."]
    if description.licence_text is not None:
        lines += ["", description.licence_text.strip()]
    return "\n".join(lines) + "\n"


def _readme(definition: Mapping[str, Any], description: BundleDescription, kind: FileKind, count: int) -> str:
    card, before, tiling = description.card, description.before, description.tiling
    target = str(definition.get("_target_", ""))
    extra = next((e.extra for e in ARCHITECTURES.values() if e.target == target and e.extra), None)
    grid = "the image's own grid"
    if before.spacing is not None:
        grid = " x ".join(f"{v:g}" for v in before.spacing) + f" {description.unit}"
    shape = " x ".join(str(t) for t in tiling.tile or ())
    lines = [f"# {_line(card.name)}", "", card.description.strip(), ""]
    lines += [f"Network: `{target}`, {count:,} weights; tiles of {shape} at {grid}.", ""]
    lines += [f"Labels: {', '.join(f'{label.id} {_line(label.name)}' for label in card.labels)}; 0 is background.", ""]
    lines += [f"**Intended use: {_line(card.intended_use)}.** Weights: {_line(card.licence)}.", "", "## Scores", ""]
    lines += [*_table(card), "", f"How they were measured: {_line(card.validation)}.", "", "## Limits", ""]
    lines += [f"- {_line(limit)}." for limit in description.limits] or ["None are stated, which does not mean none."]
    lines += ["", "## Trained on", "", *_trained_on(card), "", f"Recipe: {_line(card.recipe)}."]
    lines += ["", "## Run it", "", "In napari-medseg: choose the card in the Segment dock, or"]
    lines += [f"`napari-medseg segment IMAGE -m {card.id} -o OUT.zarr`.", ""]
    extras = ",".join(["train", extra] if extra else ["train"])
    lines += [f'With MONAI, from this folder (needs `pip install "napari-medseg[{extras}]"`;']
    lines += [f"FOLDER holds `{kind}` files):", "", "```", "python -m monai.bundle run run --config_file " + _INFERENCE]
    lines[-1] += " --dataset_dir FOLDER --output_dir OUT"
    lines += ["```"]
    if card.references:
        lines += ["", "## References", "", *(f"- {_line(r)}" for r in card.references)]
    return "\n".join(lines) + "\n"


def _line(text: Any) -> str:
    """One line that no table is broken by."""
    return " ".join(str(text).split()).rstrip(".").replace("|", "\\|")


def _table(card: ModelCard) -> list[str]:
    sets = _scores(card)
    if not sets:
        return ["No scores were measured."]
    names = list(dict.fromkeys(name for scores in sets.values() for name in scores))
    rows = [["images kept apart", *names], ["---"] * (len(names) + 1)]
    rows += [[title or "all", *(scores.get(n, "–") for n in names)] for title, scores in sets.items()]
    return [f"| {' | '.join(_line(cell) for cell in row)} |" for row in rows]


def _trained_on(card: ModelCard) -> list[str]:
    entries = []
    for data in card.training_data:
        images = f"{data['images']} images" if "images" in data else None
        known = (data.get("name"), images, data.get("licence", "licence not stated"))
        more = (data.get("attribution"), data.get("note"))
        head = ", ".join(_line(v) for v in known if v)
        entries.append("- " + ". ".join([head, *(_line(v) for v in more if v)]) + ".")
    return entries or ["- Not stated."]


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder of the same name to write to, one level deeper, where nobody looks for bundles."""
    try:
        outer = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except PermissionError as error:
        raise InputError(f"{target.name}: no permission to write here; choose another folder.") from error
    try:
        yield outer / target.name
    finally:
        # a bundle that could be neither replaced nor put back is still in there
        if target.exists() or not (outer / _ASIDE).exists():
            shutil.rmtree(outer)


def _write(folder: Path, files: Mapping[str, str], stored: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / _WEIGHTS).parent.mkdir()
    save_file(dict(stored), folder / _WEIGHTS)
    write_sums(folder)


def _publish(written: Path, target: Path, overwrite: bool) -> None:
    _require_free(target, overwrite)
    aside = written.parent / _ASIDE
    replaced = target.exists()
    if replaced:
        target.rename(aside)
    try:
        written.rename(target)
    except BaseException:
        if replaced:
            aside.rename(target)
        raise


def _compare_description(model: Model, definition: Mapping[str, Any], description: BundleDescription) -> None:
    before, tiling, after = description.before, description.tiling, description.after
    meant = {
        **{f"card.{f.name}": getattr(description.card, f.name) for f in dataclasses.fields(ModelCard)},
        "network_def": definition,
        "orientation": before.orientation,
        "spacing": before.spacing,
        "unit": description.unit if before.spacing is not None else None,
        "divisible_by": before.divisible_by or tiling.tile,
        "intensity": [(step.name, step.arguments) for step in before.intensity.steps],
        "tile": tiling.tile,
        "overlap": tiling.overlap,
        "padding": tiling.padding,
        "activation": after.activation,
        "threshold": after.threshold,
        "instances": after.instances,
        "slices": description.slices,
    }
    found = {key: getattr(model.card if key.startswith("card.") else model, key.removeprefix("card.")) for key in meant}
    found["intensity"] = [(step.name, step.arguments) for step in model.intensity.steps]
    for key, value in meant.items():
        if _comparable(value) != _comparable(found[key]):
            raise InputError(
                f"{description.card.id}: {key} was given as {value!r} and reads back as {found[key]!r}; "
                "nothing was written."
            )


def _comparable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _comparable(v) for k, v in value.items()}
    return [_comparable(v) for v in value] if isinstance(value, list | tuple) else value


def _compare_output(model: Model, image: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    import torch

    with torch.inference_mode():
        difference = (model.network()(image) - expected).double()
    share = float(difference.square().mean().sqrt()) / max(float(expected.double().square().mean().sqrt()), 1e-12)
    # not "share > tolerance": what is no number must not pass
    if not share <= tolerance:
        raise InputError(
            f"{model.card.id}: the output of the stored network differs from the given one's by {share:.2g} of its "
            f"size; {tolerance:g} is accepted, so nothing was written. Store the weights as float32."
        )
