"""Build a bundle's network from classes on an allow-list and give it its weights, running no stored code."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_medseg.case import InputError, RefusedError

if TYPE_CHECKING:
    import torch

# Where the classes of a network may come from. The class found is checked again: a path such as
# "monai.networks.nets.unet.warnings.warn" starts well and ends elsewhere.
_ROOMS = ("monai.networks.nets", "monai.networks.blocks", "monai.networks.layers", "torch.nn", "napari_medseg.networks")
_SHORT_NAMES_FROM = ("monai.networks.nets",)
_RESERVED = frozenset({"_target_", "_desc_", "_disabled_", "_requires_", "_mode_"})


def network_class(target: str) -> type[torch.nn.Module]:
    """Find the class of a network or layer by its full or short name, from the allow-list only.

    Raises
    ------
    RefusedError
        The name lies outside the allow-list or is no network class.
    """
    import torch

    module_name, _, class_name = target.rpartition(".")
    rooms = _SHORT_NAMES_FROM if not module_name else (module_name,)
    for room in rooms:
        if not any(room == r or room.startswith(r + ".") for r in _ROOMS):
            continue
        try:
            found = getattr(import_module(room), class_name, None)
        except ImportError:
            continue
        if isinstance(found, type) and issubclass(found, torch.nn.Module) and _allowed(found.__module__):
            return found
    raise RefusedError(_not_allowed(target))


def check_names(definition: Any) -> None:
    """Refuse, by name alone and without importing torch, classes that can never be on the allow-list."""
    if isinstance(definition, list):
        for item in definition:
            check_names(item)
    elif isinstance(definition, Mapping):
        target = definition.get("_target_")
        if target is not None:
            module = str(target).rpartition(".")[0]
            if module and not _allowed(module):
                raise RefusedError(_not_allowed(str(target)))
        for item in definition.values():
            check_names(item)


def _not_allowed(target: str) -> str:
    return (
        f"the bundle asks for {target}, which is no network class of {', '.join(_ROOMS)}; "
        "it is used only if you trust this bundle"
    )


def _allowed(module: str) -> bool:
    return any(module == r or module.startswith(r + ".") for r in _ROOMS)


def build_network(definition: Mapping[str, Any], trusted: bool = False) -> torch.nn.Module:
    """Build the network of a plain definition ``{"_target_": class, argument: value, ...}``.

    Parameters
    ----------
    definition
        References and expressions already replaced by values.
    trusted
        Whether classes outside the allow-list may be used.

    Raises
    ------
    RefusedError
        A class is not on the allow-list and the bundle is not trusted.
    InputError
        The class does not accept the arguments.
    """
    import torch

    network = _build(definition, trusted)
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"network_def makes a {type(network).__name__}; a torch network is expected")
    return network


def _build(value: Any, trusted: bool) -> Any:
    import torch

    if isinstance(value, list):
        return [_build(v, trusted) for v in value]
    if not isinstance(value, Mapping):
        return value
    if "_target_" not in value:
        return {k: _build(v, trusted) for k, v in value.items()}
    target = str(value["_target_"])
    odd = [k for k in ("_requires_", "_mode_") if value.get(k) not in (None, "default")]
    if odd:
        raise RefusedError(f"{target} uses {odd[0]}, which is not accepted in a network")
    arguments = {k: _build(v, trusted) for k, v in value.items() if k not in _RESERVED}
    maker = _trusted_class(target) if trusted else network_class(target)
    if isinstance(maker, type) and issubclass(maker, torch.nn.Module) and _takes_pretrained(maker):
        # the bundle brings its weights; a download would be overwritten by them
        arguments["pretrained"] = False
    try:
        return maker(**arguments)
    except ImportError as error:
        raise InputError(_lacking(target, error)) from error
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise InputError(f"{target} does not accept its arguments: {error}") from error


def _lacking(target: str, error: ImportError) -> str:
    """What a network's class could not import, with what installs it where an extra of this package does."""
    from napari_medseg.networks import ARCHITECTURES

    known = next((e.missing for e in ARCHITECTURES.values() if e.target == target and e.missing), None)
    return known or f"{target} needs {error.name or 'a library'}, which is not installed: {error}"


def _takes_pretrained(network: type[torch.nn.Module]) -> bool:
    return "pretrained" in inspect.signature(network.__init__).parameters


def _trusted_class(target: str) -> Any:
    try:
        return network_class(target)
    except RefusedError:
        module, _, name = target.rpartition(".")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"network_def asks for {target}, which is not installed") from error


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """Read a state dictionary; never unpickles anything but tensors.

    Parameters
    ----------
    path
        ``.safetensors``, or a file of ``torch.save`` that holds tensors only.
    sha256
        Refuse the file if its hash is another.
    """
    content = path.read_bytes()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise RefusedError(f"{path.name} changed since it was verified; its SHA-256 is no longer {sha256[:12]}...")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return dict(load(content))
        except SafetensorError as error:
            raise InputError(f"{path.name} is not a valid safetensors file: {error}") from error
    import io
    import pickle

    import torch

    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RefusedError(
            f"{path.name} holds more than tensors and could run code when opened; store it as safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path.name} is not a file of torch weights: {error}") from error
    for key in ("state_dict", "model", "network", "net"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{path.name} holds no state dictionary of tensors")
    return {str(k).removeprefix("module."): v for k, v in state.items()}


def load_weights(network: torch.nn.Module, path: Path, sha256: str | None = None) -> None:
    """Put the weights of `path` into `network`; every weight must be there and fit."""
    state = read_weights(path, sha256)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise InputError(f"{path.name} does not fit the network: {first}") from error
