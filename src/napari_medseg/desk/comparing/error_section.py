"""The part of the Compare dock that puts maps of errors over the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from napari.layers import Labels
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QPushButton, QVBoxLayout, QWidget

from napari_medseg.case import InputError
from napari_medseg.desk.comparing.error_maps import (
    MapKind,
    MapOrder,
    diverging,
    levels_of,
    limits_of,
    map_of,
    sequential,
    shares,
    unit_of,
)
from napari_medseg.desk.comparing.live_map import LiveMap
from napari_medseg.desk.pieces.dock import new_form
from napari_medseg.desk.pieces.layer_choice import LayerChoice
from napari_medseg.desk.pieces.legend import Legend, Rgb
from napari_medseg.desk.pieces.work import Work
from napari_medseg.evaluate.errors import BoundaryDistance, LegendEntry

_EVERY_LABEL = "all labels"
_MEANINGS = {
    MapKind.ERRORS: "Where a candidate has too much, too little or another label than the reference",
    MapKind.DISTANCE: "How far every wrong voxel lies from the boundary of the reference",
    MapKind.DISAGREEMENT: "Share of the ticked candidates that do not say what most of them say",
    MapKind.ENTROPY: "How evenly the votes of the ticked candidates are spread over labels",
    MapKind.DIFFERENCE: "What one candidate has and another has not",
}


class ErrorSection(QWidget):
    """Choose a map, show it as a layer, and read its legend.

    Parameters
    ----------
    viewer
        The napari viewer.
    """

    failed = Signal(str)
    """One sentence on why there is no map."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._candidates: list[Labels] = []
        self._reference: Labels | None = None
        self._names: dict[int, str] = {}
        self._live: LiveMap | None = None
        self._count: Work | None = None
        self.kind = QComboBox()
        self.kind.addItems([kind.value.capitalize() for kind in MapKind])
        self.kind.setToolTip("What the map shows; it is computed only for the part that is looked at")
        self.candidate = LayerChoice()
        self.candidate.setToolTip("The labels whose errors are shown")
        self.against = LayerChoice()
        self.against.setToolTip("The labels that they are compared with")
        self.label = QComboBox()
        self.label.setToolTip("One label alone, or all of them")
        self.label.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.label.setMinimumContentsLength(8)
        self.form = new_form()
        for word, field in (
            ("&Error map", self.kind),
            ("Candidate", self.candidate),
            ("Against", self.against),
            ("La&bel", self.label),
        ):
            self.form.addRow(word, field)
        self.button = QPushButton("Show &map")
        self.button.setToolTip("Put the map over the picture as a layer of its own")
        self.legend = Legend()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(self.form)
        column.addWidget(self.button)
        column.addWidget(self.legend)
        self.kind.currentIndexChanged.connect(self._arrange)
        self.button.clicked.connect(self.show_map)
        self.offer((), None, {})

    @property
    def chosen(self) -> MapKind:
        """What the map shows."""
        return list(MapKind)[self.kind.currentIndex()]

    def offer(self, candidates: Sequence[Labels], reference: Labels | None, names: Mapping[int, str]) -> None:
        """Let a person choose among these; `names` are those of the label ids."""
        self._candidates, self._reference, self._names = list(candidates), reference, dict(names)
        self.candidate.offer(self._candidates)
        self.against.offer(self._candidates, first=1)
        label = self.label.currentData()
        self.label.clear()
        self.label.addItem(_EVERY_LABEL, None)
        for number, name in self._names.items():
            self.label.addItem(name, number)
        self.label.setCurrentIndex(max(0, self.label.findData(label)))
        self._arrange()

    def order(self) -> MapOrder:
        """What is asked for.

        Raises
        ------
        InputError
            If something is missing for it.
        """
        kind, candidate = self.chosen, self.candidate.layer
        if kind.of_several:
            if len(self._candidates) < 2:
                raise InputError("A map of disagreement needs two candidates or more; tick another.")
            return MapOrder(kind, tuple(self._candidates))
        other = self._reference if kind.needs_reference else self.against.layer
        if candidate is None:
            raise InputError("There is no candidate to show; tick one in the list.")
        if kind.needs_reference and other is None:
            raise InputError("Errors are differences from a reference; choose one, or show the difference of two.")
        if other is None or other is candidate:
            raise InputError("A difference needs two candidates; tick another and choose it.")
        label = self.label.currentData()
        return MapOrder(kind, (candidate, other), label, "" if label is None else self._names[label])

    def show_map(self) -> None:
        """Put the map over the picture, in the place of an earlier one of the same name."""
        try:
            order = self.order()
            layer = map_of(order)
        except InputError as error:
            self.failed.emit(str(error))
            return
        layers = self._viewer.layers
        # the map is to be looked at; work goes on in the layer that was selected
        active = layers.selection.active
        if order.name in layers and order.name != getattr(active, "name", None):
            layers.remove(order.name)
        self._viewer.add_layer(layer)
        if active in layers:
            layers.selection.active = active
        if self._live is not None:
            self._live.ended.disconnect(self._forget)
            self._live.edited.disconnect(self._recount)
        self._live = LiveMap(self._viewer, order, layer, self)
        self._live.edited.connect(self._recount)
        self._live.ended.connect(self._forget)
        self._explain()

    def leave(self) -> None:
        """Let go of the viewer: the dock is going away."""
        for live in self.findChildren(LiveMap):
            live.end()
        if self._count is not None and self._count.running:
            self._count.cancel()

    def _arrange(self) -> None:
        kind = self.chosen
        self.kind.setAccessibleDescription(_MEANINGS[kind])
        self.kind.setToolTip(f"{_MEANINGS[kind]}. It is computed only for the part that is looked at.")
        for field, needed in (
            (self.candidate, not kind.of_several),
            (self.against, kind is MapKind.DIFFERENCE),
            (self.label, not kind.of_several),
        ):
            field.setVisible(needed)
            self.form.labelForField(field).setVisible(needed)

    # -- the legend ---------------------------------------------------------------------------------

    def _explain(self) -> None:
        assert self._live is not None
        order = self._live.order
        if order.kind in (MapKind.ERRORS, MapKind.DIFFERENCE):
            self.legend.show_values([(label.colour, label.name, "…") for label in order.table])
            self._recount()
            return
        level = levels_of(order)[0]
        low, high = limits_of(order, level)
        if isinstance(level, BoundaryDistance):
            unit = unit_of(order)
            words = (f"≤ −{-low:.3g} {unit}\ntoo little", "right", f"≥ {high:.3g} {unit}\ntoo much")
            self.legend.show_range(_colours(diverging()), *words)
            return
        words = ("0\nall agree", "", f"{high:.2g}\nall differ")
        self.legend.show_range(_colours(sequential()), *words)

    def _recount(self) -> None:
        """Count the shares of the whole image, in the background."""
        if self._live is None or self._live.order.kind not in (MapKind.ERRORS, MapKind.DIFFERENCE):
            return
        if self._count is not None and self._count.running:
            self._count.cancel()
        self._count = Work(shares, self._live.order)
        self._count.done.connect(self._show_shares)
        self._count.failed.connect(self.failed)
        self._count.start()

    def _show_shares(self, entries: tuple[LegendEntry, ...]) -> None:
        # the answer to an earlier question
        if self.sender() is not self._count or self._live is None:
            return
        self.legend.show_values(
            [(e.colour, e.name, "–" if math.isnan(e.share) else f"{100 * e.share:.1f} %") for e in entries]
        )

    def _forget(self) -> None:
        self._live = None
        self.legend.clear()


def _colours(colormap: Any) -> list[Rgb]:
    """The colours of a map in even steps, for a bar; those that are clear as they would be."""
    found = colormap.map([k / 20 for k in range(21)])
    return [(int(255 * r), int(255 * g), int(255 * b)) for r, g, b, _ in found]
