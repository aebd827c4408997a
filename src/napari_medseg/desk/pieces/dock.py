"""The frame of a dock: scrolls when the window is low, and lets go of the viewer when it is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QFormLayout, QFrame, QScrollArea, QVBoxLayout, QWidget

from napari_medseg.desk.pieces.layer_picker import LayerPicker

WIDTH = 330


class Dock(QScrollArea):
    """Base of the docks: a column of pieces.

    Attributes
    ----------
    viewer
        The napari viewer.
    column
        Layout that the dock fills from top to bottom.
    """

    def __init__(self, viewer: Any, kinds: tuple[type[Layer], ...], layer_word: str, meaning: str) -> None:
        super().__init__()
        self.viewer = viewer
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(WIDTH)
        inside = QWidget()
        self.column = QVBoxLayout(inside)
        self.column.setContentsMargins(8, 8, 8, 8)
        self.setWidget(inside)
        self.layers = LayerPicker(viewer, kinds)
        self.layers.setToolTip(meaning)
        self.form = new_form()
        self.form.addRow(layer_word, self.layers)
        self.column.addLayout(self.form)
        # the same keys as in napari.yaml, which napari does not bind by itself
        for key, opener in _OPENERS.items():
            viewer.bind_key(key, opener, overwrite=True)

    def closeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Stop what runs and stop listening."""
        self.leave()
        super().closeEvent(event)

    def event(self, event: Any) -> bool:
        """Stop what runs when napari takes the widget out of its dock, which is how it closes one."""
        if event.type() == QEvent.Type.ParentChange and self.parentWidget() is None:
            self.stop_work()
        return super().event(event)

    def stop_work(self) -> None:
        """Ask whatever the dock started to stop; nothing by default."""

    def leave(self) -> None:
        """Stop listening to the viewer."""
        self.layers.disconnect_viewer()


def _opener(name: str) -> Callable[[Any], None]:
    """What opens a dock by a key."""

    def opens(viewer: Any) -> None:
        viewer.window.add_plugin_dock_widget("napari-medseg", name)

    opens.__doc__ = f"Open the {name} dock."
    return opens


_OPENERS = {
    f"Control-Alt-{key}": _opener(name)
    for key, name in (("S", "Segment"), ("C", "Compare"), ("R", "Review"), ("E", "Export"))
}


def new_form() -> QFormLayout:
    """Rows of a label and a field; the labels' mnemonics lead to the fields."""
    form = QFormLayout()
    form.setContentsMargins(0, 0, 0, 0)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    return form
