"""Whether a model and a request fit an image."""

from __future__ import annotations

import numpy as np

from napari_medseg.bundles.model import Model
from napari_medseg.case import InputError, MedicalImage, Modality


def channels_for(image: MedicalImage, model: Model) -> tuple[int, ...]:
    """Indices of the image's channels that the model reads; alpha is left out.

    Raises
    ------
    InputError
        If the model reads another number of channels.
    """
    wanted, given = model.card.in_channels // model.slices, image.channel_count
    if model.slices > 1 and image.geometry.ndim != 3:
        raise InputError(f"Model {model.card.id} reads {model.slices} slices at a time; this image is no volume.")
    if image.is_rgb and image.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"Colours stored as {image.dtype} have no known range; accepted are 8-bit and 16-bit colour pictures."
        )
    if wanted == 0:
        return tuple(range(3 if image.is_rgb else given))
    if given == wanted:
        return tuple(range(wanted))
    if image.is_rgb and given == 4 and wanted == 3:
        return (0, 1, 2)
    names = f" ({', '.join(model.card.channels)})" if model.card.channels else ""
    raise InputError(
        f"Model {model.card.id} reads {wanted} channel{'s' * (wanted != 1)}{names}; this image has {given}. "
        f"Choose a model for this kind of image."
    )


def doubts(image: MedicalImage, model: Model) -> tuple[str, ...]:
    """Why a person should not rely on this model for this image."""
    said: tuple[str, ...] = ()
    if not getattr(model, "verified", True):
        said = (f"Model {model.card.id} comes without checksums: whether its files are whole is not known.",)
    made_for = model.card.modality
    if not made_for or image.modality is Modality.OT or image.modality.value in made_for:
        return said
    return (
        *said,
        f"Model {model.card.id} was made for {', '.join(made_for)} and this image is {image.modality.value} "
        f"({image.modality.description}): do not rely on these labels.",
    )


def checked_region(image: MedicalImage, region: tuple[slice, ...] | None) -> tuple[slice, ...] | None:
    """`region` if it lies inside the image; ``None`` means the whole image.

    Raises
    ------
    InputError
        If it has the wrong number of axes, is empty, or reaches beyond the image.
    """
    if region is None:
        return None
    shape = image.geometry.shape
    inside = len(region) == len(shape) and all(
        r.step in (None, 1) and r.start is not None and r.stop is not None and 0 <= r.start < r.stop <= n
        for r, n in zip(region, shape, strict=False)
    )
    if not inside:
        words = ",".join(f"{r.start}:{r.stop}" for r in region)
        limits = ",".join(f"0:{n}" for n in shape)
        raise InputError(f"Region {words} does not lie inside this image; accepted is a part of {limits}.")
    return region
