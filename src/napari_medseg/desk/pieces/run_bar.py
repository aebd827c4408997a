"""Run, Cancel, how far, how long still."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_medseg.desk.pieces.work import Work
from napari_medseg.jobs import Status


class RunBar(QWidget):
    """Two buttons and a progress bar for one piece of work at a time.

    Parameters
    ----------
    verb
        The text of the run button, with its mnemonic, e.g. ``"&Run"``.
    meaning
        Its tooltip.
    """

    run_asked = Signal()

    def __init__(self, verb: str, meaning: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.run = QPushButton(verb)
        self.run.setToolTip(meaning)
        self.stop = QPushButton("Cance&l")
        self.stop.setToolTip("Stop after the tile that is being computed; nothing is kept (Esc)")
        self.stop.setEnabled(False)
        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.words = QLabel()
        self.bar.hide()
        self.words.hide()
        buttons = QHBoxLayout()
        buttons.addWidget(self.run, 2)
        buttons.addWidget(self.stop, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.words)
        self._work: Work | None = None
        self.run.clicked.connect(self.run_asked)
        self.stop.clicked.connect(self.cancel)

    @property
    def busy(self) -> bool:
        """Whether work is going on."""
        return self._work is not None

    def follow(self, work: Work) -> None:
        """Show this work, which has not started yet, and start it."""
        self._work = work
        work.status.connect(self._progress)
        work._ended.connect(self._rest)
        self.run.setEnabled(False)
        self.stop.setEnabled(True)
        self.bar.setRange(0, 0)
        self.words.setText("Starting")
        self.bar.show()
        self.words.show()
        work.start()

    def cancel(self) -> None:
        """Ask the work to stop."""
        if self._work is not None:
            self._work.cancel()
            self.stop.setEnabled(False)
            self.words.setText("Stopping after this tile")

    def _progress(self, status: Status) -> None:
        if self._work is None or not self.stop.isEnabled():
            return
        if status.total > 1:
            self.bar.setRange(0, status.total)
            self.bar.setValue(status.done)
            self.words.setText(f"{status.word.capitalize()}: {status.done} of {status.total}{_left(status)}")
        else:
            self.bar.setRange(0, 0)
            self.words.setText(status.word.capitalize())

    def _rest(self) -> None:
        self._work = None
        self.run.setEnabled(True)
        self.stop.setEnabled(False)
        self.bar.hide()
        self.words.hide()


def _left(status: Status) -> str:
    if status.seconds_left is None:
        return ""
    seconds = round(status.seconds_left)
    return f", {seconds} s left" if seconds < 100 else f", {round(seconds / 60)} min left"
