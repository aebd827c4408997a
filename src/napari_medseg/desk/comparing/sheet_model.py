"""The table of a comparison as a Qt model that shows the columns a person chose."""

from __future__ import annotations

import textwrap
from collections.abc import Collection
from functools import cache
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt
from qtpy.QtGui import QFont

from napari_medseg.desk.comparing.sheet import Cell, Sheet, SheetColumn
from napari_medseg.desk.pieces.sorted_table import COPY_ROLE, ORDER_ROLE

_HEADING_WIDTH = 13
_NAME_WIDTH = 22


class SheetModel(QAbstractTableModel):
    """Rows and columns of a `Sheet`; the best values stand out by a star and by bold type."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.sheet = Sheet((), ())
        self._columns: list[int] = []
        self._bold = QFont()
        self._bold.setBold(True)

    @property
    def columns(self) -> list[SheetColumn]:
        """The columns that are shown."""
        return [self.sheet.columns[k] for k in self._columns]

    def show_sheet(self, sheet: Sheet, keys: Collection[str]) -> None:
        """Show the columns `keys` of a table."""
        self.beginResetModel()
        self.sheet = sheet
        self._columns = [k for k, column in enumerate(sheet.columns) if column.key in keys]
        self.endResetModel()

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's name and default
        """Number of rows."""
        return 0 if parent.isValid() else len(self.sheet.rows)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's name and default
        """Number of columns that are shown."""
        return 0 if parent.isValid() else len(self._columns)

    def data(self, index: QModelIndex, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        """What Qt asks of a cell."""
        cell: Cell = self.sheet.rows[index.row()].cells[self._columns[index.column()]]
        if role == Qt.ItemDataRole.DisplayRole:
            return cell.marked
        if role == Qt.ItemDataRole.ToolTipRole:
            return cell.tip
        if role == Qt.ItemDataRole.FontRole:
            return self._bold if cell.best else None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignLeft if isinstance(cell.value, str) else Qt.AlignmentFlag.AlignRight
            return side | Qt.AlignmentFlag.AlignVCenter
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{cell.text}, best" if cell.best else cell.text
        if role == ORDER_ROLE:
            return cell.value
        return cell.text if role == COPY_ROLE else None

    def headerData(  # noqa: N802 - Qt's name
        self, section: int, orientation: Qt.Orientation, role: int = int(Qt.ItemDataRole.DisplayRole)
    ) -> Any:
        """Headings with their units and definitions; the heads of rows name label and candidate."""
        if orientation == Qt.Orientation.Horizontal:
            column = self.sheet.columns[self._columns[section]]
            if role == Qt.ItemDataRole.DisplayRole:
                return _wrapped(column.heading)
            if role == Qt.ItemDataRole.ToolTipRole:
                return column.tip
            return column.heading if role == COPY_ROLE else None
        row = self.sheet.rows[section]
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{_short(row.label)}\n{_short(row.candidate)}"
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{row.label}, {row.candidate}"
        return f"{row.label}\t{row.candidate}" if role == COPY_ROLE else None


@cache
def _wrapped(heading: str) -> str:
    # Qt asks for a heading dozens of times while it lays out the table
    return textwrap.fill(heading, _HEADING_WIDTH, break_long_words=False)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"
