"""The Case dock: what is open, what to know before trusting it, and how it is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtWidgets import QCheckBox, QComboBox, QLabel

from napari_medseg.case import InputError, MedicalImage, contrast
from napari_medseg.desk.facts import facts_of
from napari_medseg.desk.layers import ImageRecord, medical_image, record_of
from napari_medseg.desk.pieces.dock import Dock, new_form
from napari_medseg.desk.pieces.message import Message
from napari_medseg.desk.pieces.table import Table

if TYPE_CHECKING:
    import napari

_CUSTOM = "As set by hand"


class CaseDock(Dock):
    """Facts about the chosen image, its warnings, contrast windows and a scale bar."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, (Image,), "&Image", "The image that this dock describes")
        self.image: MedicalImage | None = None
        self.facts = Table(("", ""))
        self.facts.setAccessibleName("Facts about the image")
        self.column.addWidget(self.facts)
        self.warnings = Message()
        self.column.addWidget(self.warnings)

        looks = new_form()
        self.windows = QComboBox()
        self.window_label = QLabel("&Window")
        self.window_label.setBuddy(self.windows)
        looks.addRow(self.window_label, self.windows)
        self.column.addLayout(looks)
        self.scale_bar = QCheckBox("Scale &bar")
        self.scale_bar.setToolTip("Show a bar of known length in the picture, in the unit of the image")
        self.column.addWidget(self.scale_bar)
        self.column.addStretch()

        self._presets: tuple[contrast.Window, ...] = ()
        self.windows.activated.connect(self._apply_window)
        self.scale_bar.setChecked(bool(scale_bar_of(napari_viewer).visible))
        self.scale_bar.toggled.connect(self._show_scale_bar)
        self.layers.changed.connect(self.show_layer)
        self.show_layer()

    def show_layer(self) -> None:
        """Describe the chosen layer."""
        layer = self.layers.layer
        self.image = None
        if layer is None:
            self.facts.fill([])
            self.warnings.say("No image is open. Drop a file or folder here, or use File ▸ Open Sample.")
            self._offer(())
            return
        try:
            self.image = medical_image(layer)
        except InputError as error:
            self.facts.fill([])
            self.warnings.warn(str(error))
            self._offer(())
            return
        facts = facts_of(self.image)
        self.facts.fill([(f.name, f.value) for f in facts], [f.meaning for f in facts])
        said = [*self.image.warnings]
        record = record_of(layer)
        if isinstance(record, ImageRecord) and record.placement.is_oblique:
            said.append(
                f"The slices run askew by {self.image.geometry.obliquity_degrees:.0f}°: the picture shows the file's "
                "own axes without that tilt. Labels and exported files keep it."
            )
        if said:
            self.warnings.warn("\n".join(said))
        else:
            self.warnings.clear()
        self._offer(contrast.windows_for(self.image))

    def choose_window(self, name: str) -> None:
        """Apply the preset called `name`."""
        self.windows.setCurrentIndex(self.windows.findText(name))
        self._apply_window()

    def _offer(self, presets: tuple[contrast.Window, ...]) -> None:
        self._presets = presets
        self.windows.clear()
        self.windows.addItem(_CUSTOM)
        for k, window in enumerate(presets, start=1):
            self.windows.addItem(window.name)
            self.windows.setItemData(k, window.meaning, _TOOLTIP)
        self.windows.setEnabled(bool(presets))
        self.windows.setToolTip(
            "Range of intensities shown from black to white"
            if presets
            else "Colour pictures are shown as they are: there is no window to choose"
        )
        layer = self.layers.layer
        if presets and layer is not None and self.image is not None:
            now = tuple(layer.contrast_limits)
            # only windows of fixed numbers: the others would have to read the image again
            fixed = [k for k, w in enumerate(presets, 1) if (w.low, w.high) == now]
            self.windows.setCurrentIndex(fixed[0] if fixed else 0)

    def _apply_window(self, *_: Any) -> None:
        index = self.windows.currentIndex() - 1
        layer = self.layers.layer
        if index < 0 or layer is None or self.image is None:
            return
        low, high = contrast.limits(self._presets[index], self.image)
        spread = layer.contrast_limits_range
        layer.contrast_limits_range = (min(low, spread[0]), max(high, spread[1]))
        layer.contrast_limits = (low, high)

    def _show_scale_bar(self, on: bool) -> None:
        scale_bar_of(self.viewer).visible = on


def scale_bar_of(viewer: Any) -> Any:
    """The viewer's scale bar, which moved in napari 0.9."""
    canvas = getattr(viewer, "canvas", None)
    overlays = getattr(canvas, "overlays", None)
    return overlays.scale_bar if overlays is not None and hasattr(overlays, "scale_bar") else viewer.scale_bar


# Qt.ItemDataRole.ToolTipRole, whose enum form differs between Qt bindings
_TOOLTIP = 3
