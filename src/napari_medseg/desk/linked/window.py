"""The window of the linked views: buttons, picture, one line of news. It draws and emits, and decides nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QFontMetrics, QKeySequence, QShortcut
from qtpy.QtWidgets import QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from napari_medseg.desk.linked.arrangement import MOST_PANELS, Arrangement, Mode
from napari_medseg.desk.linked.canvas import PanelsCanvas
from napari_medseg.desk.linked.commands import COMMANDS, KEYS, action, button
from napari_medseg.desk.linked.glass import Divider, Glass
from napari_medseg.desk.pieces.message import Message

SIZE = (1200, 800)
_NAME_WIDTH = 170
_STYLE = """
QToolButton { padding: 4px 9px; border: 1px solid palette(mid); border-radius: 3px; }
QToolButton:hover { border-color: #D55E00; }
QToolButton:checked { border: 2px solid #D55E00; padding: 3px 8px; }
QToolButton:disabled { color: palette(mid); }
"""


class LinkedWindow(QWidget):
    """A window around a `PanelsCanvas`."""

    asked = Signal(str)
    """The name of a command that was chosen."""
    pressed = Signal(int)
    """The number of a panel that was chosen by key or button."""
    closing = Signal()

    def __init__(self, canvas: PanelsCanvas, title: str, style: str) -> None:
        super().__init__()
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.resize(*SIZE)
        self.canvas = canvas
        self.actions_by_name = {
            c.name: action(self, c.text, c.keys, c.meaning, partial(self.asked.emit, c.name)) for c in COMMANDS
        }
        for command in COMMANDS:
            self.actions_by_name[command.name].setCheckable(command.checkable)
        for name, key in KEYS:
            shortcut = QShortcut(QKeySequence(key), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(partial(self.asked.emit, name))
        self.panel_actions = {
            n: action(self, "", (str(n),), "", partial(self.pressed.emit, n)) for n in range(1, MOST_PANELS + 1)
        }
        self.buttons: dict[str | int, QToolButton] = {}
        self.buttons |= {number: button(act) for number, act in self.panel_actions.items()}
        self.buttons |= {name: button(act) for name, act in self.actions_by_name.items()}
        panels, commands = QHBoxLayout(), QHBoxLayout()
        for n in self.panel_actions:
            panels.addWidget(self.buttons[n])
        panels.addStretch()
        for command in COMMANDS:
            commands.addWidget(self.buttons[command.name])
        commands.addStretch()
        self.message = Message()
        self.glass = Glass(canvas.native, canvas.arrangement)
        self.divider = Divider(canvas.native)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 2)
        layout.setSpacing(4)
        layout.addLayout(panels)
        layout.addLayout(commands)
        layout.addWidget(canvas, stretch=1)
        layout.addWidget(self.message)
        self.dress(style)

    def dress(self, style: str) -> None:
        """Take this style sheet, napari's for the theme."""
        self.setStyleSheet(style + _STYLE)

    def show_arrangement(self, arrangement: Arrangement) -> None:
        """Bring buttons, titles and divider up to date."""
        metrics = QFontMetrics(self.font())
        for number, act in self.panel_actions.items():
            there = number in arrangement.numbers
            self.buttons[number].setVisible(there)
            act.setEnabled(there)
            if there:
                title = arrangement.panel(number).title
                short = metrics.elidedText(title, Qt.TextElideMode.ElideMiddle, _NAME_WIDTH)
                # as icon text, from which Qt takes away neither dots nor ampersands as mnemonics of menus
                act.setIconText(short.replace("&", "&&"))
                act.setToolTip(
                    f"{title}: give it the focus, again to maximise or restore it; under flicker and wipe it joins "
                    f"the pair ({number})"
                )
                self.buttons[number].setAccessibleName(title)
            act.setCheckable(True)
            act.setChecked(number in arrangement.shown if not arrangement.side_by_side else number == arrangement.focus)
        self.check("flicker", arrangement.mode is Mode.FLICKER)
        self.check("wipe", arrangement.mode is Mode.WIPE)
        self.check("outlines", arrangement.outlines)
        pairs = len(arrangement.pair) > 1
        for name in ("flicker", "blink", "wipe"):
            self.actions_by_name[name].setEnabled(pairs)
        self.place_glass(arrangement)

    def place_glass(self, arrangement: Arrangement) -> None:
        """Lay titles and divider over the picture as it is now."""
        self.glass.setGeometry(0, 0, *self.canvas.size_in_pixels)
        self.glass.place(self.canvas.cells(), self.canvas.view_boxes())
        self.divider.place(arrangement)
        self.glass.raise_()
        self.divider.raise_()

    def check(self, name: str, on: bool) -> None:
        """Show a command as on or off."""
        self.actions_by_name[name].setChecked(on)

    def closeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Say so before anything is destroyed."""
        self.closing.emit()
        super().closeEvent(event)
