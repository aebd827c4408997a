"""Choosing candidates for the linked views."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from napari_medseg.desk.linked import LinkedViewsPicker


@pytest.mark.slow
def test_picker_offers_labels_and_opens_the_ticked_ones(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    picker = LinkedViewsPicker(viewer)
    qtbot.addWidget(picker)
    assert not picker.button.isEnabled()
    viewer.add_image(np.zeros((20, 20)), name="image")
    layers = [viewer.add_labels(np.zeros((20, 20), int), name=f"m{k}") for k in range(7)]
    # six panels are the most
    assert len(picker.ticked) == 6
    for layer in layers[2:]:
        picker.tick(layer, False)
    picker.tick(layers[1], False)
    assert not picker.button.isEnabled()
    picker.tick(layers[4])
    viewer.layers.remove(layers[3])
    layers[4].name = "renamed"
    assert [layer.name for layer in picker.ticked] == ["renamed", "m0"]
    qtbot.mouseClick(picker.button, Qt.MouseButton.LeftButton)
    assert [panel.name for panel in picker.views.arrangement.panels] == ["renamed", "m0"]
    picker.views.close()
    picker.disconnect_viewer()
    QApplication.processEvents()
