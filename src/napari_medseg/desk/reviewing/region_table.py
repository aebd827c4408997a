"""The table of error regions: a model of any length, and a view of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QItemSelection, QModelIndex, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from napari_medseg.case import LabelTable
from napari_medseg.desk.reviewing.words import amount, label_in_words
from napari_medseg.evaluate.review import ReviewItem

HEADINGS = ("Rank", "State", "What is wrong", "Label", "Size", "Distance", "Uncertainty")
_TIPS = (
    "Place in the order chosen above; the first is to be looked at first",
    "What was decided: open, accepted, fixed or ignored",
    "What the candidate does against the reference",
    "The label of the reference, or of the candidate where the reference has none",
    "Volume or area of the region; in pixels (px) where the spacing is unknown",
    "Farthest that the region reaches from the boundary of its label in the reference",
    "Mean of the uncertainty layer in the region",
)
UNCERTAINTY = HEADINGS.index("Uncertainty")


class RegionModel(QAbstractTableModel):
    """Items of a review with their ranks, read by the view as far as it shows them."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: list[tuple[int, ReviewItem]] = []
        self._row_of: dict[int, int] = {}
        self._tables = (LabelTable(), LabelTable())

    def show(self, rows: Sequence[tuple[int, ReviewItem]], candidate: LabelTable, reference: LabelTable) -> None:
        """Show items with their ranks, from the first to look at to the last."""
        self.beginResetModel()
        self.rows = list(rows)
        self._row_of = {item.id: row for row, (_, item) in enumerate(self.rows)}
        self._tables = (candidate, reference)
        self.endResetModel()

    def row_of(self, number: int | None) -> int | None:
        """The row of the region of that number, ``None`` if it is not shown."""
        return None if number is None else self._row_of.get(number)

    def replace(self, item: ReviewItem) -> None:
        """Show what was decided about one region."""
        row = self._row_of[item.id]
        self.rows[row] = (self.rows[row][0], item)
        self.dataChanged.emit(self.index(row, 0), self.index(row, len(HEADINGS) - 1))

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Number of regions shown."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Number of columns."""
        return 0 if parent is not None and parent.isValid() else len(HEADINGS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> Any:  # noqa: N802 - Qt's name
        """Titles of the columns and what they mean."""
        if orientation is Qt.Orientation.Horizontal:
            if role == Qt.ItemDataRole.DisplayRole:
                return HEADINGS[section]
            if role == Qt.ItemDataRole.ToolTipRole:
                return _TIPS[section]
        return None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        """Words of one cell."""
        if not index.isValid():
            return None
        column = index.column()
        if role == Qt.ItemDataRole.TextAlignmentRole and column in (0, 4, 5, 6):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return None
        rank, item = self.rows[index.row()]
        if role == Qt.ItemDataRole.ToolTipRole and item.note:
            return f"Note: {item.note}"
        region = item.region
        if column == 0:
            return str(rank)
        if column == 1:
            return str(item.state)
        if column == 2:
            return str(region.error)
        if column == 3:
            return label_in_words(region, *self._tables)
        if column == 4:
            return amount(region.size, region.size_unit)
        if column == 5:
            return amount(region.distance, region.distance_unit)
        return "–" if region.uncertainty is None else f"{region.uncertainty:.3f}"


class RegionTable(QTableView):
    """The view; `chosen` is emitted with the number of the region that is selected."""

    chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.regions = RegionModel(self)
        self.setModel(self.regions)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setMinimumHeight(150)
        self.setAccessibleName("Error regions")
        self.setToolTip("Select a region to look at it")
        rows = self.verticalHeader()
        rows.hide()
        # a fixed height, so that no row is measured before it is seen
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setDefaultSectionSize(self.fontMetrics().height() + 6)
        columns = self.horizontalHeader()
        columns.setHighlightSections(False)
        columns.setStretchLastSection(True)
        widest = ("Rank", "accepted", "false positive", "nucleus 12", "00000 mm³", "Distance", "0.000")
        for column, text in enumerate(widest):
            self.setColumnWidth(column, self.fontMetrics().horizontalAdvance(text) + 9)
        self.setColumnHidden(UNCERTAINTY, True)
        # not the current row: Qt makes the first one current when the table gets the focus
        self.selectionModel().selectionChanged.connect(self._tell)

    def show_current(self, row: int | None) -> None:
        """Mark a row, or none, as the current one without telling it as a choice."""
        selection = self.selectionModel()
        selection.blockSignals(True)
        if row is None:
            selection.clear()
        else:
            self.selectRow(row)
        selection.blockSignals(False)
        if row is not None:
            self.scrollTo(self.regions.index(row, 0))
        self.viewport().update()

    def _tell(self, selected: QItemSelection, deselected: QItemSelection) -> None:
        rows = [index.row() for index in selected.indexes()]
        if rows:
            self.chosen.emit(self.regions.rows[rows[0]][1].id)
