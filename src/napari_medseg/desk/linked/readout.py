"""What a layer says at a point, in a few words."""

from __future__ import annotations

import numpy as np
from napari.layers import Labels, Layer


def word_at(layer: Layer, world: tuple[float, ...]) -> str:
    """The label under a world position with its name, or the image's intensity; empty outside the layer.

    It comes from what is drawn already, so that no file is read while the mouse moves: for a pyramid from the level
    in view.
    """
    value = layer.get_value(world, world=True)
    if layer.multiscale and isinstance(value, tuple):
        value = value[1]
    if value is None:
        return ""
    if not isinstance(layer, Labels):
        return " ".join(f"{number:.4g}" for number in np.atleast_1d(value))
    name = _name(layer, int(value))
    return f"{value} {name}" if name else f"{value}"


def _name(layer: Labels, label: int) -> str:
    if label == 0:
        return "background"
    features = layer.features
    words = [column for column in features.columns if column != "index"]
    if "index" not in features.columns or not words:
        return ""
    found = features.loc[features["index"] == label, words[0]]
    return str(found.iloc[0]) if len(found) else ""
