"""Make the guide's pictures from the real window, one for each family of images.

Run with ``python docs/make_pictures.py``; without a display it uses one that nobody sees.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Layer

from napari_medseg.desk.demo import open_docks, picture, run_to_end, settle, show_sized
from napari_medseg.desk.layers import image_layers, record_of
from napari_medseg.desk.offscreen import needs_virtual_display, virtual_display

# world positions (right, anterior, superior) in mm of two corners around it in the MNI152 frame
LEFT_HIPPOCAMPUS = ((-43.0, -46.0, -30.0), (-8.0, 4.0, 5.0))
PICTURES = Path(__file__).parent / "pictures"


@contextmanager
def window(sample: str, front: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The napari window with a sample and the docks, `front` in front."""
    import napari

    viewer = napari.Viewer(show=False)
    show_sized(viewer)
    viewer.open_sample("napari-medseg", sample)
    docks = open_docks(viewer, front)
    yield viewer, docks
    viewer.close()


def histopathology() -> None:
    """The nucleus model on immunohistochemistry."""
    with window("histology", "Segment") as (viewer, docks):
        run_to_end(docks["Segment"])
        viewer.camera.zoom *= 1.5
        picture(viewer, PICTURES / "histopathology.png")


def ct() -> None:
    """A head CT in the brain window, with what the file says about it."""
    with window("head_ct", "Case") as (viewer, docks):
        docks["Case"].choose_window("Brain")
        docks["Case"].scale_bar.setChecked(True)
        picture(viewer, PICTURES / "ct.png")


def mri() -> None:
    """The hippocampus model on the part of the MNI152 brain that it was made for, shown on the whole brain."""
    with window("mni152_brain", "Segment") as (viewer, docks):
        whole = record_of(viewer.layers[0]).image
        near, far = LEFT_HIPPOCAMPUS
        corners = np.sort(whole.geometry.world_to_index([near, far]), axis=0).round().astype(int)
        region = tuple(slice(int(a), int(b)) for a, b in corners.T)
        cut = replace(
            whole, levels=(whole.levels[0][region],), geometry=whole.geometry.crop(region), name="left hippocampus"
        )
        viewer.add_layer(Layer.create(*image_layers(cut)[0]))
        viewer.layers[1].contrast_limits = viewer.layers[0].contrast_limits
        segment = docks["Segment"]
        segment.models.tick("mr_hippocampus")
        run_to_end(segment)
        labels = viewer.layers.selection.active
        both = np.minimum(*((labels.data == k).sum((1, 2)) for k in (1, 2)))
        viewer.dims.set_point(0, labels.data_to_world((int(both.argmax()), 0, 0))[0])
        viewer.camera.zoom *= 1.3
        picture(viewer, PICTURES / "mri.png")


def endoscopy() -> None:
    """A generated clip with its frames."""
    with window("generated_endoscopy", "Case") as (viewer, docks):
        viewer.dims.set_point(0, viewer.dims.range[0].stop / 2)
        docks["Case"].scale_bar.setChecked(False)
        picture(viewer, PICTURES / "endoscopy.png")


@contextmanager
def two_candidates() -> Iterator[tuple[Any, Any]]:
    """The histology sample with the nucleus model's labels and those of a method without training; the Compare dock."""
    with window("histology", "Segment") as (viewer, docks):
        segment = docks["Segment"]
        segment.models.every.setChecked(True)
        for model in ("he_nuclei", "classical_watershed_dark"):
            segment.models.tick(model)
        run_to_end(segment)
        frame, compare = viewer.window.add_plugin_dock_widget("napari-medseg", "Compare", tabify=True)
        frame.setWindowTitle("Compare")
        settle(viewer)
        frame.raise_()
        compare.reference.choose(viewer.layers["he_nuclei"])
        wait_for(compare, compare.compare)
        yield viewer, compare


def comparison() -> None:
    """Errors of one candidate, taking the other as reference, with scores and legend."""
    with two_candidates() as (viewer, compare):
        compare.errors.show_map()
        for layer in list(viewer.layers)[:-1]:
            layer.visible = layer is viewer.layers[-1]
        viewer.layers[0].visible = True
        viewer.camera.zoom *= 1.5
        picture(viewer, PICTURES / "compare.png")


def review() -> None:
    """The queue of errors, with the largest in view."""
    with two_candidates() as (viewer, _compare):
        frame, dock = viewer.window.add_plugin_dock_widget("napari-medseg", "Review", tabify=True)
        frame.setWindowTitle("Review")
        settle(viewer)
        frame.raise_()
        candidate, reference = viewer.layers["classical_watershed_dark"], viewer.layers["he_nuclei"]
        wait_for(dock, lambda: dock.show_pair(candidate, reference))
        dock.next()
        picture(viewer, PICTURES / "review.png")


def wait_for(dock: Any, begin: Callable[[], Any]) -> None:
    """Begin something in a dock with a run bar and wait until it has ended, with the window alive meanwhile."""
    from qtpy.QtWidgets import QApplication

    begin()
    end = time.monotonic() + 300
    while dock.run_bar.busy and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def main(names: list[str]) -> None:
    """Make the pictures called `names`, or all."""
    from napari_medseg.desk.child import shared_worker

    PICTURES.mkdir(exist_ok=True)
    makers: tuple[Callable[[], None], ...] = (histopathology, endoscopy, mri, ct, comparison, review)
    with virtual_display() if needs_virtual_display() else nullcontext():
        for make in makers:
            if not names or make.__name__ in names:
                make()
    shared_worker().close()


if __name__ == "__main__":
    main(sys.argv[1:])
