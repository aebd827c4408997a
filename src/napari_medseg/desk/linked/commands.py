"""What a person can do in the linked views: each command with its key, its button and its tooltip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QAction, QKeySequence
from qtpy.QtWidgets import QToolButton, QWidget


@dataclass(frozen=True)
class Command:
    """One thing to do.

    Parameters
    ----------
    name
        How the window calls it.
    text
        On the button.
    keys
        The first one is shown in the tooltip.
    meaning
        The tooltip.
    checkable
        Whether it is a state that the button shows.
    """

    name: str
    text: str
    keys: tuple[str, ...]
    meaning: str
    checkable: bool = False


COMMANDS = (
    Command(
        "flicker",
        "Flicker",
        ("Space",),
        "Show one candidate in the whole picture, then the other, and so on: differences jump out",
        True,
    ),
    Command("blink", "Blink", ("B",), "Flicker by itself, somewhat more than once a second", True),
    Command("wipe", "Wipe", ("W",), "Two candidates in one picture with a divider between them", True),
    Command(
        "left", "◀", ("Left",), "Move the divider of the wipe to the left; otherwise one slice or frame back", False
    ),
    Command(
        "right", "▶", ("Right",), "Move the divider of the wipe to the right; otherwise one slice or frame on", False
    ),
    Command("outlines", "Outlines", ("O",), "Labels as outlines, or filled", True),
    Command("volume", "3-D", ("V",), "The whole volume, or one slice of it", True),
    Command("zoom_in", "+", ("+", "="), "Magnify", False),
    Command("zoom_out", "−", ("-",), "Show more of the image", False),
    Command("fit", "Fit", ("F", "Home"), "Fit the whole image into each panel", False),
    Command("follow", "Follow", ("L",), "Go together with the main viewer: slice, centre, magnification, angles", True),
    Command(
        "leave", "Back", ("Esc",), "Leave flicker, wipe or a maximised panel; when none is on, close the window", False
    ),
)
# the same without a button, for larger steps and for moving the picture
KEYS = (
    ("left_far", "Shift+Left"),
    ("right_far", "Shift+Right"),
    ("pan_left", "Ctrl+Left"),
    ("pan_right", "Ctrl+Right"),
    ("pan_up", "Ctrl+Up"),
    ("pan_down", "Ctrl+Down"),
)


def action(parent: QWidget, text: str, keys: tuple[str, ...], meaning: str, slot: Callable[[], Any]) -> QAction:
    """An action of the window `parent`, whose keys act wherever the focus is in it."""
    made = QAction(text, parent)
    made.setShortcuts([QKeySequence(key) for key in keys])
    made.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
    made.setToolTip(f"{meaning} ({keys[0]})")
    made.triggered.connect(lambda *_: slot())
    parent.addAction(made)
    return made


def button(of: QAction) -> QToolButton:
    """A button for an action; the keyboard focus stays on the picture, since every button has a key."""
    made = QToolButton()
    made.setDefaultAction(of)
    made.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextOnly)
    made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return made
