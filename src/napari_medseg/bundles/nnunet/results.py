"""A results folder of nnU-Net v2 in the terms of a bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_medseg.bundles.intensity import IntensityPlan
from napari_medseg.bundles.nnunet.checkpoint import read_checkpoint
from napari_medseg.bundles.nnunet.plans import (
    read_architecture,
    read_configuration,
    read_labels,
    read_normalisation,
    read_order,
)
from napari_medseg.bundles.steps import After, Before, Tiling
from napari_medseg.case import InputError

if TYPE_CHECKING:
    import torch

_TARGET = "napari_medseg.networks.nnunet.PlainConvUNet"
CHECKPOINT = "checkpoint_final.pth"
_PICTURES = "NaturalImage2DIO"
# where the axes of an array point that nnU-Net turned itself: nibabel's RAS, reversed
_TURNED = {"NibabelIOWithReorient": ("S", "A", "R")}


def results_folder(path: Path) -> tuple[Path, str | None] | None:
    """The results folder that `path` is, or of which it is one fold; and that fold."""
    for folder, fold in ((path, None), (path.parent, path.name.removeprefix("fold_"))):
        if (folder / "plans.json").is_file() and (folder / "dataset.json").is_file():
            return (folder, fold) if fold is None or path.name.startswith("fold_") else None
    return None


@dataclass(frozen=True, eq=False)
class NNUNetResults:
    """What a results folder holds, in the terms of a bundle.

    Parameters
    ----------
    dataset, configuration, trainer
        Names that nnU-Net uses.
    fold, folds
        The fold described (``"0"``, ..., ``"all"``), and all those with a checkpoint.
    network_def
        Class and arguments of the network.
    weights
        Its weights, float32.
    channels
        Names of the channels it reads.
    labels
        Names of its labels by id, without background.
    before, tiling, after
        As in `napari_medseg.bundles.save.BundleDescription`; axes in the order of the files' arrays, (z, y, x).
    epochs
        How many it was trained for.
    scores
        Mean Dice of the fold's own validation, where nnU-Net wrote it.
    limits
        Sentences on what is done differently here.
    dataset_json
        What the data set says about itself.
    """

    dataset: str
    configuration: str
    trainer: str
    fold: str
    folds: tuple[str, ...]
    network_def: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor] = field(repr=False)
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    before: Before
    tiling: Tiling
    after: After
    epochs: int
    scores: Mapping[str, float]
    limits: tuple[str, ...]
    dataset_json: Mapping[str, Any] = field(repr=False)


def describe_nnunet(folder: str | Path, fold: str | None = None, *, checkpoint: str = CHECKPOINT) -> NNUNetResults:
    """Read a results folder (``nnUNetTrainer__nnUNetPlans__3d_fullres`` and the like).

    Parameters
    ----------
    folder
        Holds ``plans.json``, ``dataset.json`` and ``fold_*/checkpoint_final.pth``.
    fold
        ``"0"``, ..., or ``"all"``; may be left out where there is one.
    checkpoint
        Name of the file in the fold's folder.

    Raises
    ------
    InputError
        Something is missing, or the network, its preprocessing or its labels are of a kind that is not supported.
    RefusedError
        The checkpoint holds objects that could run code when opened.
    """
    path = Path(folder).expanduser()
    plans, dataset = _json(path, "plans.json"), _json(path, "dataset.json")
    chosen = the_fold(path, fold, checkpoint)
    stored = read_checkpoint(path / f"fold_{chosen}" / checkpoint)
    name = str(stored["init_args"].get("configuration", path.name.rpartition("__")[2]))
    try:
        return _results(path, plans, dataset, stored, name, chosen, _folds(path, checkpoint))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path.name}: its plans cannot be read as those of nnU-Net v2: {error!r}.") from error


def the_fold(folder: Path, fold: str | None, checkpoint: str) -> str:
    """The fold asked for, or the only one there is.

    Raises
    ------
    InputError
        There is none, or several and none was asked for.
    """
    folds = _folds(folder, checkpoint)
    if not folds:
        raise InputError(f"{folder.name} has no fold_*/{checkpoint}, so it is no results folder of nnU-Net v2.")
    if fold is None and len(folds) > 1:
        raise InputError(
            f"{folder.name} has the folds {', '.join(folds)}; say which one, for instance by the path of "
            f"fold_{folds[0]}; each becomes a model."
        )
    if fold is not None and fold not in folds:
        raise InputError(f"{folder.name} has no fold {fold}; there are {', '.join(folds)}.")
    return folds[0] if fold is None else fold


def _folds(folder: Path, checkpoint: str) -> tuple[str, ...]:
    return tuple(sorted(p.parent.name.removeprefix("fold_") for p in folder.glob(f"fold_*/{checkpoint}")))


def _results(
    path: Path,
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    stored: Mapping[str, Any],
    name: str,
    fold: str,
    folds: tuple[str, ...],
) -> NNUNetResults:
    configuration = read_configuration(plans, name)
    dims = len(configuration["patch_size"])
    order = read_order(plans, dims, name)
    names = dataset.get("channel_names") or dataset["modality"]
    channels = tuple(str(names[key]) for key in sorted(names, key=int))
    labels, after = read_labels(dataset)
    out_channels = len(labels) + (after.threshold is None)
    definition = {
        "_target_": _TARGET,
        "spatial_dims": dims,
        "in_channels": len(channels),
        "out_channels": out_channels,
        **read_architecture(configuration, order, name),
    }
    strides = definition["strides"]
    reader = str(plans.get("image_reader_writer", ""))
    steps, notes = read_normalisation(configuration, plans, len(channels))
    spacing = None if reader == _PICTURES else tuple(float(configuration["spacing"][k]) for k in order)
    multiple = tuple(math.prod(s[a] for s in strides) for a in range(dims))
    orientation = _TURNED.get(reader) if dims == 3 else None
    tile = tuple(int(configuration["patch_size"][k]) for k in order)
    return NNUNetResults(
        dataset=str(plans.get("dataset_name", path.parent.name)),
        configuration=name,
        trainer=str(stored.get("trainer_name", "nnUNetTrainer")),
        fold=fold,
        folds=folds,
        network_def=definition,
        weights=_weights(stored["network_weights"], order),
        channels=channels,
        labels=labels,
        before=Before(orientation, spacing, multiple, IntensityPlan(steps)),
        tiling=Tiling(tile, 0.5, "constant"),
        after=after,
        epochs=int(stored.get("current_epoch", 0)),
        scores=_scores(path / f"fold_{fold}" / "validation" / "summary.json", fold),
        limits=(*notes, *_limits(spacing, orientation, dims, stored.get("inference_allowed_mirroring_axes"))),
        dataset_json=dataset,
    )


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder.name} has no {name}, so it is no results folder of nnU-Net v2.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{folder.name}: {name} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{folder.name}: {name} holds a {type(content).__name__}; a mapping is expected.")
    return content


def _weights(stored: Mapping[str, torch.Tensor], order: Sequence[int]) -> dict[str, torch.Tensor]:
    """The network's own weights, with the axes of every convolution in the order of the stored array."""
    from napari_medseg.networks.nnunet import own_weights

    turned = (0, 1, *(2 + k for k in order))
    plain = {k.removeprefix("module."): v for k, v in stored.items()}
    return {k: v.float().permute(turned) if v.ndim == len(turned) else v.float() for k, v in own_weights(plain).items()}


def _scores(path: Path, fold: str) -> dict[str, float]:
    if fold == "all" or not path.is_file():
        return {}
    dice = _json(path.parent, path.name).get("foreground_mean", {}).get("Dice")
    return {"dice": round(float(dice), 4)} if isinstance(dice, int | float) and math.isfinite(dice) else {}


def _limits(spacing: Any, orientation: Any, dims: int, mirrored: Sequence[int] | None) -> list[str]:
    limits = ["nnU-Net spreads its tiles evenly; here they lie one step apart and the last ones overlap more"]
    if spacing is not None:
        limits.append("nnU-Net resamples images with cubic splines; here it is linear interpolation")
    if mirrored:
        limits.append("nnU-Net averages over mirrored images as well; here that is done only when asked for (--tta)")
    if dims == 3 and orientation is None:
        limits.append("Images need to be stored with the axes of the training files; MONAI counts axes the other way")
    return limits
