"""Linked views of several candidates: a window of their own beside the main viewer.

Why a window and neither a dock nor the central area: six panels need a screen's width, which a dock takes from the
picture one works on; the keys 1 to 6, space and escape mean other things in napari's main window; a floating dock
cannot be maximised, and docking it moves the canvas to another window, by which it loses its OpenGL context; napari's
central widget is not open to plugins. The main viewer stays free for editing, and both show the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, ClassVar

from napari.layers import Image, Labels, Layer
from napari.qt import get_stylesheet
from psygnal import Signal
from qtpy.QtCore import QPointF, QTimer

from napari_medseg.case import InputError
from napari_medseg.desk.linked.arrangement import Arrangement, Mode
from napari_medseg.desk.linked.canvas import PanelsCanvas
from napari_medseg.desk.linked.contexts import OwnContexts, take_context
from napari_medseg.desk.linked.following import Following, camera_of
from napari_medseg.desk.linked.mirror import Mirror
from napari_medseg.desk.linked.readout import word_at
from napari_medseg.desk.linked.window import LinkedWindow
from napari_medseg.desk.pieces.listening import Listening

# edits show in the panels ten times a second, or less often where that would take much of the time for painting
_REFRESH_MS, _REST = 100, 5
# well below three changes a second, which can harm people with photosensitive epilepsy
_BLINK_MS = 700
_STEP, _FAR = 0.02, 0.1
_ZOOM = 1.25
_PAN = 0.1


def open_linked_views(
    viewer: Any,
    image_layer: Layer | Sequence[Layer],
    candidates: Sequence[Layer],
    *,
    outlines: bool = True,
    follow: bool = True,
) -> LinkedViews:
    """Show candidates side by side over the same image, in a window of their own.

    The panels draw the layers' own arrays, nothing is copied; an edit, a new colour or a new place in the main viewer
    shows in them. The window closes with the main viewer, and when its last candidate is removed.

    Parameters
    ----------
    viewer
        The napari viewer that holds the layers.
    image_layer
        The image below every candidate, or several (channels), bottom first.
    candidates
        2 to 6 labels layers (or images: probability maps, restored images), one for each panel.
    outlines
        Labels as outlines rather than filled; a person can change it.
    follow
        Whether panels and main viewer show the same slice and place; a person can change it.

    Raises
    ------
    InputError
        For fewer than 2 or more than 6 candidates, one chosen twice, or a layer that is not in the viewer or neither
        image nor labels.
    """
    images = (image_layer,) if isinstance(image_layer, Layer) else tuple(image_layer)
    for layer in (*images, *candidates):
        if layer not in viewer.layers:
            raise InputError(f"Layer {layer.name} is not in the viewer; choose among its layers.")
        if not isinstance(layer, Image | Labels):
            raise InputError(f"Layer {layer.name} holds {layer._type_string}; linked views show labels and images.")
    if len({id(layer) for layer in candidates}) < len(candidates):
        raise InputError("A candidate is chosen twice; choose each layer once.")
    return LinkedViews(viewer, images, tuple(candidates), outlines=outlines, follow=follow)


class LinkedViews:
    """The linked views while they are open; made by `open_linked_views`.

    Attributes
    ----------
    arrangement
        Which panel shows what; changes through its methods show at once.
    window
        The window.
    """

    closed = Signal()

    # a window that nobody holds would vanish
    _open: ClassVar[set[LinkedViews]] = set()

    def __init__(
        self, viewer: Any, images: tuple[Layer, ...], candidates: tuple[Layer, ...], *, outlines: bool, follow: bool
    ) -> None:
        self._viewer = viewer
        self.arrangement = Arrangement([layer.name for layer in candidates])
        self.arrangement.outlines = outlines
        self._candidates = dict(zip(self.arrangement.numbers, candidates, strict=True))
        self.mirrors = {
            number: tuple(Mirror(layer, self._edited, self._looked_at) for layer in (*images, candidate))
            for number, candidate in self._candidates.items()
        }
        self.canvas = PanelsCanvas(self.arrangement, {n: tuple(m.shown for m in ms) for n, ms in self.mirrors.items()})
        self.canvas.viewer.theme = viewer.theme
        names = ", ".join(layer.name for layer in images)
        self.window = LinkedWindow(self.canvas, f"Linked views – {names or 'no image'}", get_stylesheet(viewer.theme))
        self.is_open = True
        self._dirty: dict[int, Mirror] = {}
        self._refreshing, self._blinking = QTimer(self.window), QTimer(self.window)
        self._refreshing.setSingleShot(True)
        self._refreshing.setInterval(_REFRESH_MS)
        self._refreshing.timeout.connect(self._refresh)
        self._blinking.setInterval(_BLINK_MS)
        self._blinking.timeout.connect(self.arrangement.flicker)
        self.following = Following(viewer, self.canvas.viewer, self.canvas.turn_to, self.window)
        self._contexts = OwnContexts()
        self._listening = Listening(
            self.window,
            (viewer.layers.events.removed, self._removed),
            (viewer.cursor.events.position, self._main_cursor),
            (viewer.events.theme, self._theme),
            (self.canvas.viewer.dims.events.ndisplay, self._ndisplay),
            *((layer.events.name, self._renamed) for layer in candidates),
        )
        self.arrangement.changed.connect(self._arrange)
        window, canvas = self.window, self.canvas
        window.asked.connect(self.do)
        window.pressed.connect(self.arrangement.press)
        window.closing.connect(self._end)
        window.divider.moved.connect(self.arrangement.move_split)
        canvas.pointed.connect(self._pointed)
        canvas.clicked.connect(self._clicked)
        canvas.laying_out.connect(self._laying_out)
        canvas.laid_out.connect(self._laid_out)
        # napari's own closing of the main window does not remove its layers
        viewer.window._qt_window.destroyed.connect(self.close)
        LinkedViews._open.add(self)
        window.show()
        canvas.native.setFocus()
        self._ndisplay()
        self._arrange()
        canvas.fit()
        if follow:
            self.following.start()
        window.check("follow", follow)

    def close(self) -> None:
        """Close the window and let go of the viewer; does nothing the second time."""
        if self.is_open:
            self.window.close()

    # -- commands ----------------------------------------------------------------------------------------

    def do(self, command: str) -> None:
        """Carry out a command by its name, see `commands.COMMANDS` and `commands.KEYS`."""
        getattr(self, f"_{command}")()

    def _flicker(self) -> None:
        self._stop_blinking()
        self.arrangement.flicker()

    def _blink(self) -> None:
        if self._blinking.isActive():
            self._stop_blinking()
        else:
            self.arrangement.flicker()
            self._blinking.start()
        self.window.check("blink", self._blinking.isActive())

    def _wipe(self) -> None:
        self._stop_blinking()
        self.arrangement.wipe()

    def _leave(self) -> None:
        self._stop_blinking()
        if not self.arrangement.leave():
            self.close()

    def _outlines(self) -> None:
        self.arrangement.show_outlines(not self.arrangement.outlines)

    def _left(self) -> None:
        self._move(-_STEP, -1)

    def _right(self) -> None:
        self._move(_STEP, 1)

    def _left_far(self) -> None:
        self._move(-_FAR, -10)

    def _right_far(self) -> None:
        self._move(_FAR, 10)

    def _move(self, share: float, steps: int) -> None:
        if self.arrangement.mode is Mode.WIPE:
            self.arrangement.move_split(self.arrangement.split + share)
            return
        dims = self.canvas.viewer.dims
        axes = [axis for axis in dims.not_displayed if dims.nsteps[axis] > 1]
        if axes:
            axis = dims.last_used if dims.last_used in axes else axes[-1]
            dims.set_current_step(axis, min(dims.nsteps[axis] - 1, max(0, dims.current_step[axis] + steps)))

    def _volume(self) -> None:
        dims = self.canvas.viewer.dims
        if dims.ndim > 2:
            self.canvas.turn_to(5 - dims.ndisplay)
        self._ndisplay()

    def _zoom_in(self) -> None:
        camera_of(self.canvas.viewer).zoom *= _ZOOM

    def _zoom_out(self) -> None:
        camera_of(self.canvas.viewer).zoom /= _ZOOM

    def _fit(self) -> None:
        self.canvas.fit()

    def _pan_left(self) -> None:
        self.canvas.pan(-_PAN, 0)

    def _pan_right(self) -> None:
        self.canvas.pan(_PAN, 0)

    def _pan_up(self) -> None:
        self.canvas.pan(0, -_PAN)

    def _pan_down(self) -> None:
        self.canvas.pan(0, _PAN)

    def _follow(self) -> None:
        if self.following.on:
            self.following.stop()
        else:
            self.following.start()
        self.window.check("follow", self.following.on)

    # -- what happens in the window ----------------------------------------------------------------------

    def _arrange(self) -> None:
        self.canvas.arrange()
        self.window.show_arrangement(self.arrangement)

    def _laying_out(self, on: bool) -> None:
        self.following.hold(on)
        if not on:
            self.following.measure()

    def _laid_out(self) -> None:
        self.window.place_glass(self.arrangement)

    def _clicked(self, at: QPointF) -> None:
        number = self.canvas.panel_at(at.x(), at.y())
        if number is not None and self.arrangement.side_by_side:
            self.arrangement.focus_on(number)

    def _pointed(self, at: QPointF | None) -> None:
        number = None if at is None else self.canvas.panel_at(at.x(), at.y())
        if at is None or number is None:
            self.window.glass.point_at(None, {})
            return
        offset = self.canvas.offset_in_box(number, at.x(), at.y())
        self._point(offset, self.canvas.world_at(offset))

    def _point(self, offset: tuple[float, float] | None, world: tuple[float, ...] | None) -> None:
        said = {}
        if world is not None:
            said = {n: word_at(self.mirrors[n][-1].shown, world) for n in self.arrangement.shown}
        self.window.glass.point_at(offset, said)

    def _stop_blinking(self) -> None:
        self._blinking.stop()
        self.window.check("blink", False)

    # -- what happens in the main viewer -----------------------------------------------------------------

    def _looked_at(self) -> object:
        dims = self._viewer.dims
        return dims.point, dims.order, dims.ndisplay

    def _edited(self, mirror: Mirror) -> None:
        self._dirty[id(mirror)] = mirror
        if not self._refreshing.isActive():
            self._refreshing.start()

    def _refresh(self) -> None:
        dirty, self._dirty = self._dirty, {}
        started = perf_counter()
        for mirror in dirty.values():
            mirror.refresh()
        spent = 1000 * (perf_counter() - started)
        self._refreshing.setInterval(max(_REFRESH_MS, round(_REST * spent)))

    def _main_cursor(self, event: Any = None) -> None:
        # panels and main viewer may be moved apart: then its cursor means nothing here
        if self.following.on and not self.canvas.native.underMouse():
            world = tuple(self._viewer.cursor.position)
            offset = self.canvas.offset_of(world)
            self._point(offset, world if offset is not None else None)

    def _theme(self, event: Any = None) -> None:
        self.canvas.viewer.theme = self._viewer.theme
        self.window.dress(get_stylesheet(self._viewer.theme))

    def _ndisplay(self, event: Any = None) -> None:
        dims = self.canvas.viewer.dims
        self.window.check("volume", dims.ndisplay == 3)
        self.window.actions_by_name["volume"].setEnabled(dims.ndim > 2)
        self.window.glass.point_at(None, {})

    def _renamed(self, event: Any) -> None:
        for number, layer in self._candidates.items():
            if layer is event.source:
                self.arrangement.rename(number, layer.name)

    def _removed(self, event: Any) -> None:
        layer = event.value
        number = next((n for n, candidate in self._candidates.items() if candidate is layer), None)
        if number is not None:
            self._remove_candidate(number)
        elif any(mirror.source is layer for mirrors in self.mirrors.values() for mirror in mirrors):
            self._remove_image(layer)
        # napari goes on with the removal, in its own context
        take_context(self._viewer)

    def _remove_candidate(self, number: int) -> None:
        del self._candidates[number]
        if not self._candidates:
            self.close()
            return
        for mirror in self.mirrors.pop(number):
            self._forget(mirror)
        self._stop_blinking()
        self.canvas.remove(number)
        self.arrangement.remove(number)

    def _remove_image(self, layer: Layer) -> None:
        for number, mirrors in self.mirrors.items():
            for mirror in mirrors:
                if mirror.source is layer:
                    self._forget(mirror)
                    self.canvas.remove_image(number, mirror.shown)
            self.mirrors[number] = tuple(mirror for mirror in mirrors if mirror.source is not layer)
        self._arrange()
        self.window.message.warn(f"Image {layer.name} was removed from the viewer: the candidates go on without it.")

    def _forget(self, mirror: Mirror) -> None:
        mirror.end()
        self._dirty.pop(id(mirror), None)

    def _end(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._refreshing.stop()
        self._blinking.stop()
        self._listening.end()
        self._contexts.end()
        self.following.end()
        self.arrangement.changed.disconnect()
        main = getattr(self._viewer.window, "_qt_window", None)
        if main is not None:
            main.destroyed.disconnect(self.close)
        for mirrors in self.mirrors.values():
            for mirror in mirrors:
                self._forget(mirror)
        self.mirrors.clear()
        self._candidates.clear()
        self.canvas.finish()
        LinkedViews._open.discard(self)
        self.closed.emit()
