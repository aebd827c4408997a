"""One sentence to the user that wraps and can be copied."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QSizePolicy, QWidget


class Message(QLabel):
    """A line of text, hidden while empty; errors stand out by a bar and the word, not by colour alone."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.is_error = False
        self.clear()

    def say(self, text: str) -> None:
        """Show plain news."""
        self._show(text, error=False)

    def warn(self, text: str) -> None:
        """Show an error or a warning."""
        self._show(text, error=True)

    def clear(self) -> None:
        """Show nothing."""
        self._show("", error=False)

    def _show(self, text: str, error: bool) -> None:
        self.is_error = error
        self.setText(text)
        self.setAccessibleName(f"Error: {text}" if error and text else text)
        self.setStyleSheet(
            "QLabel { border-left: 4px solid #E69F00; padding: 4px 6px; }" if error else "QLabel { padding: 4px 0; }"
        )
        self.setVisible(bool(text))
