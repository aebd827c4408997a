"""One line of the registry: what an architecture is and how it is built. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, util
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from napari_medseg.case import InputError
from napari_medseg.networks.parameters import NetworkParameters

if TYPE_CHECKING:
    import torch

Role = Literal["segmentation", "reconstruction", "classification", "discriminator"]

_MODULES = {"zoo": ("segmentation_models_pytorch", "timm", "torchvision", "transformers")}


@dataclass(frozen=True)
class Architecture:
    """A network that can be built by name.

    Parameters
    ----------
    name
        What it is called in bundles, on the command line and in forms.
    title
        What a person reads.
    module
        The module of `napari_medseg.networks` with its parameters.
    network
        Its class: a name in `module`, or the full path of a class of MONAI. Its parameters' class lies in `module`
        and has the same name with "Parameters" behind it.
    source
        Where it is described.
    dims
        Numbers of spatial dimensions it exists for.
    preset
        Parameters that this line fixes unless the caller gives them.
    extra
        The extra of this package that it needs.
    role
        What it is for.
    smallest
        Side of the smallest image that it accepts, in pixels.
    """

    name: str
    title: str
    module: str
    network: str
    source: str
    dims: tuple[int, ...] = (2, 3)
    preset: tuple[tuple[str, Any], ...] = ()
    extra: str | None = None
    role: Role = "segmentation"
    smallest: int = 32

    @property
    def missing(self) -> str | None:
        """How to install what it needs, as one sentence; ``None`` where everything is there."""
        absent = [m for m in _MODULES.get(self.extra or "", ()) if util.find_spec(m) is None]
        if not absent:
            return None
        return f'{self.title} needs {", ".join(absent)}: pip install "napari-medseg[{self.extra}]".'

    @property
    def target(self) -> str:
        """Full path of the network's class."""
        return self.network if "." in self.network else f"napari_medseg.networks.{self.module}.{self.network}"

    def schema(self) -> type[NetworkParameters]:
        """The class of its parameters; imports torch."""
        module = import_module(f"napari_medseg.networks.{self.module}")
        found: type[NetworkParameters] = getattr(module, f"{self.network.rpartition('.')[2]}Parameters")
        return found

    def check(self, values: Mapping[str, Any]) -> NetworkParameters:
        """Parameters from `values`, the rest being defaults.

        Raises
        ------
        InputError
            One of them is unknown or out of range; the sentence names it and says what is accepted.
        """
        try:
            return self.schema()(**{**dict(self.preset), **values})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"]) or "the parameters"
            raise InputError(f"{self.title}: {where}: {first['msg']}; given was {first['input']!r}.") from error

    def definition(self, **values: Any) -> dict[str, Any]:
        """``network_def`` of a bundle with this network."""
        return {"_target_": self.target, **self.check(values).arguments()}

    def build(self, **values: Any) -> torch.nn.Module:
        """The network with random weights.

        Raises
        ------
        InputError
            A parameter is not accepted, or what it needs is not installed.
        """
        if self.missing is not None:
            raise InputError(self.missing)
        arguments = self.check(values).arguments()
        module, _, name = self.target.rpartition(".")
        network: torch.nn.Module = getattr(import_module(module), name)(**arguments)
        return network
