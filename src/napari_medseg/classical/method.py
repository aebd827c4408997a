"""Every method, one line each. Importing this imports only numpy and pydantic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from napari_medseg.case import InputError
from napari_medseg.classical.parameters import MethodParameters
from napari_medseg.classical.pixels import Array, Labels


@dataclass(frozen=True)
class Method:
    """A way to segment without a network.

    Parameters
    ----------
    name
        What it is called on the command line and in forms; the function's name.
    title
        What a person reads.
    module
        The module of `napari_medseg.classical` with the function and its parameters.
    parameters
        Name of its parameters' class in `module`.
    source
        Where it is described.
    dims
        Numbers of spatial dimensions it exists for.
    inputs
        What it takes beside the image, by keyword: ``initial`` (a region to start from, not required), ``scribbles``
        and ``forest`` (one of them is required).
    """

    name: str
    title: str
    module: str
    parameters: str
    source: str
    dims: tuple[int, ...] = (2, 3)
    inputs: tuple[str, ...] = ()

    @property
    def function(self) -> Callable[..., Labels]:
        """``function(image, *, parameters=None, **inputs) -> int32 labels (*spatial)``."""
        found: Callable[..., Labels] = getattr(import_module(f"napari_medseg.classical.{self.module}"), self.name)
        return found

    def schema(self) -> type[MethodParameters]:
        """The class of its parameters."""
        found: type[MethodParameters] = getattr(
            import_module(f"napari_medseg.classical.{self.module}"), self.parameters
        )
        return found

    def check(self, values: Mapping[str, Any]) -> MethodParameters:
        """Parameters from `values`, the rest being defaults.

        Raises
        ------
        InputError
            One of them is unknown or out of range; the sentence names it and says what is accepted.
        """
        try:
            parameters = self.schema()(**values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"]) or "the parameters"
            raise InputError(f"{self.title}: {where}: {first['msg']}; given was {first['input']!r}.") from error
        if parameters.spatial_dims not in self.dims:
            raise InputError(f"{self.title} exists for {' and '.join(f'{d}D' for d in self.dims)} images only.")
        return parameters

    def run(self, image: Array, values: Mapping[str, Any] | None = None, **inputs: Any) -> Labels:
        """Segment `image`, ``(*spatial)`` or ``(c, *spatial)`` with ``spatial_dims`` among `values`.

        Raises
        ------
        InputError
            A parameter, the image or an input is not accepted.
        """
        unknown = set(inputs) - set(self.inputs)
        if unknown:
            raise InputError(f"{self.title} takes no {sorted(unknown)[0]}.")
        return self.function(image, parameters=self.check(values or {}), **inputs)


_LINES: tuple[Method, ...] = (
    Method("otsu", "Otsu's threshold", "thresholds", "OtsuParameters", "Otsu, 1979"),
    Method(
        "watershed", "Watershed of touching objects", "thresholds", "WatershedParameters", "Vincent and Soille, 1991"
    ),
    Method(
        "chan_vese",
        "Chan-Vese regions",
        "regions",
        "ChanVeseParameters",
        "Chan and Vese, 2001",
        dims=(2,),
        inputs=("initial",),
    ),
    Method(
        "morphological_chan_vese",
        "Chan-Vese regions by morphology",
        "regions",
        "MorphologicalChanVeseParameters",
        "Márquez-Neila et al., 2014",
        inputs=("initial",),
    ),
    Method(
        "drlse",
        "Distance-regularised level set",
        "contours",
        "DrlseParameters",
        "Li et al., 2010",
        inputs=("initial",),
    ),
    Method(
        "geodesic_active_contour",
        "Geodesic active contour",
        "contours",
        "GeodesicParameters",
        "Márquez-Neila et al., 2014",
        inputs=("initial",),
    ),
    Method(
        "random_forest",
        "Random forest on filter features",
        "forest",
        "ForestParameters",
        "Breiman, 2001",
        inputs=("scribbles", "forest"),
    ),
)
METHODS: dict[str, Method] = {line.name: line for line in _LINES}


def find_method(name: str) -> Method:
    """The method called `name`.

    Raises
    ------
    InputError
        There is none; the sentence lists the names there are.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise InputError(f"there is no method {name!r}; there are {', '.join(METHODS)}.") from None
