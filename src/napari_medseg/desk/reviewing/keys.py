"""Keys of the canvas while the Review dock is open.

napari asks the selected layer first what a key does, and a Labels layer answers P with its brush and F with its
bucket. While a review is open those two, too, mean the review; a Labels layer that is being drawn on keeps them, as
the brush is then what the hand is at. With Shift every key means the review in any mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from napari.layers import Image, Labels, Layer

Action = Callable[[], None]

_DRAWING = ("paint", "erase", "fill", "polygon", "pick")


class CanvasKeys:
    """Binds letters to actions on the viewer, and on its Image and Labels layers where napari uses the letter.

    Layers of other kinds keep what napari or a plugin bound to a letter.

    Parameters
    ----------
    viewer
        The viewer.
    actions
        By letter, in capitals.
    """

    def __init__(self, viewer: Any, actions: Mapping[str, Action]) -> None:
        self._viewer = viewer
        self._bindings = {key: _bound(action) for key, action in actions.items()}
        self._bindings.update({f"Shift-{key}": binding for key, binding in list(self._bindings.items())})
        self._taken: list[tuple[Any, Any, Any]] = []
        self._followed: list[Labels] = []
        self._on = False

    def bind(self) -> None:
        """Take the keys; does nothing the second time."""
        if self._on:
            return
        self._on = True
        events = self._viewer.layers.events
        events.inserted.connect(self._renew)
        events.removed.connect(self._renew)
        self._renew()

    def release(self) -> None:
        """Give the keys back to whoever had them."""
        if not self._on:
            return
        self._on = False
        events = self._viewer.layers.events
        events.inserted.disconnect(self._renew)
        events.removed.disconnect(self._renew)
        self._let_go()

    def _renew(self, event: Any = None) -> None:
        if not self._on:
            # released by another listener to the same event
            return
        self._let_go()
        self._take(self._viewer, self._bindings)
        for layer in self._viewer.layers:
            if isinstance(layer, Labels):
                layer.events.mode.connect(self._renew)
                self._followed.append(layer)
            if isinstance(layer, Image | Labels):
                self._take(layer, self._meant_on(layer))

    def _meant_on(self, layer: Layer) -> dict[str, Any]:
        drawing = isinstance(layer, Labels) and str(layer.mode) in _DRAWING
        return {key: b for key, b in self._bindings.items() if not drawing or key.startswith("Shift-")}

    def _take(self, owner: Any, bindings: Mapping[str, Any]) -> None:
        for key, binding in bindings.items():
            before = owner.bind_key(key, None)
            owner.bind_key(key, binding)
            self._taken.append((owner, key, before))

    def _let_go(self) -> None:
        for layer in self._followed:
            layer.events.mode.disconnect(self._renew)
        self._followed.clear()
        for owner, key, before in reversed(self._taken):
            owner.bind_key(key, None)
            if before is not None:
                owner.bind_key(key, before)
        self._taken.clear()


def _bound(action: Action) -> Callable[[Any], None]:
    """The action as napari calls it: a function with a name, of the viewer or layer that it is bound to."""

    def review(owner: Any) -> None:
        action()

    return review
