"""All panels in one canvas.

napari's grid draws groups of layers in view boxes that share one camera, one set of sliders and one OpenGL context,
so nothing has to be kept in step between the panels and nothing can fall out of it. One canvas a panel was measured
too: on a 2k picture with four panels it took about 20 % more processor time a frame, and it needs a context, a set of
sliders and a copy of every event for each panel.

What a grid does not do is bound the work: view boxes clip in the fragment shader, so a magnified layer is computed
over the whole canvas and thrown away outside its cell (more than twice the time at 3 × magnification). Each layer
therefore gets a scissor rectangle, which costs nothing. The same rectangle makes the wipe, in two dimensions and in
three, for labels and for images; napari's clipping planes act in three dimensions only.
"""

from __future__ import annotations

from typing import Any

from napari.components.viewer_model import ViewerModel
from napari.layers import Labels, Layer
from napari.qt import QtViewer
from qtpy.QtCore import QEvent, QPointF, QTimer, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_medseg.desk.linked.arrangement import GAP, Arrangement, Cell
from napari_medseg.desk.linked.following import camera_of
from napari_medseg.desk.pieces.listening import Listening

# pixels of a label's outline on the screen, and the most of the image that it may take for that when seen from afar
_OUTLINE, _WIDEST = 2, 3
# outlines take their width some time after the last change of the magnification, one panel after the other, since
# napari takes some 80 ms for those of a large plane
_SETTLE_MS, _BETWEEN_MS = 150, 30


class _View(QtViewer):
    """napari's view without its keys: digits, space and the arrows mean other things here."""

    def _bind_shortcuts(self) -> None:
        """Leave napari's shortcuts, which all viewers share, as they are."""

    def _on_active_change(self, event: Any = None) -> None:
        self._key_map_handler.keymap_providers = []


class PanelsCanvas(QWidget):
    """Draws groups of layers as an `Arrangement` says.

    Parameters
    ----------
    panels
        For each panel number its layers, bottom first; the last one is the candidate. All groups have the same
        length.

    Attributes
    ----------
    viewer
        The viewer model that holds the layers of all panels.
    """

    pointed = Signal(object)
    """Where the mouse is, as ``QPointF`` in the canvas; ``None`` when it has left."""
    clicked = Signal(object)
    """Where the mouse was pressed, as ``QPointF`` in the canvas."""
    laying_out = Signal(bool)
    """True before the magnification changes only because the cells do, False afterwards."""
    laid_out = Signal()
    """The cells have changed."""

    def __init__(self, arrangement: Arrangement, panels: dict[int, tuple[Layer, ...]]) -> None:
        super().__init__()
        self.arrangement, self.panels = arrangement, dict(panels)
        self.viewer = ViewerModel(title="linked views")
        # boxes to zoom in and jumps between layers are not for a view without a layer list
        self.viewer.mouse_drag_callbacks.clear()
        self.viewer.mouse_double_click_callbacks.clear()
        self._cell: Cell | None = None
        self.view = _View(self.viewer)
        self.view.setAcceptDrops(False)
        for layers in panels.values():
            for layer in layers:
                self.viewer.add_layer(layer)
        self.viewer.layers.selection.clear()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.view)
        self.native.setAcceptDrops(False)
        self.native.installEventFilter(self)
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.timeout.connect(self._widen_outlines)
        self._listening = Listening(
            self,
            (self._scene.events.resize, self._on_resize),
            (self.viewer.dims.events.ndisplay, self._draw_labels),
            (camera_of(self.viewer).events.zoom, self._magnified),
        )
        self._scene.events.draw.connect(self._cut, position="first")

    @property
    def native(self) -> QWidget:
        """The widget of the picture itself, without sliders."""
        return self.view.canvas.native

    @property
    def _scene(self) -> Any:
        return self.view.canvas._scene_canvas

    @property
    def size_in_pixels(self) -> tuple[int, int]:
        """Width and height of the picture in logical pixels."""
        return self.native.width(), self.native.height()

    def cells(self) -> dict[int, Cell]:
        """Where each candidate shown lies now, by panel number."""
        return self.arrangement.cells(*self.size_in_pixels)

    def view_boxes(self) -> dict[int, Cell]:
        """Where each candidate shown is *laid out*: its cell, except under the wipe, where both fill the picture."""
        if self.arrangement.side_by_side:
            return self.cells()
        return dict.fromkeys(self.arrangement.shown, Cell(0, 0, *self.size_in_pixels))

    # -- layout ------------------------------------------------------------------------------------------

    def arrange(self) -> None:
        """Show what the arrangement says; the part of the image in view stays about the same.

        The widget must have been shown.
        """
        arrangement, grid = self.arrangement, _grid_of(self.viewer)
        self._draw_labels()
        # napari hides a layer by building its scene anew and shows it by slicing it: `_cut` hides layers instead
        stride = len(next(iter(self.panels.values()), (None,)))
        shape = arrangement.grid(*self.size_in_pixels)
        if (grid.stride, tuple(grid.shape)) != (stride, shape):
            self._leave_grid()
            grid.stride, grid.shape, grid.spacing = stride, shape, GAP
        _set(grid, "enabled", arrangement.side_by_side)
        self._keep_field_of_view()
        self._scene.update()

    def remove(self, number: int) -> None:
        """Take a panel's layers away; call `arrange` afterwards."""
        self._leave_grid()
        self._take_out(*self.panels.pop(number))

    def remove_image(self, number: int, image: Layer) -> None:
        """Take an image away from a panel; after the same for all panels call `arrange`."""
        self._leave_grid()
        self.panels[number] = tuple(layer for layer in self.panels[number] if layer is not image)
        self._take_out(image)

    def fit(self) -> None:
        """Fit the image into each panel."""
        self.viewer.reset_view()

    def pan(self, right: float, down: float) -> None:
        """Look further to the right and further down, by these shares of a panel's size."""
        box = next(iter(self.view_boxes().values()))
        camera = camera_of(self.viewer)
        across, along = self._signs()
        *far, y, x = camera.center
        camera.center = (
            *far,
            y + along * down * box.height / camera.zoom,
            x + across * right * box.width / camera.zoom,
        )

    def finish(self) -> None:
        """Free the canvas and its OpenGL context."""
        self._listening.end()
        self._settle.stop()
        self.native.removeEventFilter(self)
        self._scene.events.draw.disconnect(self._cut)
        self.viewer._layer_slicer.shutdown()
        self._take_out(*self.viewer.layers)
        self.panels.clear()
        self.view.close()
        # whoever keeps the closed views must not keep napari's view with them
        self.view.setParent(None)
        del self.view

    def turn_to(self, ndisplay: int) -> None:
        """Show a slice (2) or the volume (3)."""
        if ndisplay == 3:
            # napari warns of outlines in three dimensions
            self._draw_labels(outlined=False)
        self.viewer.dims.ndisplay = ndisplay

    def _magnified(self, event: Any = None) -> None:
        self._settle.start(_SETTLE_MS)

    def _widen_outlines(self) -> None:
        for *_, candidate in self.panels.values():
            if isinstance(candidate, Labels) and candidate.contour not in (0, self._outline_of(candidate)):
                candidate.contour = self._outline_of(candidate)
                self._settle.start(_BETWEEN_MS)
                return

    def _draw_labels(self, event: Any = None, outlined: bool = True) -> None:
        outlined = outlined and self.arrangement.outlines and self.viewer.dims.ndisplay == 2
        for *_, candidate in self.panels.values():
            if isinstance(candidate, Labels):
                _set(candidate, "contour", self._outline_of(candidate) if outlined else 0)

    def _outline_of(self, labels: Labels) -> int:
        """Width of the outline in the layer's own pixels, of the level in view for a pyramid."""
        if labels.multiscale:
            return _OUTLINE
        axes = [axis - self.viewer.dims.ndim for axis in self.viewer.dims.displayed]
        size = min((abs(labels.scale[axis]) for axis in axes if -axis <= labels.ndim), default=1.0)
        return int(min(_WIDEST, max(_OUTLINE, round(_OUTLINE / (size * camera_of(self.viewer).zoom)))))

    def _leave_grid(self) -> None:
        # a layer that moves between cells while a grid is replaced stays clipped to its old cell: VisPy finds the
        # clipper to take off by the cell, which is gone by then
        _grid_of(self.viewer).enabled = False

    def _take_out(self, *layers: Layer) -> None:
        # see contexts.py
        self._scene.set_current()
        with self.viewer.layers.batched_update():
            for layer in layers:
                self.viewer.layers.remove(layer)

    def _keep_field_of_view(self) -> None:
        box = next(iter(self.view_boxes().values()), None)
        if box is not None and self._cell is not None and self._cell[2:] != box[2:]:
            # a window may be squeezed to nothing for a moment; and the way back must undo the way there
            scale = max(1, min(box[2:])) / max(1, min(self._cell[2:]))
            self.laying_out.emit(True)
            camera_of(self.viewer).zoom *= scale
            self.laying_out.emit(False)
        self._cell = box
        self.laid_out.emit()

    def _on_resize(self, event: Any = None) -> None:
        shape = self.arrangement.grid(*self.size_in_pixels)
        if tuple(_grid_of(self.viewer).shape) != shape:
            self.arrange()
        else:
            self._keep_field_of_view()

    def _cut(self, event: Any = None) -> None:
        """Before each frame: bound every layer to its cell."""
        # clearing the canvas obeys the scissor too
        self._scene.context.set_state(scissor_test=False)
        nothing = Cell(0, 0, 0, 0)
        cells, boxes = self.cells(), self.view_boxes()
        for number, (*images, candidate) in self.panels.items():
            self._bound(candidate, cells.get(number, nothing))
            # in one picture the images of all panels lie on top of each other, and the lowest will do
            below = self.arrangement.side_by_side or number == next(iter(boxes))
            for image in images:
                self._bound(image, boxes.get(number, nothing) if below else nothing)

    def _bound(self, layer: Layer, cell: Cell) -> None:
        ratio = self._scene.pixel_scale
        # from the lower left corner, in physical pixels
        corner = (cell.x, self.size_in_pixels[1] - cell.y - cell.height)
        scissor = tuple(round(v * ratio) for v in (*corner, cell.width, cell.height))
        self.view.canvas.layer_to_visual[layer].node.update_gl_state(scissor_test=True, scissor=scissor)

    # -- where things are --------------------------------------------------------------------------------

    def panel_at(self, x: float, y: float) -> int | None:
        """Number of the panel at a point of the canvas."""
        return next(
            (n for n, c in self.cells().items() if c.x <= x < c.x + c.width and c.y <= y < c.y + c.height), None
        )

    def offset_of(self, world: tuple[float, ...]) -> tuple[float, float] | None:
        """Where a world position lies in every panel: right and down from the centre of its view box, in pixels.

        ``None`` in three dimensions, where a position on the canvas is a line through the volume.
        """
        dims, camera = self.viewer.dims, camera_of(self.viewer)
        if dims.ndisplay != 2 or len(world) < dims.ndim:
            return None
        here = world[-dims.ndim :]
        across, along = self._signs()
        y, x = (here[axis] - centre for axis, centre in zip(dims.displayed, camera.center[-2:], strict=True))
        return across * x * camera.zoom, along * y * camera.zoom

    def world_at(self, offset: tuple[float, float]) -> tuple[float, ...] | None:
        """The inverse of `offset_of`, in the slice shown."""
        dims, camera = self.viewer.dims, camera_of(self.viewer)
        if dims.ndisplay != 2:
            return None
        across, along = self._signs()
        vertical, horizontal = dims.displayed
        world = [float(v) for v in dims.point]
        world[vertical] = camera.center[-2] + along * offset[1] / camera.zoom
        world[horizontal] = camera.center[-1] + across * offset[0] / camera.zoom
        return tuple(world)

    def offset_in_box(self, number: int, x: float, y: float) -> tuple[float, float]:
        """A point of the canvas, right and down from the centre of a panel's view box."""
        box = self.view_boxes()[number]
        return x - box.x - box.width / 2, y - box.y - box.height / 2

    def _signs(self) -> tuple[int, int]:
        """Whether the world's axes run to the right and down (1) or the other way (-1), as set in napari."""
        _, vertical, horizontal = camera_of(self.viewer).orientation
        return (-1 if str(horizontal) == "left" else 1), (-1 if str(vertical) == "up" else 1)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Hear the mouse over the picture."""
        kind = event.type()
        if kind == QEvent.Type.MouseMove:
            self.pointed.emit(QPointF(event.position()))
        elif kind == QEvent.Type.Leave:
            self.pointed.emit(None)
        elif kind == QEvent.Type.MouseButtonPress:
            self.clicked.emit(QPointF(event.position()))
        return False


def _grid_of(viewer: Any) -> Any:
    """The viewer's grid, which moved in napari 0.9."""
    canvas = getattr(viewer, "canvas", None)
    return canvas.grid if canvas is not None else viewer.grid


def _set(model: Any, name: str, value: object) -> None:
    # setting what is set already would slice and draw again
    if getattr(model, name) != value:
        setattr(model, name, value)
