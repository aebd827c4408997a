"""What the colours of a layer mean."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QLinearGradient, QPainter, QPaintEvent, QPixmap
from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

Rgb = tuple[int, int, int]

_SWATCH = 14
_BAR = 12


class Legend(QWidget):
    """A coloured square and words for each value, or a bar of colours with words for its ends."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setColumnStretch(1, 1)
        self.lines: list[tuple[Rgb, str, str]] = []
        self.hide()

    def show_values(self, lines: Sequence[tuple[Rgb, str, str]]) -> None:
        """A line for each value: its colour, what it means, and a number."""
        self._empty()
        self.lines = list(lines)
        for row, (colour, name, number) in enumerate(lines):
            square = QLabel()
            picture = QPixmap(_SWATCH, _SWATCH)
            picture.fill(QColor(*colour))
            square.setPixmap(picture)
            share = QLabel(number)
            share.setAlignment(Qt.AlignmentFlag.AlignRight)
            words = QLabel(name)
            words.setTextFormat(Qt.TextFormat.PlainText)
            words.setWordWrap(True)
            for column, widget in enumerate((square, words, share)):
                self._grid.addWidget(widget, row, column)
        self.show()

    def show_range(self, colours: Sequence[Rgb], low: str, middle: str, high: str) -> None:
        """A bar from the first colour to the last, and words for both ends and the middle."""
        self._empty()
        self._grid.addWidget(_Bar(colours), 0, 0, 1, 3)
        sides = (Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignHCenter, Qt.AlignmentFlag.AlignRight)
        for column, (word, side) in enumerate(zip((low, middle, high), sides, strict=True)):
            label = QLabel(word)
            label.setAlignment(side)
            label.setWordWrap(True)
            self._grid.addWidget(label, 1, column)
        self.show()

    def clear(self) -> None:
        """Show nothing."""
        self._empty()
        self.hide()

    def _empty(self) -> None:
        self.lines = []
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.setParent(None)
                widget.deleteLater()


class _Bar(QWidget):
    def __init__(self, colours: Sequence[Rgb]) -> None:
        super().__init__()
        self._colours = list(colours)
        self.setFixedHeight(_BAR)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        gradient = QLinearGradient(0, 0, self.width(), 0)
        for k, colour in enumerate(self._colours):
            gradient.setColorAt(k / (len(self._colours) - 1), QColor(*colour))
        painter = QPainter(self)
        painter.fillRect(self.rect(), gradient)
        painter.end()
