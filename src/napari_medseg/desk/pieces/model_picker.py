"""Which models to run, and what a person should know of them first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QLabel, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from napari_medseg.bundles import BundleEntry
from napari_medseg.case import MedicalImage, Modality

_ROWS_SHOWN = 6

_HEADLINES = {"dice": "Dice", "pq": "PQ"}


class ModelPicker(QWidget):
    """A list to tick and the card of the model pointed at."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.list = QListWidget()
        self.list.setToolTip("Tick the models to run; each gives a Labels layer of its own (space bar ticks)")
        self.list.setAccessibleName("Models")
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.every = QCheckBox("Show models for &other kinds of image")
        self.every.setToolTip("Also list models that were not made for this image's modality")
        self.card = QLabel()
        self.card.setWordWrap(True)
        self.card.setTextFormat(Qt.TextFormat.RichText)
        self.card.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.card.setAlignment(Qt.AlignmentFlag.AlignTop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.list, self.every, self.card):
            layout.addWidget(widget)
        self._entries: Sequence[BundleEntry] = ()
        self._shown: list[BundleEntry] = []
        self._image: MedicalImage | None = None
        self.list.currentRowChanged.connect(self._show_card)
        self.list.itemChanged.connect(lambda _: self.changed.emit())
        self.every.toggled.connect(self._refill)

    @property
    def ticked(self) -> list[BundleEntry]:
        """The models to run, in the order of the list."""
        return [
            entry for row, entry in enumerate(self._shown) if self.list.item(row).checkState() == Qt.CheckState.Checked
        ]

    @property
    def shown(self) -> list[BundleEntry]:
        """The models in the list, in its order."""
        return list(self._shown)

    def tick(self, model_id: str, on: bool = True) -> None:
        """Tick the model called `model_id`."""
        row = next(k for k, entry in enumerate(self._shown) if entry.id == model_id)
        self.list.item(row).setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
        self.list.setCurrentRow(row)

    def show_entries(self, entries: Sequence[BundleEntry], image: MedicalImage | None) -> None:
        """List `entries`, those that fit `image` first."""
        self._entries, self._image = entries, image
        self._refill()

    def _refill(self, *_: Any) -> None:
        ticked = {entry.id for entry in self.ticked}
        fitting = [e for e in self._entries if fits(e, self._image)]
        others = [e for e in self._entries if e not in fitting]
        self._shown = [*fitting, *(others if self.every.isChecked() or not fitting else [])]
        self.list.blockSignals(True)
        self.list.clear()
        for entry in self._shown:
            item = QListWidgetItem(entry.card.name if entry.card else entry.id)
            usable = entry.warning is None
            item.setFlags(
                (Qt.ItemFlag.ItemIsEnabled if usable else Qt.ItemFlag.NoItemFlags)
                | Qt.ItemFlag.ItemIsUserCheckable
                | Qt.ItemFlag.ItemIsSelectable
            )
            item.setCheckState(Qt.CheckState.Checked if entry.id in ticked and usable else Qt.CheckState.Unchecked)
            item.setToolTip(entry.warning or (entry.card.description if entry.card else ""))
            self.list.addItem(item)
        if fitting and not any(e.id in ticked for e in self._shown):
            first = next((k for k, e in enumerate(self._shown) if e.warning is None), None)
            if first is not None:
                self.list.item(first).setCheckState(Qt.CheckState.Checked)
        self.list.blockSignals(False)
        rows = min(max(len(self._shown), 2), _ROWS_SHOWN)
        self.list.setFixedHeight(rows * max(self.list.sizeHintForRow(0), 18) + 2 * self.list.frameWidth() + 4)
        if self._shown:
            self.list.setCurrentRow(0)
        self._show_card(self.list.currentRow())
        self.changed.emit()

    def _show_card(self, row: int) -> None:
        if not 0 <= row < len(self._shown):
            self.card.setText("No models were found. Run <b>napari-medseg doctor</b> to see where they are looked for.")
            return
        self.card.setText(card_html(self._shown[row], self._image))


def fits(entry: BundleEntry, image: MedicalImage | None) -> bool:
    """Whether the card speaks for using the model on this image: modality and number of channels."""
    card = entry.card
    if card is None or image is None:
        return False
    channels = image.channel_count
    if (
        card.in_channels
        and channels != card.in_channels
        and not (image.is_rgb and channels == 4 and card.in_channels == 3)
    ):
        return False
    return image.modality is Modality.OT or not card.modality or str(image.modality) in card.modality


def card_html(entry: BundleEntry, image: MedicalImage | None = None) -> str:
    """A model card as a few lines of rich text."""
    card = entry.card
    if card is None:
        return f"<b>{escape(entry.id)}</b><br>{escape(entry.warning or '')}"
    modality = ", ".join(f"{m} ({_modality_words(m)})" for m in card.modality) or "not stated"
    lines = [
        f"<b>{escape(card.name)}</b> {escape(card.version)}",
        escape(card.description),
        f"Finds: {escape(', '.join(label.name for label in card.labels))}",
        f"For: {escape(modality)}",
        f"Scores: {escape(scores_in_words(card.reference_scores))}",
        f"Licence: {escape(card.licence)}; {entry.size / 1e6:.1f} MB, {escape(entry.source)}",
        f"Use: {escape(card.intended_use)}",
    ]
    if image is not None and not fits(entry, image):
        lines.insert(1, f"<b>Not made for this image</b> ({escape(str(image.modality))})")
    return "<br>".join(lines)


def scores_in_words(scores: Any) -> str:
    """Reference scores, one phrase a set of images: ``Dice 0.87, PQ 0.62 on violet (11 images)``.

    Of each set Dice and PQ are named where it has them, else whatever numbers it has.
    """
    if not isinstance(scores, Mapping) or not scores:
        return "not stated"
    sets = {k: v for k, v in scores.items() if isinstance(v, Mapping)}
    rest = {k: v for k, v in scores.items() if k not in sets}
    phrases = [_set_in_words(str(name), measured) for name, measured in sets.items()]
    if rest:
        phrases.insert(0, ", ".join(_number_in_words(str(k), v) for k, v in rest.items()))
    return "; ".join(phrases)


def _set_in_words(name: str, measured: Mapping[str, Any]) -> str:
    chosen = {_HEADLINES[k]: measured[k] for k in _HEADLINES if k in measured}
    numbers = chosen or {k: v for k, v in measured.items() if k != "images"}
    images = f" ({measured['images']} images)" if "images" in measured else ""
    return ", ".join(_number_in_words(k, v) for k, v in numbers.items()) + f" on {name}{images}"


def _number_in_words(name: str, value: Any) -> str:
    return f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"


def _modality_words(code: str) -> str:
    try:
        return Modality(code).description
    except ValueError:
        return "unknown code"
