"""Two viewers that look at the same place: slice, axes, angles, centre and magnification go from one to the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, QTimer

from napari_medseg.desk.pieces.listening import Listening

# the main viewer need not redraw for every step of a pan in the panels
_DELAY_MS = 60


def camera_of(viewer: Any) -> Any:
    """The viewer's camera, which moved in napari 0.9."""
    scene = getattr(viewer, "scene", None)
    return scene.camera if scene is not None else viewer.camera


class Following(QObject):
    """Keeps `panels` on the place that `main` shows, and the other way round.

    The panels follow at once, the main viewer a moment later. A pixel of the panels stays the same multiple of a
    pixel of the main viewer, since a panel is smaller than the main canvas.

    Parameters
    ----------
    main, panels
        Viewer models. Where they differ in the number of axes, the last axes correspond.
    turn
        Shows a slice (2) or the volume (3) in the panels.
    """

    def __init__(self, main: Any, panels: Any, turn: Callable[[int], None], parent: QObject) -> None:
        super().__init__(parent)
        self._main, self._panels, self._turn = main, panels, turn
        self._on, self._busy = False, False
        self._ratio = 1.0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DELAY_MS)
        self._timer.timeout.connect(self._lead_main)
        self._listening = Listening(
            self,
            *((event, self._main_moved) for event in _events(main)),
            *((event, self._panels_moved) for event in _events(panels)),
        )

    @property
    def on(self) -> bool:
        """Whether the viewers go together."""
        return self._on

    def start(self) -> None:
        """Bring the panels to the main viewer's slice and axes; from now on both go together."""
        self._on = True
        self._copy_dims(self._main, self._panels)
        self.measure()

    def stop(self) -> None:
        """Let each viewer go its own way."""
        self._on = False
        self._timer.stop()

    def end(self) -> None:
        """Stop for good and let go of both viewers."""
        self.stop()
        self._listening.end()

    def measure(self) -> None:
        """Take the present magnifications as equal, after the panels changed their size."""
        self._ratio = camera_of(self._panels).zoom / camera_of(self._main).zoom

    def hold(self, on: bool) -> None:
        """While on, what moves in the panels is not passed on: they only change their layout."""
        self._busy = on

    def _main_moved(self, event: Any = None) -> None:
        if self._on and not self._busy:
            self._timer.stop()
            self._busy = True
            try:
                self._copy_dims(self._main, self._panels)
                self._copy_camera(self._main, self._panels, self._ratio)
            finally:
                self._busy = False

    def _panels_moved(self, event: Any = None) -> None:
        if self._on and not self._busy and not self._timer.isActive():
            self._timer.start()

    def _lead_main(self) -> None:
        self._busy = True
        try:
            self._copy_dims(self._panels, self._main)
            self._copy_camera(self._panels, self._main, 1 / self._ratio)
        finally:
            self._busy = False

    def _copy_dims(self, source: Any, target: Any) -> None:
        there, here = source.dims, target.dims
        if here.ndisplay != there.ndisplay:
            if target is self._panels:
                self._turn(there.ndisplay)
            else:
                here.ndisplay = there.ndisplay
        order = matching_order(there.order, here.ndim)
        if tuple(here.order) != order:
            here.order = order
        common = min(there.ndim, here.ndim)
        point = (*here.point[: here.ndim - common], *there.point[there.ndim - common :])
        if tuple(here.point) != tuple(point):
            here.point = point

    def _copy_camera(self, source: Any, target: Any, ratio: float) -> None:
        there, here = camera_of(source), camera_of(target)
        here.center = there.center
        here.angles = there.angles
        here.perspective = there.perspective
        here.zoom = there.zoom * ratio


def matching_order(order: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The order of `ndim` axes that shows the last axes as `order` does.

    Axes that only the other viewer has are left out; axes that it lacks come first.
    """
    extra = ndim - len(order)
    if extra >= 0:
        return (*range(extra), *(int(axis) + extra for axis in order))
    return tuple(int(axis) + extra for axis in order if axis + extra >= 0)


def _events(viewer: Any) -> tuple[Any, ...]:
    dims, camera = viewer.dims.events, camera_of(viewer).events
    return dims.point, dims.order, dims.ndisplay, camera.center, camera.zoom, camera.angles, camera.perspective
