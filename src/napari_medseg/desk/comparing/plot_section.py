"""The part of the Compare dock that draws plots; nothing is loaded or drawn before one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from napari.layers import Image
from napari.utils.theme import get_theme
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_medseg.case import InputError
from napari_medseg.desk.comparing import plots
from napari_medseg.desk.comparing.error_maps import is_map
from napari_medseg.desk.comparing.scoring import Compared
from napari_medseg.desk.comparing.sheet import SheetColumn
from napari_medseg.desk.pieces.dock import new_form
from napari_medseg.desk.pieces.work import Work
from napari_medseg.evaluate.calibration.scores import Calibration


class PlotKind(StrEnum):
    """What can be plotted."""

    NONE = "none"
    BARS = "bars of the column that is selected"
    VOLUMES = "volume against volume"
    RELIABILITY = "reliability of probabilities"


class PlotSection(QWidget):
    """Choose a plot and see it.

    Parameters
    ----------
    viewer
        The napari viewer.
    """

    failed = Signal(str)
    """One sentence on why there is no plot."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._compared: Compared | None = None
        self._column: SheetColumn | None = None
        self._work: Work | None = None
        self._loaded = False
        self.canvas: Any = None
        self.kind = QComboBox()
        self.kind.addItems([kind.value.capitalize() for kind in PlotKind])
        self.kind.setToolTip("Draw a plot of the comparison here")
        form = new_form()
        form.addRow("&Plot", self.kind)
        self._column_layout = QVBoxLayout(self)
        self._column_layout.setContentsMargins(0, 0, 0, 0)
        self._column_layout.addLayout(form)
        self.kind.currentIndexChanged.connect(self.draw)

    @property
    def chosen(self) -> PlotKind:
        """What is plotted."""
        return list(PlotKind)[self.kind.currentIndex()]

    def show_comparison(self, compared: Compared | None) -> None:
        """Plot this comparison from now on."""
        self._compared = compared
        self.draw()

    def show_column(self, column: SheetColumn | None) -> None:
        """Draw the bars of this column of the table."""
        changed = column is not self._column
        self._column = column
        if changed and self.chosen is PlotKind.BARS:
            self.draw()

    def draw(self) -> None:
        """Draw what is chosen."""
        if self.canvas is not None:
            self.canvas.hide()
        if self.chosen is PlotKind.NONE or self._compared is None:
            return
        if not self._loaded:
            self._start(Work(plots.load_matplotlib), self._draw_loaded)
            return
        try:
            self._draw(self._compared)
        except InputError as error:
            self.failed.emit(str(error))

    def leave(self) -> None:
        """Stop what is computed: the dock is going away."""
        if self._work is not None and self._work.running:
            self._work.cancel()

    def _start(self, work: Work, then: Callable[[Any], None]) -> None:
        work.done.connect(then)
        work.failed.connect(self.failed)
        self._work = work.start()

    def _draw_loaded(self, _: Any) -> None:
        self._loaded = True
        self.draw()

    def _draw(self, compared: Compared) -> None:
        comparison, kind = compared.comparison, self.chosen
        if not comparison.scores:
            raise InputError("Plots show scores, and without a reference there are none; choose a reference.")
        if kind is PlotKind.RELIABILITY:
            self._calibrate(compared)
            return
        if kind is PlotKind.VOLUMES:
            self._put(lambda figure, look: plots.draw_volumes(figure, comparison, look))
            return
        column = self._column
        if column is None or column.metric is None:
            keys = {m.key: m for m in comparison.metrics}
            metric = keys.get("pq") or keys["dice"]
            heading = comparison.scores[0].column_of(metric).heading
        else:
            metric, heading = column.metric, column.heading
        self._put(lambda figure, look: plots.draw_bars(figure, comparison, metric, heading, look))

    def _calibrate(self, compared: Compared) -> None:
        assert compared.reference_layer is not None
        reference = compared.reference_layer.data
        reference = reference[0] if compared.reference_layer.multiscale else reference
        images = [layer for layer in self._viewer.layers if isinstance(layer, Image) and not is_map(layer)]
        found = plots.probability_layers(images, tuple(int(n) for n in reference.shape))
        if not found:
            raise InputError(
                "There is no layer of probabilities on this grid (real numbers from 0 to 1), so reliability is not "
                "plotted. Open one as an image layer."
            )
        layer = found[-1]
        data = layer.data[0] if layer.multiscale else layer.data
        self._probability = layer.name
        self._start(Work(plots.calibrate, data, reference, None), self._show_calibration)

    def _show_calibration(self, found: Calibration) -> None:
        if self.chosen is PlotKind.RELIABILITY:
            name = self._probability
            self._put(lambda figure, look: plots.draw_reliability(figure, found, name, look))

    def _put(self, draw: Callable[[Any, plots.Look], float]) -> None:
        """Let `draw` fill the figure, and make room for the height that it asks for."""
        from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
        from matplotlib.figure import Figure

        if self.canvas is None:
            self.canvas = FigureCanvasQTAgg(Figure(layout="constrained"))
            self.canvas.setAccessibleName("Plot")
            self._column_layout.addWidget(self.canvas)
        figure = self.canvas.figure
        theme = get_theme(self._viewer.theme)
        # matplotlib counts in points: a pixel of the window's type is 72 / dpi of them
        points = self.font().pointSizeF() if self.font().pointSizeF() > 0 else 9.0
        look = plots.Look(theme.background.as_hex("long"), theme.text.as_hex("long"), points)
        inches = draw(figure, look)
        self.canvas.setFixedHeight(round(inches * figure.dpi))
        self.canvas.show()
        self.canvas.draw_idle()
