"""What a bundle is to say, and whether it can be said: texts, tiles, labels, channels and kinds of files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from napari_medseg.bundles.model import ModelCard
from napari_medseg.bundles.steps import After, Before, Tiling
from napari_medseg.case import InputError

FileKind = Literal["png", "npy", "nii.gz"]
Precision = Literal["float16", "float32"]

PLAIN_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
PICTURES = {1: "L", 3: "RGB", 4: "RGBA"}
_VERSION = re.compile(r"\d+\.\d+\.\d+[0-9A-Za-z.+-]*")


@dataclass(frozen=True)
class BundleDescription:
    """What a bundle says about its network, in the same terms in which `load_model` gives it back.

    Parameters
    ----------
    card
        What a person should know. Label ids are 1, 2, ...: with a threshold one for every channel of the output,
        without one for every channel but the first. With 0 `in_channels` no channels are named, and the network
        must take one channel as well as three.
    before, tiling, after
        What is done before the network, how an image is cut, and what is done with the output. `before.intensity`
        holds steps made by `napari_medseg.bundles.intensity.intensity_step`; `tiling.tile` is needed.
    unit
        Of `before.spacing`.
    slices
        How many neighbouring slices a two-dimensional network reads as channels.
    whole
        Whether the network must see a whole picture or volume at once. It then takes any size: `tiling.tile` is only
        the size with which it is tried, overlap is 0, padding ``"constant"`` and `before.divisible_by` is ``None``.
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
    whole: bool = False
    files: FileKind | None = None
    authors: str = "not stated"
    limits: tuple[str, ...] = ()
    licence_text: str | None = None
    training_config: Mapping[str, Any] | None = None


def check_texts(card: ModelCard) -> None:
    """Raise `InputError` where the id, the version or a text that every card needs cannot be used."""
    if not PLAIN_NAME.fullmatch(card.id):
        raise InputError(f"The id {card.id!r} cannot be used; up to 100 letters, digits and . _ - are accepted.")
    if not _VERSION.fullmatch(card.version):
        raise InputError(f"{card.id}: the version {card.version!r} cannot be used; three numbers as in 0.1.0 are.")
    for key in ("name", "description", "licence", "intended_use"):
        if not str(getattr(card, key)).strip():
            raise InputError(f"{card.id}: {key} is empty; a card without it is not written.")


def checked_tile(description: BundleDescription) -> tuple[int, ...]:
    """Size of the tile with which the network is tried, along two or three axes.

    Raises
    ------
    InputError
        There is none, it is no multiple of what it must be, or the network sees everything at once and sizes are
        asked for all the same.
    """
    card, tile = description.card, description.tiling.tile
    if tile is None or len(tile) not in (2, 3) or min(tile) < 1:
        raise InputError(f"{card.id}: the tile is {tile}; its size along two or three axes is expected.")
    if description.whole and description.before.divisible_by is not None:
        raise InputError(
            f"{card.id}: sizes that are multiples of {description.before.divisible_by} cannot be had where the network "
            "sees everything at once; leave divisible_by out."
        )
    multiple = description.before.divisible_by or tile
    if len(multiple) != len(tile) or any(m < 1 or t % m for t, m in zip(tile, multiple, strict=True)):
        raise InputError(f"{card.id}: the tile {tile} is no multiple of {multiple} along every axis.")
    return tile


def check_labels_and_channels(description: BundleDescription, out_channels: int) -> None:
    """Raise `InputError` where labels, decoder or channels do not go with a network of `out_channels` maps."""
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
        reads = card.in_channels or "any number"
        raise InputError(f"{card.id}: {len(card.channels)} channels are named; the network reads {reads}.")
    if card.in_channels == 0 and description.slices != 1:
        raise InputError(f"{card.id}: {description.slices} slices are no number of channels; name the channels.")


def file_kind(description: BundleDescription) -> FileKind:
    """What MONAI alone reads; `InputError` where the kind that is asked for does not go with the channels."""
    card, dims = description.card, len(description.tiling.tile or ())
    kind = description.files or ("nii.gz" if dims == 3 else "png" if card.in_channels == 3 else "npy")
    if (kind == "nii.gz") != (dims == 3) or (kind == "png" and card.in_channels not in PICTURES):
        raise InputError(
            f"{card.id}: {kind} files do not go with {card.in_channels or 'any number of'} channels in {dims} "
            "dimensions; volumes are nii.gz, pictures are npy or, with 1, 3 or 4 channels, png."
        )
    return kind
