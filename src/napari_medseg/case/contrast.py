"""Contrast windows: the level and width with which each kind of tissue is looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_medseg.case.image import MedicalImage, Modality

_SAMPLE = 65_536


@dataclass(frozen=True)
class Window:
    """A named range of intensities; `low` and `high` are ``None`` where the image's own numbers decide."""

    name: str
    low: float | None
    high: float | None
    meaning: str

    @classmethod
    def ct(cls, name: str, level: int, width: int) -> Window:
        """A radiologist's window: level and width in Hounsfield units."""
        return cls(name, level - width / 2, level + width / 2, f"level {level} HU, width {width} HU")


CT_WINDOWS = (
    Window.ct("Brain", 40, 80),
    Window.ct("Lung", -600, 1500),
    Window.ct("Bone", 400, 1800),
    Window.ct("Soft tissue", 40, 400),
    Window.ct("Liver", 60, 160),
)
PERCENTILES = Window("1–99 %", None, None, "from the 1st to the 99th percentile of the image's own intensities")
FULL_RANGE = Window("Full range", None, None, "from the lowest to the highest intensity of the image")


def windows_for(image: MedicalImage) -> tuple[Window, ...]:
    """The presets that make sense: none for colour pictures."""
    if image.is_rgb:
        return ()
    if image.intensity == "HU" or image.modality is Modality.CT:
        return (*CT_WINDOWS, FULL_RANGE)
    return (PERCENTILES, FULL_RANGE)


def limits(window: Window, image: MedicalImage) -> tuple[float, float]:
    """Lowest and highest intensity of `window`; always an interval of some width.

    Image-dependent windows come from an even sample of the coarsest level's middle plane and frame.
    """
    if window.low is not None and window.high is not None:
        return window.low, window.high
    values = _sample(image)
    if not len(values):
        return 0.0, 1.0
    low, high = (
        (float(v) for v in np.percentile(values, (1, 99)))
        if window is PERCENTILES
        else (float(values.min()), float(values.max()))
    )
    return (low, high) if high > low else (low, low + 1.0)


def first_window(image: MedicalImage) -> tuple[float, float]:
    """The window an image opens with: soft tissue for CT, percentiles otherwise."""
    if image.intensity == "HU":
        return limits(CT_WINDOWS[3], image)
    return limits(PERCENTILES, image)


def _sample(image: MedicalImage) -> np.ndarray:
    level = len(image.levels) - 1
    shape = image.spatial_shape(level)
    frame = image.frame_count // 2
    # three planes, so that one empty plane does not decide
    planes = {shape[0] // 4, shape[0] // 2, 3 * shape[0] // 4} if len(shape) == 3 else {None}
    parts = []
    for plane in planes:
        region = [slice(0, n) for n in shape]
        if plane is not None:
            region[0] = slice(plane, plane + 1)
        parts.append(np.asarray(image.read(region, level, frame), dtype=np.float64).ravel())
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    return values[:: max(1, len(values) // _SAMPLE)]
