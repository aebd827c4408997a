"""A table to sort and to copy from; the heads of its rows stay in view."""

from __future__ import annotations

import math
from typing import Any

from qtpy.QtCore import QAbstractItemModel, QEvent, QModelIndex, QSize, QSortFilterProxyModel, Qt
from qtpy.QtGui import QGuiApplication, QKeyEvent, QKeySequence
from qtpy.QtWidgets import QAbstractButton, QAbstractItemView, QHeaderView, QTableView, QWidget

ORDER_ROLE = int(Qt.ItemDataRole.UserRole)
"""Role of what a column is sorted by: a number or a word; ``None`` or ``nan`` come last either way."""
COPY_ROLE = ORDER_ROLE + 1
"""Role of what is copied: words; of a row's head, its words between tabs."""

_ROWS_SHOWN = 9
_KEYS = (
    "Click a heading, or press Ctrl+Up or Ctrl+Down in its column, to sort; Ctrl+0: back to the first order; "
    "Ctrl+C: copy what is selected"
)


class SortedTable(QTableView):
    """Shows an item model whose vertical headings name the rows.

    Parameters
    ----------
    source
        The model; see `ORDER_ROLE` and `COPY_ROLE`.
    corner
        What the row heads are, one word for each of their parts, for the first line that is copied.
    """

    def __init__(self, source: QAbstractItemModel, corner: tuple[str, ...], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._corner = corner
        self.order = _Order(self)
        self.order.setSourceModel(source)
        self.setModel(self.order)
        self.setSortingEnabled(True)
        self.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setTabKeyNavigation(False)
        self.setWordWrap(False)
        self.setToolTip(_KEYS)
        self.setAccessibleDescription(_KEYS)
        for header in (self.horizontalHeader(), self.verticalHeader()):
            header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignBottom)
        self.verticalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        corner_button = self.findChild(QAbstractButton)
        if corner_button is not None:
            corner_button.setToolTip("Select all")
        source.modelReset.connect(self.fit)
        self.fit()

    def copy(self, everything: bool = False) -> str:
        """Put the selected cells (all without a selection) on the clipboard, tab-separated; returns them."""
        chosen = self.selectionModel().selectedIndexes()
        whole = everything or not chosen
        rows = range(self.order.rowCount()) if whole else sorted({index.row() for index in chosen})
        columns = range(self.order.columnCount()) if whole else sorted({index.column() for index in chosen})
        wanted = None if whole else {(index.row(), index.column()) for index in chosen}
        across, down = Qt.Orientation.Horizontal, Qt.Orientation.Vertical
        lines = [[*self._corner, *(str(self.order.headerData(c, across, COPY_ROLE)) for c in columns)]]
        for r in rows:
            cells = [
                str(self.order.index(r, c).data(COPY_ROLE)) if wanted is None or (r, c) in wanted else ""
                for c in columns
            ]
            lines.append([str(self.order.headerData(r, down, COPY_ROLE)), *cells])
        text = "\n".join("\t".join(line) for line in lines) + "\n"
        QGuiApplication.clipboard().setText(text)
        return text

    def event(self, event: QEvent) -> bool:
        """The table's own keys come before the window's."""
        if event.type() == QEvent.Type.ShortcutOverride and self._command(event) is not None:
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Copy, and sort by the column of the current cell."""
        command = self._command(event)
        if command is None:
            super().keyPressEvent(event)
        elif command == "copy":
            self.copy()
        elif command == "first":
            self.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
        else:
            rising = command == "rising"
            order = Qt.SortOrder.AscendingOrder if rising else Qt.SortOrder.DescendingOrder
            self.sortByColumn(max(0, self.currentIndex().column()), order)

    @staticmethod
    def _command(event: Any) -> str | None:
        if event.matches(QKeySequence.StandardKey.Copy):
            return "copy"
        if not event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            return None
        keys = {Qt.Key.Key_Up: "rising", Qt.Key.Key_Down: "falling", Qt.Key.Key_0: "first"}
        return keys.get(event.key())

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """As tall as it is: layouts would keep more room free."""
        return QSize(super().sizeHint().width(), self.minimumHeight())

    def fit(self) -> None:
        """As tall as its rows, up to a number of them."""
        rows = min(max(1, self.order.rowCount()), _ROWS_SHOWN)
        row = self.verticalHeader().sectionSize(0) if self.order.rowCount() else self.fontMetrics().height() + 6
        height = self.horizontalHeader().sizeHint().height() + rows * row + 2 * self.frameWidth()
        self.setFixedHeight(height + self.horizontalScrollBar().sizeHint().height())


class _Order(QSortFilterProxyModel):
    """Sorts by `ORDER_ROLE`."""

    def lessThan(self, left: QModelIndex, right: QModelIndex) -> bool:  # noqa: N802 - Qt's name
        """What is missing is last, whichever way the rest is sorted."""
        one, other = left.data(ORDER_ROLE), right.data(ORDER_ROLE)
        if _missing(one) or _missing(other):
            rising = self.sortOrder() == Qt.SortOrder.AscendingOrder
            return _missing(one) != _missing(other) and _missing(other) == rising
        if isinstance(one, str) or isinstance(other, str):
            return str(one) < str(other)
        return bool(one < other)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
