"""The Export dock: labels leave with their names, their place and their history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QHBoxLayout, QLineEdit, QPushButton

from napari_medseg.case import InputError
from napari_medseg.desk.exporting import Order, ending_of, export, label_formats, suggested_path
from napari_medseg.desk.pieces.dock import Dock
from napari_medseg.desk.pieces.message import Message
from napari_medseg.desk.pieces.run_bar import RunBar
from napari_medseg.desk.pieces.work import Work
from napari_medseg.io.formats import label_format

if TYPE_CHECKING:
    import napari

_NO_LABELS = "There are no labels to write. Run a model in the Segment dock, or add a Labels layer."


class ExportDock(Dock):
    """Writes one Labels layer; every file is opened again and compared before it counts as written."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, (Labels,), "&Labels", "The Labels layer to write")
        self.formats = QComboBox()
        self.formats.addItems([f"{form.name} ({ending_of(form)})" for form in label_formats()])
        self.formats.setToolTip("OME-Zarr keeps names, colours and the whole history; other formats keep what they can")
        self.form.addRow("&Format", self.formats)
        self.ngff = QComboBox()
        self.ngff.addItems(["0.5", "0.4"])
        self.ngff.setToolTip("Version of the OME-Zarr format: 0.5 (zarr v3), or 0.4 (zarr v2) for older programs")
        self.form.addRow("&Version", self.ngff)
        self.with_image = QCheckBox("Include the &image")
        self.with_image.setToolTip("Copy the image into the store beside its labels (larger file)")
        self.form.addRow("", self.with_image)

        self.path = QLineEdit()
        self.path.setToolTip("The file or store to write; its ending says the format")
        self.browse = QPushButton("&Browse…")
        self.browse.setToolTip("Choose a folder and name")
        row = QHBoxLayout()
        row.addWidget(self.path, 1)
        row.addWidget(self.browse)
        self.form.addRow("&To", row)
        self.form.labelForField(row).setBuddy(self.path)
        self.replace = QCheckBox("Re&place what is there")
        self.replace.setToolTip("Allow an existing file or store of this name to be replaced")
        self.form.addRow("", self.replace)

        self.run_bar = RunBar("&Write", "Write the labels, open the file again and compare")
        self.column.addWidget(self.run_bar)
        self.message = Message()
        self.column.addWidget(self.message)
        self.column.addStretch()

        self._folder = Path.home()
        self._typed = False
        self._work: Work | None = None
        self.formats.currentIndexChanged.connect(self._choose_format)
        self.layers.changed.connect(self._suggest)
        self.path.textEdited.connect(self._typing)
        self.browse.clicked.connect(self._browse)
        self.run_bar.run_asked.connect(self.write)
        self._choose_format()

    def write(self) -> None:
        """Write the chosen labels to the path."""
        layer = self.layers.layer
        self.message.clear()
        if layer is None:
            self.message.warn(_NO_LABELS)
            return
        path = Path(self.path.text().strip()).expanduser()
        try:
            label_format(path)
            if path.exists() and not self.replace.isChecked():
                raise InputError(f"{path.name} already exists. Tick “Replace what is there”, or choose another name.")
        except InputError as error:
            self.message.warn(str(error))
            return
        order = Order(path, self.replace.isChecked(), self.ngff.currentText(), self.with_image.isChecked())
        work = Work(export, layer, list(self.viewer.layers), order)
        work.done.connect(self._say_written)
        work.failed.connect(self._say_failure)
        work.cancelled.connect(self._say_cancelled)
        self._work = work
        self.run_bar.follow(work)

    def choose(self, path: Path) -> None:
        """Write to `path` from now on."""
        self._typed = True
        self._folder = path.parent
        self.path.setText(str(path))

    def _typing(self, text: str) -> None:
        self._typed = bool(text)

    def _choose_format(self, *_: Any) -> None:
        options = self._format().write_options
        self.ngff.setEnabled("ngff" in options)
        self.with_image.setEnabled("image" in options)
        self._typed = False
        self._suggest()

    def _format(self) -> Any:
        return label_formats()[self.formats.currentIndex()]

    def _suggest(self) -> None:
        layer = self.layers.layer
        if not self.run_bar.busy:
            self.message.say("" if layer is not None else _NO_LABELS)
        if not self._typed and layer is not None:
            self.path.setText(str(suggested_path(self._folder, layer.name, self._format())))

    def _browse(self) -> None:
        form = self._format()
        pattern = " ".join(f"*{e}" for e in form.extensions)
        chosen, _ = QFileDialog.getSaveFileName(
            self,
            "Write labels to",
            self.path.text(),
            f"{form.name} ({pattern})",
            options=QFileDialog.Option.DontConfirmOverwrite,
        )
        if chosen:
            self.choose(Path(chosen))

    def _say_written(self, path: Path) -> None:
        # a long path has no place to wrap; the field above holds it
        self.message.say(f"Written and verified: {path.name}")
        self.message.setToolTip(str(path))

    def _say_failure(self, words: str) -> None:
        self.message.warn(words)
        show_error(words)

    def _say_cancelled(self) -> None:
        self.message.say("Cancelled. Nothing was written.")

    def leave(self) -> None:
        """Stop what runs and stop listening: the dock is being closed."""
        self.stop_work()
        super().leave()

    def stop_work(self) -> None:
        """Ask the writing to stop."""
        if self._work is not None and self._work.running:
            self._work.cancel()
