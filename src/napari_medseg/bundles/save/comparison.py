"""Whether a network takes what its description says, and whether the bundle that was written is still the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from napari_medseg.bundles.model import Model, ModelCard
from napari_medseg.bundles.network import build_network
from napari_medseg.bundles.save.description import BundleDescription, Precision, checked_tile
from napari_medseg.bundles.save.weights import fill
from napari_medseg.case import InputError

if TYPE_CHECKING:
    import torch

# root mean square of the difference, as a share of that of the output
_TOLERANCE: dict[Precision, float] = {"float16": 1e-2, "float32": 1e-5}
_ANY_NUMBER = (1, 3)


def try_network(
    definition: Mapping[str, Any], state: Mapping[str, torch.Tensor], description: BundleDescription
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tiles of noise ``(1, c, *tile)`` and what the network makes of each, ``(1, out, *tile)``, float32.

    One tile, or one for each of several numbers of channels where the network is said to read any.

    Raises
    ------
    InputError
        The weights do not fit, or the network does not take such a tile, changes its size or gives no numbers.
    """
    import torch

    card, tile = description.card, checked_tile(description)
    network = build_network(definition)
    fill(network, state, card.id)
    network.float().eval()
    tried = []
    for channels in (card.in_channels,) if card.in_channels else _ANY_NUMBER:
        image = torch.rand(1, channels, *tile, generator=torch.Generator().manual_seed(0))
        tried.append((image, _maps(network, image, card.id)))
    if len({maps.shape[1] for _, maps in tried}) > 1:
        found = " or ".join(str(maps.shape[1]) for _, maps in tried)
        raise InputError(f"{card.id}: the network makes {found} maps, by the channels it reads; one number is needed.")
    return tried


def _maps(network: torch.nn.Module, image: torch.Tensor, name: str) -> torch.Tensor:
    import torch

    try:
        with torch.inference_mode():
            maps = network(image)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        first = " ".join(str(error).split())[:300]
        raise InputError(f"{name}: the network does not take a tile of {tuple(image.shape)}: {first}") from error
    if not isinstance(maps, torch.Tensor) or maps.ndim != image.ndim or maps.shape[2:] != image.shape[2:]:
        found = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
        raise InputError(f"{name}: the network makes {found} of {tuple(image.shape)}; maps of that size are expected.")
    if not torch.isfinite(maps).all():
        raise InputError(f"{name}: the network gives values that are no numbers; its weights cannot be used.")
    return maps


def compare_description(model: Model, definition: Mapping[str, Any], description: BundleDescription) -> None:
    """Raise `InputError` where the bundle, read back as `model`, says anything else than its description."""
    before, tiling, after = description.before, description.tiling, description.after
    # a network that sees everything at once takes any size
    tile = (1,) * len(tiling.tile or ()) if description.whole else tiling.tile
    meant = {
        **{f"card.{f.name}": getattr(description.card, f.name) for f in dataclasses.fields(ModelCard)},
        "network_def": definition,
        "orientation": before.orientation,
        "spacing": before.spacing,
        "unit": description.unit if before.spacing is not None else None,
        "divisible_by": before.divisible_by or tile,
        "intensity": [(step.name, step.arguments) for step in before.intensity.steps],
        "tile": tile,
        "overlap": tiling.overlap,
        "padding": tiling.padding,
        "activation": after.activation,
        "threshold": after.threshold,
        "instances": after.instances,
        "slices": description.slices,
        "whole": description.whole,
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


def compare_output(model: Model, tried: Sequence[tuple[torch.Tensor, torch.Tensor]], precision: Precision) -> None:
    """Raise `InputError` where the stored network answers otherwise to the images of `try_network`."""
    import torch

    network, tolerance = model.network(), _TOLERANCE[precision]
    for image, expected in tried:
        with torch.inference_mode():
            difference = (network(image) - expected).double()
        share = float(difference.square().mean().sqrt()) / max(float(expected.double().square().mean().sqrt()), 1e-12)
        # not "share > tolerance": what is no number must not pass
        if not share <= tolerance:
            raise InputError(
                f"{model.card.id}: the output of the stored network differs from the given one's by {share:.2g} of "
                f"its size; {tolerance:g} is accepted, so nothing was written. Store the weights as float32."
            )
