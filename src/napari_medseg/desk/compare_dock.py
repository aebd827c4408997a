"""The Compare dock: which candidate is better at what, and where each is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QPushButton, QWidget

from napari_medseg.bundles import list_bundles
from napari_medseg.case import InputError, MedicalImage, MedsegError
from napari_medseg.desk.child import Worker, shared_worker
from napari_medseg.desk.comparing.error_maps import is_map, labels_in
from napari_medseg.desk.comparing.error_section import ErrorSection
from napari_medseg.desk.comparing.image_picker import ImagePicker
from napari_medseg.desk.comparing.plot_section import PlotSection
from napari_medseg.desk.comparing.reviewing import open_review
from napari_medseg.desk.comparing.score_section import ScoreSection
from napari_medseg.desk.comparing.scoring import Compared, OffGrid, Order, bring_onto_grid, report_on, score_layers
from napari_medseg.desk.layers import medical_image
from napari_medseg.desk.linked import open_linked_views
from napari_medseg.desk.pieces.dock import Dock
from napari_medseg.desk.pieces.layer_choice import LayerChoice
from napari_medseg.desk.pieces.layer_ticks import LayerTicks
from napari_medseg.desk.pieces.listening import Listening
from napari_medseg.desk.pieces.message import Message
from napari_medseg.desk.pieces.model_picker import ModelPicker
from napari_medseg.desk.pieces.run_bar import RunBar
from napari_medseg.desk.pieces.work import Work
from napari_medseg.desk.segmenting import Made, Unfinished

if TYPE_CHECKING:
    import napari

_NO_REFERENCE = "none: compare with each other"
_NO_CANDIDATE = "There are no labels to compare. Add Labels layers, or run models first."


class CompareDock(Dock):
    """Scores candidates against a reference or against each other, and shows where they differ."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, (Image,), "&Image", "")
        self.form.removeRow(self.layers)
        self.layers = ImagePicker(napari_viewer, (Image,))
        self.layers.setToolTip("The image that the labels lie on")
        self.form.addRow("&Image", self.layers)
        self.worker: Worker = shared_worker()
        self.reference = LayerChoice(_NO_REFERENCE)
        self.reference.setToolTip("The labels that count as right")
        self.form.addRow("&Reference", self.reference)
        # napari itself takes Alt+C and Alt+S, and its menus F, V, L, P, W and H
        self.candidates = LayerTicks(napari_viewer, _is_candidate)
        self.candidates.setToolTip("Tick the labels to compare (space bar ticks)")
        self.candidates.setAccessibleName("Candidates")
        self.form.addRow("Candi&dates", self.candidates)
        self.with_models = QCheckBox("Ru&n models first")
        self.with_models.setToolTip("Run models on the image; the labels of each are one more candidate")
        self.models = ModelPicker()
        self.models.hide()
        self.form.addRow("", self.with_models)
        self.column.addWidget(self.models)

        self.run_bar = RunBar("Comp&are", "Score the candidates; nothing is compared where grids differ")
        self.run_bar.stop.setText("Cancel")
        self.run_bar.stop.setToolTip("Stop; labels of models that have run stay (Esc)")
        self.column.addWidget(self.run_bar)
        self.message = Message()
        self.column.addWidget(self.message)
        self.bring = QPushButton("Brin&g onto the image's grid")
        self.bring.setToolTip("Resample the labels by nearest neighbour into a new layer; the old one stays")
        self.bring.hide()
        self.column.addWidget(self.bring)

        self.scores = ScoreSection()
        self.column.addWidget(self.scores)
        self.notes = Message()
        self.column.addWidget(self.notes)

        self.errors = ErrorSection(napari_viewer)
        self.column.addWidget(self.errors)
        self.linked = QPushButton("Lin&ked views")
        self.linked.setToolTip("Show the ticked candidates side by side over the image, in a window of their own")
        self.review = QPushButton("Review &queue")
        self.review.setToolTip("Go through the errors of the candidate chosen above, the worst first")
        self.report = QPushButton("Repor&t…")
        self.report.setToolTip("Write the comparison with pictures of the worst errors into a folder, as one web page")
        self.column.addWidget(_row(self.linked, self.review, self.report))
        self.plots = PlotSection(napari_viewer)
        self.column.addWidget(self.plots)
        self.column.addStretch()

        self.compared: Compared | None = None
        self._stale = False
        self._off_grid: OffGrid | None = None
        self._unfinished = Unfinished()
        self._kept: list[Made] = []
        self._work: Work | None = None
        self._watched: Listening | None = None
        self._connect()
        self.scores.hide()
        self.plots.hide()
        self.report.setEnabled(False)
        self._offer_references()
        self._offer_candidates()

    def _connect(self) -> None:
        self.run_bar.run_asked.connect(self.compare)
        stop = QShortcut(QKeySequence(Qt.Key.Key_Escape), self)
        stop.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        stop.activated.connect(self.run_bar.cancel)
        self.with_models.toggled.connect(self._show_models)
        self.layers.changed.connect(self._offer_models)
        self.reference.changed.connect(self._offer_candidates)
        self.candidates.changed.connect(self._offer_maps)
        self.bring.clicked.connect(self.bring_onto_grid)
        self.linked.clicked.connect(self.open_linked_views)
        self.review.clicked.connect(self.open_review)
        self.report.clicked.connect(self._ask_where_to_report)
        self.errors.failed.connect(self._say_failure)
        self.plots.failed.connect(self._say_failure)
        self.scores.column_chosen.connect(self.plots.show_column)
        self.scores.told.connect(self.message.say)
        self.scores.failed.connect(self._say_failure)
        events = self.viewer.layers.events
        offer = self._offer_references
        self._listening = Listening(self, (events.inserted, offer), (events.removed, offer), (events.renamed, offer))

    # -- what is offered ----------------------------------------------------------------------------

    def _offer_references(self, event: Any = None) -> None:
        self.reference.offer([layer for layer in reversed(self.viewer.layers) if _is_candidate(layer)])

    def _offer_candidates(self) -> None:
        self.candidates.leave_out(self.reference.layer)
        self._offer_maps()

    def _offer_maps(self) -> None:
        ticked, reference = self.candidates.ticked, self.reference.layer
        names = labels_in([*([reference] if reference else []), *ticked])
        self.errors.offer(ticked, reference, names)
        if not self.run_bar.busy and not ticked and not self.with_models.isChecked():
            self.message.say(_NO_CANDIDATE)
        elif self.message.text() == _NO_CANDIDATE:
            self.message.clear()

    def _show_models(self, on: bool) -> None:
        self.models.setVisible(on)
        self._offer_models()
        self._offer_maps()

    def _offer_models(self) -> None:
        # looking for bundles takes a moment: only when they are wanted
        if not self.with_models.isChecked():
            return
        try:
            image = self._image()
        except InputError as error:
            self.message.warn(str(error))
            image = None
        self.models.show_entries(list_bundles(), image)

    def _image(self) -> MedicalImage | None:
        layer = self.layers.layer
        return None if layer is None else medical_image(layer)

    # -- comparing ----------------------------------------------------------------------------------

    def compare(self) -> None:
        """Run the models that are ticked, and score all candidates."""
        if self.run_bar.busy:
            return
        self._clear()
        models = tuple(self.models.ticked) if self.with_models.isChecked() else ()
        try:
            order = Order(
                self._image(),
                self.reference.layer,
                tuple(self.candidates.ticked),
                models,
                tuple(self.viewer.layers),
            )
        except InputError as error:
            self._say_failure(str(error))
            return
        self._kept = []
        self._watch([*order.candidates, *([order.reference] if order.reference else [])])
        self._run(Work(score_layers, order, self.worker, self._unfinished, self._kept), self._show)

    def _run(self, work: Work, then: Any) -> None:
        work.done.connect(then)
        work.failed.connect(self._say_failure)
        work.cancelled.connect(self._say_cancelled)
        self._work = work
        self.run_bar.follow(work)

    def _clear(self) -> None:
        self.message.clear()
        self.notes.clear()
        self.bring.hide()
        self._off_grid = None

    def _show(self, found: Compared | OffGrid) -> None:
        self._add_made()
        if isinstance(found, OffGrid):
            self._off_grid = found
            self.message.warn(str(found))
            self.bring.setVisible(not any(stray.obstacle for stray in found.strays))
            return
        self.compared = found
        comparison = found.comparison
        self.scores.show_comparison(comparison)
        self.plots.show()
        self.report.setEnabled(True)
        order, by = comparison.ranking()
        names = [candidate.name for candidate in comparison.candidates]
        if len(order) > 1:
            best = ", ".join(names[k] for k in order)
            self.message.say(f"Compared with {comparison.reference}. From best to worst ({by}): {best}.")
        elif comparison.reference is not None:
            self.message.say(f"{names[0]} was compared with {comparison.reference}.")
        else:
            self.message.say(f"{len(names)} candidates were compared with each other: no scores without a reference.")
        self.notes.say("\n".join(dict.fromkeys(note for scores in comparison.scores for note in scores.notes)))
        self.plots.show_comparison(found)

    def _add_made(self) -> None:
        """Show what the models gave, also when the comparison did not come to its end."""
        for made in self._kept:
            self.viewer.add_layer(Layer.create(*made.layer))
        if self._kept:
            # the same models are not run again the next time
            self.with_models.setChecked(False)
        self._kept = []

    def _watch(self, layers: list[Labels]) -> None:
        """Notice when labels are changed after they were scored."""
        if self._watched is not None:
            self._watched.end()
        self._stale = False
        events = [getattr(layer.events, name) for layer in layers for name in ("paint", "data")]
        self._watched = Listening(self, *((event, self._mark_stale) for event in events))

    def _mark_stale(self, event: Any) -> None:
        if not self._stale:
            self._stale = True
            if self.compared is not None:
                self.notes.warn(f"{event.source.name} was changed since: press Compare again for its scores.")

    def bring_onto_grid(self) -> None:
        """Resample what lies on another grid into new layers, which take the place of the old ones here."""
        if self._off_grid is None or self.run_bar.busy:
            return
        found = self._off_grid
        self._clear()
        try:
            image = self._image()
        except InputError as error:
            self._say_failure(str(error))
            return
        self._run(Work(bring_onto_grid, found, image, list(self.viewer.layers)), self._show_moved)

    def _show_moved(self, moved: list[tuple[Labels, Any]]) -> None:
        names = []
        for old, data in moved:
            was_reference = old is self.reference.layer
            new = self.viewer.add_layer(Layer.create(*data))
            names.append(new.name)
            if was_reference:
                self.reference.choose(new)
            if old in self.candidates.layers:
                self.candidates.tick(old, False)
        self.message.say(f"New: {', '.join(names)}. Press Compare.")

    def _say_failure(self, words: str) -> None:
        self._add_made()
        self.message.warn(words)
        show_error(words)

    def _say_cancelled(self, words: str) -> None:
        kept = len(self._kept)
        self._add_made()
        resumed = " Press Compare to go on where it stopped." if words != "Cancelled." else ""
        stay = " The labels of models that had finished stay." if kept else ""
        self.message.say(f"Cancelled. Nothing was compared.{stay}{resumed}")

    # -- further ------------------------------------------------------------------------------------

    def open_linked_views(self) -> None:
        """Open the ticked candidates, and the reference first where there is one, in linked views."""
        reference = self.reference.layer
        shown = [*([reference] if reference else []), *self.candidates.ticked]
        image = self.layers.layer
        try:
            open_linked_views(self.viewer, () if image is None else image, shown)
        except InputError as error:
            self.message.warn(str(error))

    def open_review(self) -> None:
        """Open the Review dock on the candidate that is chosen for the error map."""
        candidate, reference = self.errors.candidate.layer, self.reference.layer
        if candidate is None or reference is None:
            missing = "tick a candidate" if candidate is None else "choose a reference"
            self.message.warn(f"Errors are reviewed against a reference: {missing} first.")
            return
        try:
            open_review(self.viewer, candidate, reference)
        except MedsegError as error:
            self._say_failure(str(error))

    def _ask_where_to_report(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for the report", str(Path.home()))
        if folder:
            self.write_report(Path(folder))

    def write_report(self, folder: Path) -> None:
        """Write the report of the last comparison into `folder`."""
        if self.run_bar.busy:
            return
        try:
            image = self._image()
            if image is None:
                raise InputError("A report shows the image. Open the one that the labels were made on.")
            if self.compared is None or self._stale:
                raise InputError("The labels were changed since they were compared. Press Compare again first.")
        except InputError as error:
            self._say_failure(str(error))
            return
        self._run(Work(report_on, self.compared, image, folder), self._say_reported)

    def _say_reported(self, page: Path) -> None:
        self.message.say(f"Written: {page.name} and report.json in {page.parent.name}")
        self.message.setToolTip(str(page))

    def leave(self) -> None:
        """Stop what runs and stop listening: the dock is being closed."""
        self.stop_work()
        self._listening.end()
        if self._watched is not None:
            self._watched.end()
        self.candidates.disconnect_viewer()
        super().leave()

    def stop_work(self) -> None:
        """Ask whatever runs to stop."""
        if self._work is not None and self._work.running:
            self._work.cancel()
        self.errors.leave()
        self.plots.leave()


def _is_candidate(layer: Layer) -> bool:
    return isinstance(layer, Labels) and not is_map(layer)


def _row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget, 1)
    return row
