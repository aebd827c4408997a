"""The Segment dock: choose models, a part of the image and a device; run; see the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer, Shapes
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QComboBox, QFileDialog, QLabel, QPushButton

from napari_medseg.bundles import list_bundles
from napari_medseg.case import InputError, MedicalImage
from napari_medseg.desk import regions
from napari_medseg.desk.child import DeviceChoices, Worker, shared_worker
from napari_medseg.desk.layers import medical_image
from napari_medseg.desk.pieces.dock import Dock, new_form
from napari_medseg.desk.pieces.listening import Listening
from napari_medseg.desk.pieces.message import Message
from napari_medseg.desk.pieces.model_picker import ModelPicker
from napari_medseg.desk.pieces.run_bar import RunBar
from napari_medseg.desk.pieces.table import Table
from napari_medseg.desk.pieces.work import Work
from napari_medseg.desk.segmenting import Made, Unfinished, amounts, segment_with, summary

if TYPE_CHECKING:
    import napari

_ASK_AFTER_MS = 400


class SegmentDock(Dock):
    """Runs models on an image; every model gives one Labels layer, named and coloured by its label table."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, (Image,), "&Image", "The image that the models read")
        self.worker: Worker = shared_worker()
        self.models = ModelPicker()
        self.column.addWidget(self.models)
        self.add = QPushButton("&Add a model…")
        self.add.setToolTip("Copy a MONAI bundle, or make one of a results folder of nnU-Net v2, among your models")
        self.add.clicked.connect(self._ask_for_model)
        self.column.addWidget(self.add)

        choices = new_form()
        self.region = QComboBox()
        self.region.setToolTip("The part of the image to segment; labels outside stay background")
        choices.addRow("Re&gion", self.region)
        self.device = QComboBox()
        self.device.setToolTip("Where the models compute; auto takes the fastest device of this computer")
        self.device.addItem("auto")
        choices.addRow("&Device", self.device)
        self.column.addLayout(choices)
        self.reason = QLabel()
        self.reason.setWordWrap(True)
        self.reason.hide()
        self.column.addWidget(self.reason)

        self.run_bar = RunBar("&Run", "Run the ticked models, one after another")
        self.column.addWidget(self.run_bar)
        self.message = Message()
        self.column.addWidget(self.message)
        self.found = Table(("Found", "How much"))
        self.found.hide()
        self.column.addWidget(self.found)
        self.column.addStretch()

        self._unfinished = Unfinished()
        self._work: Work | None = None
        self._devices: Work | None = None
        self.run_bar.run_asked.connect(self.run)
        stop = QShortcut(QKeySequence(Qt.Key.Key_Escape), self)
        stop.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        stop.activated.connect(self.run_bar.cancel)
        self.layers.changed.connect(self.show_layer)
        events = napari_viewer.layers.events
        self._listening = Listening(self, (events.inserted, self._offer_regions), (events.removed, self._offer_regions))
        self.show_layer()
        self._offer_regions()

    # -- what is offered ----------------------------------------------------------------------------

    def show_layer(self) -> None:
        """Offer the models that fit the chosen layer."""
        image: MedicalImage | None = None
        layer = self.layers.layer
        self.message.clear()
        if layer is None:
            self.message.say("No image is open. Drop a file or folder here, or use File ▸ Open Sample.")
        else:
            try:
                image = medical_image(layer)
            except InputError as error:
                self.message.warn(str(error))
        self.models.show_entries(list_bundles(), image)

    def _ask_for_model(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A MONAI bundle or a results folder of nnU-Net v2")
        if folder:
            self.add_model(folder)

    def add_model(self, folder: str) -> None:
        """Put the model in `folder` among the user's own and tick it."""
        work = Work(self.worker.add_model, folder)
        work.done.connect(self._show_added)
        work.failed.connect(self._say_failure)
        work._ended.connect(lambda: self.add.setEnabled(True))
        self.add.setEnabled(False)
        self.message.say("Reading the model.")
        work.start()

    def _show_added(self, model_id: str) -> None:
        self.show_layer()
        if any(e.id == model_id for e in self.models.shown):
            self.models.tick(model_id)
            self.message.say(f"{model_id} was added to your models and is ticked.")
        else:
            self.message.warn(
                f"{model_id} was added to your models; it was not made for this image, so tick "
                "“Show models for other kinds of image” to see it."
            )

    def _offer_regions(self, event: Any = None) -> None:
        chosen = self.region.currentText()
        names = [layer.name for layer in self.viewer.layers if isinstance(layer, Shapes)]
        self.region.clear()
        self.region.addItems([regions.WHOLE, regions.VIEW, regions.SLICE, *names])
        self.region.setCurrentIndex(max(0, self.region.findText(chosen)))

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Ask, in the background, which devices there are: that loads torch in the child, not here."""
        super().showEvent(event)
        # once the dock has been drawn
        QTimer.singleShot(_ASK_AFTER_MS, self._ask_devices)

    def _ask_devices(self) -> None:
        if self._devices is None:
            self._devices = Work(self.worker.devices)
            self._devices.done.connect(self._offer_devices)
            self._devices.failed.connect(self._say_failure)
            self._devices.start()

    def _offer_devices(self, choices: DeviceChoices) -> None:
        self.device.addItems(list(choices.names))
        self.reason.setText(choices.reason)
        self.reason.show()

    # -- running ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the ticked models on the chosen part."""
        layer, models = self.layers.layer, self.models.ticked
        self.found.hide()
        self.message.clear()
        if self.run_bar.busy:
            return
        if layer is None or not models:
            missing = "an image: use File ▸ Open Sample" if layer is None else "a model: tick one in the list"
            self.message.warn(f"There is nothing to run yet. Choose {missing}.")
            return
        try:
            image = medical_image(layer)
            part = regions.part_of(self.region.currentText(), self.viewer, layer)
        except InputError as error:
            self._say_failure(str(error))
            return
        work = Work(segment_with, self.worker, image, models, part, self.device.currentText(), self._unfinished)
        work.done.connect(self._show)
        work.failed.connect(self._say_failure)
        work.cancelled.connect(self._say_cancelled)
        self._work = work
        self.run_bar.follow(work)

    def cancel(self) -> None:
        """Stop after the tile that is being computed."""
        self.run_bar.cancel()

    def _show(self, results: list[Made]) -> None:
        rows: list[tuple[str, str]] = []
        large = False
        for made in results:
            data, options, kind = made.layer
            labels = self.viewer.add_layer(Layer.create(data, options, kind))
            rows.extend(amounts(made.report))
            # painting needs an array in memory
            labels.editable = isinstance(labels.data, np.ndarray)
            large = large or not labels.editable
        done = "Done. " + "; ".join(summary(made.report) for made in results) + "."
        told = (w for made in results for w in (*made.report.get("warnings", ()), *made.report.get("ladder", ())))
        cautions = [*dict.fromkeys(told)]
        if large:
            cautions.append("The labels are large: they are shown from disk and cannot be painted on.")
        if cautions:
            self.message.warn("\n".join([done, *cautions]))
        else:
            self.message.say(done)
        self.found.show()
        self.found.fill(rows)

    def _say_failure(self, words: str) -> None:
        self.message.warn(words)
        show_error(words)

    def _say_cancelled(self, words: str) -> None:
        self.message.say("Cancelled. No labels were kept." if words == "Cancelled." else words)

    def leave(self) -> None:
        """Stop what runs and stop listening: the dock is being closed."""
        self.stop_work()
        self._listening.end()
        super().leave()

    def stop_work(self) -> None:
        """Ask the run to stop."""
        if self._work is not None and self._work.running:
            self._work.cancel()
