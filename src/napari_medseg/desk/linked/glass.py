"""What lies over the picture: titles, the frame of the focus, the cross of the cursor, the divider of the wipe."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPointF, QRect, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QFontMetrics, QPainter, QPen
from qtpy.QtWidgets import QWidget

from napari_medseg.desk.linked.arrangement import Arrangement, Cell, Mode

# the palette's yellow with a dark edge shows on any picture and in any theme
_FOCUS = QColor("#F0E442")
_BAR = QColor(0, 0, 0, 170)
_INK = QColor("white")
_CROSS, _CROSS_GAP = 9, 3


class Glass(QWidget):
    """Drawn over the canvas; the mouse goes through it.

    Attributes
    ----------
    said
        For each panel number, what its candidate says under the cursor.
    """

    def __init__(self, parent: QWidget, arrangement: Arrangement) -> None:
        super().__init__(parent)
        self.arrangement = arrangement
        self.cells: dict[int, Cell] = {}
        self.boxes: dict[int, Cell] = {}
        self.said: dict[int, str] = {}
        self._cross: tuple[float, float] | None = None
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)

    def place(self, cells: dict[int, Cell], boxes: dict[int, Cell]) -> None:
        """Draw titles and frames at these cells; `boxes` are what the pictures in them are centred in."""
        self.cells, self.boxes = cells, boxes
        self.update()

    @property
    def cross(self) -> tuple[float, float] | None:
        """The cursor, right and down from the centre of every panel, in pixels; ``None`` when it is elsewhere."""
        return self._cross

    def point_at(self, offset: tuple[float, float] | None, said: dict[int, str]) -> None:
        """Show the cursor at the same place in all panels, and what the candidates say there."""
        if offset == self._cross and said == self.said:
            return
        # the picture under it is not to be composed anew where nothing changed
        for region in (*self._touched(), *self._touched(offset)):
            self.update(region)
        if said != self.said:
            for cell in self.cells.values():
                self.update(QRect(cell.x, cell.y, cell.width, self._bar_height()))
        self._cross, self.said = offset, said

    def crosses(self) -> list[tuple[float, float]]:
        """Where the cross is drawn, in pixels of the canvas."""
        return [] if self._cross is None else self._positions(self._cross)

    def _positions(self, offset: tuple[float, float]) -> list[tuple[float, float]]:
        places = {(b.x + b.width / 2 + offset[0], b.y + b.height / 2 + offset[1]) for b in self.boxes.values()}
        return sorted(p for p in places if any(_inside(cell, p) for cell in self.cells.values()))

    def _touched(self, offset: tuple[float, float] | None = None) -> list[QRect]:
        offset = offset or self._cross
        reach = _CROSS + 3
        if offset is None:
            return []
        return [QRect(int(x) - reach, int(y) - reach, 2 * reach, 2 * reach) for x, y in self._positions(offset)]

    def _bar_height(self) -> int:
        return QFontMetrics(self.font()).height() + 8

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Titles, frames, cross."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        arrangement = self.arrangement
        for number, cell in self.cells.items():
            if cell.width > 0:
                self._title(painter, number, cell)
        if arrangement.side_by_side and len(self.cells) > 1 and arrangement.focus in self.cells:
            cell = self.cells[arrangement.focus]
            painter.setBrush(Qt.BrushStyle.NoBrush)
            for pen in (QPen(QColor("black"), 5), QPen(_FOCUS, 3)):
                painter.setPen(pen)
                painter.drawRect(QRectF(cell.x + 1.5, cell.y + 1.5, cell.width - 3, cell.height - 3))
        for x, y in self.crosses():
            _draw_cross(painter, x, y)
        painter.end()

    def _title(self, painter: QPainter, number: int, cell: Cell) -> None:
        arrangement = self.arrangement
        bar = QRect(cell.x, cell.y, cell.width, self._bar_height())
        painter.setClipRect(bar)
        painter.fillRect(bar, _BAR)
        font = self.font()
        font.setBold(arrangement.side_by_side and number == arrangement.focus)
        painter.setFont(font)
        painter.setPen(_INK)
        inside = bar.adjusted(8, 0, -8, 0)
        metrics = QFontMetrics(font)
        said = metrics.elidedText(self.said.get(number, ""), Qt.TextElideMode.ElideRight, inside.width() // 2)
        room = inside.width() - (metrics.horizontalAdvance(said) + 12 if said else 0)
        title = metrics.elidedText(arrangement.panel(number).title, Qt.TextElideMode.ElideMiddle, max(0, room))
        painter.drawText(inside, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, title)
        painter.drawText(inside, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight, said)
        painter.setClipping(False)


class Divider(QWidget):
    """The divider of the wipe, which the mouse can drag.

    Attributes
    ----------
    moved
        Emitted with the new place, as a share of the parent's width.
    """

    moved = Signal(float)
    _WIDTH = 17

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setCursor(Qt.CursorShape.SplitHCursor)
        self.setAccessibleName("Divider of the wipe")
        self.setToolTip("Drag to uncover more of one candidate (Left and Right; with Shift in larger steps)")
        self.hide()

    def place(self, arrangement: Arrangement) -> None:
        """Lie where the arrangement says; hidden outside the wipe."""
        parent = self.parentWidget()
        self.setVisible(arrangement.mode is Mode.WIPE)
        middle = round(arrangement.split * parent.width())
        self.setGeometry(middle - self._WIDTH // 2, 0, self._WIDTH, parent.height())

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Follow the mouse."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            parent = self.parentWidget()
            self.moved.emit(self.mapTo(parent, event.position().toPoint()).x() / max(1, parent.width()))

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """A white line with a dark edge and a grip."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        middle = self._WIDTH // 2
        painter.fillRect(QRect(middle - 2, 0, 5, self.height()), QColor("black"))
        painter.fillRect(QRect(middle - 1, 0, 3, self.height()), QColor("white"))
        painter.setPen(QPen(QColor("black"), 1.5))
        painter.setBrush(QColor("white"))
        painter.drawRoundedRect(QRectF(1, self.height() / 2 - 18, self._WIDTH - 2, 36), 5, 5)
        for k in (-1, 1):
            x = middle + 0.5 + 2.5 * k
            painter.drawLine(QPointF(x, self.height() / 2 - 8), QPointF(x, self.height() / 2 + 8))
        painter.end()


def _draw_cross(painter: QPainter, x: float, y: float) -> None:
    arms = (
        (QPointF(x - _CROSS, y), QPointF(x - _CROSS_GAP, y)),
        (QPointF(x + _CROSS_GAP, y), QPointF(x + _CROSS, y)),
        (QPointF(x, y - _CROSS), QPointF(x, y - _CROSS_GAP)),
        (QPointF(x, y + _CROSS_GAP), QPointF(x, y + _CROSS)),
    )
    # dark below white shows on any picture
    for pen in (QPen(QColor("black"), 4), QPen(QColor("white"), 1.6)):
        painter.setPen(pen)
        for arm in arms:
            painter.drawLine(*arm)


def _inside(cell: Cell, point: tuple[float, float]) -> bool:
    return cell.x <= point[0] < cell.x + cell.width and cell.y <= point[1] < cell.y + cell.height
