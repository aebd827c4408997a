"""Hear the viewer's events for as long as a widget lives, and no longer."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtCore import QObject


class Listening:
    """Connections from the viewer's events to a widget's methods.

    They end with `end`, and at the latest when Qt destroys the widget: a call into a destroyed widget is an
    error that would surface in whatever the user does next.
    """

    def __init__(self, widget: QObject, *connections: tuple[Any, Any]) -> None:
        self._connections = list(connections)
        for event, slot in connections:
            event.connect(slot)
        # a plain function: the widget's own methods can no longer be called then
        widget.destroyed.connect(partial(_end, self._connections))

    def end(self) -> None:
        """Stop listening; does nothing the second time."""
        _end(self._connections)


def _end(connections: list[tuple[Any, Any]], *_: Any) -> None:
    while connections:
        event, slot = connections.pop()
        event.disconnect(slot)
