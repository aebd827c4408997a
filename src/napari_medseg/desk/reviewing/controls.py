"""What is chosen above the table of regions, and what is done below it."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QGridLayout, QLabel, QLineEdit, QPushButton, QWidget

from napari_medseg.desk.pieces.dock import new_form
from napari_medseg.desk.pieces.message import Message
from napari_medseg.desk.reviewing.weights import WeightTable
from napari_medseg.evaluate.review import Error, Order, ReviewItem, State

_ORDERS: dict[str, Order] = {
    "size": "size",
    "boundary distance": "distance",
    "uncertainty": "uncertainty",
    "clinical weight": "weight",
}
_ALL = "all"


class Choices(QWidget):
    """Order, filters and weights; `changed` is emitted when the list has to be made anew."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.objects = QCheckBox("Every id is one o&bject")
        self.objects.setToolTip("Review whole objects that are missed, spurious, split or merged, such as nuclei")
        self.anew = QCheckBox("Start fro&m scratch")
        self.anew.setToolTip("Leave the decisions that are kept with the labels aside; the first new one replaces them")
        form = new_form()
        self._form = form
        self.by = QComboBox()
        self.by.addItems([words for words in _ORDERS if words != "uncertainty"])
        self.by.setToolTip("What makes a region come first")
        form.addRow("Sort b&y", self.by)
        self.weight_table = WeightTable()
        form.addRow("Wei&ghts", self.weight_table)
        self.only_state = QComboBox()
        self.only_state.addItems([_ALL, *map(str, State)])
        self.only_state.setToolTip("List only regions that were decided so")
        form.addRow("&Show", self.only_state)
        self.only_error = QComboBox()
        self.only_error.addItems([_ALL, *map(str, Error)])
        self.only_error.setToolTip("List only errors of this kind")
        form.addRow("&Error", self.only_error)
        self._empty = QLabel("No region is listed: choose “all” above to see them.")
        self._empty.setWordWrap(True)
        self._empty.hide()
        form.addRow(self._empty)
        form.setContentsMargins(0, 0, 0, 0)
        self.setLayout(form)
        self._show_weights()
        self.by.currentIndexChanged.connect(self._on_order)
        self.only_state.currentIndexChanged.connect(self._tell)
        self.only_error.currentIndexChanged.connect(self._tell)
        self.weight_table.changed.connect(self.changed)

    def add_rules_to(self, form: QFormLayout) -> None:
        """Put what decides how errors are found into the form of the layers."""
        form.addRow("", self.objects)
        form.addRow("", self.anew)

    def offer(self, uncertainty: bool) -> None:
        """Offer to sort by uncertainty, or no longer."""
        place = self.by.findText("uncertainty")
        if uncertainty and place < 0:
            self.by.insertItem(2, "uncertainty")
        elif not uncertainty and place >= 0:
            self.by.removeItem(place)

    def weigh(self, names: dict[int, str]) -> None:
        """List the labels to weigh."""
        self.weight_table.show_labels(names)

    def say_empty(self, empty: bool) -> None:
        """Say why nothing is listed."""
        self._empty.setVisible(empty)

    @property
    def order(self) -> Order:
        """What makes a region come first."""
        return _ORDERS[self.by.currentText()]

    @property
    def weights(self) -> dict[int, float]:
        """Clinical weight by label id."""
        return self.weight_table.weights

    @property
    def state(self) -> State | None:
        """The state to list, ``None`` for all."""
        text = self.only_state.currentText()
        return None if text == _ALL else State(text)

    @property
    def error(self) -> Error | None:
        """The error to list, ``None`` for all."""
        text = self.only_error.currentText()
        return None if text == _ALL else Error(text)

    def _on_order(self) -> None:
        self._show_weights()
        self.changed.emit()

    def _tell(self) -> None:
        self.changed.emit()

    def _show_weights(self) -> None:
        shown = self.order == "weight"
        self.weight_table.setVisible(shown)
        self._form.labelForField(self.weight_table).setVisible(shown)


class Decisions(QWidget):
    """Going on and back, deciding, a note, how far one is, and where it is kept."""

    decided = Signal(object)
    noted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.previous = _button("&Previous  (P)", "Go to the region before this one; Shift+P while a brush is in use")
        self.next = _button("&Next  (N)", "Go to the region after this one")
        self.states = {
            State.ACCEPTED: _button("&Accept  (A)", "The candidate may stay as it is here (A)"),
            State.FIXED: _button("Fi&xed  (F)", "The error has been put right; Shift+F while a brush is in use"),
            State.IGNORED: _button("&Ignore  (I)", "The error does not matter (I)"),
            State.OPEN: _button("&Open  (O)", "Not decided yet (O)"),
        }
        self.note = QLineEdit()
        self.note.setToolTip("A note on this region, kept with its state; do not write names of patients")
        self.note.setPlaceholderText("about this region")
        self.progress = QLabel()
        self.kept = Message()
        self.keep = _button("&Keep labels and review…", "Write the candidate's labels and the review to a new store")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.previous, 0, 0, 1, 2)
        grid.addWidget(self.next, 0, 2, 1, 2)
        for k, (state, button) in enumerate(self.states.items()):
            grid.addWidget(button, 1 + k // 2, 2 * (k % 2), 1, 2)
            button.clicked.connect(lambda *_, chosen=state: self.decided.emit(chosen))
        title = QLabel("No&te")
        title.setBuddy(self.note)
        grid.addWidget(title, 3, 0)
        grid.addWidget(self.note, 3, 1, 1, 3)
        grid.addWidget(self.progress, 4, 0, 1, 4)
        grid.addWidget(self.kept, 5, 0, 1, 4)
        grid.addWidget(self.keep, 6, 0, 1, 4)
        self._note = ""
        self.note.editingFinished.connect(self.finish_note)
        self.show_item(None, None)
        self.say_kept(None, edited=False, open_review=False)

    def show_item(self, known: ReviewItem | None, counted: tuple[int, int] | None) -> None:
        """Show what was decided about a region, and how many are decided of how many."""
        for state, button in self.states.items():
            button.setEnabled(known is not None)
            # the state it has stands out by its letters, not by colour
            font = button.font()
            font.setBold(known is not None and known.state is state)
            button.setFont(font)
        self.note.setEnabled(known is not None)
        text = "" if known is None else known.note
        if not self.note.hasFocus() or text != self._note:
            self.note.setText(text)
        self._note = text
        decided, total = counted or (0, 0)
        self.previous.setEnabled(total > 0)
        self.next.setEnabled(total > 0)
        self.progress.setText(f"{decided} of {total} decided" if total else "")

    def finish_note(self) -> None:
        """Tell the note if it was changed."""
        text = self.note.text()
        if self.note.isEnabled() and text != self._note:
            self._note = text
            self.noted.emit(text)

    def say_kept(self, path: Path | None, edited: bool, open_review: bool = True) -> None:
        """Say where decisions are kept."""
        self.keep.setVisible(open_review)
        if not open_review:
            self.kept.clear()
        elif path is None:
            self.kept.say("These labels are in memory only: decisions are kept until the window closes.")
        elif edited:
            self.kept.say(
                f"The labels were edited since {path.name} was written, which keeps the decisions about what it holds; "
                "keep labels and review to have both as they are now."
            )
        else:
            self.kept.say(f"Decisions are kept with {path.name}.")


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button
