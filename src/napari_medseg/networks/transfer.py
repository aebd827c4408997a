"""Carry weights from one network to another by the names of their tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from napari_medseg.case import InputError

_COUNTER = "num_batches_tracked"
_NAMED = 3


@dataclass(frozen=True)
class Transferred:
    """Weights of a network after a transfer, and where each came from.

    Parameters
    ----------
    weights
        A full state dict of the target, sharing no memory with the source.
    taken
        Names, in the target, of the tensors from the source, `converted` among them.
    kept
        Names of the tensors that stayed the target's own.
    converted
        Names of the tensors whose input channels were changed.
    """

    weights: dict[str, torch.Tensor]
    taken: tuple[str, ...]
    kept: tuple[str, ...]
    converted: tuple[str, ...]

    @property
    def words(self) -> str:
        """What happened, as one sentence."""
        changed = f", {_listed(self.converted)} for another number of channels" if self.converted else ""
        return f"{len(self.taken)} tensors come from the source{changed}; {len(self.kept)} stay as they were."


def transfer_weights(
    source: Mapping[str, torch.Tensor],
    target: Mapping[str, torch.Tensor],
    parts: Sequence[str],
    *,
    renames: Mapping[str, str] | None = None,
    image_layer: str | None = None,
) -> Transferred:
    """Give `target` the tensors of `source` whose names lie in `parts`.

    Parameters
    ----------
    source
        State dict of the network that was trained.
    target
        State dict of the network that shall start from it.
    parts
        What is carried, in the target's names: ``"encoder"`` stands for every tensor ``encoder.*``.
    renames
        From the start of a name in the source to the start of the same name in the target; the longest one that fits
        is used once, and a name that none fits stays as it is.
    image_layer
        Name, in the target, of the convolution that reads the image. If it is given and only the number of input
        channels differs there, `convert_input_channels` changes them; without it this is a mismatch like any other.

    Returns
    -------
    Transferred
        The target's weights. A counter of batches (``num_batches_tracked``) that an older source lacks is kept.

    Raises
    ------
    InputError
        A part names nothing in the target, or the parts of the two differ in names or shapes; the sentence names the
        first of the tensors concerned.
    """
    known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in target))
    if not parts:
        raise InputError(f"no part of the network is named to be carried; its parts are {known}.")
    idle = [part for part in parts if not _within(target, [part])]
    if idle:
        raise InputError(f"the network has no part {_listed(idle)}; its parts are {known}.")
    offered = _within(_renamed(source, renames or {}), parts)
    wanted = _within(target, parts)
    absent = [n for n in wanted if n not in offered and n.rpartition(".")[2] != _COUNTER]
    if absent:
        raise InputError(f"the source has no {_listed(absent)}, which the network needs; is it the same architecture?")
    surplus = [n for n in offered if n not in wanted]
    if surplus:
        raise InputError(f"the network has no place for {_listed(surplus)} of the source.")
    weights, taken, converted = {name: tensor.clone() for name, tensor in target.items()}, [], []
    misfits = []
    for name, tensor in offered.items():
        place = target[name]
        if tensor.shape != place.shape and name == image_layer and _differ_in_input_only(tensor, place):
            tensor = convert_input_channels(tensor, place.shape[1])
            converted.append(name)
        if tensor.shape != place.shape:
            misfits.append(f"{name} ({_shape(tensor)} in the source, {_shape(place)} in the network)")
            continue
        weights[name] = tensor.detach().to(device=place.device, dtype=place.dtype, copy=True)
        taken.append(name)
    if misfits:
        raise InputError(f"shapes differ: {_listed(misfits)}.")
    carried = set(taken)
    return Transferred(weights, tuple(taken), tuple(n for n in target if n not in carried), tuple(converted))


def convert_input_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Weight of a convolution that reads grey images as it read them in colour, or the other way round.

    Many to 1 sums over the channels and 1 to many divides among them: both give the same result as before on a grey
    image replicated to every channel.

    Parameters
    ----------
    weight
        ``(out, in, *kernel)``.
    channels
        Input channels that are wanted.

    Raises
    ------
    InputError
        Neither the one nor the other number of channels is 1.
    """
    given = weight.shape[1]
    if channels == given:
        return weight.clone()
    # in double precision, on the processor because not every accelerator has it
    if channels == 1:
        return weight.cpu().double().sum(1, keepdim=True).to(weight)
    if given == 1:
        return (weight.cpu().double() / channels).to(weight).repeat_interleave(channels, 1)
    raise InputError(f"a layer that reads {given} channels cannot read {channels}: one of the two has to be 1.")


def _renamed(source: Mapping[str, torch.Tensor], renames: Mapping[str, str]) -> dict[str, torch.Tensor]:
    longest_first = sorted(renames, key=len, reverse=True)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in source.items():
        start = next((s for s in longest_first if name.startswith(s)), "")
        new = renames[start] + name[len(start) :] if start in renames else name
        if new in found:
            raise InputError(f"two tensors of the source would both be called {new}.")
        found[new] = tensor
    return found


def _within(weights: Mapping[str, torch.Tensor], parts: Sequence[str]) -> dict[str, torch.Tensor]:
    roots = tuple(f"{part.rstrip('.')}." for part in parts)
    return {name: tensor for name, tensor in weights.items() if f"{name}.".startswith(roots)}


def _differ_in_input_only(tensor: torch.Tensor, place: torch.Tensor) -> bool:
    return tensor.ndim > 1 and tensor.shape[:1] + tensor.shape[2:] == place.shape[:1] + place.shape[2:]


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
