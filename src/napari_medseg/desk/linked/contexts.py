"""Keep the OpenGL contexts of several viewers apart.

When a layer is removed, napari (0.8 and 0.9) sends what waits for OpenGL without making its own context current. With
a second canvas on the screen, be it a second viewer or these panels, textures of that canvas are deleted in the
place of its own, which have the same numbers: pictures turn black and the next drawing ends the program. Every viewer
is therefore made to take its own context before it removes a layer.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from napari.viewer import Viewer
from qtpy.QtWidgets import QApplication


class OwnContexts:
    """While it lasts, every open napari viewer removes layers in its own context."""

    def __init__(self) -> None:
        self._known: WeakSet[Any] = WeakSet()
        # a viewer that opens later takes the focus
        QApplication.instance().focusWindowChanged.connect(self._find)
        self._find()

    def end(self) -> None:
        """Leave the viewers as they were."""
        QApplication.instance().focusWindowChanged.disconnect(self._find)
        for viewer in self._known:
            for event in _before_removal(viewer):
                event.disconnect(self._take)
        self._known.clear()

    def _find(self, *_: Any) -> None:
        for viewer in Viewer._instances:
            if viewer not in self._known:
                self._known.add(viewer)
                for event in _before_removal(viewer):
                    event.connect(self._take)

    def _take(self, event: Any) -> None:
        for viewer in self._known:
            if viewer.layers is event.source:
                take_context(viewer)


def take_context(viewer: Any) -> None:
    """Make the viewer's own OpenGL context the current one; does nothing where its window is closed."""
    view = getattr(getattr(viewer, "window", None), "_qt_viewer", None)
    if view is not None:
        view.canvas._scene_canvas.set_current()


def _before_removal(viewer: Any) -> tuple[Any, ...]:
    return viewer.layers.events.removing, viewer.layers.events.begin_batch
