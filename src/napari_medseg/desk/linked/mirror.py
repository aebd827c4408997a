"""A second view of a layer: the same arrays, the same place, the same look, for as long as both live."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from napari.layers import Labels, Layer

# what a mirror takes over whenever it changes; ranges before the limits that must lie within them
_FOLLOWED = (
    "name",
    "scale",
    "translate",
    "rotate",
    "shear",
    "affine",
    "units",
    "axis_labels",
    "opacity",
    "blending",
    "projection_mode",
    "contrast_limits_range",
    "contrast_limits",
    "gamma",
    "colormap",
    "features",
    "selected_label",
    "show_selected_label",
    "interpolation2d",
    "interpolation3d",
    "rendering",
    "iso_threshold",
    "iso_gradient_mode",
    "attenuation",
)


class Mirror:
    """A layer of another viewer that shows what `source` shows.

    Neither arrays nor levels of a pyramid are copied. Visibility, outline and editing stay the mirror's own.

    Parameters
    ----------
    source
        Image or labels layer.
    dirty
        Called with the mirror when `source` has other content than what is drawn: after painting, after new data,
        after any refresh. It may come many times a second: refresh in your own time.
    view
        What the source's viewer looks at now, in a form that compares: a refresh by which only that changed is
        no edit.

    Attributes
    ----------
    shown
        The mirror's layer.
    """

    def __init__(self, source: Layer, dirty: Callable[[Mirror], None], view: Callable[[], object]) -> None:
        self.source = source
        self._dirty, self._view = dirty, view
        self._seen = self._looked_at()
        self.shown = _twin(source)
        events = source.events
        self._connections = [
            (getattr(events, name), self._follow)
            for name in _FOLLOWED
            if name in events.emitters and hasattr(type(source), name)
        ]
        self._connections += [
            (getattr(events, name), self._edited)
            for name in ("data", "paint", "labels_update")
            if name in events.emitters
        ]
        self._connections.append((events.set_data, self._redrawn))
        for event, slot in self._connections:
            event.connect(slot)

    @property
    def shares_arrays(self) -> bool:
        """Whether both layers hold the very same arrays; false between new data of the source and `refresh`."""
        own, other = self.shown.data, self.source.data
        if not self.source.multiscale:
            return own is other
        # napari wraps the levels anew for each layer
        return len(own) == len(other) and all(own[k] is other[k] for k in range(len(own)))

    def refresh(self) -> None:
        """Draw the source's present content."""
        if not self.shares_arrays:
            self.shown.data = self.source.data
            self.shown.editable = False
        else:
            self.shown.refresh(extent=False, thumbnail=False, highlight=False)

    def end(self) -> None:
        """Stop following; the layer stays as it is."""
        while self._connections:
            event, slot = self._connections.pop()
            event.disconnect(slot)

    def _follow(self, event: Any) -> None:
        value = getattr(self.source, event.type)
        if event.type == "affine":
            value = value.affine_matrix
        elif event.type == "colormap":
            value = _own(value)
        setattr(self.shown, event.type, value)

    def _edited(self, event: Any) -> None:
        self._dirty(self)

    def _redrawn(self, event: Any) -> None:
        looked_at = self._looked_at()
        if looked_at == self._seen:
            self._dirty(self)
        self._seen = looked_at

    def _looked_at(self) -> tuple[object, ...]:
        source = self.source
        return self._view(), source.data_level, source.corner_pixels.tobytes(), source.visible


def _twin(layer: Layer) -> Layer:
    data, state, kind = layer.as_layer_data_tuple()
    state["visible"] = True
    # the record of the case belongs to the original alone
    state["metadata"] = {}
    if "colormap" in state:
        state["colormap"] = _own(state["colormap"])
    # features already hold them, and setting both is an error for tables of names
    state.pop("properties", None)
    twin = Layer.create(data, state, kind)
    if hasattr(layer, "contrast_limits_range"):
        twin.contrast_limits_range = layer.contrast_limits_range
        twin.contrast_limits = layer.contrast_limits
    if isinstance(twin, Labels):
        twin.selected_label = layer.selected_label
        twin.show_selected_label = layer.show_selected_label
    # a view is looked at; edits belong in the main viewer, where they can be undone
    twin.editable = False
    return twin


def _own(colormap: Any) -> Any:
    # colormaps of labels remember which label is selected: sharing one would change both layers
    return deepcopy(colormap)
