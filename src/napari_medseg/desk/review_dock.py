"""The Review dock: errors one after the other, each brought into view, outlined and decided."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QFileDialog

from napari_medseg.case import LabelTable
from napari_medseg.desk.layers import LabelsRecord, record_of
from napari_medseg.desk.pieces.dock import Dock
from napari_medseg.desk.pieces.listening import Listening
from napari_medseg.desk.pieces.message import Message
from napari_medseg.desk.pieces.run_bar import RunBar
from napari_medseg.desk.pieces.work import Work
from napari_medseg.desk.reviewing.controls import Choices, Decisions
from napari_medseg.desk.reviewing.finding import Found, Question, Written, find, keep_with_labels
from napari_medseg.desk.reviewing.keys import Action, CanvasKeys
from napari_medseg.desk.reviewing.listing import listed, names_to_weigh, row_after
from napari_medseg.desk.reviewing.outline import Outline
from napari_medseg.desk.reviewing.paced_work import PacedWork
from napari_medseg.desk.reviewing.pickers import OptionalPicker, StayingPicker
from napari_medseg.desk.reviewing.placing import look_at
from napari_medseg.desk.reviewing.region_table import UNCERTAINTY, RegionTable
from napari_medseg.desk.reviewing.session import ReviewSession
from napari_medseg.desk.reviewing.sight import Sight
from napari_medseg.evaluate.review import State

if TYPE_CHECKING:
    import napari

# the table's columns side by side
_WIDTH = 440
_NOTHING = "There is nothing to compare yet. Open or make two Labels layers: a candidate and its reference."


class ReviewDock(Dock):
    """Finds the errors of a candidate and leads through them; decisions are kept with the labels."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, (Labels,), "&Candidate", "")
        self.setMinimumWidth(_WIDTH)
        # candidate and reference stay while other layers are selected and painted on
        self.form.removeRow(self.layers)
        self.layers = self.candidate = StayingPicker(napari_viewer, (Labels,))
        self.candidate.setToolTip("The labels that are reviewed, and put right by painting")
        self.form.addRow("&Candidate", self.candidate)
        self.reference = StayingPicker(napari_viewer, (Labels,))
        self.reference.setToolTip("The labels that count as right")
        self.form.addRow("&Reference", self.reference)
        self.uncertainty = OptionalPicker(napari_viewer, (Image,))
        self.uncertainty.setToolTip("A map of uncertainty on the candidate's grid, to sort by; it may be left out")
        self.form.addRow("&Uncertainty", self.uncertainty)
        self.choices = Choices()
        self.choices.add_rules_to(self.form)
        self.run_bar = RunBar("&Find errors", "Find every connected error, or go on with the review that is kept")
        self.run_bar.stop.setToolTip("Stop finding errors; the review that is open stays as it is (Esc)")
        self.column.addWidget(self.run_bar)
        self.message = Message()
        self.column.addWidget(self.message)
        self.column.addWidget(self.choices)
        self.table = RegionTable()
        self.column.addWidget(self.table, 1)
        self.decisions = Decisions()
        self.column.addWidget(self.decisions)

        self.session: ReviewSession | None = None
        self.current: int | None = None
        self._rank = 0
        self._left = False
        self._work: Work | None = None
        self._sight = Sight(Outline(napari_viewer))
        actions: dict[str, Action] = {
            "N": self.next,
            "P": self.previous,
            "A": partial(self.decide, State.ACCEPTED),
            "F": partial(self.decide, State.FIXED),
            "I": partial(self.decide, State.IGNORED),
            "O": partial(self.decide, State.OPEN),
        }
        self._keys = CanvasKeys(napari_viewer, actions)
        self._bind_own_keys(actions)
        self._redraw_soon = QTimer(self)
        self._redraw_soon.setSingleShot(True)
        self._redraw_soon.timeout.connect(self._redraw)
        self._connect()
        self._choose_pair()

    def _bind_own_keys(self, actions: dict[str, Action]) -> None:
        def bind(keys: str, action: Action) -> None:
            shortcut = QShortcut(QKeySequence(keys), self)
            # a text field that has the focus takes letters before a shortcut does
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(action)

        for letter, action in actions.items():
            bind(letter, action)
            bind(f"Shift+{letter}", action)
        bind("Esc", self.run_bar.cancel)

    def _connect(self) -> None:
        self.run_bar.run_asked.connect(self.find)
        self.candidate.changed.connect(self._show_candidate)
        self.choices.changed.connect(self._list)
        self.table.chosen.connect(self._look)
        self.decisions.next.clicked.connect(self.next)
        self.decisions.previous.clicked.connect(self.previous)
        self.decisions.decided.connect(self.decide)
        self.decisions.noted.connect(self._note)
        self.decisions.keep.clicked.connect(self._ask_where_to_keep)
        viewer = self.viewer
        self._listening = Listening(
            self,
            (viewer.dims.events.point, self._on_dims),
            (viewer.dims.events.order, self._on_dims),
            (viewer.dims.events.ndisplay, self._on_dims),
            (viewer.layers.events.inserted, self._choose_pair),
            (viewer.layers.events.removed, self._on_removed),
        )

    # -- what is compared ---------------------------------------------------------------------------

    def show_pair(self, candidate: Labels, reference: Labels) -> None:
        """Choose two layers and find the errors of the first."""
        self.candidate.choose(candidate)
        self.reference.choose(reference)
        self.find()

    def _choose_pair(self, event: Any = None) -> None:
        """With the second Labels layer the two are different."""
        others = [layer for layer in self.reference.offered if layer is not self.candidate.layer]
        if self.session is None and self.reference.layer is self.candidate.layer and others:
            self.reference.choose(others[0])
        if self.session is None and not self.run_bar.busy and not self.message.is_error:
            self.message.say("" if others else _NOTHING)
        self._show_candidate()

    def _show_candidate(self) -> None:
        layer = self.candidate.layer
        record = None if layer is None else record_of(layer)
        if isinstance(record, LabelsRecord):
            self.choices.objects.setChecked(record.segmentation.table.instances)

    def find(self) -> None:
        """Find the errors of the candidate; decisions of the same review are carried over."""
        candidate, reference = self.candidate.layer, self.reference.layer
        if self.run_bar.busy:
            return
        if candidate is None or reference is None:
            self.message.warn(_NOTHING)
            return
        question = Question(
            candidate,
            reference,
            list(self.viewer.layers),
            self.uncertainty.layer,
            self.choices.objects.isChecked(),
            self.choices.anew.isChecked(),
        )
        goes_on = (
            self.session is not None and not question.anew and question.is_same_review(self.session.found.question)
        )
        work = PacedWork(find, question, self.session.queue if self.session is not None and goes_on else None)
        work.done.connect(self._begin)
        work.failed.connect(self._say_failure)
        work.cancelled.connect(self._say_cancelled)
        self._work = work
        self.message.clear()
        self.run_bar.follow(work)

    def _begin(self, found: Found) -> None:
        layers = self.viewer.layers
        if self._left or found.question.candidate not in layers or found.question.reference not in layers:
            return
        same = self.session is not None and found.question.is_same_review(self.session.found.question)
        current = self.current if same else None
        self._end_review()
        self.session = session = ReviewSession(found)
        session.updated.connect(self._show_update)
        session.kept.connect(self._show_kept)
        session.failed.connect(self._say_failure)
        session.replaced.connect(self.find)
        self.choices.anew.setChecked(False)
        self._keys.bind()
        pair = found.pair
        self.choices.offer(pair.uncertainty is not None)
        self.choices.weigh(names_to_weigh(session.queue, pair.candidate.table, pair.reference.table))
        self.table.setColumnHidden(UNCERTAINTY, pair.uncertainty is None)
        self.current = current if current is not None and session.item(current) is not None else None
        self._list()
        self._show_kept()
        total = session.counted()[1]
        if not total:
            self.message.say("No errors: candidate and reference give every voxel the same label.")
        elif found.reopened:
            self.message.say(f"The review that is kept with {found.question.candidate.name} goes on.")
        else:
            self.message.say(f"{total} region{'s' if total > 1 else ''} found. N goes to the first.")

    # -- the list -----------------------------------------------------------------------------------

    def _list(self) -> None:
        """List the regions in the order and by the filters that are chosen; what is current stays so."""
        if self.session is None:
            self.table.regions.show((), *self._tables())
            self._show_item()
            return
        choices = self.choices
        rows = listed(self.session.queue, choices.order, choices.weights, choices.state, choices.error)
        self.table.regions.show(rows, *self._tables())
        row = self.table.regions.row_of(self.current)
        if row is not None:
            self._rank = rows[row][0]
        self.table.show_current(row)
        self.choices.say_empty(not rows and self.session.counted()[1] > 0)
        self._show_item()

    def _tables(self) -> tuple[LabelTable, LabelTable]:
        if self.session is None:
            return LabelTable(), LabelTable()
        return self.session.found.pair.candidate.table, self.session.found.pair.reference.table

    def next(self) -> None:
        """Go to the next region of the list."""
        self._step(1)

    def previous(self) -> None:
        """Go to the previous region of the list."""
        self._step(-1)

    def _step(self, step: int) -> None:
        self.decisions.finish_note()
        row = row_after(self.table.regions.rows, self.current, self._rank, step)
        if row is None:
            return
        self.table.show_current(row)
        self._look(self.table.regions.rows[row][1].id)

    def _look(self, number: int) -> None:
        """Bring a region into view."""
        session = self.session
        item = None if session is None else session.item(number)
        if session is None or item is None:
            return
        if number != self.current:
            self.decisions.finish_note()
        self.current = number
        row = self.table.regions.row_of(number)
        self._rank = self._rank if row is None else self.table.regions.rows[row][0]
        self._show_item()
        found = session.found
        region = item.region
        box = found.pair.layer_box(region.box)
        centre = [a for a, _ in found.pair.layer_box([(i, i + 1) for i in region.centre])]
        look_at(self.viewer, found.question.candidate, box, centre)
        self._redraw_soon.stop()
        self._redraw()

    def _show_item(self) -> None:
        session = self.session
        item = None if session is None or self.current is None else session.item(self.current)
        self.decisions.show_item(item, None if session is None else session.counted())

    # -- deciding -----------------------------------------------------------------------------------

    def decide(self, state: State) -> None:
        """Decide about the current region."""
        self._decide(state, None)

    def _note(self, note: str) -> None:
        self._decide(None, note)

    def _decide(self, state: State | None, note: str | None) -> None:
        session = self.session
        item = None if session is None or self.current is None else session.item(self.current)
        if session is None or item is None:
            return
        item = session.decide(item.id, state or item.state, item.note if note is None else note)
        if self.choices.state in (None, item.state) and self.table.regions.row_of(item.id) is not None:
            self.table.regions.replace(item)
            self._show_item()
        else:
            self._list()

    def _show_update(self) -> None:
        """An edit changed the regions."""
        session = self.session
        if session is None:
            return
        item = None if self.current is None else session.item(self.current)
        if item is not None and item.into is not None:
            # it became one with another
            self.current = item.into
        self._list()
        self._redraw()

    # -- keeping ------------------------------------------------------------------------------------

    def _show_kept(self) -> None:
        if self.session is not None:
            self.decisions.say_kept(self.session.path, self.session.edited)

    def _ask_where_to_keep(self) -> None:
        if self.session is None:
            return
        chosen, _ = QFileDialog.getSaveFileName(
            self,
            "Keep labels and review in",
            str(Path.home() / f"{self.session.found.question.candidate.name}.ome.zarr"),
            "OME-Zarr (*.zarr)",
            options=QFileDialog.Option.DontConfirmOverwrite,
        )
        if chosen:
            self.keep_in(Path(chosen))

    def keep_in(self, path: Path) -> None:
        """Write the candidate's labels and the review to a new store."""
        session = self.session
        if session is None or self.run_bar.busy:
            return
        work = Work(keep_with_labels, session.found, session.queue, path)
        work.done.connect(self._show_written)
        work.failed.connect(self._say_failure)
        self._work = work
        self.run_bar.follow(work)

    def _show_written(self, written: Written) -> None:
        if self.session is not None and self.session.found is written.found:
            self.session.moved_to(written.path, written.queue)
        self.message.say(f"Labels and review are kept in {written.path.name}.")

    def _say_failure(self, words: str) -> None:
        self.message.warn(words)
        show_error(words)

    def _say_cancelled(self, words: str) -> None:
        self.message.say("Cancelled. Nothing has changed.")

    # -- following the viewer -----------------------------------------------------------------------

    def _on_dims(self, event: Any = None) -> None:
        if self.session is not None and self.current is not None:
            self._redraw_soon.start(0)

    def _redraw(self) -> None:
        session = self.session
        item = None if session is None or self.current is None else session.item(self.current)
        if session is not None and item is not None:
            self._sight.show(session.found, item)

    def _on_removed(self, event: Any) -> None:
        session = self.session
        if session is not None and event.value in (session.found.question.candidate, session.found.question.reference):
            self._end_review()
            self.message.warn(f"{event.value.name} was removed, so its review has ended; what was decided is kept.")
            if session.path is None:
                self.message.warn(f"{event.value.name} was removed, and with it its review.")
        elif session is None:
            self._choose_pair()

    def _end_review(self) -> None:
        self._redraw_soon.stop()
        self._keys.release()
        self._sight.end()
        if self.session is not None:
            self.decisions.finish_note()
            self.session.end()
        self.session, self.current = None, None
        self._list()
        self.decisions.say_kept(None, edited=False, open_review=False)

    def leave(self) -> None:
        """Stop what runs, give keys and outline back and stop listening: the dock is being closed."""
        self.stop_work()
        self._listening.end()
        self.reference.disconnect_viewer()
        self.uncertainty.disconnect_viewer()
        super().leave()

    def stop_work(self) -> None:
        """Stop what runs and end the review; decisions are kept."""
        self._left = True
        if self._work is not None and self._work.running:
            self._work.cancel()
        self._end_review()
