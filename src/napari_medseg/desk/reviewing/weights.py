"""How much an error of each label counts for the patient: a small table to edit."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem, QWidget

_MOST_ROWS_SHOWN = 5


class WeightTable(QTableWidget):
    """A weight for each label; `changed` is emitted after every edit."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, 2, parent)
        self.setHorizontalHeaderLabels(["Label", "Weight"])
        self.setAccessibleName("Clinical weights")
        self.setToolTip("How much an error of a label counts; 1 is usual, 0 puts it last. F2 or a double click edits")
        self.verticalHeader().hide()
        self.setTabKeyNavigation(False)
        self.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self._ids: list[int] = []
        self.itemChanged.connect(self._tell)

    def show_labels(self, names: Mapping[int, str]) -> None:
        """List labels by id and name; weights of those that were listed before are kept."""
        known = self.weights
        self.blockSignals(True)
        self._ids = list(names)
        self.setRowCount(len(names))
        for row, (number, name) in enumerate(names.items()):
            title = QTableWidgetItem(name)
            title.setFlags(Qt.ItemFlag.ItemIsEnabled)
            self.setItem(row, 0, title)
            weight = QTableWidgetItem()
            # a number, so that the field that edits it takes numbers only
            weight.setData(Qt.ItemDataRole.EditRole, known.get(number, 1.0))
            self.setItem(row, 1, weight)
        self.blockSignals(False)
        rows = min(max(1, len(names)), _MOST_ROWS_SHOWN)
        height = self.horizontalHeader().sizeHint().height() + rows * self.verticalHeader().defaultSectionSize()
        self.setFixedHeight(height + 2 * self.frameWidth())

    @property
    def weights(self) -> dict[int, float]:
        """Weight by label id; never below 0."""
        found = {}
        for row, number in enumerate(self._ids):
            item = self.item(row, 1)
            if item is not None:
                found[number] = max(0.0, float(item.data(Qt.ItemDataRole.EditRole)))
        return found

    def _tell(self, item: QTableWidgetItem) -> None:
        if item.column() == 1:
            self.changed.emit()
