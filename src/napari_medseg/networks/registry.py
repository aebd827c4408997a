"""Every architecture, one line each. Importing this imports no torch."""

from __future__ import annotations

from napari_medseg.case import InputError
from napari_medseg.networks.architecture import Architecture

_LINES: tuple[Architecture, ...] = (
    Architecture("unet", "U-Net with residual units", "unet", "monai.networks.nets.UNet", "UNetParameters", "MONAI"),
)
ARCHITECTURES: dict[str, Architecture] = {line.name: line for line in _LINES}


def find_architecture(name: str) -> Architecture:
    """The architecture called `name`.

    Raises
    ------
    InputError
        There is none; the sentence lists the names there are.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise InputError(f"there is no architecture {name!r}; there are {', '.join(ARCHITECTURES)}.") from None
