"""The part of the Compare dock that holds the table: sort it, choose its columns, copy and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QMenu, QPushButton, QVBoxLayout, QWidget

from napari_medseg.desk.comparing.sheet import sheet_of
from napari_medseg.desk.comparing.sheet_model import SheetModel
from napari_medseg.desk.pieces.sorted_table import SortedTable
from napari_medseg.evaluate.compare import Comparison


class ScoreSection(QWidget):
    """The scores of a comparison."""

    column_chosen = Signal(object)
    """The `SheetColumn` of the current cell."""
    told = Signal(str)
    failed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.model = SheetModel(self)
        self.table = SortedTable(self.model, ("label", "candidate"))
        self.table.setAccessibleName("Scores")
        self.columns = QPushButton("Col&umns")
        self.columns.setToolTip("Choose which metrics are shown")
        self.columns.setMenu(QMenu(self.columns))
        self.columns.menu().setToolTipsVisible(True)
        self.copy = QPushButton("Cop&y")
        self.copy.setToolTip("Copy the whole table, tab-separated, for a spreadsheet")
        self.save = QPushButton("E&xport CSV…")
        self.save.setToolTip("Save all metrics of all rows with all digits, also those that are not shown")
        row = QHBoxLayout()
        for button in (self.columns, self.copy, self.save):
            row.addWidget(button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addLayout(row)
        # what a person chose, for tables with scores and for those of agreement
        self._chosen: dict[bool, set[str]] = {}
        self._has_scores = False
        self.copy.clicked.connect(lambda: self.table.copy(everything=True))
        self.save.clicked.connect(self._ask_where_to_save)
        self.table.selectionModel().currentColumnChanged.connect(self._choose_column)

    def show_comparison(self, comparison: Comparison) -> None:
        """Show the table of `comparison` with the columns that were chosen last."""
        sheet = sheet_of(comparison)
        self._has_scores = bool(comparison.scores)
        chosen = self._chosen.get(self._has_scores, set()) & {column.key for column in sheet.columns}
        keys = chosen or {column.key for column in sheet.columns if column.shown}
        self.model.show_sheet(sheet, keys)
        menu = self.columns.menu()
        menu.clear()
        for column in sheet.columns:
            action = menu.addAction(column.heading.replace("&", "&&"))
            action.setCheckable(True)
            action.setChecked(column.key in keys)
            action.setToolTip(column.tip)
            action.setData(column.key)
            action.toggled.connect(self._choose_columns)
        self.show()

    def save_csv(self, path: Path) -> None:
        """Write all metrics of all rows; what is there is replaced, which the file dialog has asked for."""
        try:
            path.write_text(self.model.sheet.to_csv(), encoding="utf-8")
        except OSError as error:
            self.failed.emit(f"{path.name}: cannot be written ({error.strerror}); choose another folder.")
            return
        self.told.emit(f"Saved: {path.name}")

    def _choose_columns(self, *_: Any) -> None:
        keys = {action.data() for action in self.columns.menu().actions() if action.isChecked()}
        self._chosen[self._has_scores] = keys
        self.model.show_sheet(self.model.sheet, keys)

    def _choose_column(self, current: Any, _: Any) -> None:
        shown = self.model.columns
        if 0 <= current.column() < len(shown):
            self.column_chosen.emit(shown[current.column()])

    def _ask_where_to_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the table", str(Path.home() / "scores.csv"), "CSV (*.csv)")
        if path:
            self.save_csv(Path(path))
